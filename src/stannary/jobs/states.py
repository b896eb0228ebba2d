"""The course of jobs, tasks, draws, audits and disputes, as one table: every stage, what it waits for, until when, who
moves it, where it goes and for which reason.

Rules:
- A state changes only along `COURSE`; anything else is a ConflictError: the state has moved on.
- A terminal state has no way out. In particular `failed`, `cancelled` and `succeeded` are for ever,
  so a job can be settled once, and a `refuted` task can never be paid.
- `verified` work may still be `superseded`: its base weights were convicted, not the work (it is
  paid as redo, out of the convicted operator's bond).

docs/course.md shows this table; course/waiting.py says which rows a job is in now. The store writes each
change together with its event (store/transitions.py); who decides a change is the core (course/decide.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from stannary.errors import ConflictError
from stannary.formats.predicates import Verdict
from stannary.rules.reasons import Reason

S = TypeVar("S", bound=StrEnum)


class JobStatus(StrEnum):
    """Where a job is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
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


class DrawStage(StrEnum):
    """Where a draw is: candidates fixed, value asked for, made."""

    LISTED = "listed"
    OWED = "owed"
    MADE = "made"


class AuditStage(StrEnum):
    """Where an audit is: its auditor's room awaited, blinded answers awaited, their opening awaited, closed."""

    OFFERED = "offered"
    ASKED = "asked"
    OPENING = "opening"
    CLOSED = "closed"


class DisputeStage(StrEnum):
    """Where a disputed bond is: unheard, heard by three operators, recomputed by the market, decided."""

    DISPUTED = "disputed"
    HEARING = "hearing"
    REPLAYING = "replaying"
    FORFEITED = "forfeited"
    RELEASED = "released"


Reasons = tuple[str, ...]

NODES_WORD = "a node's own word"  # of what it cannot run
CUT_SHORT: Reasons = (Reason.CANCELLED, Reason.NO_CAPACITY, Reason.STALLED)
CANNOT_GO_ON: Reasons = (
    Reason.USELESS,
    Reason.EXHAUSTED,
    Reason.BUYER_SILENT,
    Reason.RUN_FAILED,
    Reason.NOT_REPRODUCIBLE,
    Reason.NO_OUTSIDER,
    NODES_WORD,
)
LET_GO: Reasons = (
    Reason.DEADLINE, Reason.LATE, Reason.NODE_LOST, Reason.NODE_REVOKED, Reason.NODE_CONVICTED, Reason.NODE_STRUCK,
    Reason.RELEASED,
    NODES_WORD,
)  # fmt: skip
VOID: Mapping[StrEnum, Reasons] = {
    TaskState.SUPERSEDED: (Reason.SUPERSEDED,),
    TaskState.ABANDONED: (Reason.LATE, *CUT_SHORT, *CANNOT_GO_ON, Reason.MARKET_FAULT),
}


@dataclass(frozen=True, slots=True)
class CourseStage:
    """One row of the course. What waits for nothing has ended, or goes on only if what it rests on falls."""

    state: StrEnum
    waits_for: str = ""
    until: str = ""
    mover: str = ""
    ways: Mapping[StrEnum, Reasons] = field(default_factory=dict)  # where it goes, and for which reasons


COURSE: tuple[CourseStage, ...] = (
    # --- a job
    CourseStage(
        JobStatus.QUEUED,
        "its buyer's turn, and nodes that may take it",
        "`placing_s` of the market's listening",
        "market",
        {
            JobStatus.RUNNING: (Reason.PLACED,),
            JobStatus.CANCELLING: (Reason.NO_CAPACITY, Reason.CANCELLED),
            JobStatus.FAILED: (Reason.MARKET_FAULT,),
        },
    ),
    CourseStage(
        JobStatus.RUNNING,
        "its tasks, as below",
        "`stall_s` and twice its longest task's last deadline after anything moved",
        "nodes, the buyer's broker",
        {
            JobStatus.VERIFYING: (Reason.COMPLETE,),
            JobStatus.CANCELLING: (*CUT_SHORT, *CANNOT_GO_ON),
            JobStatus.FAILED: (Reason.MARKET_FAULT,),
        },
    ),
    CourseStage(
        JobStatus.VERIFYING,
        "the log to hold every statement of it, and then its receipt",
        "the log takes them",
        "market",
        {JobStatus.SUCCEEDED: (Reason.COMPLETE,), JobStatus.FAILED: (Reason.MARKET_FAULT,)},
    ),
    CourseStage(
        JobStatus.CANCELLING,
        "verdicts on what was handed in, the log, and then its receipt",
        "as of a running job; then it is concluded from what is there",
        "nodes, the buyer's broker, market",
        {
            JobStatus.CANCELLED: (Reason.CANCELLED, Reason.BUYER_SILENT),
            JobStatus.FAILED: (*CUT_SHORT, *CANNOT_GO_ON, Reason.MARKET_FAULT),
        },
    ),
    CourseStage(JobStatus.SUCCEEDED),
    CourseStage(JobStatus.FAILED),
    CourseStage(JobStatus.CANCELLED),
    # --- a task
    CourseStage(
        TaskState.PLANNED,
        "a node that asks for work and may take it",
        "`placing_s`, and `lost_s` without any node that could: then its job ends",
        "node",
        {TaskState.LEASED: (Reason.LEASED,), **VOID},
    ),
    CourseStage(
        TaskState.LEASED,
        "its node's commitment",
        "its lease's deadline, or as long as reported progress earns",
        "node",
        {TaskState.COMMITTED: (Reason.COMMITTED,), TaskState.PLANNED: LET_GO, **VOID},
    ),
    CourseStage(
        TaskState.COMMITTED,
        "its node's result",
        "its lease's deadline, or as long as reported progress earns",
        "node",
        {TaskState.CONTRIBUTED: (Reason.CONTRIBUTED,), TaskState.PLANNED: LET_GO, **VOID},
    ),
    CourseStage(
        TaskState.CONTRIBUTED,
        "the draw that takes it",
        "`reveal_s` after its draw's value was asked for",
        "the buyer's broker",
        {
            TaskState.DRAWN: (Reason.DRAWN,),
            TaskState.PASSED: (Reason.NOT_DRAWN,),
            TaskState.UNVERIFIED: (Reason.NOT_ASKED, Reason.EXHAUSTED),
        },
    ),
    CourseStage(
        TaskState.DRAWN,
        "the answers of its prover and its auditors",
        "each has `answer_floor_s` and `answer_factor` times the task's expected time",
        "prover, auditors",
        {
            TaskState.VERIFIED: (Reason.AGREED, Reason.NOT_AUDITED, Reason.REPRODUCED),
            TaskState.UNVERIFIED: (
                Reason.NO_AGREEMENT,
                Reason.NO_AUDITOR,
                Reason.CONTESTED,
                Reason.PROVER_SILENT,
                Reason.CONTRADICTED,
                Reason.CUT,
                Reason.REPRODUCED,
                Reason.NOT_REPRODUCIBLE,
                Reason.NO_OUTSIDER,
            ),
            TaskState.REFUTED: (Reason.CONTRADICTED,),
        },
    ),
    CourseStage(TaskState.PASSED, ways={TaskState.DRAWN: (Reason.DRAWN,), TaskState.SUPERSEDED: (Reason.SUPERSEDED,)}),
    CourseStage(TaskState.VERIFIED, ways={TaskState.SUPERSEDED: (Reason.SUPERSEDED,)}),
    CourseStage(TaskState.UNVERIFIED, ways={TaskState.SUPERSEDED: (Reason.SUPERSEDED,)}),
    CourseStage(TaskState.REFUTED),
    CourseStage(TaskState.SUPERSEDED, ways={TaskState.DRAWN: (Reason.DRAWN,)}),
    CourseStage(TaskState.ABANDONED),
    # --- a draw
    CourseStage(
        DrawStage.LISTED,
        "a cosigned checkpoint that covers its candidates and a result",
        "the log takes them",
        "market",
        {DrawStage.OWED: ("covered",)},
    ),
    CourseStage(
        DrawStage.OWED,
        "the buyer's next beacon value",
        "`reveal_s` after it was asked for: then what is committed is paid unseen",
        "the buyer's broker",
        {DrawStage.MADE: ("revealed",)},
    ),
    CourseStage(DrawStage.MADE),
    # --- an audit
    CourseStage(
        AuditStage.OFFERED,
        "its auditor to have room and take it",
        "3 times what the job's longest task took, and `audit_wait_s` at least: then its task counts as not audited",
        "auditor",
        {AuditStage.ASKED: ("taken",), AuditStage.CLOSED: ("untaken", "silent", "dropped")},
    ),
    CourseStage(
        AuditStage.ASKED,
        "blinded answers of prover and auditor",
        "the deadlines of their leases: a silent auditor's successor is asked, a silent prover is judged unheard",
        "prover, auditor",
        {AuditStage.OPENING: ("both are logged",), AuditStage.CLOSED: ("silent", "dropped")},
    ),
    CourseStage(
        AuditStage.OPENING,
        "the opening of both answers",
        "the deadlines of their leases, as before",
        "prover, auditor",
        {AuditStage.CLOSED: ("agreed", "disagreed", "unanswered", "silent", "dropped")},
    ),
    CourseStage(AuditStage.CLOSED),
    # --- a disputed bond
    CourseStage(
        DisputeStage.DISPUTED,
        "the end of its job, and a cosigned checkpoint that covers the list of who may hear the appeal",
        "the log takes them",
        "market",
        {
            DisputeStage.HEARING: (Reason.DRAWN,),
            DisputeStage.REPLAYING: (Reason.TOO_FEW,),
            DisputeStage.FORFEITED: (Reason.TWO_STORIES,),
            DisputeStage.RELEASED: (Reason.MARKET_FAULT,),
        },
    ),
    CourseStage(
        DisputeStage.HEARING,
        "what three operators find who had no part in the job",
        "`appeal_s` of the market's listening: who has taken it by then has as long as for an audit",
        "those three",
        {
            DisputeStage.FORFEITED: (Reason.TWO_OF_THREE,),
            DisputeStage.RELEASED: (Reason.TWO_OF_THREE,),
            DisputeStage.REPLAYING: (Reason.NO_AGREEMENT,),
        },
    ),
    CourseStage(
        DisputeStage.REPLAYING,
        "what the market itself computes, with the package's own code",
        "`replay_s` after it began, of several disputes two at a time",
        "market",
        {
            DisputeStage.FORFEITED: (Reason.REPLAYED,),
            DisputeStage.RELEASED: (Reason.REPLAYED, Reason.UNHEARD),
        },
    ),
    CourseStage(DisputeStage.FORFEITED),
    CourseStage(DisputeStage.RELEASED),
)

OTHERS: Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]] = {
    Verdict: {
        verdict: frozenset(set(Verdict) - {Verdict.PENDING}) if verdict is Verdict.PENDING else frozenset()
        for verdict in Verdict
    },
    Settlement: {
        Settlement.HELD: frozenset({Settlement.RELEASED, Settlement.REFUNDED}),
        Settlement.RELEASED: frozenset(),
        Settlement.REFUNDED: frozenset(),
    },
    LeaseState: {
        state: frozenset(set(LeaseState) - {LeaseState.GRANTED}) if state is LeaseState.GRANTED else frozenset()
        for state in LeaseState
    },
}
"""What follows a job or a lease and waits for nothing of its own."""

TRANSITIONS: Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]] = {
    **{
        machine: {stage.state: frozenset(stage.ways) for stage in COURSE if isinstance(stage.state, machine)}
        for machine in (JobStatus, TaskState, DrawStage, AuditStage, DisputeStage)
    },
    **OTHERS,
}

OPEN_JOB = frozenset(state for state in JobStatus if TRANSITIONS[JobStatus][state])
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
