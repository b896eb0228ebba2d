"""Days of a first check: nothing else begins before it has ended, what it costs, and markets that do without it."""

from __future__ import annotations

from unittest import mock

import pytest
from tests.second_verifier.comparison import verify_both
from tests.simulator.day import Day
from tests.simulator.toys import Toy, recipe
from tests.unit.jobs.course.test_own_code import TIMING, live
from tests.unit.jobs.course.test_question import HONEST, NAMES, coin, one_command, outcome_of, receipt_of

from stannary.formats import ids
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Verdict
from stannary.jobs.course import actions, outsiders, planning
from stannary.rules import draw, first
from stannary.rules.reasons import Reason


def in_order(lived: Day, *kinds: type) -> list[actions.Action]:
    """Return what a market decided, of these kinds, in order."""
    return [action for action in lived.market.taken if isinstance(action, kinds)]


def assert_checked(lived: Day) -> None:
    """The first unit alone is planned and drawn before a verdict that ends its check; then the others are."""
    said = in_order(lived, actions.Plan, actions.Judge)
    unit = first.unit(lived.spec(), lived.job_id)
    others = [at for at, item in enumerate(said) if isinstance(item, actions.Plan) and not _is_of(item, unit)]
    ends = [
        at
        for at, item in enumerate(said)
        if isinstance(item, actions.Judge)
        and ids.unit_of(ids.parse_task(item.task)) == unit
        and first.ends(item.verdict, item.reason)
    ]
    assert others
    assert min(ends) < min(others)


def _is_of(planned: actions.Plan, unit: str) -> bool:
    return ids.unit_of(planned.assignment.task) == unit


@pytest.mark.parametrize("seed", range(3))
def test_no_lane_begins_before_the_first_was_computed_again(seed: int) -> None:
    """Of three lanes the first is drawn whatever the beacon says, and the others are planned behind its verdict."""
    lived = live(one_command([HONEST] * 6, seed, lanes=3))
    assert_checked(lived)
    assert receipt_of(lived).verdict is Verdict.VERIFIED
    begun, ended = (item for item in in_order(lived, actions.SayChecked) if isinstance(item, actions.SayChecked))
    assert (begun.reason, ended.reason) == ("", Reason.AGREED)


def test_in_training_the_other_lanes_and_the_merge_wait_for_the_first() -> None:
    """Lane 0 of round 0 alone; then the others, none of which is late for having begun later."""
    fleet = [Toy(f"n{at}", name, ask=100_000, bond=1_000_000) for at, name in enumerate(NAMES[:6])]
    lived = live(Day(seed=2, fleet=fleet, settings=recipe(rounds=2, lanes=3), timing=TIMING, rules=3))
    assert_checked(lived)
    assert receipt_of(lived).verdict is Verdict.VERIFIED
    assert all(len(item.admitted or ()) == 3 for item in lived.assignments.values() if item.task.endswith("merge/a0"))


def test_a_job_of_one_unit_or_without_verification_has_none() -> None:
    """There is nothing to begin later, or nobody to ask."""
    lived = live(one_command([HONEST] * 5))
    assert not first.is_checked(lived.spec())
    assert not in_order(lived, actions.SayChecked)
    fleet = [Toy(f"n{at}", name, ask=100_000, bond=1_000_000) for at, name in enumerate(NAMES[:3])]
    unasked = Day(
        seed=0, fleet=fleet, settings=recipe(rounds=2, lanes=2), timing=TIMING, verify=Verification.NONE, rules=3
    )
    assert not first.is_checked(unasked.spec())


@pytest.mark.parametrize("seed", range(3))
def test_a_program_that_flips_a_coin_costs_a_unit_and_not_the_escrow(seed: int) -> None:
    """The first two answers differ: four runs are asked for at once, and nothing else of the job was begun."""
    lived = live(one_command([HONEST] * 8, seed, coin, lanes=3))
    assert outcome_of(lived) is Reason.NOT_REPRODUCIBLE
    unit = first.unit(lived.spec(), lived.job_id)
    assert {ids.unit_of(task) for task in lived.assignments} == {unit}
    made = receipt_of(lived)
    assert made.verdict is Verdict.NOT_REPRODUCIBLE
    assert len([line for line in made.settlement if line.reason == "audit"]) == 5  # an auditor, and two outsiders twice
    assert lived.struck == set()


def test_a_lie_in_the_first_unit_is_found_at_once_and_its_liar_struck() -> None:
    """Four runs agree against him; the unit is done again by another, and the lanes begin."""
    lived = live(one_command([frozenset({"lies"}), *[HONEST] * 7], 1, lanes=2))
    assert outcome_of(lived) is Reason.REPRODUCED
    assert lived.struck == {"n0"}
    assert receipt_of(lived).verdict is Verdict.VERIFIED


def test_where_two_outsiders_are_not_left_a_third_operator_is_asked() -> None:
    """Four operators, three of them placed: who lies stands alone against two, and no question is opened."""
    lived = live(one_command([frozenset({"lies"}), *[HONEST] * 3], 1, lanes=3))
    assert outcome_of(lived) is None
    assert lived.struck == {"n0"}


def test_a_market_without_a_second_operator_ends_after_the_first_unit() -> None:
    """Nobody can compare: the unit is tried as often as any, and nothing else of the job is begun; it hangs nowhere."""
    day = one_command([HONEST] * 3, lanes=2)
    for node in day.fleet.values():
        node.operator = "oak"
    lived = live(day)
    made = receipt_of(lived)
    assert (made.verdict, made.status, made.reason) == (Verdict.UNVERIFIED, "failed", Reason.USELESS)
    assert {ids.unit_of(task) for task in lived.assignments} == {first.unit(lived.spec(), lived.job_id)}


def test_an_audit_nobody_has_room_for_holds_no_job_up() -> None:
    """The first check waits as long as any audit; then the job goes on, and its figures say so."""
    day = one_command([HONEST] * 4, 1, lanes=2)
    for node in list(day.fleet.values())[2:]:
        node.busy_s = (0.0, 100_000.0)
    lived = live(day)
    ended = [item for item in in_order(lived, actions.SayChecked) if isinstance(item, actions.SayChecked)][-1]
    made = receipt_of(lived)
    if ended.reason == Reason.NOT_AUDITED:
        assert made.soundness.unheard
    assert_checked(lived)


def test_a_market_that_begins_a_second_lane_before_the_check_is_refuted() -> None:
    """Both verifiers say so: a buyer would pay for all that such a market had begun."""
    with mock.patch.object(planning, "is_first_checked", return_value=True):
        lived = one_command([HONEST] * 6, lanes=3).live()
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert (report.verdict, report.exit_code) == (Verdict.REFUTED, 3)
    assert "first.unchecked" in {item.id for item in report.findings}


def test_a_market_that_does_not_draw_the_first_unit_is_refuted() -> None:
    """It is drawn whatever the beacon says: without a verdict on it nothing else may have begun."""
    for seed in range(40):
        fleet = [Toy(f"n{at}", name, ask=100_000, bond=1_000_000) for at, name in enumerate(NAMES[:6])]
        day = Day(seed=seed, fleet=fleet, settings=recipe(rounds=2, lanes=3), timing=TIMING, audit_ppm=1, rules=3)
        with (
            mock.patch.object(draw.Draws, "_is_foreseen", draw.Draws._is_last_merge),
            mock.patch.object(planning, "is_first_checked", return_value=True),
        ):
            day.live()
        found = {item.id for item in verify_both(day.receipt(), day.trust(), day.now).findings}
        if {"first.unchecked", "verdict.missing"} <= found:
            return
    raise AssertionError("every seed draws it by chance")


def test_a_market_that_opens_no_question_at_the_first_check_is_refuted() -> None:
    """A third auditor in place of four runs leaves the first who differs with a verdict that is not his."""
    found = set()
    for seed in range(4):
        with mock.patch.object(outsiders, "spare", return_value={}):
            lived = one_command([frozenset({"lies"}), *[HONEST] * 7], seed, lanes=2).live()
        report = verify_both(lived.receipt(), lived.trust(), lived.now)
        assert report.exit_code == 3
        found |= {item.id for item in report.findings}
    assert "verdict.mismatch" in found
