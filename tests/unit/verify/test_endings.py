"""How programs ended, what was cut and what was stopped: each word of it bent, and both verifiers see it.

Whoever signs a statement still signs it: a node that says another end under the root it committed to, a market that
judges what was cut as if it had been compared, or pays for work in hand that never was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stannary.formats import digest, ids
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Assurance, Verdict
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report, Severity

from .test_second_verifier import StoppedWorld
from .world import World

Change = Callable[[Any], Any]
ENDS = ("exit-0", "exit-3", "signal-9", "wall-limit", "out-of-memory")


def ended(end: str, kind: JobKind = JobKind.COMMAND) -> World:
    """Return a world whose programs end so."""
    verify = Verification.RERUN_COMPARE if kind is JobKind.COMMAND else Verification.REPLAY
    world = World(kind=kind, lanes=2, rounds=1, assurance=Assurance.FULL, verify=verify)
    world.end = end
    return world


def breaks_off(world: World) -> bool:
    """Return whether the recipe of a world ends before its round does."""
    return world.kind is JobKind.TRAIN and world.end != "exit-0"


def played(world: World) -> Report:
    """Play a world to its end: behind a first recipe that breaks off no other lane begins."""
    if not breaks_off(world):
        world.play()
        return verify_receipt(world.receipt(), world.trust(), world.now)
    world.open()
    world.run_lanes(0, lanes=range(1))
    world.audit()
    world.close()
    return verify_receipt(world.receipt(status="failed", reason="run-failed"), world.trust(), world.now)


def refuted(report: Report) -> set[str]:
    """Return the findings that refute."""
    return {item.id for item in report.findings if item.severity is Severity.REFUTED}


@pytest.mark.parametrize("kind", list(JobKind))
@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_program_came_to_is_not_refuted(end: str, kind: JobKind) -> None:
    """What others found too, or nobody can compare, is paid."""
    world = ended(end, kind)
    report = played(world)
    assert refuted(report) == set(), report.findings
    assert report.claims is not None
    lines = report.claims.receipt.settlement
    assert sum(line.reason == "work" and line.usd_micros > 0 for line in lines) == (1 if breaks_off(world) else 2)


@pytest.mark.parametrize("statement", ["contribution", "answer"])
@pytest.mark.parametrize("kind", list(JobKind))
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("said", ["exit-3", "wall-limit", "stopped", None])
def test_another_end_under_the_root_that_was_committed_to(
    said: str | None, end: str, kind: JobKind, statement: str
) -> None:
    """Changed, dropped or no end at all: the root is not that of the result, or such a result says none."""
    world = ended(end, kind)
    stated = end if kind is JobKind.COMMAND or end != "exit-0" else None
    world.bend[statement] = lambda made: replace(made, ended=said)
    found = refuted(played(world)) & {f"{statement}.root", f"{statement}.ended"}
    assert bool(found) is (said != stated)


@pytest.mark.parametrize("said", ENDS)
def test_no_round_says_its_end_beside_what_it_hands_in(said: str) -> None:
    """Nor a merge ever: under a root of its own it would be a result that no rule knows."""

    def bend(made: Any) -> Any:
        root = digest.digest(b"any")
        return replace(made, ended=said, root=root)

    world = ended("exit-0", JobKind.TRAIN)
    world.bend["contribution"] = bend
    assert "contribution.ended" in refuted(played(world))


CUT_LIES: dict[str, Change] = {
    "compared and right": lambda said: replace(said, verdict=Verdict.VERIFIED, reason="agreed"),
    "wrong": lambda said: replace(said, verdict=Verdict.REFUTED, reason="two-recomputations-disagree"),
    "of another reason": lambda said: replace(said, reason="no-two-agree"),
    "a strike": lambda said: replace(said, odd=(said.node,)),
    "of another node": lambda said: replace(said, node=ids.NodeId("n-0123456789ab")),
}


@pytest.mark.parametrize("kind", list(JobKind))
@pytest.mark.parametrize("end", ["wall-limit", "out-of-memory"])
@pytest.mark.parametrize("lie", CUT_LIES)
def test_what_was_cut_is_judged_as_nothing_else(lie: str, end: str, kind: JobKind) -> None:
    """A market that calls it compared, wrong or somebody's fault states a verdict nobody else comes to."""
    world = ended(end, kind)
    world.bend["verdict"] = CUT_LIES[lie]
    assert refuted(played(world)) & {"verdict.mismatch", "verdict.node"}


@pytest.mark.parametrize("end", ["wall-limit", "out-of-memory"])
def test_the_word_of_what_was_cut_is_sampled_at_most(end: str) -> None:
    """A market that states more is refuted by the figures."""
    world = ended(end)
    world.bend["receipt"] = lambda said: replace(said, verdict=Verdict.VERIFIED)
    assert "receipt.verdict" in refuted(played(world))


def test_a_merge_admits_nothing_that_broke_off() -> None:
    """A lane without a delta is none: a market that merges it all the same is refuted."""
    world = ended("exit-1", JobKind.TRAIN)
    world.open()
    world.run_lanes(0)
    world.audit()
    world.end = "exit-0"
    world.merge(0)
    world.audit()
    world.close()
    report = verify_receipt(world.receipt(), world.trust(), world.now)
    assert "merge.admitted" in refuted(report)


def test_a_round_that_broke_off_is_never_passed_over() -> None:
    """Its word ends the job: a market that lets it stand unseen has left out an audit, whatever the rate."""
    for seed in range(4):
        world = World(kind=JobKind.TRAIN, lanes=2, rounds=1, assurance=Assurance.SAMPLED, audit_ppm=1, seed=seed)
        world.end = "exit-1"
        world.open()
        world.run_lanes(0)
        said = world._audit  # the audits, left out by the market's own hand
        world._audit = lambda selection: None  # type: ignore[method-assign]
        world.audit()
        world._audit = said  # type: ignore[method-assign]
        world.close()
        report = verify_receipt(world.receipt(status="failed", reason="run-failed"), world.trust(), world.now)
        assert "verdict.missing" in {item.id for item in report.findings}
        assert report.claims is not None
        assert not [line for line in report.claims.receipt.settlement if line.reason == "work"]


STOPPED_LIES: dict[str, tuple[Change, str]] = {
    "another task": (lambda said: replace(said, task=f"{said.job}/run/l0/a1"), "receipt.malformed"),
    "another node": (lambda said: replace(said, node=ids.NodeId("n-0123456789ab")), "receipt.malformed"),
    "a reading of nobody": (lambda said: replace(said, reading=digest.digest(b"none")), "stopped.reading"),
    "longer ago": (lambda said: replace(said, since="2020-01-01T00:00:00Z"), "stopped.time"),
    "later": (lambda said: replace(said, stopped_at="2036-01-01T00:00:00Z"), "stopped.time"),
    "ended before it began": (lambda said: replace(said, since=said.stopped_at, stopped_at=said.since), "stopped.time"),
    "another job": (lambda said: replace(said, job=ids.JobId("j-000000000000")), "receipt.malformed"),
}


@pytest.mark.parametrize("lie", STOPPED_LIES)
def test_each_member_of_a_stop_is_held(lie: str) -> None:
    """What was in hand, whose, since when, until when, by which reading."""
    change, finding = STOPPED_LIES[lie]
    world = StoppedWorld()
    world.bend["stopped"] = change
    world.play()
    report = verify_receipt(_receipt_of(world), world.trust(), world.now)
    assert finding in refuted(report)


def _receipt_of(world: StoppedWorld) -> bytes:
    """Return the receipt a market would make that had told the truth, around what it did state."""
    honest = StoppedWorld()
    honest.play()
    said: list[Any] = []
    honest.bend["receipt"] = lambda made: (said.append(made), made)[1]
    honest.receipt()
    leaves = tuple(digest.from_raw(envelope.leaf()) for _, envelope in world.entries)
    return world.assemble(replace(said[0], evidence=leaves, job=world.job_id), ())


@pytest.mark.parametrize("status", ["failed", "succeeded"])
def test_a_stop_stands_only_where_the_buyer_stopped(status: str) -> None:
    """Else a market pays its friend for work in hand of a job that ran its course."""
    world = StoppedWorld()
    world.play()
    report = verify_receipt(world.receipt(status=status, reason="stalled"), world.trust(), world.now)
    assert "stopped.reason" in refuted(report)


def test_a_stop_that_is_left_out_pays_nothing() -> None:
    """The line without the statement is a line that the evidence does not bear."""
    world = StoppedWorld()
    world.bend["stopped"] = lambda _: None
    world.play()
    report = verify_receipt(_receipt_of(world), world.trust(), world.now)
    assert "receipt.settlement" in refuted(report)
