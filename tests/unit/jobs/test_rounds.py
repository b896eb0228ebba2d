"""Round decisions: window, admission, what a conviction makes void."""

from __future__ import annotations

import dataclasses

import pytest

from stannary.formats import ids
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, TaskId
from stannary.formats.predicates import Admitted, Assignment, Verdict
from stannary.jobs.course.state import Task, spell_assignment
from stannary.jobs.rounds import (
    admission,
    audits_closed,
    may_merge,
    merge_stands,
)
from stannary.jobs.states import TaskState

JOB = JobId("j-0123456789ab")


def task(name: TaskId, state: TaskState, log_index: int, admitted: tuple[TaskId, ...] = ()) -> Task:
    """Return a task that was handed in at a place in the log."""
    kind, round_index, number = ids.place_of(name)
    taken = tuple(Admitted(item, Digest("sha256:" + "0" * 64), 1, 1) for item in admitted)
    text = spell_assignment(Assignment(JOB, name, kind, round_index, number, 3, 0, 0, admitted=taken))
    return Task(
        task=name, job=JOB, kind=kind, round=round_index, lane=number, attempt=ids.attempt_of(name), num_steps=3,
        assignment=text, assignment_digest="", state=state, epoch=1, node="n-1", price_usd_micros=0, commitment=None,
        commitment_index=None, contribution=None, contribution_index=log_index, root=None, outputs=None,
        draw_number=None, verdict=Verdict.PENDING, reason="", planned_at_ms=0, leased_at_ms=0, contributed_at_ms=0,
    )  # fmt: skip


def named(number: int, attempt: int = 0) -> TaskId:
    """Return a lane's task of the first round."""
    return ids.round_task(JOB, 0, number, attempt)


def lane(number: int, state: TaskState = TaskState.VERIFIED, attempt: int = 0) -> Task:
    """Return a lane of the first round; the higher its number, the sooner it was handed in."""
    return task(named(number, attempt), state, 10 - number)


def merge(state: TaskState = TaskState.VERIFIED, admitted: tuple[TaskId, ...] = ()) -> Task:
    """Return the merge of the first round."""
    return task(ids.merge_task(JOB, 0), state, 50, admitted)


def test_the_window_holds_the_next_merge_until_audits_are_closed() -> None:
    """Merge t+1 waits for every audit of round t and of merge t; the first waits for nothing."""
    done = [lane(0), lane(1), merge()]
    assert may_merge([], 0, 1)
    assert may_merge(done, 1, 1)
    for index, state in ((0, TaskState.DRAWN), (1, TaskState.CONTRIBUTED), (2, TaskState.DRAWN)):
        waiting = list(done)
        waiting[index] = dataclasses.replace(done[index], state=state)
        assert not may_merge(waiting, 1, 1)


def test_what_is_void_waits_for_no_audit() -> None:
    """A superseded or abandoned task holds nothing up, the attempt in its place does; nothing at all is not closed."""
    void = [lane(0, TaskState.SUPERSEDED), lane(1, TaskState.ABANDONED)]
    assert not audits_closed(void, 0)
    assert audits_closed([*void, merge()], 0)
    assert not audits_closed([*void, merge(), lane(0, TaskState.CONTRIBUTED, attempt=1)], 0)


def test_a_merge_admits_in_log_order_and_names_who_is_left_out() -> None:
    """Order comes from the log; the convicted, the silent and the late are excluded by name."""
    newest = [
        lane(0, TaskState.CONTRIBUTED),
        lane(1, TaskState.VERIFIED),
        lane(2, TaskState.REFUTED),
        lane(3, TaskState.UNVERIFIED),
        lane(4, TaskState.ABANDONED),
        lane(5, TaskState.SUPERSEDED),
    ]
    decision = admission(newest)
    assert [task.task for task in decision.admitted] == [named(1), named(0)]
    assert decision.excluded == (named(2), named(3), named(4))


@pytest.mark.parametrize("state", [TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.SUPERSEDED, TaskState.ABANDONED])
def test_a_merge_falls_with_what_it_admitted(state: TaskState) -> None:
    """A merge counts as long as all it admitted does; who was not admitted does not matter to it."""
    admitted = merge(TaskState.VERIFIED, admitted=(named(0), named(1)))
    assert merge_stands(admitted, [lane(0), lane(1), lane(2, state)])
    assert not merge_stands(admitted, [lane(0, state), lane(1)])
    assert not merge_stands(admitted, [lane(1)])  # its newest attempt is another


@pytest.mark.parametrize("state", [TaskState.REFUTED, TaskState.UNVERIFIED, TaskState.SUPERSEDED, TaskState.ABANDONED])
def test_a_void_merge_does_not_stand(state: TaskState) -> None:
    """A merge that was convicted, silent or replaced counts for nothing, whatever it admitted."""
    assert not merge_stands(merge(state, admitted=(named(0),)), [lane(0)])
