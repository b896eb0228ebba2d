"""Replay, answers and bisection over a runner that is a table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stannary.audit import answer, replay
from stannary.errors import FormatError
from stannary.formats.digest import digest
from stannary.formats.ids import JobId, TaskKind, round_task
from stannary.formats.predicates import Assignment, Output, answer_hash, result_root

JOB = JobId("j-0123456789ab")
TASK = Assignment(JOB, round_task(JOB, 0, 0), TaskKind.ROUND, 0, 0, 4, 0, 0)
SALT = bytes(range(16))


class Table:
    """A runner whose states are known, and which keeps only what it was asked to."""

    def compute(self, assignment, step):
        return SimpleNamespace(outputs={"delta": b"result"}, states={step: b"state %d" % step}, compute_ms=3)


def test_a_replay_knows_the_outputs_and_the_drawn_state():
    """Root and answer come from one recomputation of the whole task."""
    found = replay.replay(TASK, 2, Table())
    assert found.outputs == (Output("delta", digest(b"result"), 6),)
    assert found.root == result_root(found.outputs)
    assert answer.answer(found.state, SALT) == answer_hash(SALT, b"state 2")


@pytest.mark.parametrize("step", [0, 5, -1])
def test_a_step_the_task_does_not_have_is_refused(step):
    """Steps count from one to num_steps."""
    with pytest.raises(FormatError, match="does not have"):
        replay.replay(TASK, step, Table())


def test_a_short_salt_is_refused():
    """Answers to guessable salts could be prepared."""
    with pytest.raises(FormatError, match="too short"):
        answer.answer(b"state", b"salt")


def test_answers_differ_by_salt_and_by_state():
    """Neither another audit's answer nor another state's serves."""
    answers = {answer.answer(state, salt) for state in (b"a", b"b") for salt in (SALT, SALT[::-1])}
    assert len(answers) == 4
