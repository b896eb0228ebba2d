"""A deliberately wrong rule in the core is caught by the promises of days.py: each here once, against known days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.simulator.market import Market
from tests.simulator.toys import FLIPS
from tests.unit.jobs.course import days
from tests.unit.jobs.course.test_our_code import day as our_day
from tests.unit.jobs.course.test_own_code import day as own_day
from tests.unit.jobs.course.test_promises import day
from tests.unit.jobs.course.test_question import coin, one_command

from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Verdict
from stannary.jobs import rounds
from stannary.jobs.course import actions, drawing, hearing, outsiders
from stannary.jobs.course.draft import CourseDraft, Drawing
from stannary.jobs.course.kinds import train
from stannary.rules import blame, question, stake, verdict
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Decision
from stannary.verify import settlement

NUM_DAYS = 12
FLEETS: tuple[tuple[str, ...], ...] = (
    ("", "", "", ""),
    ("lies", "", "", "", ""),
    ("", "", "", "accuses", ""),
    ("silent-prover", "", "", "silent-auditor"),
    ("vanishes", "slow", "", "", ""),
    ("", "lies-merging", "guesses", "", "", ""),
)

Patch = tuple[Any, str, Any]


def _convicts_on_one_answer() -> Patch:
    """Whom one auditor contradicts is a liar."""
    judge = verdict.judge

    def wrong(contribution: Any, prover: Any, auditors: Any, operators: Any, **more: Any) -> Decision:
        made = judge(contribution, prover, auditors, operators, **more)
        if made.need_auditor and prover is not None and auditors:
            return Decision(Verdict.REFUTED, Reason.CONTRADICTED, (contribution.node,))
        return made

    return verdict, "judge", wrong


def _believes_the_auditor() -> Patch:
    """The prover is never heard."""
    return hearing._Hearing, "_given", lambda self, audit, role, node: None


def _pays_twice() -> Patch:
    """Each line of work is paid once more, by the buyer's refund."""
    settle = settlement.settle

    def wrong(escrow: int, work: Any, audits: Any, bonds: Any) -> Any:
        made = settle(escrow, work, audits, bonds)
        again = [line for line in made.lines if line.reason == "work"]
        return replace(made, lines=(*made.lines, *again))

    return settlement, "settle", wrong


def _pays_twice_and_balances() -> Patch:
    """The first work is paid double, and the buyer gets so much less back."""
    settle = settlement.settle

    def wrong(escrow: int, work: Any, audits: Any, bonds: Any) -> Any:
        made = settle(escrow, work, audits, bonds)
        first = next((line for line in made.lines if line.reason == "work"), None)
        if first is None:
            return made
        lines = [replace(line, usd_micros=line.usd_micros * (2 if line is first else 1)) for line in made.lines]
        lines = [
            replace(line, usd_micros=line.usd_micros - first.usd_micros) if line.account == "buyer" else line
            for line in lines
        ]
        return replace(made, lines=tuple(lines))

    return settlement, "settle", wrong


def _pays_accusers_their_own_price() -> Patch:
    """Who finds a lie is paid what he asks, however dear that is."""
    return blame, "paid_for_judging", lambda spec, own, accused: own


def _disputes_every_time() -> Patch:
    """A bond is disputed once more for each further unit, as if it could be lost twice."""
    do = CourseDraft.do

    def wrong(self: CourseDraft, action: Any) -> None:
        do(self, action)
        if isinstance(action, actions.Dispute):
            do(self, replace(action, bond_usd_micros=2 * action.bond_usd_micros))

    return CourseDraft, "do", wrong


def _skips_the_canary() -> Patch:
    """An agreement is never checked once more."""
    return hearing._Hearing, "_is_canary", lambda self: False


def _skips_a_silence() -> Patch:
    """A silent party is passed over without a word."""
    return hearing._Hearing, "_say_silent", lambda self, audit, role, node: None


def _asks_the_last_in_rank() -> Patch:
    """The market chooses whom of those ranked it asks."""
    open_audit = drawing.open_audit

    def wrong(draft: CourseDraft, asked: Any) -> None:
        open_audit(draft, replace(asked, ranked=tuple(reversed(asked.ranked))))

    return drawing, "open_audit", wrong


def _draws_less() -> Patch:
    """A draw leaves the first of its tasks out."""
    do = CourseDraft.do

    def wrong(self: CourseDraft, action: Any) -> None:
        if isinstance(action, actions.MakeDraw) and len(action.made.drawable) > 1:
            action = actions.MakeDraw(replace(action.made, drawable=action.made.drawable[1:]))
        do(self, action)

    return CourseDraft, "do", wrong


def _merges_ahead() -> Patch:
    """A merge does not wait for the audits of the round before it."""
    return rounds, "may_merge", lambda units, index, window: True


def _keeps_what_a_lie_touched() -> Patch:
    """A merge stands, whoever of it was convicted."""
    return train, "_merge_stands", lambda merge, found, base: True


def _waits_for_ever() -> Patch:
    """No lease ever ends by itself."""
    return Market, "lapse", lambda self, now_ms, lost: []


def _decides_by_chance() -> Patch:
    """A decision hangs on something that is not in its state."""
    calls = iter(range(10**9))
    advance = drawing.advance

    def wrong(draft: CourseDraft) -> Any:
        return Drawing() if next(calls) % 3 == 0 else advance(draft)

    return drawing, "advance", wrong


def _leaves_a_lane_out() -> Patch:
    """A merge takes all but the last lane that was in time."""
    admission = rounds.admission

    def wrong(newest: Any) -> rounds.Admission:
        made = admission(newest)
        *taken, last = made.admitted or (None,)
        if not taken:
            return made
        return rounds.Admission(tuple(taken), tuple(sorted((*made.excluded, last.task))))

    return rounds, "admission", wrong


def _weighs_lanes_otherwise() -> tuple[Any, str, Any]:
    """Each lane weighs twice."""
    return train, "WEIGHT_PPM", 2_000_000


def _merges_again() -> Patch:
    """Each merge that counts is made once more."""
    stands = train._merge_stands

    def wrong(merge: Any, found: Any, base: Any) -> bool:
        return stands(merge, found, base) and not (merge.attempt == 0 and merge.state in rounds.ADMISSIBLE)

    return train, "_merge_stands", wrong


MUTANTS = [
    _convicts_on_one_answer,
    _believes_the_auditor,
    _pays_twice,
    _pays_twice_and_balances,
    _skips_the_canary,
    _skips_a_silence,
    _asks_the_last_in_rank,
    _draws_less,
    _merges_ahead,
    _keeps_what_a_lie_touched,
    _waits_for_ever,
    _decides_by_chance,
]


def _convicts_in_the_buyers_own_code() -> Patch:
    """Whom a buyer's program gives another result loses its bond."""
    return blame, "convicts", lambda spec: True


def _takes_nothing_for_a_strike() -> Patch:
    """A strike costs no more than the unit."""
    return stake, "voided", lambda paid, odd: []


def _lets_accusers_have_the_work() -> Patch:
    """Whoever contradicted a unit may do it again."""
    return CourseDraft, "_note_accuser", lambda self, audit: None


OUR_MUTANTS = [
    _convicts_on_one_answer,
    _pays_twice_and_balances,
    _pays_accusers_their_own_price,
    _disputes_every_time,
]


def _asks_whoever_is_next() -> Patch:
    """The question is asked of those who know the job already."""

    def wrong(draft: CourseDraft, task: Any, wanted: int) -> list[str]:
        return list(outsiders._unasked(draft, task))[:wanted]

    return outsiders, "find", wrong


def _asks_the_last_outsiders() -> Patch:
    """The market chooses whom of those without a part it asks."""
    unasked = outsiders._unasked
    return outsiders, "_unasked", lambda draft, task: list(reversed(unasked(draft, task)))


def _believes_two_runs() -> Patch:
    """One outsider is enough."""
    return question, "OUTSIDERS", 1


def _never_asks() -> Patch:
    """Whoever stands alone is struck, however many they are."""
    return question, "_is_opened", lambda made, told, before: False


QUESTION_MUTANTS = [
    _asks_whoever_is_next,
    _asks_the_last_outsiders,
    _believes_two_runs,
    _never_asks,
]
OWN_MUTANTS = [
    _lets_accusers_have_the_work,
    _convicts_in_the_buyers_own_code,
    _convicts_on_one_answer,  # strikes, there
    _takes_nothing_for_a_strike,
    _leaves_a_lane_out,
    _weighs_lanes_otherwise,
    _merges_again,
]
OWN_FLEETS: tuple[tuple[str, ...], ...] = (
    ("", "", "", "", ""),
    (FLIPS, "", "", "", ""),
    ("lies", "", "", "", "accuses"),
    ("accuses", "", "", "", ""),
    ("", "", "", "accuses", ""),
)


def lived_through(live: Callable[[list[frozenset[str]], int], object], fleets: Sequence[tuple[str, ...]]) -> int:
    """Live the known days; return which one breaks a promise first, NUM_DAYS if none does."""
    for seed in range(NUM_DAYS):
        fleet = [frozenset(filter(None, [manner])) for manner in fleets[seed % len(fleets)]]
        try:
            live(fleet, seed)
        except Exception:
            return seed
    return NUM_DAYS


def in_our_code(fleet: list[frozenset[str]], seed: int) -> None:
    """Live a day of a job that may convict."""
    days.live(day(fleet, seed))


def in_dispute(fleet: list[frozenset[str]], seed: int) -> None:
    """Live a day of a job that may convict, and dispute a bond by it."""
    days.live(our_day(fleet, seed))


def in_own_code(fleet: list[frozenset[str]], seed: int) -> None:
    """Live a day of a buyer's own code."""
    days.live(own_day(fleet, seed, kind=list(JobKind)[seed // len(OWN_FLEETS) % 2]))


def in_a_fickle_program(fleet: list[frozenset[str]], seed: int) -> None:
    """Live a day of a program that now and then computes something else, among strangers."""
    made = one_command([frozenset({FLIPS})] * 9, seed, fickle if seed % 2 else coin, lanes=2)
    lived = days.live(made)
    asked = lived.market.state.questions
    days.promise(bool(asked) or seed % 2 == 1, "a program that never gives the same was not asked about")


def fickle(toy: Any, sight: Any) -> str:
    """Twice in three times the same."""
    return "" if sight.chance.random() < 0.66 else str(sight.chance.random())


def test_the_rules_as_they_are_break_nothing() -> None:
    """With nothing changed the known days keep every promise."""
    assert lived_through(in_our_code, FLEETS) == NUM_DAYS
    assert lived_through(in_dispute, FLEETS) == NUM_DAYS
    assert lived_through(in_own_code, OWN_FLEETS) == NUM_DAYS
    assert lived_through(in_a_fickle_program, OWN_FLEETS) == NUM_DAYS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_wrong_rule_is_caught(mutant: Callable[[], Patch], monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong rule, and a promise breaks within the known days."""
    monkeypatch.setattr(*mutant())
    assert lived_through(in_our_code, FLEETS) < NUM_DAYS, mutant.__doc__


@pytest.mark.parametrize("mutant", OUR_MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_wrong_rule_of_disputes_is_caught(mutant: Callable[[], Patch], monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong rule about what a conviction takes, and a promise breaks within the known days."""
    monkeypatch.setattr(*mutant())
    assert lived_through(in_dispute, FLEETS) < NUM_DAYS, mutant.__doc__


@pytest.mark.parametrize("mutant", OWN_MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_wrong_rule_of_blame_is_caught(mutant: Callable[[], Patch], monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong rule about the buyer's own code, and a promise breaks within the known days."""
    monkeypatch.setattr(*mutant())
    assert lived_through(in_own_code, OWN_FLEETS) < NUM_DAYS, mutant.__doc__


@pytest.mark.parametrize("mutant", QUESTION_MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_wrong_rule_of_the_question_is_caught(mutant: Callable[[], Patch], monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong rule about a program that cannot be recomputed, and a promise breaks within the known days."""
    monkeypatch.setattr(*mutant())
    assert lived_through(in_a_fickle_program, OWN_FLEETS) < NUM_DAYS, mutant.__doc__
