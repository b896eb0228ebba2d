"""Names of things."""

from __future__ import annotations

import pytest

from stannary.errors import FormatError
from stannary.formats import bounds
from stannary.formats.ids import (
    AUDIT_TAG_BYTES,
    JobId,
    TaskKind,
    attempt_of,
    audit_id,
    command_task,
    merge_task,
    parse_task,
    place_of,
    round_task,
)

JOB = JobId("j-0123456789ab")


def test_a_task_says_what_it_is() -> None:
    """Kind, round and lane are told by the name alone; the pattern of messages takes it too."""
    named = {
        (TaskKind.ROUND, 1, 2): round_task(JOB, 1, 2, 5),
        (TaskKind.MERGE, 1, 0): merge_task(JOB, 1),
        (TaskKind.COMMAND, 0, 3): command_task(JOB, 3, 9999),
    }
    assert {kind for kind, _, _ in named} == set(TaskKind)
    assert {place_of(task): task for task in named.values()} == named
    assert all(bounds.TASK.fits(task) for task in named.values())
    assert [attempt_of(task) for task in named.values()] == [5, 0, 9999]


@pytest.mark.parametrize("place", ["", "/r0/a0", "/run/merge/a0", "/r0/l1/a0/q", "/r0/l1/a00000"])
def test_what_is_no_task_is_refused(place: str) -> None:
    """A name that says no place would be kept, and found by nobody."""
    with pytest.raises(FormatError, match="not a task id"):
        parse_task(JOB + place)


def test_an_audit_is_not_named_by_too_few_bytes() -> None:
    """Two auditors of one task must not share a name by luck."""
    task = round_task(JOB, 0, 0)
    assert audit_id(task, bytes(AUDIT_TAG_BYTES)) == f"{task}/q{'00' * AUDIT_TAG_BYTES}"
    with pytest.raises(FormatError, match="too short a tag"):
        audit_id(task, bytes(AUDIT_TAG_BYTES - 1))
