"""Which bytes the market holds, and who may have them.

A digest is no secret (it stands in signed statements), so knowing one opens nothing: a blob is
served to its owners only. Owners are a job id, `buyer:<id>`, `node:<id>` (who stored it), and
`<job>@<node>` for the job's manifest: that one counts while the node holds a lease of the job, since every lease
comes with it. A lease's own inputs stand in the lease, and may be read while it is held. ROOT owns every root file
system the market has published: anybody may have it, and it stays. ROOT_IN_FORCE owns the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.jobs.states import OPEN_JOB
from stannary.store import leases
from stannary.store.schema import blob_owners, blobs, canaries, disputes, jobs

ROOT, ROOT_IN_FORCE = "market:root", "market:root-in-force"


def add(connection: Connection, digest: str, size_bytes: int, owner: str, *, at_ms: int) -> None:
    """Note bytes that are stored (fsynced, renamed) and who may have them."""
    values = {"digest": digest, "size_bytes": size_bytes, "stored_at_ms": at_ms}
    fresh = {"stored_at_ms": at_ms}  # its time of grace begins anew
    connection.execute(insert(blobs).values(**values).on_conflict_do_update(index_elements=["digest"], set_=fresh))
    if size_of(connection, digest) != size_bytes:
        raise ConflictError("this digest has another size", why=digest)
    grant(connection, [digest], owner)


def grant(connection: Connection, digests: Iterable[str], owner: str) -> None:
    """Let `owner` have these blobs too (a job's manifest names them)."""
    rows = [{"digest": digest, "owner": owner} for digest in digests]
    if rows:
        connection.execute(insert(blob_owners).on_conflict_do_nothing(), rows)


def publish_root(connection: Connection, digest: str) -> None:
    """Have a stored blob be the root file system in force; those before it stay readable."""
    drop_owners(connection, [ROOT_IN_FORCE])
    for owner in (ROOT, ROOT_IN_FORCE):
        grant(connection, [digest], owner)


def root_in_force(connection: Connection) -> tuple[str, int] | None:
    """Return digest and size of the root file system in force, None where none was ever published."""
    joined = blob_owners.join(blobs, blobs.c.digest == blob_owners.c.digest)
    query = (
        sa.select(blobs.c.digest, blobs.c.size_bytes).select_from(joined).where(blob_owners.c.owner == ROOT_IN_FORCE)
    )
    found = connection.execute(query).first()
    return (str(found.digest), int(found.size_bytes)) if found is not None else None


def roots(connection: Connection) -> frozenset[str]:
    """Return the digests of all root file systems that were ever published."""
    return frozenset(connection.execute(sa.select(blob_owners.c.digest).where(blob_owners.c.owner == ROOT)).scalars())


PUBLIC = "public"  # an owner that everybody is: of what a market computed again to rule on a bond


def reader(job: str, node: str) -> str:
    """Return the owner that a node is of a job's manifest while it holds a lease of the job."""
    return f"{job}@{node}"


def size_of(connection: Connection, digest: str) -> int | None:
    """Return the size of a stored blob, None if it is not stored."""
    size = connection.execute(sa.select(blobs.c.size_bytes).where(blobs.c.digest == digest)).scalar()
    return int(size) if size is not None else None


def total(connection: Connection) -> tuple[int, int]:
    """Return number and bytes of all blobs."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0)).select_from(blobs)
    num_blobs, num_bytes = connection.execute(query).one()
    return int(num_blobs), int(num_bytes)


def unclaimed(connection: Connection, owner: str, *, since_ms: int) -> tuple[int, int]:
    """Return bytes and number of what a party stored since then and no job claims (yet)."""
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0), sa.func.count())
        .select_from(blob_owners.join(blobs, blobs.c.digest == blob_owners.c.digest))
        .where(blob_owners.c.owner == owner, blobs.c.stored_at_ms >= since_ms, ~is_claimed(blobs.c.digest))
    )
    if owner.startswith("node:"):  # of a node's also not what a buyer has: he pays for it
        query = query.where(~_has_owner(blobs.c.digest, "buyer:%"))
    num_bytes, num_blobs = connection.execute(query).one()
    return int(num_bytes), int(num_blobs)


def collectable(connection: Connection, *, node_before_ms: int, buyer_before_ms: int) -> list[str]:
    """Return blobs that no job claims and that were stored before then: by a buyer, or by nodes alone."""
    by_buyer = _has_owner(blobs.c.digest, "buyer:%")
    is_old = sa.case((by_buyer, blobs.c.stored_at_ms < buyer_before_ms), else_=blobs.c.stored_at_ms < node_before_ms)
    receipts = sa.select(jobs.c.receipt).where(jobs.c.receipt.is_not(None))
    query = sa.select(blobs.c.digest).where(
        blobs.c.stored_at_ms < max(node_before_ms, buyer_before_ms), is_old, blobs.c.digest.not_in(receipts)
    )
    query = query.where(~is_claimed(blobs.c.digest), ~_has_owner(blobs.c.digest, ROOT))
    return list(connection.execute(query).scalars())


def stored(connection: Connection, low: str, high: str) -> set[str]:
    """Return the digests from `low` to below `high` that the market knows."""
    query = sa.select(blobs.c.digest).where(blobs.c.digest >= low, blobs.c.digest < high)
    return set(connection.execute(query).scalars())


def readers_of_ended(connection: Connection, *, limit: int) -> list[str]:
    """Return owners `<job>@<node>` of jobs that have ended and of which nothing is asked: nobody holds a lease."""
    job = sa.func.substr(blob_owners.c.owner, 1, sa.func.instr(blob_owners.c.owner, "@") - 1)
    ended = sa.select(jobs.c.job).where(jobs.c.status.not_in([state.value for state in OPEN_JOB]))
    ended = ended.where(jobs.c.job.not_in(sa.select(disputes.c.job).where(sa.text("stage = 'hearing'"))))
    ended = ended.where(jobs.c.job.not_in(sa.select(canaries.c.job).where(canaries.c.decided_at_ms.is_(None))))
    query = sa.select(blob_owners.c.owner).distinct().where(blob_owners.c.owner.like("j-%@%"), job.in_(ended))
    return list(connection.execute(query.limit(limit)).scalars())


def drop_owners(connection: Connection, owners: Sequence[str]) -> None:
    """Take these owners' rights to all blobs."""
    for owner in owners:
        connection.execute(sa.delete(blob_owners).where(blob_owners.c.owner == owner))


def forget(connection: Connection, digests: Sequence[str]) -> list[str]:
    """Delete blobs and all rights to them; return them: their files may go when this is durable."""
    for digest in digests:
        connection.execute(sa.delete(blob_owners).where(blob_owners.c.digest == digest))
        connection.execute(sa.delete(blobs).where(blobs.c.digest == digest))
    return list(digests)


def is_claimed(digest: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Match a blob some job claims."""
    return _has_owner(digest, "j-%", but_not="%@%")


def _has_owner(digest: sa.ColumnElement[str], like: str, *, but_not: str = "") -> sa.ColumnElement[bool]:
    other = sa.alias(blob_owners)
    conditions = [other.c.digest == digest, other.c.owner.like(like)]
    if but_not:
        conditions.append(~other.c.owner.like(but_not))
    return sa.exists().where(*conditions)


def may_have(connection: Connection, digest: str, owners: Sequence[str]) -> bool:
    """Tell whether one of `owners` (all that the asker is) owns the blob."""
    query = sa.select(blob_owners.c.owner).where(blob_owners.c.digest == digest, blob_owners.c.owner.in_(owners))
    return connection.execute(query.limit(1)).first() is not None


def may_node_have(connection: Connection, digest: str, node: str) -> bool:
    """Tell whether a node stored the blob, or holds a lease now that names it or whose job's manifest does."""
    if may_have(connection, digest, [f"node:{node}"]):
        return True
    held = leases.live_of_node(connection, node)
    if any(digest in lease.inputs for lease in held):
        return True
    return may_have(connection, digest, sorted({reader(lease.job, node) for lease in held}))
