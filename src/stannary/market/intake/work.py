"""What a node hands in for its task: first a commitment, then the contribution that opens it.

Every member must be what the task and its lease say, every output stored, and of a size the model can have; whether
the numbers are right is for audits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, FormatError, LimitExceeded, Refuted
from stannary.formats import commitments, dsse, predicates, record, workdir
from stannary.formats.digest import Digest
from stannary.formats.ids import LeaseType
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Commitment, Contribution, Output
from stannary.jobs.course.state import JobOrder, LeaseRow
from stannary.market.engine import loading, recording
from stannary.market.intake.statements import Intake, Sent, expect
from stannary.market.topics import WORK
from stannary.rules import ending
from stannary.rules.ending import has_broken_off
from stannary.rules.kinds import TASKS, THETA
from stannary.store import blobs, jobs, leases, tasks
from stannary.store.leases import Fence
from stannary.wire import errors as wire_errors
from stannary.wire import node as wire

SIZE_FACTOR = 2  # of what a task was given: the same tensors, in a wider type at most
SIZE_SLACK_BYTES = 2**20  # names and metadata
PARTIAL_MS = 3_600_000  # after a stop: to end the program, and to store what it left


async def commitment(intake: Intake, node: str, lease: str, envelope: dsse.Envelope) -> int:
    """Take a commitment; return its log index."""
    sent, made = await intake.open(node, lease, envelope, ("commitment", Commitment))
    fence = Fence(lease, node, made.epoch)
    expect(sent, LeaseType.WORK, job=made.job, task=made.task, node=made.node)
    intake.check_used(made.job, made.used)

    def admit(connection: Connection) -> None:
        leases.check(connection, fence)
        known = tasks.get(connection, made.task).commitment
        if known is not None and known != made.commitment:
            raise ConflictError("another commitment was made in this epoch", why=made.task)

    return await intake.take(
        sent, made, admit, lambda c, i: recording.record_commitment(c, fence, made, i, intake.exchange.now_ms)
    )


async def contribution(intake: Intake, node: str, lease: str, envelope: dsse.Envelope) -> int:
    """Take a contribution whose outputs are stored; return its log index."""
    sent, made = await intake.open(node, lease, envelope, ("contribution", Contribution))
    intake.check_room(made.job, envelope)
    fence = Fence(lease, node, made.epoch)
    expect(sent, LeaseType.WORK, job=made.job, task=made.task, node=made.node)

    def admit(connection: Connection) -> None:
        leases.check(connection, fence)
        intake.check_time(connection, node, made.finished_at)
        intake.check_ended(made)
        _check_contribution(connection, sent, made)
        _check_sizes(connection, intake.engines.orders.get(made.job), made)

    index = await intake.take(
        sent,
        made,
        admit,
        lambda c, i: _record(intake, c, fence, made, (sent.leaf, i)),
    )
    intake.exchange.bell.ring(WORK)
    return index


async def partial(intake: Intake, node: str, lease: str, left: wire.Partial) -> None:
    """Keep what a program had left when its buyer stopped it: nobody vouches for it, nothing is compared with it."""
    exchange = intake.exchange

    def keep(connection: Connection) -> None:
        row = stopped_lease(connection, node, lease, exchange.now_ms)
        order = loading.order(connection, row.job)
        outputs = tuple(Output(item.name, Digest(item.digest), item.size_bytes) for item in left.outputs)
        if not ending.is_stated(order.spec, tasks.get(connection, row.task).kind):
            raise ConflictError("nothing partial is taken of this task", why=row.task)
        for item in outputs:
            workdir.parse_path(item.name)
        if len({item.name for item in outputs}) != len(outputs):
            raise FormatError("an output is named twice", why=row.task)
        _check_room(order.spec, outputs)
        _check_stored(connection, outputs, node)
        tasks.leave(connection, row.task, [record.to_json(item) for item in outputs])
        for owner in (row.job, f"buyer:{order.buyer}"):
            blobs.grant(connection, [item.digest for item in outputs], owner)

    await exchange.store.awrite(keep)


def stopped_lease(connection: Connection, node: str, lease: str, now_ms: int) -> LeaseRow:
    """Return a lease whose work its buyer has just stopped.

    Raises:
        ConflictError: that is not so.
    """
    of_node = leases.stopped(connection, node, since_ms=now_ms - PARTIAL_MS)
    found = next((row for row in of_node if row.lease == lease), None)
    if found is None:
        raise ConflictError("this is no work its buyer has just stopped", why=lease, detail=wire_errors.STALE_EPOCH)
    return found


def _record(intake: Intake, connection: Connection, fence: Fence, made: Contribution, kept: tuple[str, int]) -> None:
    recording.record_contribution(connection, fence, made, kept, intake.exchange.now_ms)
    members = {
        name: value
        for name, source in (("loss", "loss"), ("heldout", "heldout_bits_per_byte"))
        if isinstance(value := made.metrics.get(source), str)
    }
    if members:
        jobs.note_figures(connection, made.job, members)


def _check_contribution(connection: Connection, sent: Sent, made: Contribution) -> None:
    task = tasks.get(connection, made.task)
    observed = (made.assignment, made.num_steps, made.engine_class)
    expected = (task.assignment_digest, task.num_steps, sent.node.engine_class)
    if observed != expected:
        raise FormatError("the contribution answers another assignment", why=f"{observed}, expected {expected}")
    names = {item.name for item in made.outputs}
    # Exactly those: a merge finds a contribution by the root over its one output, so a second one would stop it.
    needed = frozenset() if has_broken_off(task.kind, made.ended) else TASKS[task.kind].outputs
    if len(names) != len(made.outputs) or needed not in (None, names):
        raise FormatError("the contribution's outputs are not those of its task", why=", ".join(sorted(names))[:200])
    if predicates.result_root(made.outputs, made.ended) != made.root:
        raise Refuted("the root is not that of the result", why=made.root)
    if task.commitment is None:
        raise ConflictError("nothing was committed to", why=made.task, hint="send the commitment first")
    if commitments.commitment_hash(made.node, made.salt, made.root) != task.commitment:
        raise Refuted("the contribution does not open its commitment", why=made.task)
    _check_stored(connection, made.outputs, made.node)


def _check_stored(connection: Connection, outputs: Sequence[Output], node: str) -> None:
    for item in outputs:
        size = blobs.size_of(connection, item.digest)  # an output may be the bytes of an input: those count as well
        if size != item.size_bytes or not blobs.may_node_have(connection, item.digest, node):
            raise ConflictError(
                "an output is not stored",
                why=f"{item.name}: {item.digest}",
                hint="PUT it before the contribution",
                detail=wire_errors.BLOB_MISSING,
            )


def _check_room(spec: JobSpec, outputs: Sequence[Output]) -> None:
    num_bytes = sum(item.size_bytes for item in outputs)
    if num_bytes > spec.output_bytes:
        raise LimitExceeded("more than the job may hand in", why=f"{num_bytes:,} bytes, at most {spec.output_bytes:,}")


def _check_sizes(connection: Connection, order: JobOrder | None, made: Contribution) -> None:
    """Refuse what is no delta, weights or outer state of the model a task was given, by its size; nodes judge exactly.

    What a program wrote fits on its job's disk: a node's sandbox hands in no more.
    Of round 0 the market knows no weights: there it is the merger who leaves other sizes where they lie.
    """
    task = tasks.get(connection, made.task)
    if order is None:
        return
    if TASKS[task.kind].outputs is None:
        _check_room(order.spec, made.outputs)
        return
    assignment = task.assigned
    given = [blobs.size_of(connection, name) for name in (assignment.theta, assignment.outer) if name is not None]
    for item in assignment.admitted or ():
        given += [cast("int", output["size_bytes"]) for output in tasks.get(connection, item.task).outputs or ()]
    known = [size for size in given if size is not None]
    is_last = TASKS[task.kind].is_merge and task.round == order.shape.num_rounds - 1
    for output in made.outputs:
        # The result holds a tied weight under each of its names (train/recipe.py rule 2): what fits the asked memory.
        whole = order.spec.output_bytes if is_last and output.name == THETA else 0
        most_bytes = max(whole, SIZE_FACTOR * max(known) + SIZE_SLACK_BYTES) if known else order.spec.output_bytes
        if output.size_bytes > most_bytes:
            raise LimitExceeded(
                f"the {output.name} is larger than any of this model",
                why=f"{output.size_bytes:,} bytes, at most {most_bytes:,}",
                hint="fail the task: this node computes something else",
            )
