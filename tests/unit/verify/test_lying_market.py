"""A market that lies: each lie it could tell of an honest day, told with its own keys, and the finding that sees it.

The day is the simulator's; parties sign honestly, the market signs whatever it likes. The same table stands in
docs/threat-model.md, with what no receipt shows by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.second_verifier.comparison import verify_both
from tests.simulator.day import Day
from tests.simulator.toys import Toy, recipe
from tests.unit.jobs.course import days

from stannary.formats import ids, instants
from stannary.formats.ids import NodeId, TaskKind
from stannary.formats.predicates import Absence, Assignment, Awaited, Role, Silence, Verdict
from stannary.jobs.course.state import Timing
from stannary.verify.report import Report, Severity

OPERATORS = ("oak", "elm", "ash", "fir", "yew")
TIMING = Timing(reveal_s=600.0, placing_s=600.0, stall_s=3600.0)
PAGE = (Path(__file__).parents[3] / "docs/threat-model.md").read_text(encoding="utf-8")
Lie = Callable[[Day], None]


def honest(*, silent: bool = False, seed: int = 3) -> Day:
    """Return a day of five honest nodes, or of four and an auditor who never answers."""
    manners = [frozenset({"silent-auditor"}) if silent and at == 4 else frozenset[str]() for at in range(5)]
    fleet = [
        Toy(f"n{at}", OPERATORS[at], ask=100_000 + 7_000 * at, bond=10_000_000, manner=manner)
        for at, manner in enumerate(manners)
    ]
    return Day(seed=seed, fleet=fleet, settings=recipe(rounds=2), timing=TIMING, rules=3)


def report_of(day: Day) -> Report:
    """Return what both verifiers say of a day's receipt."""
    return verify_both(day.receipt(), day.trust(), day.now)


def refuted(report: Report) -> set[str]:
    """Return the findings that refute."""
    return {item.id for item in report.findings if item.severity is Severity.REFUTED}


def bending(kind: str, change: Callable[[Any], Any]) -> Lie:
    """Return a lie that states every statement of a kind otherwise."""

    def lie(day: Day) -> None:
        day.bend[kind] = change

    return lie


def of_friend(**change: Any) -> Lie:
    """Return a lie about the credential of the friend, the first node of the fleet."""

    def lie(day: Day) -> None:
        friend = next(iter(day.fleet.values())).id
        day.bend["credential"] = lambda said: replace(said, **change) if said.node == friend else said

    return lie


def merging(change: Callable[[Assignment], Assignment]) -> Lie:
    """Return a lie about every merge."""
    return bending("assignment", lambda said: change(said) if said.kind is TaskKind.MERGE else said)


def drop_lane(said: Assignment) -> Assignment:
    """Leave an honest lane out."""
    assert said.admitted is not None
    return replace(said, admitted=said.admitted[1:], excluded=(said.admitted[0].task,), num_steps=said.num_steps - 1)


def favour_lane(said: Assignment) -> Assignment:
    """Let one lane weigh twice."""
    assert said.admitted is not None
    return replace(said, admitted=(replace(said.admitted[0], weight_ppm=2_000_000), *said.admitted[1:]))


def unlisted(day: Day) -> None:
    """Leave the friend, who holds a lane, out of the candidates without a word."""
    friend = next(iter(day.fleet.values())).id

    def leave_out(said: Any) -> Any:
        return replace(said, candidates=tuple(item for item in said.candidates if item.node != friend))

    day.bend["candidates"] = leave_out


def listed_instead(said: Any) -> Any:
    """Rank a node of nobody's in the place of an honest one."""
    return replace(said, candidates=(replace(said.candidates[0], node=NodeId("n-0123456789ab")), *said.candidates[1:]))


def earlier(said: Any) -> Any:
    """Let a commitment have been logged before it was."""
    first, *rest = said.drawable
    return replace(said, drawable=(replace(first, commitment_index=first.commitment_index - 1), *rest))


# what the market does while the day lasts: words of the page -> the lie, the finding
LIVE: dict[str, tuple[Lie, str]] = {
    "credits a friend with a higher price": (of_friend(ask_usd_micros_per_hour=400_000), "credential.differs"),
    "calls a friend's node another operator's": (of_friend(operator="rowan"), "credential.differs"),
    "lifts a friend's node to a larger machine": (of_friend(cpus=64), "credential.differs"),
    "leaves an honest lane out of a merge": (merging(drop_lane), "merge.admission"),
    "weighs a friend's lane more": (merging(favour_lane), "merge.weight"),
    "leaves who works out of the candidates, without a word": (unlisted, "candidates.unlisted"),
    "ranks somebody else among the candidates": (bending("candidates", listed_instead), "candidates.unknown"),
    "keeps a commitment out of its draw": (
        bending("draw", lambda said: replace(said, drawable=said.drawable[1:])),
        "draw.held-back",
    ),
    "backdates a commitment": (bending("draw", earlier), "draw.drawable"),
    "calls honest work refuted": (
        bending("verdict", lambda said: replace(said, verdict=Verdict.REFUTED, refuted=(said.node,))),
        "verdict.mismatch",
    ),
    "holds more than the buyer's budget": (
        bending("placement", lambda said: replace(said, work_usd_micros=10**10, escrow_usd_micros=10**10)),
        "placement.budget",
    ),
    "states a word the figures do not bear": (
        bending("receipt", lambda said: replace(said, verdict=Verdict.ATTESTED)),
        "receipt.verdict",
    ),
    "pays itself from the escrow": (
        bending(
            "receipt",
            lambda said: replace(
                said, settlement=tuple(replace(line, account="operator:mine") for line in said.settlement)
            ),
        ),
        "receipt.settlement",
    ),
}


def try_again(day: Day) -> None:
    """Assign a unit once more, with nothing against the attempt before."""
    task, assignment = next(iter(day.assignments.items()))
    unit = task.rpartition("/a")[0]
    day.log("assignment", replace(assignment, task=ids.TaskId(f"{unit}/a1")), day.market_key)


def say_silent(day: Day) -> None:
    """Call an auditor silent whose answer stands in the log."""
    case = day.case()
    answer = next(item.predicate for item in case.answers.values() if item.predicate.role is Role.AUDITOR)
    drawn = next(item for item in case.draws if answer.task in {entry.task for entry in item.predicate.drawable})
    at = instants.spell(day.now)
    said = Silence(
        job=day.job_id, audit=answer.audit, task=answer.task, role=Role.AUDITOR, node=answer.node, draw=drawn.leaf,
        awaited=Awaited.ANSWER, reason=Absence.LOST, asked_at=at, deadline_at=at, ended_at=at,
    )  # fmt: skip
    day.log("silence", said, day.market_key)


# what it adds at the end of the day
AFTER: dict[str, tuple[Lie, str]] = {
    "has a unit done again for the fees": (try_again, "assignment.cause"),
    "calls somebody silent who answered": (say_silent, "silence.false"),
}


def test_an_honest_market_is_not_accused() -> None:
    """The day of which all lies are told ends in a receipt that holds, with a silent auditor in it too."""
    assert refuted(report_of(days.live(honest()))) == set()
    assert refuted(report_of(days.live(honest(silent=True)))) == set()


@pytest.mark.parametrize("lie", sorted(LIVE))
def test_a_lie_told_during_the_day_is_seen(lie: str) -> None:
    """Whatever else breaks by it, the finding named for it is there."""
    tell, finding = LIVE[lie]
    day = honest()
    tell(day)
    assert finding in refuted(report_of(day.live()))


@pytest.mark.parametrize("lie", sorted(AFTER))
def test_a_lie_told_at_the_end_is_seen(lie: str) -> None:
    """What is added to an honest log stands behind what contradicts it."""
    tell, finding = AFTER[lie]
    day = honest().live()
    tell(day)
    assert finding in refuted(report_of(day))


def test_a_silence_that_is_withheld_is_seen() -> None:
    """The next in rank was asked, and nothing says why."""
    heard = (seed for seed in range(40) if honest(silent=True, seed=seed).live().case().silences)
    day = honest(silent=True, seed=next(heard))
    day.bend["silence"] = lambda _: None
    assert "audit.skipped" in refuted(report_of(day.live()))


def test_a_bond_that_is_made_up_comes_to_nothing() -> None:
    """No finding names it: the figures count what the node signed, whatever the credential says."""
    day = honest()
    of_friend(bond_usd_micros=10**12)(day)
    report = report_of(day.live())
    assert refuted(report) == set()
    assert report.claims is not None
    case = report.claims.case
    busy = {item.predicate.node for item in (*case.contributions.values(), *case.answers.values())}
    assert next(iter(day.fleet.values())).id in busy
    assert {case.bond(node) for node in busy} == {10_000_000}


def test_two_receipts_of_one_job_are_seen_only_side_by_side() -> None:
    """Each holds alone, and says another end: whoever has both has two leaves of one log against the market."""
    day = honest().live()
    first = report_of(day)
    second = verify_both(day.receipt(status="failed", reason="no-capacity"), day.trust(), day.now)
    assert first.claims is not None
    assert second.claims is not None
    assert refuted(first) == refuted(second) == set()
    assert first.claims.receipt.job_digest == second.claims.receipt.job_digest
    assert first.claims.receipt.verdict is not second.claims.receipt.verdict


@pytest.mark.parametrize("lie", sorted({**LIVE, **AFTER}))
def test_the_page_names_each_lie_and_its_finding(lie: str) -> None:
    """The row of docs/threat-model.md says the same as this table."""
    finding = {**LIVE, **AFTER}[lie][1]
    assert f"| {lie} | `{finding}` |" in PAGE


def test_the_page_says_what_no_receipt_shows() -> None:
    """Bonds that both sides invent, hidden work, two receipts: each has its row, and none has a finding."""
    for lie in (
        "states a bond that nobody posted, and its node signs it",
        "makes two receipts of one job",
        "hides a lane's whole work, commitment and all, and calls it late",
        "leaves out of the candidates, without a word, a node that has not worked in the job",
        "takes a lease away, or never gives one",
    ):
        assert f"| {lie} | not seen" in PAGE
