"""Who may talk to the market: buyers by API token, operators by join token.

Tokens are 256 random bits, so a plain SHA-256 of one is as hard to guess as the token; the database
holds only that. Lookup is by the hash, so no comparison of secrets takes place that could be timed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError
from stannary.store.schema import api_tokens, buyers, join_tokens, operators


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


def revoke_api_token(connection: Connection, token: str, *, at_ms: int) -> None:
    """Make a token worthless."""
    where = api_tokens.c.token_hash == token_hash(token)
    connection.execute(sa.update(api_tokens).where(where).values(revoked_at_ms=at_ms))


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
