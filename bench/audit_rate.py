"""What audits cost and what they catch: real contributions, liars among them, drawn at the rate the stake requires.

    OMP_NUM_THREADS=1 python bench/audit_rate.py [--contributions 400] [--liars 0.1] [--stake 20] [--json]

A small byte GPT (examples/hello) is trained by nodes of several operators; a share of the contributions skips one
step. Each rate p draws with rules/draw.py, once for a cost that is measured (every audit drawn is a whole round
computed again, questions included) and under many beacons for the rates, where an audit already computed is looked up.

    cost          steps recomputed over steps assigned, which is what audits are priced by; `buyer` leaves out what a
                  convicted node's bond pays; `cpu` is the same in processor seconds as measured
    convicted     lies convicted over all beacons, beside the binomial expectation n·p and its standard deviation
    honest        honest nodes convicted, prover or auditor: must be 0

p* is the smallest rate at which cheating loses money: p > g / (d·(S + 1)) (verify/soundness.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stannary.audit.replay import outputs_of
from stannary.formats import commitments, digest, ids, jobspec, predicates
from stannary.formats.ids import JobId, NodeId, TaskKind
from stannary.formats.predicates import Answer, Assignment, Candidate, Contribution, Draw, Drawable, Role, Spent
from stannary.formats.training import Training
from stannary.rules import draw, verdict
from stannary.rules.draw import Selection
from stannary.rules.reasons import Reason
from stannary.train import engine, recipe
from stannary.train.recipe import Recipe
from stannary.train.round import Recording, RoundResult, run_round
from stannary.verify import soundness

HELLO = Path(__file__).parents[1] / "examples/hello"
JOB = JobId("j-000000000000")
OPERATORS = ("basalt", "dolomite", "granite", "mica", "shale", "slate")
OPTIONS = {"width": 32, "layers": 1, "heads": 4, "context": 32, "buckets": 256}
INNER_STEPS = 4
GAIN_PPM, DETECTION_PPM = 600_000, 990_000  # what skipping saves at best; exact comparison inside one class
BEACONS = 100
BATCH = 20  # commitments one checkpoint covers
TIME = "2026-09-01T00:00:00Z"
NOTHING = digest.digest(b"")


@dataclass
class Work:
    """One contribution and what it cost."""

    assignment: Assignment
    node: NodeId
    operator: str
    lies: bool
    made: Contribution
    states: dict[int, bytes]
    compute_s: float


@dataclass
class Bench:
    """The contributions, and every recomputation made so far."""

    hello: Recipe
    settings: jobspec.RecipeSpec
    works: list[Work] = field(default_factory=list)
    replays: dict[str, tuple[RoundResult, float]] = field(default_factory=dict)
    operators: dict[NodeId, str] = field(default_factory=dict)

    def contribute(self, number: int, lies: bool) -> None:
        """Do one round; a liar does a step less and claims them all."""
        operator = OPERATORS[number % len(OPERATORS)]
        node = NodeId(f"n-{hashlib.sha256(operator.encode()).hexdigest()[:12]}")
        task = ids.round_task(JOB, number, 0)
        assigned = Assignment(JOB, task, TaskKind.ROUND, number, 0, INNER_STEPS, number * INNER_STEPS, 0)
        done_steps = INNER_STEPS - 1 if lies else INNER_STEPS
        started = time.process_time()
        done = self.compute(dataclasses.replace(assigned, num_steps=done_steps))
        spent_s = time.process_time() - started
        states = {**done.states, INNER_STEPS: done.states[done_steps]}
        outputs = outputs_of(done.outputs)
        made = Contribution(
            job=JOB, task=task, epoch=0, node=node, assignment=predicates.assignment_digest(assigned), salt="",
            root=predicates.result_root(outputs), outputs=outputs, engine_class=engine.engine_class(),
            environment=NOTHING, sandbox="none", num_steps=INNER_STEPS, spent=Spent(0, 0, 0, 0, 0), metrics={},
            finished_at=TIME,
        )  # fmt: skip
        self.operators[node] = operator
        self.works.append(Work(assigned, node, operator, lies, made, states, spent_s))

    def compute(self, assignment: Assignment) -> RoundResult:
        """Compute one round for real."""
        return run_round(self.hello, assignment, self.settings, None, Recording())

    def replay(self, work: Work, number: int) -> tuple[RoundResult, float]:
        """Return the `number`-th auditor's own recomputation and its seconds; computed once for all beacons."""
        key = f"{work.assignment.task}/q{number}"
        if key not in self.replays:
            started = time.process_time()
            done = self.compute(work.assignment)
            self.replays[key] = (done, time.process_time() - started)
        return self.replays[key]


@dataclass
class Outcome:
    """What the audits under one or many beacons came to."""

    drawn: int = 0
    lies_drawn: int = 0
    convicted: int = 0
    honest_convicted: int = 0
    audit_s: float = 0.0
    audits: int = 0
    forfeited: int = 0  # audits that a convicted node's bond pays


def draws(bench: Bench) -> list[tuple[list[Work], Draw]]:
    """Return the contributions in batches, each with its draw."""
    made = []
    for at in range(0, len(bench.works), BATCH):
        batch = bench.works[at : at + BATCH]
        drawable = tuple(
            Drawable(item.assignment.task, item.node, item.operator, engine.engine_class(), INNER_STEPS, at + place)
            for place, item in enumerate(batch)
        )
        made.append((batch, Draw(JOB, at // BATCH, NOTHING, at + BATCH, NOTHING, drawable, NOTHING)))
    return made


def audit(bench: Bench, listed: list[tuple[list[Work], Draw]], beacon: int, ppm: int) -> Outcome:
    """Draw every batch with one beacon and hear what is drawn."""
    outcome = Outcome()
    nodes = sorted(bench.operators.items())
    candidates = tuple(Candidate(node, operator, engine.engine_class()) for node, operator in nodes)
    for batch, made in listed:
        value = hashlib.sha256(b"beacon %d %d" % (beacon, made.index)).hexdigest()
        chosen = draw.select(made, candidates, draw.beacon(value, NOTHING), ppm)
        for work, selection in zip(batch, chosen, strict=True):
            if selection.drawn:
                hear(bench, work, selection, outcome)
    return outcome


def hear(bench: Bench, work: Work, selection: Selection, outcome: Outcome) -> None:
    """Question the prover and auditors in rank order until a verdict stands."""
    operators = bench.operators
    prover = said(work, work.node, Role.PROVER, selection, work.made.outputs, work.states)
    heard: list[Answer] = []
    spent_s = 0.0
    decision = verdict.Decision(predicates.Verdict.PENDING, Reason.AWAITED, need_auditor=True)
    for number, auditor in enumerate(selection.auditors):
        if not decision.need_auditor:
            break
        done, seconds = bench.replay(work, number)
        spent_s += seconds
        heard.append(said(work, auditor.node, Role.AUDITOR, selection, outputs_of(done.outputs), done.states))
        exhausted = number + 1 == len(selection.auditors)
        decision = verdict.judge(work.made, prover, heard, operators, exhausted=exhausted)
    outcome.drawn += 1
    outcome.lies_drawn += work.lies
    outcome.audit_s += spent_s
    outcome.audits += len(heard)
    for node in decision.refuted:
        if work.lies and node == work.node:
            outcome.convicted += 1
            outcome.forfeited += len(heard)
        else:
            outcome.honest_convicted += 1


def said(
    work: Work,
    node: NodeId,
    role: Role,
    selection: Selection,
    outputs: tuple[predicates.Output, ...],
    states: dict[int, bytes],
) -> Answer:
    """Return one party's answer to the drawn question."""
    answer = commitments.answer_hash(selection.salt, states[selection.step])
    audit_id, root = selection.alone, predicates.result_root(outputs)
    spent = Spent(0, 0, 0, 0, 0)
    return Answer(JOB, audit_id, work.assignment.task, role, node, "", answer, root, outputs, spent, TIME)


def rows(bench: Bench, rates: dict[str, int]) -> list[dict[str, object]]:
    """Measure each rate: cost under a first beacon, convictions under all."""
    listed = draws(bench)
    work_s = sum(work.compute_s for work in bench.works)
    num_lies = sum(work.lies for work in bench.works)
    made: list[dict[str, object]] = []
    for name, ppm in rates.items():
        total = Outcome()
        beacons = BEACONS if ppm < 1_000_000 else 1  # every beacon draws everything
        for beacon in range(beacons):
            found = audit(bench, listed, beacon, ppm)
            for member in dataclasses.fields(Outcome):
                setattr(total, member.name, getattr(total, member.name) + getattr(found, member.name))
        p = ppm / 1_000_000
        made.append({
            "rate": name,
            "audit_ppm": ppm,
            "cost_percent": 100 * total.audits / beacons / len(bench.works),
            "buyer_percent": 100 * (total.audits - total.forfeited) / beacons / len(bench.works),
            "cpu_percent": 100 * total.audit_s / beacons / work_s,
            "beacons": beacons,
            "drawn": total.drawn / beacons,
            "lies": num_lies * beacons,
            "convicted": total.convicted,
            "expected": num_lies * beacons * p,
            "deviation": math.sqrt(num_lies * beacons * p * (1 - p)),
            "escaped": num_lies * beacons - total.convicted,
            "honest_convicted": total.honest_convicted,
        })  # fmt: skip
    return made


def prepare(arguments: argparse.Namespace) -> Bench:
    """Train every contribution."""
    from pydoc_data.topics import topics

    engine.pin()
    training = Training(batch_size=4, microbatch_size=4, warmup_steps=2)
    rounds = arguments.contributions
    settings = jobspec.RecipeSpec("recipe.py:recipe", rounds, 1, (INNER_STEPS,), 0, 40, OPTIONS, training)
    with tempfile.TemporaryDirectory() as path:
        corpus = Path(path) / "corpus"
        corpus.write_text("".join(topics[key] for key in sorted(topics)), encoding="utf-8")
        bench = Bench(recipe.load(HELLO, settings, {"corpus": corpus}), settings)
    liars = set(random.Random(0).sample(range(rounds), round(arguments.liars * rounds)))
    for number in range(rounds):
        bench.contribute(number, number in liars)
    return bench


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contributions", type=int, default=400)
    parser.add_argument("--liars", type=float, default=0.1, help="share of the contributions that skip a step")
    parser.add_argument("--stake", type=int, default=20, help="S: what a conviction costs, in task prices")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    needed = soundness.required_ppm(GAIN_PPM, DETECTION_PPM, arguments.stake * 1_000_000)
    bench = prepare(arguments)
    table = rows(bench, {f"p* (S={arguments.stake})": needed, "5 %": 50_000, "20 %": 200_000, "100 %": 1_000_000})
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}"
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": table}, indent=1))
        return
    lies = sum(work.lies for work in bench.works)
    print(f"{len(bench.works)} contributions of {len(OPERATORS)} operators, {lies} of them lies; {machine}")
    print(f"g {GAIN_PPM / 1e6}, d {DETECTION_PPM / 1e6}, S {arguments.stake}: p* = {needed / 10_000:.3f} %")
    print(
        f"{'rate':<12} {'cost':>8} {'buyer':>8} {'cpu':>8} {'drawn':>7} {'convicted':>10} {'expected':>17} "
        f"{'escaped':>8} honest"
    )
    for row in table:
        expected = f"{row['expected']:,.0f} ± {row['deviation']:,.0f}"
        print(
            f"{row['rate']:<12} {row['cost_percent']:7.2f}% {row['buyer_percent']:7.2f}% {row['cpu_percent']:7.2f}% "
            f"{row['drawn']:7.1f} {row['convicted']:>10,} {expected:>17} "
            f"{row['escaped']:>8,} {row['honest_convicted']:>6}"
        )
    print(
        f"n = {BEACONS} beacons for each rate, one for 100 %; convicted, expected and escaped are sums over all of them"
    )
    if any(row["honest_convicted"] for row in table):
        sys.exit("an honest node was convicted")


if __name__ == "__main__":
    main()
