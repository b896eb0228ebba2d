"""What jobs claim of the market's bytes, and how a claim ends (jobs/retention.py says when).

A job's own right to a blob is its claim: it is given when the job is placed and when a result is handed in, and what is
claimed is never deleted (blobs.py). Here a claim is only taken back; the bytes go as all that nobody claims.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.jobs.retention import Keepings
from stannary.jobs.rounds import VOID
from stannary.jobs.states import OPEN_JOB, Settlement
from stannary.store import audits, blobs, disputes, events, jobs, leases, tasks
from stannary.store import schema as tables
from stannary.store.jobs import JobRow

GONE = "results.gone"  # the last event of a job whose bytes are no longer kept

_OPEN = [state.value for state in OPEN_JOB]
_HELD = Settlement.HELD.value


def ended(connection: Connection, *, before_ms: int, limit: int) -> list[str]:
    """Return jobs that ended before then, are settled, and claim blobs still."""
    owned = sa.exists().where(tables.blob_owners.c.owner == tables.jobs.c.job)
    query = sa.select(tables.jobs.c.job).where(
        tables.jobs.c.status.not_in(_OPEN), tables.jobs.c.settlement != _HELD, tables.jobs.c.finished_at_ms < before_ms
    )
    in_dispute = sa.exists().where(tables.disputes.c.job == tables.jobs.c.job, sa.text(disputes.IS_OPEN))
    return list(connection.execute(query.where(owned, ~in_dispute).limit(limit)).scalars())


def with_void(connection: Connection, *, before_ms: int) -> list[str]:
    """Return open jobs that claim outputs of void tasks which were handed in before then."""
    listed = sa.func.json_each(tables.tasks.c.outputs).table_valued("value")
    claim, digest = tables.blob_owners, sa.func.json_extract(listed.c.value, "$.digest")
    query = (
        sa.select(tables.jobs.c.job)
        .distinct()
        .select_from(
            tables.jobs.join(tables.tasks, tables.tasks.c.job == tables.jobs.c.job)
            .join(listed, sa.true())
            .join(claim, sa.and_(claim.c.digest == digest, claim.c.owner == tables.jobs.c.job))
        )
        .where(tables.jobs.c.status.in_(_OPEN), tables.tasks.c.state.in_([state.value for state in VOID]))
        .where(tables.tasks.c.contributed_at_ms < before_ms)
    )
    return list(connection.execute(query).scalars())


def kept(connection: Connection, job: str) -> Keepings:
    """Read an open job for its retention."""
    return Keepings(
        version=jobs.get(connection, job).num_events,
        tasks=tuple(tasks.of_job(connection, job)),
        heard=frozenset(item.task for item in audits.of_job(connection, job, only_open=True)),
        leases=tuple(leases.live_of_job(connection, job)),
    )


def of_job(connection: Connection, job: str, *, limit: int) -> list[str]:
    """Return blobs a job claims."""
    query = sa.select(tables.blob_owners.c.digest).where(tables.blob_owners.c.owner == job)
    return list(connection.execute(query.limit(limit)).scalars())


def made(connection: Connection, job: str) -> frozenset[str]:
    """Return what was handed in for a job."""
    found = connection.execute(sa.select(tables.tasks.c.outputs).where(tables.tasks.c.job == job)).scalars()
    return frozenset(str(item["digest"]) for outputs in found for item in outputs or ())


def release(connection: Connection, job: str, digests: Collection[str], made: Collection[str]) -> None:
    """Take back a job's claim to blobs; with it goes its buyer's right to what was `made` and no other job claims."""
    buyer = f"buyer:{jobs.get(connection, job).buyer}"
    owners = tables.blob_owners
    for digest in digests:
        connection.execute(sa.delete(owners).where(owners.c.digest == digest, owners.c.owner == job))
        if digest in made:
            its = sa.delete(owners).where(owners.c.digest == digest, owners.c.owner == buyer)
            connection.execute(its.where(~blobs.is_claimed(owners.c.digest)))


def say_gone(connection: Connection, job: str, message: str, *, at_ms: int) -> None:
    """Write into a job's history, once, that its bytes are no longer kept."""
    if gone(connection, jobs.get(connection, job)) is None:
        events.append(connection, job, events.Happening(GONE, message, at_ms))


def gone(connection: Connection, row: JobRow) -> events.Event | None:
    """Return the event that says that a job's bytes are no longer kept, None while they are."""
    last = events.after(connection, row.job, row.num_events - 1)
    return last[0] if last and last[0].type == GONE else None
