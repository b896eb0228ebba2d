"""Lying agents against a real market process: every kind is convicted and unpaid, honest ones never.

The agents are the real ones (journal, sessions, blobs); only their `Work` lies. They train a recipe of the package:
only there does a recomputation convict (docs/audits.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from tests.integration.attacks import agents
from tests.integration.attacks.agents import HonestWork, RunningAgent
from tests.integration.market.fake_buyer import FakeBuyer, train_spec
from tests.integration.market.world import Process, World

from stannary import builtin
from stannary.agent import daemon
from stannary.formats import canonical, digest, jobspec
from stannary.formats import receipt as receipt_format
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.jobspec import Input, JobSpec
from stannary.formats.predicates import Role, Verdict
from stannary.formats.training import Training
from stannary.train.merge import MergeInputs, run_merge
from stannary.train.round import Recording, run_round
from stannary.verify import lineage
from stannary.verify import receipt as verifier
from stannary.verify.case import Case, read
from stannary.verify.report import Report, Severity
from stannary.verify.trust import TrustStore, pin

CORPUS = "".join(topics[key] for key in sorted(topics)).encode()
SMALL = {"width": 16, "layers": 1, "heads": 2, "context": 16, "buckets": 64}
LANES, ROUNDS = 4, 2
END_S = 120.0


@dataclass
class Ended:
    """A job that has ended, its receipt verified with the market's pinned key."""

    file: bytes
    report: Report
    theta: bytes
    said: dict[str, list[str]]  # operator -> its agent's log

    @property
    def case(self) -> Case:
        """Return the evidence."""
        return case_of(self.file)

    def paid(self, operator: str) -> dict[str, int]:
        """Return what an operator was paid, by task."""
        assert self.report.claims is not None
        lines = self.report.claims.receipt.settlement
        return {line.task: line.usd_micros for line in lines if line.account == f"operator:{operator}"}


def case_of(data: bytes) -> Case:
    """Return the evidence of a receipt file."""
    file = receipt_format.read(canonical.decode(data))
    return Case([read(item.index, item.envelope) for item in file.evidence])


def spec() -> JobSpec:
    """Return a job that takes milliseconds, in which no code is the buyer's."""
    training = Training(batch_size=4, microbatch_size=4, warmup_steps=2)
    base = train_spec(rounds=ROUNDS, lanes=LANES)
    code = builtin.code_digest()
    made = jobspec.RecipeSpec("builtin:bytegpt", ROUNDS, LANES, (3, 4), 7, None, dict(SMALL), training, code)
    corpus = Input(digest.digest(CORPUS), len(CORPUS), "module pydoc_data.topics")
    return replace(base, workdir=(), inputs={"corpus": corpus}, recipe=made, budget_usd_micros=10_000_000)


async def settled(world: World, ada: FakeBuyer) -> tuple[bytes, bytes]:
    """Run the job to its end; return its receipt file and its weights."""
    await ada.put_blob(CORPUS)
    job = (await ada.submit(spec())).id
    world.start(ada.broker(job))
    view = await ada.finished(job, END_S)
    if view.status != "succeeded":
        told = [f"{event.type} {event.task} {event.operator} {event.message}" for event in await ada.events(job)]
        raise AssertionError("\n".join((f"{view.reason}: {view.message}", *told)))
    outputs = {item.name: item.digest for item in await ada.outputs(job)}
    theta = (await ada.call("GET", f"/v1/blobs/{outputs['model.safetensors']}")).content
    return await ada.receipt(job), theta


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A market in a process of its own."""
    monkeypatch.setattr(daemon, "POLL_WAIT_S", 1.0)  # agents leave as soon as they may
    process = Process(tmp_path / "market")
    yield process
    process.stop()


def play(market: Process, tmp_path: Path, lanes: list[type[HonestWork]], others: list[type[HonestWork]]) -> Ended:
    """Run a job among agents; those of `lanes` ask less and so are placed."""

    async def scenario() -> Ended:
        world = await asyncio.to_thread(market.start)
        running: list[RunningAgent] = []
        workshop = agents.Workshop()
        try:
            for at, work in enumerate([*lanes, *others]):
                operator = f"{'lane' if at < len(lanes) else 'other'}{at}-{work.__name__.lower()}"
                token = await world.join_token(operator)
                ask = 90_000 if at < len(lanes) else 100_000
                running.append(
                    await asyncio.to_thread(
                        agents.start, token, tmp_path / operator, operator, work, workshop, ask
                    )
                )  # fmt: skip
            file, theta = await settled(world, await world.buyer())
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            report = verifier.verify_receipt(file, trust, int(time.time()))
            return Ended(file, report, theta, {item.operator: item.said for item in running})
        finally:
            await world.stop()
            for item in running:
                item.agent.stop.set()
            for item in running:
                await asyncio.to_thread(item.stop)

    return asyncio.run(scenario())


def check(ended: Ended, guilty: set[str]) -> None:
    """Exactly the guilty operators are convicted, their lies unpaid, the weights without them."""
    report = ended.report
    worse = [item for item in report.findings if item.severity is not Severity.NOTICE]
    assert (report.verdict, worse) == (Verdict.VERIFIED, [])
    assert report.claims is not None
    operators = report.claims.operators
    refuted = {operators[node] for said in report.claims.convictions for node in said.refuted}
    assert {name.rpartition("-")[2] for name in refuted} == guilty
    for said in report.claims.convictions:
        if said.verdict is Verdict.REFUTED:
            assert ended.paid(operators[said.node])[said.task] == 0
    lines = report.claims.receipt.settlement
    assert not [line for line in lines if line.account.startswith("bond:")], "an appeal decides about bonds"
    assert sum(line.usd_micros for line in lines) == report.claims.receipt.escrow_usd_micros
    assert ended.theta == without_liars(ended.case, {item.task for item in report.claims.convictions})


def without_liars(case: Case, convicted: set[TaskId]) -> bytes:
    """Compute the weights of another run, in which only what the last merges admitted was ever handed in."""
    recipe = agents.RECIPES[case.job_id]
    settings = case.spec.recipe
    assert settings is not None
    theta: bytes | None = None
    outer: bytes | None = None
    in_result = lineage.trace(case).tasks
    for index in range(settings.rounds):
        merge = next(
            item.predicate
            for task, item in case.assignments.items()
            if task in in_result and (item.predicate.kind, item.predicate.round) == (TaskKind.MERGE, index)
        )
        recording = Recording()
        deltas = {}
        for entry in merge.admitted or ():
            assert entry.task not in convicted or case.verdicts_of[entry.task][-1].predicate.verdict == "verified"
            done = run_round(recipe, case.assignments[entry.task].predicate, settings, theta, recording)
            deltas[entry.task] = done.outputs["delta"]
        made = run_merge(recipe, merge, settings, MergeInputs(theta, outer, deltas), recording)
        theta, outer = made.outputs["theta"], made.outputs["outer"]
    assert theta is not None
    return theta


def test_lying_lanes(market: Process, tmp_path: Path) -> None:
    """Skipped steps, a wrong rate, a copy, a stale base: convicted by recomputation, replaced, not in the weights."""
    lanes = [agents.SkippedSteps, agents.WrongRate, agents.Copier, agents.StaleBase]
    ended = play(market, tmp_path, lanes, [agents.HonestWork] * 3)
    check(ended, {"skippedsteps", "wrongrate", "copier", "stalebase"})


def test_liars_on_both_sides(market: Process, tmp_path: Path) -> None:
    """bf16 for fp32, silence when asked, forged merges, false and lazy auditors at once: only they are convicted."""
    lanes = [agents.LowPrecision, agents.SilentLiar, agents.HonestWork, agents.HonestWork]
    others = [agents.FalseAccuser, agents.LazyAuditor, agents.FalseMerger, agents.HonestWork]
    ended = play(market, tmp_path, lanes, others)
    report = ended.report
    assert report.claims is not None
    operators = report.claims.operators
    refuted = {operators[node].rpartition("-")[2] for said in report.claims.convictions for node in said.refuted}
    answered = {operators[node].rpartition("-")[2] for _, node, role in ended.case.answers if role is Role.AUDITOR}
    lied = {"lowprecision", "silentliar"} | {"falseaccuser", "lazyauditor"} & answered  # the beacon asks whom it will
    assert lied <= refuted <= lied | {"falsemerger"}
    check(ended, refuted)
