"""Which bytes the market holds, and who may have them.

A digest is no secret (it stands in signed statements), so knowing one opens nothing: a blob is
served to its owners only. Owners are a job id, `buyer:<id>`, `node:<id>` (who stored it), and
`<job>@<node>` for what a lease lets a node read: that one counts while the node holds a lease of the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.store.schema import blob_owners, blobs, leases


def add(connection: Connection, digest: str, size_bytes: int, owner: str, *, at_ms: int) -> None:
    """Note bytes that are stored (fsynced, renamed) and who may have them."""
    values = {"digest": digest, "size_bytes": size_bytes, "stored_at_ms": at_ms}
    connection.execute(insert(blobs).values(**values).on_conflict_do_nothing())
    if size_of(connection, digest) != size_bytes:
        raise ConflictError("this digest has another size", why=digest)
    grant(connection, [digest], owner)


def grant(connection: Connection, digests: Iterable[str], owner: str) -> None:
    """Let `owner` have these blobs too (a job's manifest names them)."""
    rows = [{"digest": digest, "owner": owner} for digest in digests]
    if rows:
        connection.execute(insert(blob_owners).on_conflict_do_nothing(), rows)


def reader(job: str, node: str) -> str:
    """Return the owner that a node is of its leases' inputs."""
    return f"{job}@{node}"


def size_of(connection: Connection, digest: str) -> int | None:
    """Return the size of a stored blob, None if it is not stored."""
    size = connection.execute(sa.select(blobs.c.size_bytes).where(blobs.c.digest == digest)).scalar()
    return int(size) if size is not None else None


def unclaimed_bytes(connection: Connection, node: str, *, since_ms: int) -> int:
    """Return the size of what a node stored since then and only nodes may have: no contribution claims it (yet)."""
    other = sa.alias(blob_owners)
    claimed = sa.exists().where(
        other.c.digest == blob_owners.c.digest, ~other.c.owner.like("node:%"), ~other.c.owner.like("%@%")
    )
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0))
        .select_from(blob_owners.join(blobs, blobs.c.digest == blob_owners.c.digest))
        .where(blob_owners.c.owner == f"node:{node}", blobs.c.stored_at_ms >= since_ms, ~claimed)
    )
    return int(connection.execute(query).scalar_one())


def missing(connection: Connection, digests: Sequence[str]) -> list[str]:
    """Return those of `digests` that are not stored."""
    stored = set(connection.execute(sa.select(blobs.c.digest).where(blobs.c.digest.in_(digests))).scalars())
    return [digest for digest in digests if digest not in stored]


def may_have(connection: Connection, digest: str, owners: Sequence[str]) -> bool:
    """Tell whether one of `owners` (all that the asker is) owns the blob."""
    query = sa.select(blob_owners.c.owner).where(blob_owners.c.digest == digest, blob_owners.c.owner.in_(owners))
    return connection.execute(query.limit(1)).first() is not None


def may_node_have(connection: Connection, digest: str, node: str) -> bool:
    """Tell whether a node stored the blob or holds a lease of a job whose leases let it read the blob."""
    held = sa.select(leases.c.job).where(leases.c.node == node, leases.c.state == sa.literal_column("'granted'"))
    jobs = connection.execute(held.distinct()).scalars()
    return may_have(connection, digest, [f"node:{node}", *(reader(job, node) for job in jobs)])
