"""Statements from nodes and buyers: verified with the right key, cross-checked member by member, logged, recorded.

Rules:
- Nothing in a statement is believed before its signature holds under the key of the node's credential.
- Every member must be what the lease says: job, task, epoch, node, audit, role, assignment.
- One verb of a lease is under way at a time (engine/holding.py), and while it is, the lease does not end otherwise: a
  statement that is in the log must find its task as it left it. What the disk does not take is recorded again until
  it does; what a kill leaves, recovery.py records.
- Sent again, a statement that was taken is answered as before: the answer may have been lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, NotFound, Refuted
from stannary.formats import beacon, bounds, dsse, instants, predicates, receipt, statement
from stannary.formats.ids import TaskKind
from stannary.formats.predicates import (
    Answer,
    AnswerCommitment,
    Commitment,
    Contribution,
    Reading,
    Reveal,
    Role,
)
from stannary.jobs.states import LeaseState
from stannary.market import clock
from stannary.market.engine import holding, recovery
from stannary.market.engine import step as stepping
from stannary.market.engine.frame import JobFrame, read_assignment
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.journal import leaf_of
from stannary.market.topics import WORK, job_topic
from stannary.settle import meter
from stannary.store import audits, blobs, envelopes, jobs, leases, nodes, readings, tasks
from stannary.store.leases import Fence, LeaseRow, LeaseType
from stannary.store.readings import ReadingRow
from stannary.wire import errors as wire_errors
from stannary.wire import rfc3339

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")

NEEDED_OUTPUTS = {TaskKind.ROUND: {"delta"}, TaskKind.MERGE: {"theta", "outer"}}  # a command names its own
SIZE_FACTOR = 2  # of what a task was given: the same tensors, in a wider type at most
SIZE_SLACK_BYTES = 2**20  # names and metadata
RETRY_S = 1.0  # between tries to record what is logged, while the disk refuses

log = logging.getLogger("stannary.market")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A statement as it came: who sent it, under which lease, its leaf."""

    lease: LeaseRow
    node: nodes.NodeRow
    envelope: dsse.Envelope
    leaf: str


class Intake:
    """Takes statements of nodes and buyers."""

    def __init__(self, exchange: Exchange, engines: Engines) -> None:
        self._exchange = exchange
        self._engines = engines

    async def commitment(self, node: str, lease: str, envelope: dsse.Envelope) -> int:
        """Take a commitment; return its log index."""
        sent, made = await self._open(node, lease, envelope, ("commitment", Commitment))
        fence = Fence(lease, node, made.epoch)
        _expect(sent, LeaseType.WORK, job=made.job, task=made.task, node=made.node)
        _hex(made.commitment, "commitment")

        def admit(connection: Connection) -> None:
            leases.check(connection, fence)
            known = tasks.get(connection, made.task).commitment
            if known is not None and known != made.commitment:
                raise ConflictError("another commitment was made in this epoch", why=made.task)

        return await self._take(
            sent, "commitment", admit, lambda c, i: recovery.record_commitment(c, fence, made, i, self._now())
        )

    async def contribution(self, node: str, lease: str, envelope: dsse.Envelope) -> int:
        """Take a contribution whose outputs are stored; return its log index."""
        sent, made = await self._open(node, lease, envelope, ("contribution", Contribution))
        self._check_room(made.job, envelope)
        fence = Fence(lease, node, made.epoch)
        _expect(sent, LeaseType.WORK, job=made.job, task=made.task, node=made.node)

        def admit(connection: Connection) -> None:
            leases.check(connection, fence)
            self._check_time(connection, node, made.finished_at)
            _check_contribution(connection, sent, made)
            _check_sizes(connection, self._engines.frames.get(made.job), made)

        index = await self._take(
            sent,
            "contribution",
            admit,
            lambda c, i: self._record_contribution(c, fence, made, (sent.leaf, i)),
        )
        self._exchange.bell.ring(WORK)
        return index

    async def answer_commitment(self, node: str, lease: str, envelope: dsse.Envelope) -> int:
        """Take a blinded answer; return its log index."""
        sent, made = await self._open(node, lease, envelope, ("answer-commitment", AnswerCommitment))
        kind = LeaseType.QUESTION if made.role is Role.PROVER else LeaseType.AUDIT
        _expect(sent, kind, job=made.job, task=made.task, node=made.node, audit=made.audit)
        _hex(made.commitment, "commitment")
        return await self._take(
            sent,
            "answer-commitment",
            lambda c: _check_live(c, sent),
            lambda c, _: recovery.record_answer_commitment(c, made, sent.leaf, self._now()),
        )

    async def answer(self, node: str, lease: str, envelope: dsse.Envelope) -> int:
        """Take an answer that opens its commitment; return its log index."""
        sent, made = await self._open(node, lease, envelope, ("answer", Answer))
        self._check_room(made.job, envelope)
        _expect(sent, LeaseType.REVEAL, job=made.job, task=made.task, node=made.node, audit=made.audit)
        if sent.lease.body.get("role") != made.role.value:
            raise FormatError("the answer is of another role", why=made.role.value)

        def admit(connection: Connection) -> None:
            _check_live(connection, sent)
            self._check_time(connection, node, made.answered_at)
            _check_opening(connection, made)

        return await self._take(
            sent, "answer", admit, lambda c, _: recovery.record_answer(c, made, sent.leaf, self._now())
        )

    async def reveal(self, buyer: str, job: str, envelope: dsse.Envelope) -> int:
        """Take the beacon value a draw waits for; return its log index."""
        exchange = self._exchange
        frame = self._engines.frames.get(job)
        if frame is None or frame.buyer != buyer:
            raise NotFound("no such open job of yours", why=job)
        key = dsse.decode_base64(frame.predicate.buyer, "buyer key")
        made = statement.open_envelope(envelope, "reveal", Reveal, key).predicate
        bounds.check(made, "reveal")
        leaf = leaf_of(envelope)

        def admit(connection: Connection) -> None:
            owed = audits.get_draw(connection, job, made.index)
            _check_reveal(owed, audits.candidates_of(connection, job, made.index), made)
            if owed.reveal is not None and owed.reveal != leaf:
                raise ConflictError("this value was revealed before, in other words", why=f"index {made.index}")
            previous = frame.predicate.beacon_tip
            if made.index:
                previous = audits.get_draw(connection, job, made.index - 1).value or ""
            beacon.check(previous, made.value)
            envelopes.add(connection, exchange.journal.incoming(envelope, "reveal", job))

        if made.job != job:
            raise FormatError("the reveal is of another job", why=made.job)

        async def take() -> int:
            await exchange.store.awrite(admit)
            index = await exchange.journal.logged(leaf)
            await self._record(lambda c: recovery.record_reveal(c, made, leaf, self._now()))
            return index

        index = await self._engines.holds.alone(holding.beacon(job), take)
        exchange.bell.ring(job_topic(job))
        return index

    async def reading(self, node: str, lease: str, envelope: dsse.Envelope) -> None:
        """Take a meter reading; the last one of a job is logged at its end."""
        sent, made = await self._open(node, lease, envelope, ("reading", Reading))
        if made.job != sent.lease.job or made.node != node:
            raise FormatError("the reading is of another job or node", why=f"{made.job}, {made.node}")
        digest = meter.reading_digest(made)

        def write(connection: Connection) -> None:
            last = readings.last(connection, made.job, node)
            if last is not None and last.digest == digest:
                return
            self._check_time(connection, node, made.read_at)
            elapsed_ms = clock.most_passed_ms(jobs.get(connection, made.job).submitted_at_ms, self._now())
            before = _reading(last) if last is not None else None
            meter.check_next(before, made, elapsed_ms=elapsed_ms)
            spent = {name: getattr(made.spent, name) for name in made.spent.__dataclass_fields__}
            read_at_ms = rfc3339.parse(made.read_at) * 1000
            row = ReadingRow(made.job, node, made.seq, made.previous, digest, spent, read_at_ms, envelope.to_bytes())
            readings.add(connection, row)

        await self._exchange.store.awrite(write)

    def _check_room(self, job: str, envelope: dsse.Envelope) -> None:
        """Refuse what takes more than its share of the job's receipt: one nobody could fetch proves nothing."""
        frame = self._engines.frames.get(job)
        num_units = frame.num_rounds * (frame.num_lanes + 1) if frame is not None else 1
        limit = receipt.opened_bytes(num_units)
        if len(envelope.payload) > limit:
            raise LimitExceeded(
                "the statement takes more than its share of the receipt",
                why=f"{len(envelope.payload):,} bytes, at most {limit:,} of each of {num_units:,} tasks",
                hint="hand in fewer outputs, or pack them into one file",
            )

    def _check_time(self, connection: Connection, node: str, signed_at: str) -> None:
        """Refuse a node's time that a verifier would refute: far off the log's, or after its credential's end."""
        clock.check_signed_since(signed_at, self._exchange.clock.now())
        held = nodes.credential_of(connection, node)
        if held is None:
            raise NotFound("this node has no credential", why=node)
        at = instants.parse(signed_at)
        if not instants.is_within(at, held.issued_at_ms // 1000, held.expires_at_ms // 1000):
            raise ConflictError(
                "the node's credential was not valid then",
                why=f"signed at {signed_at}, valid until {instants.spell(held.expires_at_ms / 1000)}",
                hint="join again: stannary node join -",
            )

    def _now(self) -> int:
        return self._exchange.now_ms

    async def _open(self, node: str, lease: str, envelope: dsse.Envelope, what: tuple[str, type[P]]) -> tuple[_Sent, P]:
        """Verify a statement's signature by the node's key, and find its lease."""
        held = await self._exchange.store.aread(lambda c: leases.get(c, lease))
        if held.node != node:
            raise NotFound("no such lease", why=lease, detail=wire_errors.NOT_YOUR_LEASE)
        row = await self._exchange.store.aread(lambda c: nodes.get(c, node))
        kind, cls = what
        made = statement.open_envelope(envelope, kind, cls, dsse.decode_base64(row.key, "node key"))
        if made.subjects:  # free to vary, they would make two leaves of one word, and evidence holds each word once
            raise FormatError(f"a {kind} has no subjects", why=f"{len(made.subjects)} subjects", detail="subject")
        bounds.check(made.predicate, kind)
        return _Sent(held, row, envelope, leaf_of(envelope)), made.predicate

    async def _take(
        self,
        sent: _Sent,
        kind: str,
        admit: Callable[[Connection], None],
        record: Callable[[Connection, int], None],
    ) -> int:
        exchange, journal = self._exchange, self._exchange.journal

        def keep(connection: Connection) -> int | None:
            taken = _taken_before(connection, sent)
            if taken is None:
                admit(connection)
                envelopes.add(connection, journal.incoming(sent.envelope, kind, sent.lease.job))
            return taken

        async def take() -> int:
            taken = await exchange.store.awrite(keep)
            if taken is not None:
                return taken
            index = await journal.logged(sent.leaf)
            await self._record(lambda c: record(c, index))
            return index

        index = await self._engines.holds.alone(sent.lease.lease, take)
        exchange.bell.ring(job_topic(sent.lease.job))
        return index

    async def _record(self, record: Callable[[Connection], None]) -> None:
        """Record what is logged, as often as the machine refuses: its lease must not end unrecorded."""
        while True:
            try:
                await self._exchange.store.awrite(record)
            except EnvironmentProblem as err:
                log.warning("a logged statement waits for the disk: %s", err)
                await self._exchange.clock.sleep(RETRY_S)
            else:
                return

    def _record_contribution(
        self, connection: Connection, fence: Fence, made: Contribution, kept: tuple[str, int]
    ) -> None:
        recovery.record_contribution(connection, fence, made, kept, self._now())
        members = {
            name: value
            for name, source in (("loss", "loss"), ("heldout", "heldout_bits_per_byte"))
            if isinstance(value := made.metrics.get(source), str)
        }
        if members:
            stepping.note_progress(connection, made.job, dict(members))


def _taken_before(connection: Connection, sent: _Sent) -> int | None:
    """Return the log index of a statement that was taken already, None of a new one."""
    lease = leases.get(connection, sent.lease.lease)
    try:
        kept = envelopes.get(connection, sent.leaf)
    except NotFound:
        return None
    if kept.log_index is None:
        return None
    task = tasks.get(connection, lease.task)
    recorded = task.contribution == sent.leaf or lease.state is LeaseState.COMPLETED
    return kept.log_index if recorded or task.commitment_index == kept.log_index else None


def _expect(sent: _Sent, kind: LeaseType, **members: str) -> None:
    """Compare a statement's members with its lease."""
    lease = sent.lease
    if lease.type is not kind:
        raise ConflictError(f"this lease takes no such statement: it is for {lease.type}", why=lease.lease)
    for name, value in members.items():
        expected = getattr(lease, name)
        if value != expected:
            raise FormatError(f"the statement's {name} is not its lease's", why=f"{value}, expected {expected}")


def _check_live(connection: Connection, sent: _Sent) -> None:
    leases.check(connection, Fence(sent.lease.lease, sent.node.node, sent.lease.epoch))


def _check_contribution(connection: Connection, sent: _Sent, made: Contribution) -> None:
    task = tasks.get(connection, made.task)
    observed = (made.assignment, made.num_steps, made.engine_class)
    expected = (task.assignment_digest, task.num_steps, sent.node.engine_class)
    if observed != expected:
        raise FormatError("the contribution answers another assignment", why=f"{observed}, expected {expected}")
    names = {item.name for item in made.outputs}
    # Exactly those: a merge finds a contribution by the root over its one output, so a second one would stop it.
    needed = NEEDED_OUTPUTS.get(task.kind, names)
    if len(names) != len(made.outputs) or names != needed:
        raise FormatError("the contribution's outputs are not those of its task", why=", ".join(sorted(names))[:200])
    if predicates.result_root(made.outputs) != made.root:
        raise Refuted("the root is not that of the outputs", why=made.root)
    if task.commitment is None:
        raise ConflictError("nothing was committed to", why=made.task, hint="send the commitment first")
    if predicates.commitment_hash(made.node, _hex(made.salt, "salt"), made.root) != task.commitment:
        raise Refuted("the contribution does not open its commitment", why=made.task)
    for item in made.outputs:
        size = blobs.size_of(connection, item.digest)  # an output may be the bytes of an input: those count as well
        if size != item.size_bytes or not blobs.may_node_have(connection, item.digest, made.node):
            raise ConflictError(
                "an output is not stored",
                why=f"{item.name}: {item.digest}",
                hint="PUT it before the contribution",
                detail=wire_errors.BLOB_MISSING,
            )


def _check_sizes(connection: Connection, frame: JobFrame | None, made: Contribution) -> None:
    """Refuse what is no delta, weights or outer state of the model a task was given, by its size; nodes judge exactly.

    Of round 0 the market knows no weights: there it is the merger who leaves other sizes where they lie.
    """
    task = tasks.get(connection, made.task)
    if frame is None or task.kind is TaskKind.COMMAND:
        return
    assignment = read_assignment(task.assignment)
    given = [blobs.size_of(connection, name) for name in (assignment.theta, assignment.outer) if name is not None]
    for item in assignment.admitted or ():
        given += [cast("int", output["size_bytes"]) for output in tasks.get(connection, item.task).outputs or ()]
    known = [size for size in given if size is not None]
    is_last = task.kind is TaskKind.MERGE and task.round == frame.num_rounds - 1
    for output in made.outputs:
        # The result holds a tied weight under each of its names (train/recipe.py rule 2): what fits the asked memory.
        whole = frame.spec.output_bytes if is_last and output.name == "theta" else 0
        most_bytes = max(whole, SIZE_FACTOR * max(known) + SIZE_SLACK_BYTES) if known else frame.spec.output_bytes
        if output.size_bytes > most_bytes:
            raise LimitExceeded(
                f"the {output.name} is larger than any of this model",
                why=f"{output.size_bytes:,} bytes, at most {most_bytes:,}",
                hint="fail the task: this node computes something else",
            )


def _check_opening(connection: Connection, made: Answer) -> None:
    given = {(row.role, row.node): row for row in audits.answers_of(connection, made.audit)}
    committed = given.get((made.role, made.node))
    blind, answer = _hex(made.blind, "blind"), _hex(made.answer, "answer")
    opened = predicates.answer_commitment_hash(made.node, blind, answer, made.root)
    if committed is None or committed.commitment != opened:
        raise Refuted("the answer does not open its commitment", why=made.audit)
    if predicates.result_root(made.outputs) != made.root:
        raise Refuted("the root is not that of the outputs", why=made.root)


def _check_reveal(owed: audits.DrawRow, listed: audits.CandidatesRow | None, made: Reveal) -> None:
    observed = (made.checkpoint_size, made.checkpoint_root, made.candidates)
    expected = (owed.checkpoint_size, owed.checkpoint_root, listed.leaf if listed is not None else None)
    if observed != expected:
        raise ConflictError(
            "the reveal is for another checkpoint or other candidates", why=f"{observed}, expected {expected}"
        )
    if owed.value is not None and owed.value != made.value:
        raise ConflictError("another value was revealed", why=f"index {made.index}")


def _hex(text: str, name: str) -> str:
    """Return 32 bytes of lower-case hex, unchanged."""
    try:
        raw = bytes.fromhex(text)
    except ValueError as err:
        raise FormatError(f"{name} is not hex", why=f"{text!r:.80}") from err
    if len(raw) != 32 or raw.hex() != text:
        raise FormatError(f"{name} is not 32 bytes of lower-case hex", why=f"{text!r:.80}")
    return text


def _reading(row: ReadingRow) -> Reading:
    payload = dsse.from_bytes(row.envelope).payload
    return statement.read(payload, "reading", Reading).predicate
