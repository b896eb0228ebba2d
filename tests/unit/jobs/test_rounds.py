"""Round decisions: window, admission, what a conviction makes void."""

from __future__ import annotations

import dataclasses

import pytest

from stannary.formats.ids import TaskKind
from stannary.jobs.rounds import (
    UnitAttempt,
    admission,
    audits_closed,
    may_merge,
    merge_stands,
)
from stannary.jobs.states import TaskState


def lane(round_index: int, number: int, state: TaskState = TaskState.VERIFIED, attempt: int = 0) -> UnitAttempt:
    return UnitAttempt(
        task=f"r{round_index}/l{number}/a{attempt}",
        kind=TaskKind.ROUND,
        round=round_index,
        lane=number,
        attempt=attempt,
        state=state,
        log_index=100 * round_index + 10 - number,
    )


def merge(round_index: int, state: TaskState = TaskState.VERIFIED, attempt: int = 0, admitted: str = "") -> UnitAttempt:
    return UnitAttempt(
        task=f"r{round_index}/merge/a{attempt}",
        kind=TaskKind.MERGE,
        round=round_index,
        lane=-1,
        attempt=attempt,
        state=state,
        log_index=100 * round_index + 50,
        admitted=frozenset(admitted.split()),
    )


def test_the_window_holds_the_next_merge_until_audits_are_closed() -> None:
    """Merge t+1 waits for every audit of round t and of merge t; the first waits for nothing."""
    done = [lane(0, 0), lane(0, 1), merge(0)]
    assert may_merge([], 0, 1)
    assert may_merge(done, 1, 1)
    for index, state in ((0, TaskState.DRAWN), (1, TaskState.CONTRIBUTED), (2, TaskState.DRAWN)):
        waiting = list(done)
        waiting[index] = dataclasses.replace(done[index], state=state)
        assert not may_merge(waiting, 1, 1)


def test_what_is_void_waits_for_no_audit() -> None:
    """A superseded or abandoned task holds nothing up, the attempt in its place does; nothing at all is not closed."""
    void = [lane(0, 0, TaskState.SUPERSEDED), lane(0, 1, TaskState.ABANDONED)]
    assert not audits_closed(void, 0)
    assert audits_closed([*void, merge(0)], 0)
    assert not audits_closed([*void, merge(0), lane(0, 0, TaskState.CONTRIBUTED, attempt=1)], 0)


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
