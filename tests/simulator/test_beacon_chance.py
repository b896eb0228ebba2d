"""What the beacon's chance gives over a thousand seeds: convictions in the binomial band, no twin ever drawn."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from tests.simulator import fleet, kernel
from tests.simulator.fleet import SimulatedNode
from tests.simulator.parties import Sight
from tests.simulator.test_day import nodes

from stannary.formats import digest, ids, predicates
from stannary.formats.ids import JobId, TaskKind
from stannary.formats.predicates import (
    Answer,
    Assignment,
    Candidate,
    Contribution,
    Draw,
    Drawable,
    Role,
    Spent,
    Verdict,
)
from stannary.rules import draw, verdict
from stannary.verify import soundness

SEEDS = 1_000
JOB = JobId("j-0123456789ab")
ROOT = digest.digest(b"checkpoint")
NOTHING = digest.digest(b"")
TIME = "2026-09-01T00:00:00Z"
FOUR_SIGMA = 4.0


@dataclass
class Handed:
    """One contribution and who made it."""

    node: SimulatedNode
    assignment: Assignment
    made: Contribution


class Round:
    """One round of every node of a fleet, handed in; audited anew under every seed."""

    def __init__(self, party: list[SimulatedNode], engine: kernel.Kernel) -> None:
        self.party, self.engine = party, engine
        self.blobs: dict[digest.Digest, bytes] = {}
        self.handed: dict[str, Handed] = {}
        self.sight = Sight(self.blobs.__getitem__, lambda _: None, lambda _: None, random.Random(0))
        self.operators = {node.id: node.operator for node in party}
        for lane, node in enumerate(party):
            task = ids.round_task(JOB, 0, lane)
            assignment = Assignment(JOB, task, TaskKind.ROUND, 0, lane, 2, 0, 0)
            node.work(assignment, self.sight)
            self.handed[task] = Handed(node, assignment, _contribution(node, assignment))

    def judged(self, seed: int, audit_ppm: int) -> dict[str, verdict.Decision]:
        """Draw with one seed's beacon and hear every task it selects to its verdict."""
        randomness = draw.beacon(hashlib.sha256(b"%d" % seed).hexdigest(), ROOT)
        chosen = draw.select(self.draw, self.candidates, randomness, audit_ppm)
        return {item.task: self._hear(item) for item in chosen if item.drawn}

    @property
    def draw(self) -> Draw:
        """Return the draw that lists them all."""
        drawable = tuple(
            Drawable(item.assignment.task, item.node.id, item.node.operator, item.node.engine_class, 2, at)
            for at, item in enumerate(self.handed.values())
        )
        return Draw(JOB, 0, NOTHING, 9, ROOT, drawable, NOTHING)

    @property
    def candidates(self) -> list[Candidate]:
        """Return who may audit: everybody."""
        ranked = sorted(self.party, key=lambda node: node.id)
        return [Candidate(node.id, node.operator, node.engine_class) for node in ranked]

    def _hear(self, selection: draw.Selection) -> verdict.Decision:
        handed = self.handed[selection.task]
        prover = self._said(handed.node, Role.PROVER, selection)
        heard: list[Answer] = []
        for auditor in selection.auditors:
            node = next(item for item in self.party if item.id == auditor.node)
            heard.append(self._said(node, Role.AUDITOR, selection))
            decision = verdict.judge(handed.made, prover, heard, self.operators)
            if not decision.need_auditor:
                return decision
        return verdict.judge(handed.made, prover, heard, self.operators, exhausted=True)

    def _said(self, node: SimulatedNode, role: Role, selection: draw.Selection) -> Answer:
        assignment = self.handed[selection.task].assignment
        speak = node.answer if role is Role.PROVER else node.audit
        said = speak(assignment, selection.step, selection.salt, self.sight)
        audit, root = selection.alone, predicates.result_root(said.outputs)
        spent = Spent(0, 0, 0, 0, 0)
        return Answer(JOB, audit, assignment.task, role, node.id, "", said.answer, root, said.outputs, spent, TIME)


def _contribution(node: SimulatedNode, assignment: Assignment) -> Contribution:
    outputs = node.made[assignment.task].listed
    return Contribution(
        job=JOB, task=assignment.task, epoch=0, node=node.id, assignment=predicates.assignment_digest(assignment),
        salt="", root=predicates.result_root(outputs), outputs=outputs, engine_class=node.engine_class,
        environment=NOTHING, sandbox="none", num_steps=2, spent=Spent(0, 0, 0, 0, 0), metrics={}, finished_at=TIME,
    )  # fmt: skip


def test_conviction_rate_lies_in_the_binomial_band() -> None:
    """Over a thousand seeds liars are convicted as often as the audit rate says, honest nodes never."""
    engine = kernel.Kernel(kernel.settings(1, 6), kernel.Symbols(), remembering=True)
    party = nodes([fleet.SkippedSteps, *[SimulatedNode] * 4, fleet.WrongRate], engine)
    liars = {party[0].id, party[5].id}
    ppm = soundness.required_ppm(600_000, 990_000, 5_000_000)  # a stake of five task prices
    played = Round(party, engine)
    convicted = {node.id: 0 for node in party}
    for seed in range(SEEDS):
        for decision in played.judged(seed, ppm).values():
            for node in decision.refuted:
                convicted[node] += 1
    trials, p = SEEDS * len(liars), ppm / 1_000_000
    caught = sum(convicted[node] for node in liars)
    assert abs(caught - trials * p) <= FOUR_SIGMA * math.sqrt(trials * p * (1 - p)), (caught, trials * p)
    assert all(count == 0 for node, count in convicted.items() if node not in liars)


def test_prover_and_auditor_of_one_owner_never_meet() -> None:
    """Over a thousand seeds no task is ranked to a node of its own operator, nor two auditors of one operator."""
    engine = kernel.Kernel(kernel.settings(1, 6), kernel.Symbols(), remembering=True)
    party = nodes([fleet.SkippedSteps, *[SimulatedNode] * 5], engine)
    party[3].operator = party[4].operator = party[0].operator  # the liar's own second and third machine
    played = Round(party, engine)
    for seed in range(SEEDS):
        randomness = draw.beacon(hashlib.sha256(b"%d" % seed).hexdigest(), ROOT)
        for selection in draw.select(played.draw, played.candidates, randomness, 1_000_000):
            operators = [item.operator for item in selection.auditors]
            assert played.handed[selection.task].node.operator not in operators
            assert len(set(operators)) == len(operators)


def test_liar_with_own_second_machine_is_convicted_under_every_seed() -> None:
    """Two machines of one owner convict nobody and save nobody: the liar falls under all of a hundred beacons."""
    engine = kernel.Kernel(kernel.settings(1, 4), kernel.Symbols(), remembering=True)
    party = nodes([fleet.SkippedSteps, SimulatedNode, SimulatedNode, fleet.FalseAccuser], engine)
    party[3].operator = party[0].operator
    played = Round(party, engine)
    lie = next(iter(played.handed))
    for seed in range(100):
        assert played.judged(seed, 1_000_000)[lie].verdict is Verdict.REFUTED
