"""State machines of job, verdict, settlement, task and lease, as tables.

Rules:
- A state changes only along `TRANSITIONS`; anything else is a ConflictError: the state has moved on.
- A terminal state has no way out. In particular `failed`, `cancelled` and `succeeded` are for ever,
  so a job can be settled once, and a `refuted` task can never be paid.
- `verified` work may still be `superseded`: its base weights were convicted, not the work (it is
  paid as redo, out of the convicted operator's bond).

The store writes each change together with its event (store/transitions.py); who decides a change is
the market. Nothing here knows either.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from stannary.errors import ConflictError
from stannary.formats.predicates import Verdict

S = TypeVar("S", bound=StrEnum)


class JobStatus(StrEnum):
    """Where a job is on its way."""

    QUEUED = "queued"
    PLACING = "placing"
    ATTESTING = "attesting"
    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Settlement(StrEnum):
    """Where the buyer's money is."""

    HELD = "held"
    RELEASED = "released"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class TaskState(StrEnum):
    """Where one unit of work is: asked for, worked on, claimed, handed in, judged."""

    PLANNED = "planned"
    LEASED = "leased"
    COMMITTED = "committed"
    CONTRIBUTED = "contributed"
    DRAWN = "drawn"  # the beacon selected it for an audit
    PASSED = "passed"  # the beacon passed over it
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    REFUTED = "refuted"
    SUPERSEDED = "superseded"  # a later attempt replaces it
    ABANDONED = "abandoned"  # left out of its merge (late), or its job ended first


class LeaseState(StrEnum):
    """Whether a node still holds what it was given."""

    GRANTED = "granted"
    EXPIRED = "expired"  # deadline or heartbeat passed: a pause, no fault
    RELEASED = "released"  # handed back by the node (drain, failure it reported)
    COMPLETED = "completed"
    REVOKED = "revoked"  # taken back by the market (cancel, supersede, revoked node)


_ENDS = (JobStatus.FAILED, JobStatus.CANCELLING)
_DROPPED = (TaskState.SUPERSEDED, TaskState.ABANDONED)

JOB: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.PLACING, *_ENDS}),
    JobStatus.PLACING: frozenset({JobStatus.QUEUED, JobStatus.ATTESTING, *_ENDS}),
    JobStatus.ATTESTING: frozenset({JobStatus.PLACING, JobStatus.STARTING, *_ENDS}),
    JobStatus.STARTING: frozenset({JobStatus.RUNNING, JobStatus.RECOVERING, *_ENDS}),
    JobStatus.RUNNING: frozenset({JobStatus.RECOVERING, JobStatus.VERIFYING, *_ENDS}),
    JobStatus.RECOVERING: frozenset({JobStatus.RUNNING, JobStatus.VERIFYING, *_ENDS}),
    # A conviction in the last audits sends a job back to work.
    JobStatus.VERIFYING: frozenset({JobStatus.SUCCEEDED, JobStatus.RUNNING, JobStatus.RECOVERING, *_ENDS}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

VERDICT: Mapping[Verdict, frozenset[Verdict]] = {
    Verdict.PENDING: frozenset({Verdict.VERIFIED, Verdict.ATTESTED, Verdict.UNVERIFIED, Verdict.REFUTED}),
    Verdict.VERIFIED: frozenset(),
    Verdict.ATTESTED: frozenset(),
    Verdict.UNVERIFIED: frozenset(),
    Verdict.REFUTED: frozenset(),
}

SETTLEMENT: Mapping[Settlement, frozenset[Settlement]] = {
    Settlement.HELD: frozenset({Settlement.RELEASED, Settlement.REFUNDED, Settlement.DISPUTED}),
    Settlement.DISPUTED: frozenset({Settlement.RELEASED, Settlement.REFUNDED}),
    Settlement.RELEASED: frozenset(),
    Settlement.REFUNDED: frozenset(),
}

TASK: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PLANNED: frozenset({TaskState.LEASED, *_DROPPED}),
    # Back to planned when the holder is lost: the next lease has the next epoch.
    TaskState.LEASED: frozenset({TaskState.COMMITTED, TaskState.PLANNED, *_DROPPED}),
    TaskState.COMMITTED: frozenset({TaskState.CONTRIBUTED, TaskState.PLANNED, *_DROPPED}),
    TaskState.CONTRIBUTED: frozenset({TaskState.DRAWN, TaskState.PASSED, TaskState.UNVERIFIED, *_DROPPED}),
    TaskState.DRAWN: frozenset({TaskState.VERIFIED, TaskState.UNVERIFIED, TaskState.REFUTED, *_DROPPED}),
    TaskState.PASSED: frozenset({TaskState.VERIFIED, TaskState.UNVERIFIED, *_DROPPED}),
    TaskState.VERIFIED: frozenset({TaskState.SUPERSEDED}),
    TaskState.UNVERIFIED: frozenset({TaskState.SUPERSEDED}),
    TaskState.REFUTED: frozenset(),
    TaskState.SUPERSEDED: frozenset(),
    TaskState.ABANDONED: frozenset(),
}

LEASE: Mapping[LeaseState, frozenset[LeaseState]] = {
    LeaseState.GRANTED: frozenset({LeaseState.EXPIRED, LeaseState.RELEASED, LeaseState.COMPLETED, LeaseState.REVOKED}),
    LeaseState.EXPIRED: frozenset(),
    LeaseState.RELEASED: frozenset(),
    LeaseState.COMPLETED: frozenset(),
    LeaseState.REVOKED: frozenset(),
}

TRANSITIONS: Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]] = {
    JobStatus: {state: frozenset(after) for state, after in JOB.items()},
    Verdict: {state: frozenset(after) for state, after in VERDICT.items()},
    Settlement: {state: frozenset(after) for state, after in SETTLEMENT.items()},
    TaskState: {state: frozenset(after) for state, after in TASK.items()},
    LeaseState: {state: frozenset(after) for state, after in LEASE.items()},
}

OPEN_JOB = frozenset(state for state, after in JOB.items() if after)
"""Statuses of a job that has not ended."""

OPEN_TASK = frozenset(
    {
        TaskState.PLANNED,
        TaskState.LEASED,
        TaskState.COMMITTED,
        TaskState.CONTRIBUTED,
        TaskState.DRAWN,
    }
)
"""States of a task that somebody has still to act on or to judge."""


def advance(current: S, new: S) -> S:
    """Return `new` if the table of its machine allows it after `current`.

    Raises:
        ConflictError: it does not; a state does not follow itself either.
    """
    if new not in TRANSITIONS[type(current)][current]:
        raise ConflictError(f"a {type(current).__name__} cannot become {new.value}", why=f"it is {current.value}")
    return new


def is_terminal(state: StrEnum) -> bool:
    """Tell whether nothing follows `state`."""
    return not TRANSITIONS[type(state)][state]
