"""Beacon values of a buyer's chain: each for exactly the checkpoint and candidates its draw was asked for."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, FormatError, NotFound
from stannary.formats import beacon, bounds, dsse, statement
from stannary.formats.predicates import Reveal
from stannary.jobs.course.decide import beacon_hold
from stannary.jobs.course.state import DrawRow
from stannary.market.engine import recording
from stannary.market.intake.statements import Intake
from stannary.market.journal import leaf_of
from stannary.market.topics import job_topic
from stannary.store import audits, envelopes


async def reveal(intake: Intake, buyer: str, job: str, envelope: dsse.Envelope) -> int:
    """Take the beacon value a draw waits for; return its log index."""
    exchange = intake.exchange
    order = intake.engines.orders.get(job)
    if order is None or order.buyer != buyer:
        raise NotFound("no such open job of yours", why=job)
    key = dsse.decode_base64(order.predicate.buyer, "buyer key")
    made = statement.open_envelope(envelope, "reveal", Reveal, key).predicate
    bounds.check(made, "reveal")
    leaf = leaf_of(envelope)

    def admit(connection: Connection) -> None:
        owed = audits.get_draw(connection, job, made.index)
        _check_reveal(owed, audits.candidates_of(connection, job, made.index), made)
        if owed.reveal is not None and owed.reveal != leaf:
            raise ConflictError("this value was revealed before, in other words", why=f"index {made.index}")
        previous = order.predicate.beacon_tip
        if made.index:
            previous = audits.get_draw(connection, job, made.index - 1).value or ""
        beacon.check(previous, made.value)
        envelopes.add(connection, exchange.journal.incoming(envelope, "reveal", job))

    if made.job != job:
        raise FormatError("the reveal is of another job", why=made.job)

    async def take() -> int:
        await exchange.store.awrite(admit)
        index = await exchange.journal.logged(leaf)
        await intake.record(lambda c: recording.record_reveal(c, made, leaf, intake.exchange.now_ms))
        return index

    index = await intake.engines.holds.alone(beacon_hold(job), take)
    exchange.bell.ring(job_topic(job))
    return index


def _check_reveal(owed: DrawRow, listed: audits.CandidatesRow | None, made: Reveal) -> None:
    observed = (made.checkpoint_size, made.checkpoint_root, made.candidates)
    expected = (owed.checkpoint_size, owed.checkpoint_root, listed.leaf if listed is not None else None)
    if observed != expected:
        raise ConflictError(
            "the reveal is for another checkpoint or other candidates", why=f"{observed}, expected {expected}"
        )
    if owed.value is not None and owed.value != made.value:
        raise ConflictError("another value was revealed", why=f"index {made.index}")
