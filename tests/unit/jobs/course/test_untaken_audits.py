"""Audits that wait for their node: nobody behind it is asked because it was busy, and nobody calls that checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.second_verifier.comparison import verify_both
from tests.simulator.day import Day
from tests.simulator.toys import Toy, recipe
from tests.unit.jobs.course import days
from tests.unit.jobs.course.test_own_code import TIMING

from stannary.formats import predicates
from stannary.formats.ids import TaskId
from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Absence, Receipt, Role, Silence, Verdict
from stannary.jobs.course import hearing
from stannary.jobs.course.actions import SaySilent
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import AuditRow
from stannary.rules import assurance
from stannary.rules.reasons import Reason
from stannary.verify import conclusion, lineage
from stannary.verify.receipt import verify_receipt

OPERATORS = ("oak", "elm", "ash", "fir", "yew")
LONG = (0.0, 50_000.0)  # longer than any audit here is waited for
SHORT = (0.0, 400.0)  # shorter than that


def day(manners: Iterable[str], busy: dict[int, tuple[float, float]], seed: int = 0, **more: Any) -> Day:
    """Return a day of toys, some of which have a piece of another job in hand for a while."""
    toys = [
        Toy(f"n{at}", OPERATORS[at], ask=100_000, bond=10_000_000, manner=frozenset(word.split()), busy_s=busy.get(at))
        for at, word in enumerate(manners)
    ]
    return Day(seed=seed, fleet=toys, settings=recipe(rounds=2, lanes=2), timing=TIMING, rules=3, **more)


def live(made: Day) -> tuple[Day, Receipt]:
    """Live a day; both verifiers say the same of its receipt."""
    lived = days.live(made)
    verify_both(lived.receipt(), lived.trust(), lived.now)
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    return lived, report.claims.receipt


def silences(lived: Day) -> list[Silence]:
    """Return what was said of auditors."""
    said = [item.predicate for item in lived.case().silences.values()]
    return [item for item in said if item.role is Role.AUDITOR]


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_busy_auditor_is_waited_for(kind: JobKind) -> None:
    """It has a piece of another job in hand when it is asked: its time counts from when it takes the audit."""
    asked: set[str] = set()
    for seed in range(8):  # whom the beacon asks first is chance
        lived, receipt = live(day([""] * 4, {2: SHORT, 3: SHORT}, seed, kind=kind))
        assert silences(lived) == []
        assert receipt.verdict is Verdict.VERIFIED
        assert receipt.soundness.unheard == 0
        first = [item.predicate for item in lived.case().answers.values() if item.predicate.role is Role.AUDITOR]
        asked |= {lived.party(item.node).name for item in first}
    assert asked >= {"n2", "n3"}


@pytest.mark.parametrize("kind", list(JobKind))
def test_what_nobody_had_room_for_is_not_wrong_and_not_checked(kind: JobKind) -> None:
    """All others are busy all day: the work stands and is paid, and no word is said of it."""
    for seed in range(8):  # whether the beacon asks one of them is chance
        lived, receipt = live(day([""] * 4, {2: LONG, 3: LONG}, seed, kind=kind))
        if receipt.soundness.unheard:
            break
    said = [item for item in silences(lived) if item.reason is Absence.NOT_TAKEN]
    assert said
    assert all(item.taken_at is None for item in said)
    figures = receipt.soundness
    assert figures.unheard
    assert figures.checked is not None
    assert figures.checked <= figures.drawn - figures.unheard
    assert receipt.verdict is Verdict.UNVERIFIED
    unheard = {item.predicate.task for item in lived.case().verdicts if item.predicate.reason == Reason.NOT_AUDITED}
    paid = {line.task for line in receipt.settlement if line.usd_micros and line.account.startswith("operator:")}
    assert unheard <= paid
    assert not lived.convicted | lived.struck


BUSY = st.sampled_from([LONG, (0.0, 1_000.0), (30.0, 5_000.0)])


@given(st.integers(0, 10_000), st.sampled_from(JobKind), BUSY)
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
def test_who_keeps_the_auditors_busy_gets_no_word_for_junk(seed: int, kind: JobKind, busy: tuple[float, float]) -> None:
    """A liar's work nobody had room for is in the result perhaps: then the job has no word, and its buyer knows."""
    lived, receipt = live(day(["lies", "", "", ""], {1: busy, 2: busy, 3: busy}, seed, kind=kind))
    case = lived.case()
    junk = [task for task in lineage.trace(case).tasks if task in case.contributions and is_junk(lived, task)]
    assert receipt.verdict is Verdict.UNVERIFIED or not junk
    figures = receipt.soundness
    assert not junk or figures.unheard or figures.drawn < figures.units


@given(st.integers(0, 10_000), st.sampled_from(JobKind), BUSY)
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
def test_no_audit_falls_to_an_accomplice_because_others_were_kept_busy(
    seed: int, kind: JobKind, busy: tuple[float, float]
) -> None:
    """Two liars vouch for one another while a long job keeps all others: each honest rank ahead was heard first."""
    made = day(["lies accuses", "lies accuses", "", "", ""], dict.fromkeys((2, 3, 4), busy), seed, kind=kind)
    for name in ("n0", "n1"):
        liar = made.fleet[name]
        assert isinstance(liar, Toy)
        liar.word = "one lie"
    lived = made.live()
    verify_both(lived.receipt(), lived.trust(), lived.now)
    case = lived.case()
    selections = conclusion.selections_of(case)
    for answer in case.answers.values():
        said = answer.predicate
        if said.role is Role.AUDITOR and said.node in {lived.fleet["n0"].id, lived.fleet["n1"].id}:
            ranked = [item.node for item in selections[said.task].auditors]
            ahead = {node for node in ranked[: ranked.index(said.node)] if not case_out(lived, node)}
            heard = {item.predicate.node for item in case.answers_of[said.task]}
            assert ahead <= heard


def case_out(lived: Day, node: str) -> bool:
    """Tell whether a node was put out of the job."""
    return lived.party(node).name in lived.struck | lived.convicted


def is_junk(lived: Day, task: TaskId) -> bool:
    """Tell whether what was handed in is not what the task makes."""
    case = lived.case()
    made = case.contributions[task].predicate
    prover = lived.party(made.node)
    assert isinstance(prover, Toy)
    assignment = case.assignments[task].predicate
    return made.root != predicates.result_root(prover.honest(assignment).listed, lived.end_of(assignment, lived.end))


def test_a_market_that_asks_the_next_of_a_busy_one_is_refuted() -> None:
    """It says that the first had no room, and asks the second: both verifiers refuse the receipt."""

    def wrong(self: hearing._Hearing, audit: AuditRow, prover: object) -> None:
        self._replace(audit)

    with mock.patch.object(hearing._Hearing, "_give_up", wrong):
        lived = day([""] * 4, {2: LONG}).live()
    verify_both(lived.receipt(), lived.trust(), lived.now)
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert "audit.skipped" in {item.id for item in report.findings if item.severity == "refuted"}


@pytest.mark.parametrize("name", ["taken_at", "reason"])
def test_a_false_word_of_an_untaken_audit_is_refuted(name: str) -> None:
    """Taken and yet not taken; timed out and yet never taken: neither can be."""
    do = CourseDraft.do

    def wrong(self: CourseDraft, action: Any) -> None:
        if isinstance(action, SaySilent) and action.said.reason is Absence.NOT_TAKEN:
            said = action.said
            taken, late = replace(said, taken_at=said.asked_at), replace(said, reason=Absence.DEADLINE)
            action = SaySilent(taken if name == "taken_at" else late)
        do(self, action)

    with mock.patch.object(CourseDraft, "do", wrong):
        lived = day([""] * 4, {2: LONG, 3: LONG}).live()
    verify_both(lived.receipt(), lived.trust(), lived.now)
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert "silence.taken" in {item.id for item in report.findings if item.severity == "refuted"}


def test_a_word_that_forgets_what_nobody_heard_is_refuted() -> None:
    """A market that calls a job by the word it would bear with every drawn unit heard: its reader computes another."""
    reached = assurance.reached

    def wrong(*figures: int, units: int, checked: int, unheard: int) -> Verdict:
        return reached(*figures, units=units, checked=checked + unheard, unheard=0)

    lived = day([""] * 4, {2: LONG, 3: LONG})
    with mock.patch.object(assurance, "reached", wrong):
        data = lived.live().receipt()
    verify_both(data, lived.trust(), lived.now)
    report = verify_receipt(data, lived.trust(), lived.now)
    assert "receipt.verdict" in {item.id for item in report.findings if item.severity == "refuted"}
