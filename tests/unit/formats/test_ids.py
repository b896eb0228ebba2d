"""Names of things."""

from __future__ import annotations

import pytest

from stannary.errors import FormatError
from stannary.formats.ids import (
    AUDIT_TAG_BYTES,
    JobId,
    TaskKind,
    audit_id,
    command_task,
    merge_task,
    round_task,
    task_kind,
)

JOB = JobId("j-0123456789ab")


def test_a_task_says_what_it_is() -> None:
    """Round, merge and command are told by the name alone."""
    named = {
        TaskKind.ROUND: round_task(JOB, 1, 2),
        TaskKind.MERGE: merge_task(JOB, 1),
        TaskKind.COMMAND: command_task(JOB, 3),
    }
    assert {kind: task_kind(task) for kind, task in named.items()} == {kind: kind for kind in named}


def test_an_audit_is_not_named_by_too_few_bytes() -> None:
    """Two auditors of one task must not share a name by luck."""
    task = round_task(JOB, 0, 0)
    assert audit_id(task, bytes(AUDIT_TAG_BYTES)) == f"{task}/q{'00' * AUDIT_TAG_BYTES}"
    with pytest.raises(FormatError, match="too short a tag"):
        audit_id(task, bytes(AUDIT_TAG_BYTES - 1))
