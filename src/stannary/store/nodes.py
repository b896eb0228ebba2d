"""Nodes, their credentials, and how they prove who they are.

A session begins with a challenge (market/intake/challenges.py): a nonce that is spent by the first answer its
node signed, within its minute. So neither an old answer nor a second one opens a session. Sessions of a
revoked node are worthless from the same transaction on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError, NotFound
from stannary.formats.predicates import NodeKind, Tier
from stannary.jobs.states import OPEN_JOB, JobStatus
from stannary.store import statements
from stannary.store.accounts import token_hash
from stannary.store.schema import challenges, credentials, job_nodes, jobs, nodes, sessions

MAX_SESSIONS = 16  # of one node at a time: an agent has one, and one more after each restart within ten minutes


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it joined, and whether it may work."""

    node: str
    key: str
    operator: str
    kind: NodeKind
    jurisdiction: str
    terms: str
    tier: Tier
    engine_class: str
    cpus: int
    memory_bytes: int
    ask_usd_micros_per_hour: int
    join_leaf: str
    joined_at_ms: int
    draining: bool = False
    revoked_at_ms: int | None = None
    revoked_reason: str | None = None
    convicted_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A credential as issued."""

    leaf: str
    node: str
    envelope: bytes
    issued_at_ms: int
    expires_at_ms: int


def add(connection: Connection, node: NodeRow) -> None:
    """Add a node, or renew one that joins again under the same key and operator.

    Raises:
        ConflictError: the key belongs to another operator's node, or was revoked or convicted.
    """
    values = {name.name: getattr(node, name.name) for name in fields(NodeRow)} | {"draining": int(node.draining)}
    known = connection.execute(sa.select(nodes).where(nodes.c.node == node.node)).mappings().one_or_none()
    if known is None:
        connection.execute(sa.insert(nodes).values(**values))
        return
    if known["revoked_at_ms"] is not None:
        raise ConflictError("this node was revoked", why=f"{node.node}: {known['revoked_reason']}")
    if known["convicted_at_ms"] is not None:
        raise ConflictError("this node was convicted", why=node.node)
    if known["operator"] != node.operator or known["key"] != node.key:
        # One machine under two operators could audit itself.
        raise ConflictError("this node belongs to another operator", why=node.node)
    del values["draining"]  # its market's word, which a new join does not undo
    connection.execute(sa.update(nodes).where(nodes.c.node == node.node).values(**values))


def get(connection: Connection, node: str) -> NodeRow:
    """Return one node; NotFound if it never joined."""
    row = connection.execute(_SELECT.where(nodes.c.node == node)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such node", why=node)
    return _node(row)


def all_nodes(connection: Connection) -> list[NodeRow]:
    """Return every node that ever joined, oldest first."""
    return [_node(row) for row in connection.execute(_SELECT.order_by(nodes.c.joined_at_ms, nodes.c.node)).mappings()]


def drain(connection: Connection, node: str, *, draining: bool) -> None:
    """Note whether a node is given new work; NotFound if it never joined."""
    if connection.execute(sa.update(nodes).where(nodes.c.node == node).values(draining=int(draining))).rowcount != 1:
        raise NotFound("no such node", why=node, hint="stannary market node ls")


def drained(connection: Connection) -> list[str]:
    """Return the nodes that are given no new work."""
    return list(connection.execute(sa.select(nodes.c.node).where(nodes.c.draining == 1)).scalars())


@dataclass(frozen=True, slots=True)
class StandingNode:
    """A node's newest credential, expired or not, and whether the node may work."""

    envelope: bytes
    join: bytes | None  # the envelope of what it signed last
    expires_at_ms: int
    is_revoked: bool
    is_convicted: bool
    is_suspended: bool = False  # jobs/standing.py


def standing(connection: Connection, node: str | None = None) -> list[StandingNode]:
    """Return how every node stands, or one; oldest first."""
    rows = connection.exec_driver_sql(_STANDING if node is None else _STANDING_OF_ONE, () if node is None else (node,))
    return [
        StandingNode(held, join, expires_at_ms, bool(revoked), bool(convicted), bool(is_suspended))
        for held, join, expires_at_ms, revoked, convicted, is_suspended in rows
    ]


def convict(connection: Connection, node: str, *, at_ms: int) -> None:
    """Note that a node was convicted: it gets no new work of any job. Its sessions stay: it may owe answers."""
    connection.execute(
        sa.update(nodes).where(nodes.c.node == node, nodes.c.convicted_at_ms.is_(None)).values(convicted_at_ms=at_ms)
    )


def revoke(connection: Connection, node: str, reason: str, *, at_ms: int) -> None:
    """Take a node's right to work, and its sessions. Its leases are the market's to revoke."""
    changed = connection.execute(
        sa.update(nodes)
        .where(nodes.c.node == node, nodes.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=at_ms, revoked_reason=reason)
    )
    if changed.rowcount != 1:
        raise ConflictError("this node is unknown or revoked already", why=node)
    connection.execute(sa.delete(sessions).where(sessions.c.node == node))


def add_credential(connection: Connection, credential: CredentialRow) -> None:
    """Keep a credential beside its node."""
    values = {name.name: getattr(credential, name.name) for name in fields(CredentialRow)}
    connection.execute(sa.insert(credentials).values(**values))


def credential_of(connection: Connection, node: str) -> CredentialRow | None:
    """Return the newest credential of a node, expired or not: the one in force (rules/papers.py)."""
    query = sa.select(credentials).where(credentials.c.node == node)
    query = query.order_by(credentials.c.issued_at_ms.desc(), sa.text("credentials.rowid DESC")).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return CredentialRow(**row) if row is not None else None


def credential_below(connection: Connection, node: str, index: int) -> bytes | None:
    """Return the envelope of the newest credential of a node that is logged below an index, None of none."""
    row = connection.exec_driver_sql(_BELOW, (node, index)).first()
    return bytes(row[0]) if row is not None else None


def credentials_of(connection: Connection, named: Sequence[str]) -> list[CredentialRow]:
    """Return every credential of some nodes, first issued first."""
    rows = statements.run(connection, _CREDENTIALS, (json.dumps(named),))
    return [CredentialRow(*row) for row in rows]


def engaging(connection: Connection, engine_classes: Sequence[str], *, limit: int) -> list[str]:
    """Return jobs of these engine classes that are placed and have not ended: their statements name nodes of them."""
    ended = [state.value for state in JobStatus if state not in OPEN_JOB]
    query = (
        sa.select(jobs.c.job)
        .join(job_nodes, job_nodes.c.job == jobs.c.job)
        .join(nodes, nodes.c.node == job_nodes.c.node)
        .where(jobs.c.status.not_in(ended), nodes.c.engine_class.in_(engine_classes))
        .distinct()
        .order_by(jobs.c.job)
    )
    return list(connection.execute(query.limit(limit)).scalars())


def spend_challenge(connection: Connection, nonce: str, node: str, *, now_ms: int, expires_at_ms: int) -> None:
    """Note that a nonce is answered, until it expires by itself; in the write that opens its session.

    Raises:
        AuthError: it was answered before.
    """
    values = {"nonce_hash": token_hash(nonce), "node": node, "expires_at_ms": expires_at_ms, "used_at_ms": now_ms}
    if connection.execute(insert(challenges).values(**values).on_conflict_do_nothing()).rowcount != 1:
        raise AuthError(
            "this challenge is not valid", why="unknown, expired or answered before", hint="ask for a new one"
        )


def add_session(connection: Connection, token: str, node: str, *, now_ms: int, expires_at_ms: int) -> None:
    """Open a session of a node that may work; its oldest go beyond MAX_SESSIONS.

    Raises:
        AuthError: the node was revoked.
    """
    if get(connection, node).revoked_at_ms is not None:
        raise AuthError("this node was revoked", why=node)
    values = {"token_hash": token_hash(token), "node": node, "created_at_ms": now_ms, "expires_at_ms": expires_at_ms}
    connection.execute(sa.insert(sessions).values(**values))
    kept = sa.select(sessions.c.token_hash).where(sessions.c.node == node)
    kept = kept.order_by(sessions.c.created_at_ms.desc(), sessions.c.token_hash).limit(MAX_SESSIONS)
    connection.execute(sa.delete(sessions).where(sessions.c.node == node, sessions.c.token_hash.not_in(kept)))


def node_of(connection: Connection, token: str, *, now_ms: int) -> str:
    """Return the node whose live session this is.

    Raises:
        AuthError: unknown, expired, or of a revoked node.
    """
    where = (sessions.c.token_hash == token_hash(token)) & (sessions.c.expires_at_ms > now_ms)
    node = connection.execute(sa.select(sessions.c.node).where(where)).scalar_one_or_none()
    if node is None:
        raise AuthError("this session is not valid", why="unknown or expired", hint="prove the node's key again")
    return str(node)


def forget_expired(connection: Connection, *, now_ms: int) -> int:
    """Delete challenges and sessions that can serve nobody any more; return how many."""
    gone = connection.execute(sa.delete(challenges).where(challenges.c.expires_at_ms <= now_ms)).rowcount
    return int(gone + connection.execute(sa.delete(sessions).where(sessions.c.expires_at_ms <= now_ms)).rowcount)


def _node(row: sa.RowMapping) -> NodeRow:
    typed = {"kind": NodeKind(row["kind"]), "tier": Tier(row["tier"]), "draining": bool(row["draining"])}
    return NodeRow(**{**row, **typed})


_CREDENTIALS = (
    "SELECT leaf, node, envelope, issued_at_ms, expires_at_ms FROM credentials "
    "WHERE node IN (SELECT value FROM json_each(?)) ORDER BY issued_at_ms, rowid"
)
_BELOW = (
    "SELECT held.envelope FROM credentials AS held JOIN envelopes ON envelopes.leaf = held.leaf "
    "WHERE held.node = ? AND envelopes.log_index < ? ORDER BY envelopes.log_index DESC LIMIT 1"
)
_SELECT = sa.select(*(nodes.c[field.name] for field in fields(NodeRow)))
# The newest credential, as `credential_of` chooses it; one read for all nodes, not one a node.
_STANDING_OF_ANY = (
    "SELECT credentials.envelope, "
    "(SELECT envelope FROM envelopes WHERE leaf = nodes.join_leaf AND kind <> 'job'), credentials.expires_at_ms, "
    "nodes.revoked_at_ms IS NOT NULL, "
    "nodes.convicted_at_ms IS NOT NULL, "
    "(SELECT change = 'suspend' FROM standing_changes AS said WHERE said.node = nodes.node "
    "ORDER BY said.number DESC LIMIT 1) FROM nodes JOIN credentials ON credentials.leaf = ("
    "SELECT leaf FROM credentials AS held WHERE held.node = nodes.node "
    "ORDER BY issued_at_ms DESC, held.rowid DESC LIMIT 1)"
)
_STANDING = _STANDING_OF_ANY + " ORDER BY nodes.joined_at_ms, nodes.node"
_STANDING_OF_ONE = _STANDING_OF_ANY + " WHERE nodes.node = ?"
