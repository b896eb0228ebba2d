"""Statements from nodes and buyers: verified with the right key, cross-checked member by member, logged, recorded.

Rules:
- Nothing in a statement is believed before its signature holds under the key of the node's credential.
- Every member must be what the lease says: job, task, epoch, node, audit, role, assignment.
- One verb of a lease is under way at a time (engine/holding.py), and while it is, the lease does not end otherwise: a
  statement that is in the log must find its task as it left it. What the disk does not take is recorded again until
  it does; what a kill leaves, engine/recording.py records.
- A second, different word about the same thing is refused, and kept against its node (stories.py).
- Sent again, a statement that was taken is answered as before: the answer may have been lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, NotFound
from stannary.formats import bounds, dsse, ids, instants, receipt, statement
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Answer, AnswerCommitment, Commitment, Contribution, Used
from stannary.jobs.course.state import LeaseRow
from stannary.jobs.states import LeaseState
from stannary.market import clock
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.intake import stories
from stannary.market.journal import leaf_of
from stannary.market.topics import job_topic
from stannary.rules import clocks, edition, ending
from stannary.rules.stories import Story
from stannary.store import envelopes, leases, nodes, tasks
from stannary.store.leases import Fence
from stannary.wire import errors as wire_errors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")

KINDS: dict[type[Story], str] = {
    Commitment: "commitment",
    Contribution: "contribution",
    AnswerCommitment: "answer-commitment",
    Answer: "answer",
}
CONTRADICTS = -1  # in the place of a log index
RETRY_S = 1.0  # between tries to record what is logged, while the disk refuses

log = logging.getLogger("stannary.market")


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement as it came: who sent it, under which lease, its leaf."""

    lease: LeaseRow
    node: nodes.NodeRow
    envelope: dsse.Envelope
    leaf: str


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes statements of nodes and buyers, for one market."""

    exchange: Exchange
    engines: Engines

    def check_room(self, job: str, envelope: dsse.Envelope) -> None:
        """Refuse what takes more than its share of the job's receipt: one nobody could fetch proves nothing."""
        order = self.engines.orders.get(job)
        num_units = order.shape.num_units if order is not None else 1
        limit = receipt.opened_bytes(num_units)
        if len(envelope.payload) > limit:
            raise LimitExceeded(
                "the statement takes more than its share of the receipt",
                why=f"{len(envelope.payload):,} bytes, at most {limit:,} of each of {num_units:,} tasks",
                hint="hand in fewer outputs, or pack them into one file",
            )

    def check_used(self, job: str, used: Used | None) -> None:
        """Refuse a statement about work that lacks what it took where that is paid by, or says it elsewhere (R12.6)."""
        order = self.engines.orders.get(job)
        if order is not None and (used is not None) != edition.of(order.spec).pays_by_use:
            raise FormatError(
                "what was used is signed exactly where it is paid by", why=f"{job}: {used}", detail="used"
            )

    def check_time(self, connection: Connection, node: str, signed_at: str) -> None:
        """Refuse a node's time that a verifier would refute: far off the log's, or after its credential's end."""
        clock.check_signed_since(signed_at, self.exchange.clock.now())
        held = nodes.credential_of(connection, node)
        if held is None:
            raise NotFound("this node has no credential", why=node)
        at = instants.parse(signed_at)
        if not clocks.is_within(at, held.issued_at_ms // 1000, held.expires_at_ms // 1000):
            raise ConflictError(
                "the node's credential was not valid then",
                why=f"signed at {signed_at}, valid until {instants.spell(held.expires_at_ms / 1000)}",
                hint="join again: stannary node join -",
            )

    def check_ended(self, made: Contribution | Answer) -> None:
        """Refuse a result that says how its program ended where that is no part of it, or does not where it is."""
        order = self.engines.orders.get(made.job)
        if order is None or ending.fits(order.spec, ids.place_of(made.task)[0], made.ended, len(made.outputs)):
            return
        why = f"{made.ended}, with {len(made.outputs)} outputs"
        raise FormatError("the result says otherwise how its program ended", why=why)

    async def open(self, node: str, lease: str, envelope: dsse.Envelope, what: tuple[str, type[P]]) -> tuple[Sent, P]:
        """Verify a statement's signature by the node's key, and find its lease."""
        held = await self.exchange.store.aread(lambda c: leases.get(c, lease))
        if held.node != node:
            raise NotFound("no such lease", why=lease, detail=wire_errors.NOT_YOUR_LEASE)
        row = await self.exchange.store.aread(lambda c: nodes.get(c, node))
        kind, cls = what
        made = statement.open_envelope(envelope, kind, cls, dsse.decode_base64(row.key, "node key"))
        if made.subjects:  # free to vary, they would make two leaves of one word, and evidence holds each word once
            raise FormatError(f"a {kind} has no subjects", why=f"{len(made.subjects)} subjects", detail="subject")
        bounds.check(made.predicate, kind)
        return Sent(held, row, envelope, leaf_of(envelope)), made.predicate

    async def take(
        self,
        sent: Sent,
        made: Story,
        admit: Callable[[Connection], None],
        record: Callable[[Connection, int], None],
    ) -> int:
        """Keep what `admit` lets in, log it, `record` it; return its log index.

        Raises:
            ConflictError: it contradicts what the node has said (stories.py), beside what `admit` raises.
        """
        exchange, journal = self.exchange, self.exchange.journal
        order, job = self.engines.orders.get(sent.lease.job), sent.lease.job
        incoming = journal.incoming(sent.envelope, KINDS[type(made)], job)

        def keep(connection: Connection) -> int | None:
            taken = _taken_before(connection, sent)
            if taken is None:
                node = exchange.directory.get(sent.node.node)
                if stories.keep(connection, order, node, made, incoming, exchange.now_ms):
                    return CONTRADICTS
                admit(connection)
                envelopes.add(connection, incoming)
            return taken

        async def take() -> int:
            taken = await exchange.store.awrite(keep)
            if taken == CONTRADICTS:
                journal.wake()
                await exchange.read_nodes([sent.node.node])
                exchange.bell.ring(job_topic(job))
                raise ConflictError("this node has said something else of it", why=sent.lease.task)
            if taken is not None:
                return taken
            index = await journal.logged(sent.leaf)
            await self.record(lambda c: record(c, index))
            return index

        index = await self.engines.holds.alone(sent.lease.lease, take)
        exchange.bell.ring(job_topic(sent.lease.job))
        return index

    async def record(self, record: Callable[[Connection], None]) -> None:
        """Record what is logged, as often as the machine refuses: its lease must not end unrecorded."""
        while True:
            try:
                await self.exchange.store.awrite(record)
            except EnvironmentProblem as err:
                log.warning("a logged statement waits for the disk: %s", err)
                await self.exchange.clock.sleep(RETRY_S)
            else:
                return


def expect(sent: Sent, kind: LeaseType, **members: str) -> None:
    """Compare a statement's members with its lease."""
    lease = sent.lease
    if lease.type is not kind:
        raise ConflictError(f"this lease takes no such statement: it is for {lease.type}", why=lease.lease)
    for name, value in members.items():
        expected = getattr(lease, name)
        if value != expected:
            raise FormatError(f"the statement's {name} is not its lease's", why=f"{value}, expected {expected}")


def check_live(connection: Connection, sent: Sent) -> None:
    """Refuse a statement whose lease has ended."""
    leases.check(connection, Fence(sent.lease.lease, sent.node.node, sent.lease.epoch))


def _taken_before(connection: Connection, sent: Sent) -> int | None:
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
