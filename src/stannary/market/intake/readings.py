"""Meter readings: each follows the one before it; the last one of a job is logged at its end."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.errors import FormatError
from stannary.formats import dsse, instants, statement
from stannary.formats.predicates import Reading
from stannary.market import clock
from stannary.market.intake.statements import Intake
from stannary.settle import meter
from stannary.store import jobs, readings
from stannary.store.readings import ReadingRow


async def reading(intake: Intake, node: str, lease: str, envelope: dsse.Envelope) -> None:
    """Take a meter reading; the last one of a job is logged at its end."""
    sent, made = await intake.open(node, lease, envelope, ("reading", Reading))
    if made.job != sent.lease.job or made.node != node:
        raise FormatError("the reading is of another job or node", why=f"{made.job}, {made.node}")
    digest = meter.reading_digest(made)

    def write(connection: Connection) -> None:
        last = readings.last(connection, made.job, node)
        if last is not None and last.digest == digest:
            return
        intake.check_time(connection, node, made.read_at)
        elapsed_ms = clock.most_passed_ms(jobs.get(connection, made.job).submitted_at_ms, intake.exchange.now_ms)
        before = _reading(last) if last is not None else None
        meter.check_next(before, made, elapsed_ms=elapsed_ms)
        spent = {name: getattr(made.spent, name) for name in made.spent.__dataclass_fields__}
        read_at_ms = instants.parse(made.read_at) * 1000
        row = ReadingRow(made.job, node, made.seq, made.previous, digest, spent, read_at_ms, envelope.to_bytes())
        readings.add(connection, row)

    await intake.exchange.store.awrite(write)


def _reading(row: ReadingRow) -> Reading:
    payload = dsse.from_bytes(row.envelope).payload
    return statement.read(payload, "reading", Reading).predicate
