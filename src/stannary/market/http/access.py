"""Who is asking: buyers by API token, nodes by session, the operator by the admin token.

Rules:
- Tokens are looked up by hash (store/accounts.py); the admin token is compared in constant time.
- Whoever has shown a valid token is charged for what he asks (rates.py), and his connection is no stranger's (gate.py).
- Answers are cached in memory; a revoked API token and a revoked node's sessions leave the cache in the same breath,
  and what was read from the store before that does not come into it. Who waits (a poll) is asked again when it wakes.
- A buyer's key is the one that signed his first accepted job; a job signed by another is refused, so
  a stolen API token alone orders nothing.
"""

from __future__ import annotations

import hmac

from sqlalchemy.engine import Connection
from starlette.requests import Request

from stannary.errors import AuthError
from stannary.market.exchange import Exchange
from stannary.market.http import edge
from stannary.market.http.rates import PARTY_RATE
from stannary.store import accounts, nodes
from stannary.wire import errors as wire_errors

MAX_CACHED = 100_000
CACHED_MS = 30_000  # a session taken back from the store is asked for again after this


async def buyer(exchange: Exchange, request: Request) -> str:
    """Return the buyer behind a request."""
    known = await still_buyer(exchange, request)
    _admit(exchange, request, f"buyer:{known}")
    return known


async def still_buyer(exchange: Exchange, request: Request) -> str:
    """Return the buyer behind a request that was charged for already.

    Raises:
        AuthError: his token was revoked meanwhile, or never was one.
    """
    token = edge.bearer(request)
    hashed = accounts.token_hash(token)
    known = exchange.buyers.get(hashed)
    if known is None:
        before = exchange.num_taken_back
        known = await exchange.store.aread(lambda c: accounts.buyer_of(c, token))
        if before == exchange.num_taken_back:
            _bound(exchange.buyers)
            exchange.buyers[hashed] = known
    exchange.token_uses[hashed] = exchange.now_ms
    return known


async def node(exchange: Exchange, request: Request) -> str:
    """Return the node behind a request; every request is a sign of life."""
    known = await still_node(exchange, request)
    _admit(exchange, request, f"node:{known}")
    return known


async def still_node(exchange: Exchange, request: Request) -> str:
    """Return the node behind a request that was charged for already.

    Raises:
        AuthError: its session has ended, or never was one.
    """
    token = edge.bearer(request)
    hashed = accounts.token_hash(token)
    known = exchange.sessions.get(hashed)
    if known is None or known[1] <= exchange.now_ms:  # opened before a restart, perhaps
        before = exchange.num_taken_back
        known = await exchange.store.aread(lambda c: _session(c, token, exchange.now_ms))
        if known is not None and before == exchange.num_taken_back:
            _bound(exchange.sessions)
            exchange.sessions[hashed] = known
    if known is None or known[1] <= exchange.now_ms:
        exchange.sessions.pop(hashed, None)
        raise AuthError(
            "this session is not valid",
            why="unknown or expired",
            hint="prove the node's key again (POST /v1/sessions/challenge)",
            detail=wire_errors.SESSION_EXPIRED,
        )
    return known[0]


def admin(exchange: Exchange, request: Request) -> None:
    """Let only the operator of the market through."""
    if not hmac.compare_digest(edge.bearer(request).encode(), exchange.identity.admin_token.encode()):
        raise AuthError("this is not the admin token", hint="it lies in the market's directory, file admin-token")
    _admit(exchange, request, "admin")


async def buyer_or_node(exchange: Exchange, request: Request) -> tuple[str, bool]:
    """Return who asks, and whether it is a node (blobs serve both)."""
    if accounts.token_hash(edge.bearer(request)) in exchange.sessions:
        return await node(exchange, request), True
    try:  # a session from before a restart is not in the cache
        return await buyer(exchange, request), False
    except AuthError:
        return await node(exchange, request), True


def _admit(exchange: Exchange, request: Request, party: str) -> None:
    """Note on the connection who is on it, and charge him for the request."""
    edge.prove(request, party)
    exchange.rates.charge(party, 1, PARTY_RATE)


def remember_session(exchange: Exchange, token: str, holder: str, expires_at_ms: int) -> None:
    """Cache a session just opened."""
    _bound(exchange.sessions)
    exchange.sessions[accounts.token_hash(token)] = (holder, expires_at_ms)


def _session(connection: Connection, token: str, now_ms: int) -> tuple[str, int] | None:
    """Return a stored session; it is looked up again after CACHED_MS, since its end is the store's to know."""
    try:
        return nodes.node_of(connection, token, now_ms=now_ms), now_ms + CACHED_MS
    except AuthError:
        return None


def _bound(cache: dict[str, str] | dict[str, tuple[str, int]]) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
