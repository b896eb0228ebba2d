"""State machines: only along the tables, terminal for ever."""

from __future__ import annotations

import itertools
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import ConflictError
from stannary.formats.predicates import Verdict
from stannary.jobs.states import OPEN_JOB, OPEN_TASK, TRANSITIONS, JobStatus, TaskState, advance, is_terminal

MACHINES = sorted(TRANSITIONS, key=lambda machine: machine.__name__)
PAIRS = [pair for machine in MACHINES for pair in itertools.product(machine, machine)]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_state_has_a_row(machine: type[StrEnum]) -> None:
    """A table names every state of its machine, and only those."""
    table = TRANSITIONS[machine]
    assert set(table) == set(machine)
    assert all(isinstance(state, machine) for after in table.values() for state in after)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_state_can_be_reached_and_left(machine: type[StrEnum]) -> None:
    """From the first state all others are reachable, and an end is reachable from each."""
    table = TRANSITIONS[machine]
    assert _reachable(table, next(iter(machine))) == set(machine)
    for state in machine:
        assert any(is_terminal(end) for end in _reachable(table, state))


@given(st.sampled_from(PAIRS))
def test_advance_follows_the_table(pair: tuple[StrEnum, StrEnum]) -> None:
    """A change outside the table is a conflict, and a state never follows itself."""
    current, new = pair
    if new in TRANSITIONS[type(current)][current]:
        assert current is not new
        assert advance(current, new) is new
    else:
        with pytest.raises(ConflictError, match=new.value):
            advance(current, new)


@given(st.lists(st.sampled_from(list(TaskState)), max_size=40))
def test_refuted_work_never_becomes_verified(wishes: list[TaskState]) -> None:
    """Whatever is asked of a task in whatever order, it is not both refuted and verified."""
    state, history = TaskState.PLANNED, [TaskState.PLANNED]
    for wish in wishes:
        try:
            state = advance(state, wish)
        except ConflictError:
            continue
        history.append(state)
    assert not {TaskState.REFUTED, TaskState.VERIFIED} <= set(history)
    assert all(not is_terminal(before) for before in history[:-1])


def test_open_states_are_those_with_something_to_do() -> None:
    """The states a market goes on with after a restart are the ones that are not an end."""
    assert {status for status in JobStatus if not is_terminal(status)} == OPEN_JOB
    assert not any(is_terminal(state) for state in OPEN_TASK)
    assert not {TaskState.VERIFIED, TaskState.PASSED, TaskState.UNVERIFIED} & OPEN_TASK


def test_a_verdict_is_given_once() -> None:
    """A verdict, once given, is not given again."""
    for verdict in Verdict:
        assert is_terminal(verdict) == (verdict is not Verdict.PENDING)


def _reachable(table: dict[StrEnum, frozenset[StrEnum]], start: StrEnum) -> set[StrEnum]:
    seen, pending = {start}, [start]
    while pending:
        for state in table[pending.pop()] - seen:
            seen.add(state)
            pending.append(state)
    return seen
