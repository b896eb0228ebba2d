"""What nodes and buyers said, recorded once it is logged: by who takes it in, or, after a kill, at the next start.

A node's statement is kept and logged in one step and recorded in its task in the next. Between the two
a kill leaves a logged statement nobody knows: a node that came back with another one would then have
signed two stories. So `recover` looks once at every statement of an open job, in log order, before anybody is
served, and records it if its lease still waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats import dsse, record, statement
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import (
    Answer,
    AnswerCommitment,
    Commitment,
    Contribution,
    Credential,
    Reveal,
    Role,
)
from stannary.jobs.course.asking import question_id
from stannary.jobs.states import LeaseState, TaskState
from stannary.rules.reasons import Reason
from stannary.store import audits, blobs, envelopes, jobs, leases, nodes, tasks
from stannary.store.envelopes import Kept
from stannary.store.leases import Fence
from stannary.store.tasks import Contributed
from stannary.store.transitions import Cause


def recover(connection: Connection, job: str, now_ms: int) -> int:
    """Record what was logged; return how many statements were found unrecorded."""
    found = 0
    for kept in envelopes.of_job(connection, job):
        take = _TAKERS.get(kept.kind)
        if take is not None and kept.log_index is not None:
            found += take(connection, kept, now_ms)
    return found


def record_commitment(connection: Connection, fence: Fence, made: Commitment, index: int, now_ms: int) -> None:
    """Record a logged commitment."""
    cause = Cause(now_ms, Reason.COMMITTED, f"{made.task} is committed")
    used = record.to_json(made.used) if made.used is not None else None
    held = nodes.credential_below(connection, made.node, index)
    said = statement.read(dsse.from_bytes(held).payload, "credential", Credential).predicate if held else None
    grade_ppm = said.grade_ppm if said is not None else None
    tasks.commit(connection, fence, made.commitment, index, cause, used=used, grade_ppm=grade_ppm)


def record_contribution(
    connection: Connection, fence: Fence, made: Contribution, kept: tuple[str, int], now_ms: int
) -> None:
    """Record a logged contribution and let the job and its buyer have its outputs."""
    leaf, index = kept
    outputs = [record.to_json(item) for item in made.outputs]
    cause = Cause(now_ms, Reason.CONTRIBUTED, f"{made.task} is handed in by {made.node}", _facts(made))
    tasks.contribute(connection, fence, Contributed(leaf, index, made.root, outputs, made.ended), cause)
    digests = [item.digest for item in made.outputs]
    for owner in (made.job, f"buyer:{jobs.get(connection, made.job).buyer}"):
        blobs.grant(connection, digests, owner)


def _facts(made: Contribution) -> dict[str, Json]:
    """Return what a buyer is shown of a contribution at once."""
    # Only text: a stranger's figure is shown to the buyer as it is, whatever it is, and counted with by nobody.
    metrics: dict[str, Json] = {name: value for name, value in made.metrics.items() if isinstance(value, str)}
    return {"metrics": metrics} if made.ended is None else {"metrics": metrics, "ended": made.ended}


def record_answer_commitment(connection: Connection, made: AnswerCommitment, leaf: str, now_ms: int) -> None:
    """Record a logged answer commitment and complete its lease."""
    audits.commit_answer(
        connection, made.audit, made.role, made.node, commitment=made.commitment, leaf=leaf, at_ms=now_ms
    )
    kind = LeaseType.QUESTION if made.role is Role.PROVER else LeaseType.AUDIT
    lease = question_id(made.audit, kind, made.role, made.node)
    leases.end(connection, lease, LeaseState.COMPLETED, Cause(now_ms, Reason.ANSWERED, "answer committed to"))


def record_answer(connection: Connection, made: Answer, leaf: str, now_ms: int) -> None:
    """Record a logged answer and complete its lease."""
    outputs = [record.to_json(item) for item in made.outputs]
    opened = audits.Opened(leaf, made.answer, made.root, outputs, made.ended)
    audits.open_answer(connection, made.audit, made.role, made.node, opened, at_ms=now_ms)
    lease = question_id(made.audit, LeaseType.REVEAL, made.role, made.node)
    leases.end(connection, lease, LeaseState.COMPLETED, Cause(now_ms, Reason.ANSWERED, "answer opened"))


def record_reveal(connection: Connection, made: Reveal, leaf: str, now_ms: int) -> None:
    """Record a logged beacon value."""
    audits.reveal(connection, made.job, made.index, leaf=leaf, value=made.value, at_ms=now_ms)


def _take_commitment(connection: Connection, kept: Kept, now_ms: int) -> int:
    made = statement.read(_payload(kept), "commitment", Commitment).predicate
    task = tasks.get(connection, made.task)
    fence = _fence(connection, made.task, made.node, made.epoch)
    if fence is None or task.state is not TaskState.LEASED or task.epoch != made.epoch:
        return 0
    record_commitment(connection, fence, made, kept.log_index or 0, now_ms)
    return 1


def _take_contribution(connection: Connection, kept: Kept, now_ms: int) -> int:
    made = statement.read(_payload(kept), "contribution", Contribution).predicate
    task = tasks.get(connection, made.task)
    fence = _fence(connection, made.task, made.node, made.epoch)
    if fence is None or task.state is not TaskState.COMMITTED or task.epoch != made.epoch:
        return 0
    record_contribution(connection, fence, made, (kept.leaf, kept.log_index or 0), now_ms)
    return 1


def _take_answer_commitment(connection: Connection, kept: Kept, now_ms: int) -> int:
    made = statement.read(_payload(kept), "answer-commitment", AnswerCommitment).predicate
    return _unless_moved_on(lambda: record_answer_commitment(connection, made, kept.leaf, now_ms))


def _take_answer(connection: Connection, kept: Kept, now_ms: int) -> int:
    made = statement.read(_payload(kept), "answer", Answer).predicate
    return _unless_moved_on(lambda: record_answer(connection, made, kept.leaf, now_ms))


def _take_reveal(connection: Connection, kept: Kept, now_ms: int) -> int:
    made = statement.read(_payload(kept), "reveal", Reveal).predicate
    return _unless_moved_on(lambda: record_reveal(connection, made, kept.leaf, now_ms))


def _unless_moved_on(take: Callable[[], None]) -> int:
    try:
        take()
    except ConflictError:  # recorded before, or its lease has ended
        return 0
    return 1


def _fence(connection: Connection, task: str, node: str, epoch: int) -> Fence | None:
    for lease in leases.live_of_task(connection, task):
        if lease.type is LeaseType.WORK and lease.node == node and lease.epoch == epoch:
            return Fence(lease.lease, node, epoch)
    return None


def _payload(kept: Kept) -> bytes:
    return dsse.from_bytes(kept.envelope).payload


_TAKERS: dict[str, Callable[[Connection, Kept, int], int]] = {
    "commitment": _take_commitment,
    "contribution": _take_contribution,
    "answer-commitment": _take_answer_commitment,
    "answer": _take_answer,
    "reveal": _take_reveal,
}
