"""Who may talk to the market: buyers by API token, operators by join token.

Tokens are 256 random bits, so a plain SHA-256 of one is as hard to guess as the token; the database
holds only that. Lookup is by the hash, so no comparison of secrets takes place that could be timed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError, NotFound
from stannary.store.schema import api_tokens, buyers, join_tokens, operators

ID_CHARS = 16  # of a token's hash: enough to name it, and nothing to log in with


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """What a join token allows."""

    operator: str
    bond_usd_micros: int


def token_hash(token: str) -> str:
    """Return the form in which a secret token is stored and looked up."""
    return hashlib.sha256(b"stannary token v1\0" + token.encode()).hexdigest()


def add_buyer(connection: Connection, buyer: str, *, at_ms: int) -> None:
    """Add a buyer if there is none of that name."""
    connection.execute(insert(buyers).values(buyer=buyer, created_at_ms=at_ms).on_conflict_do_nothing())


def add_api_token(connection: Connection, token: str, buyer: str, *, at_ms: int) -> None:
    """Add an API token of a buyer."""
    connection.execute(sa.insert(api_tokens).values(token_hash=token_hash(token), buyer=buyer, created_at_ms=at_ms))


@dataclass(frozen=True, slots=True)
class ApiTokenRow:
    """An API token as its operator may see it."""

    token_hash: str
    buyer: str
    created_at_ms: int
    revoked_at_ms: int | None
    last_used_at_ms: int | None  # to the minute

    @property
    def id(self) -> str:
        """What names the token and opens nothing."""
        return self.token_hash[:ID_CHARS]


def newest_api_tokens(connection: Connection, buyer: str | None = None, *, limit: int) -> list[ApiTokenRow]:
    """Return API tokens, of one buyer or all, the newest first."""
    query = sa.select(api_tokens).order_by(api_tokens.c.created_at_ms.desc(), api_tokens.c.token_hash).limit(limit)
    if buyer is not None:
        query = query.where(api_tokens.c.buyer == buyer)
    return [ApiTokenRow(**row) for row in connection.execute(query).mappings()]


def revoke_api_token(connection: Connection, token_id: str, *, at_ms: int) -> ApiTokenRow:
    """Make a token worthless; return it.

    Raises:
        NotFound: no token has this id.
        ConflictError: it was revoked before.
    """
    named = sa.func.substr(api_tokens.c.token_hash, 1, ID_CHARS) == token_id
    found = connection.execute(sa.select(api_tokens).where(named)).mappings().one_or_none()
    if found is None:
        raise NotFound("no such API token", why=token_id, hint="stannary market token ls")
    if found["revoked_at_ms"] is not None:
        raise ConflictError("this API token was revoked before", why=f"{token_id} of {found['buyer']}")
    connection.execute(sa.update(api_tokens).where(named).values(revoked_at_ms=at_ms))
    return ApiTokenRow(**{**found, "revoked_at_ms": at_ms})


def note_uses(connection: Connection, uses: Mapping[str, int]) -> None:
    """Note when each API token, named by its hash, was last used (ms)."""
    for hashed, at_ms in uses.items():
        named = api_tokens.c.token_hash == hashed
        connection.execute(sa.update(api_tokens).where(named).values(last_used_at_ms=at_ms))


def buyer_of(connection: Connection, token: str) -> str:
    """Return the buyer whose token this is.

    Raises:
        AuthError: unknown or revoked; the message does not tell which.
    """
    where = (api_tokens.c.token_hash == token_hash(token)) & api_tokens.c.revoked_at_ms.is_(None)
    buyer = connection.execute(sa.select(api_tokens.c.buyer).where(where)).scalar_one_or_none()
    if buyer is None:
        raise AuthError("this API token is not valid", why="unknown or revoked", hint="stannary config --help")
    return str(buyer)


def add_operator(connection: Connection, operator: str, *, at_ms: int) -> None:
    """Add an operator if there is none of that name."""
    connection.execute(insert(operators).values(operator=operator, created_at_ms=at_ms).on_conflict_do_nothing())


@dataclass(frozen=True, slots=True)
class NewJoinToken:
    """A join token to issue."""

    token: str
    operator: str
    bond_usd_micros: int
    uses: int
    created_at_ms: int
    expires_at_ms: int


def add_join_token(connection: Connection, new: NewJoinToken) -> None:
    """Issue a join token; its operator is added if new.

    Raises:
        ConflictError: an operator is known by this name in other letters: two of them could audit one another.
    """
    spelled = sa.select(operators.c.operator).where(sa.func.lower(operators.c.operator) == new.operator.lower())
    known = connection.execute(spelled.where(operators.c.operator != new.operator).limit(1)).scalar_one_or_none()
    if known is not None:
        raise ConflictError(
            "an operator of this name is known in other letters",
            why=f"{known}, not {new.operator}",
            hint=f"write {known}",
        )
    add_operator(connection, new.operator, at_ms=new.created_at_ms)
    connection.execute(
        sa.insert(join_tokens).values(
            token_hash=token_hash(new.token),
            operator=new.operator,
            bond_usd_micros=new.bond_usd_micros,
            uses_left=new.uses,
            created_at_ms=new.created_at_ms,
            expires_at_ms=new.expires_at_ms,
        )
    )


def forget_join_tokens(connection: Connection, *, now_ms: int) -> int:
    """Delete join tokens that let nobody in any more; return how many."""
    spent = (join_tokens.c.expires_at_ms <= now_ms) | (join_tokens.c.uses_left == 0)
    return int(connection.execute(sa.delete(join_tokens).where(spent)).rowcount)


def use_join_token(connection: Connection, token: str, *, now_ms: int) -> JoinGrant:
    """Spend one use of a join token.

    Raises:
        AuthError: unknown, expired or used up; the message does not tell which.
    """
    row = connection.execute(
        sa.update(join_tokens)
        .where(
            join_tokens.c.token_hash == token_hash(token),
            join_tokens.c.uses_left > 0,
            join_tokens.c.expires_at_ms > now_ms,
        )
        .values(uses_left=join_tokens.c.uses_left - 1)
        .returning(join_tokens.c.operator, join_tokens.c.bond_usd_micros)
    ).one_or_none()
    if row is None:
        raise AuthError(
            "this join token is not valid",
            why="unknown, expired or used up",
            hint="ask the market's operator for a new one",
        )
    return JoinGrant(row.operator, row.bond_usd_micros)
