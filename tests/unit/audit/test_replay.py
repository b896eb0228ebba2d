"""Questions and their answers."""

from __future__ import annotations

import pytest

from stannary.audit import answer, replay
from stannary.errors import FormatError
from stannary.formats.ids import JobId, TaskKind, round_task
from stannary.formats.predicates import Assignment

JOB = JobId("j-0123456789ab")
TASK = Assignment(JOB, round_task(JOB, 0, 0), TaskKind.ROUND, 0, 0, 4, 0, 0)
SALT = bytes(range(16))


@pytest.mark.parametrize("step", [0, 5, -1])
def test_a_step_the_task_does_not_have_is_refused(step):
    """Steps count from one to num_steps."""
    with pytest.raises(FormatError, match="does not have"):
        replay.check_step(TASK, step)


def test_a_short_salt_is_refused():
    """Answers to guessable salts could be prepared."""
    with pytest.raises(FormatError, match="too short"):
        answer.answer(b"state", b"salt")


def test_answers_differ_by_salt_and_by_state():
    """Neither another audit's answer nor another state's serves."""
    answers = {answer.answer(state, salt) for state in (b"a", b"b") for salt in (SALT, SALT[::-1])}
    assert len(answers) == 4
