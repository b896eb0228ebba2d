"""Round decisions: closing, window, admission, what a conviction makes void."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats.ids import TaskKind
from stannary.jobs.rounds import (
    Pace,
    Unit,
    admission,
    audits_closed,
    closing,
    deadline_s,
    may_finish,
    may_merge,
    may_open,
    merge_of,
    merge_stands,
    next_attempt,
)
from stannary.jobs.states import TaskState

ARRIVALS = st.lists(st.floats(0.1, 1e4), max_size=12)


def lane(round_index: int, number: int, state: TaskState = TaskState.VERIFIED, attempt: int = 0) -> Unit:
    return Unit(
        task=f"r{round_index}/l{number}/a{attempt}",
        kind=TaskKind.ROUND,
        round=round_index,
        lane=number,
        attempt=attempt,
        state=state,
        log_index=100 * round_index + 10 - number,
    )


def merge(round_index: int, state: TaskState = TaskState.VERIFIED, attempt: int = 0, admitted: str = "") -> Unit:
    return Unit(
        task=f"r{round_index}/merge/a{attempt}",
        kind=TaskKind.MERGE,
        round=round_index,
        lane=-1,
        attempt=attempt,
        state=state,
        log_index=100 * round_index + 50,
        admitted=frozenset(admitted.split()),
    )


def test_a_complete_round_closes_at_once() -> None:
    """When every lane has contributed nobody waits for a clock."""
    assert closing([1.0, 2.0, 900.0], Pace(3, 10.0), 0.0).closed


@given(st.integers(1, 12), st.floats(0.1, 100), st.floats(0, 1e6), ARRIVALS)
def test_no_round_closes_below_quorum(num_lanes: int, expected: float, elapsed: float, arrivals: list[float]) -> None:
    """However late it is, fewer than two thirds of the lanes make no round."""
    pace = Pace(num_lanes, expected)
    verdict = closing(arrivals[: pace.quorum - 1], pace, elapsed)
    assert not verdict.closed
    assert verdict.check_again_s is None


@given(st.integers(2, 12), st.floats(0.1, 100), ARRIVALS.filter(bool))
def test_waiting_names_the_moment_it_ends(num_lanes: int, expected: float, arrivals: list[float]) -> None:
    """A round with quorum says when to look again, and is closed then."""
    pace = Pace(num_lanes, expected)
    verdict = closing(arrivals[: num_lanes - 1], pace, 0.0)
    if verdict.check_again_s is not None:
        assert closing(arrivals[: num_lanes - 1], pace, verdict.check_again_s).closed
        assert not closing(arrivals[: num_lanes - 1], pace, verdict.check_again_s - 1e-3).closed


@given(ARRIVALS, st.floats(0.1, 1e3))
def test_deadlines_lie_between_floor_and_ceiling(arrivals: list[float], expected: float) -> None:
    """Neither hurry nor delay of any node moves the deadline out of its band."""
    pace = Pace(4, expected)
    assert max(5.0, 1.5 * expected) <= deadline_s(arrivals, pace) <= max(5.0, 6.0 * expected)


def test_one_slow_node_does_not_move_the_deadline() -> None:
    """Median and MAD ignore a single outlier, however far out."""
    pace = Pace(5, 10.0)
    near, far = ([30.0, 31.0, 32.0, 33.0, late] for late in (40.0, 4e6))
    assert deadline_s(near, pace) == deadline_s(far, pace)


def test_the_window_holds_the_next_merge_until_audits_are_closed() -> None:
    """Merge t+1 waits for every audit of round t and of merge t; the lanes of round t+1 do not."""
    done = [lane(0, 0), lane(0, 1), merge(0)]
    assert may_merge([], 0)
    assert may_open(done, 1)
    assert may_merge(done, 1)
    for index, state in ((0, TaskState.DRAWN), (1, TaskState.CONTRIBUTED), (2, TaskState.DRAWN)):
        waiting = list(done)
        waiting[index] = dataclasses.replace(done[index], state=state)
        assert may_open(waiting, 1)
        assert not may_merge(waiting, 1)
        assert not may_finish(waiting, 1)
    assert may_finish(done, 1)


def test_a_convicted_merge_opens_nothing() -> None:
    """After a merge is refuted the next round waits for its second attempt."""
    units = [lane(0, 0), merge(0, TaskState.REFUTED)]
    assert merge_of(units, 0) is None
    assert not may_open(units, 1)
    again = [*units, merge(0, TaskState.CONTRIBUTED, attempt=1)]
    assert may_open(again, 1)
    assert not audits_closed(again, 0)


def test_a_merge_admits_in_log_order_and_names_who_is_left_out() -> None:
    """Order comes from the log; the convicted, the silent and the late are excluded by name."""
    units = [
        lane(0, 0, TaskState.CONTRIBUTED),
        lane(0, 1, TaskState.VERIFIED),
        lane(0, 2, TaskState.REFUTED),
        lane(0, 3, TaskState.UNVERIFIED),
        lane(0, 4, TaskState.ABANDONED),
        lane(0, 5, TaskState.SUPERSEDED),
        lane(1, 0),
    ]
    decision = admission(units, 0)
    assert decision.admitted == ("r0/l1/a0", "r0/l0/a0")
    assert decision.excluded == ("r0/l2/a0", "r0/l3/a0", "r0/l4/a0")


@pytest.mark.parametrize("state", [TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.SUPERSEDED, TaskState.ABANDONED])
def test_a_merge_falls_with_what_it_admitted(state: TaskState) -> None:
    """A merge counts as long as all it admitted does; who was not admitted does not matter to it."""
    admitted = merge(0, TaskState.VERIFIED, admitted="r0/l0/a0 r0/l1/a0")
    assert merge_stands(admitted, [lane(0, 0), lane(0, 1), lane(0, 2, state)])
    assert not merge_stands(admitted, [lane(0, 0, state), lane(0, 1)])
    assert not merge_stands(admitted, [lane(0, 1)])  # its newest attempt is another


@pytest.mark.parametrize("state", [TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.SUPERSEDED, TaskState.ABANDONED])
def test_a_void_merge_does_not_stand(state: TaskState) -> None:
    """A merge that was convicted, silent or replaced counts for nothing, whatever it admitted."""
    assert not merge_stands(merge(0, state, admitted="r0/l0/a0"), [lane(0, 0)])


def test_attempts_count_on() -> None:
    """The next attempt at a place follows the highest there, void ones included."""
    assert next_attempt([merge(0, TaskState.SUPERSEDED)], TaskKind.MERGE, 0, -1) == 1
    assert next_attempt([], TaskKind.MERGE, 0, -1) == 0
