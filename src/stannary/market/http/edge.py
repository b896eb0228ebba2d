"""Reading requests and writing answers: bounded bodies, our error bodies, a request id on everything.

Rules:
- A body is read up to its limit and no further; what does not fit its model is a FormatError that
  names the member.
- Every answer, errors included, carries X-Request-Id. What is not a StannaryError is a bug of ours:
  it is logged with its trace and answered as E-GENERAL without a word of the inside.
- No answer of 500 and above leaves without a trace in the log under the id its client is shown, also one
  that names a lack of the machine (a disk, the database) and one a stop of the market cuts short.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stannary.errors import AuthError, FormatError, LimitExceeded, NotFound, ServiceError, StannaryError, UsageError
from stannary.market.http.gate import Gate, Visitor
from stannary.market.http.rates import LARGE_BYTES, PARTY_RATE, STRANGER_RATE, Rates, body_units
from stannary.wire import errors as wire_errors
from stannary.wire import limits, message, routes

M = TypeVar("M", bound=message.Message)

Endpoint = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
MAX_HEADER_CHARS = 4096
MAX_ANNOUNCED_BYTES = 2**50
SERVER_ERROR = 500
_REQUEST_ID = "stannary.request_id"
_RATES = "stannary.rates"
_PARTY = "stannary.party"
_NOBODY = Visitor("", 0.0)  # of a request of this process

log = logging.getLogger("stannary.market")


async def read(request: Request, cls: type[M], *, max_bytes: int = limits.MAX_BODY_BYTES) -> M:
    """Read the request's body as a `cls`.

    Raises:
        LimitExceeded: longer than `max_bytes`; reading stops there.
        FormatError: not a `cls`.
    """
    body = await read_bytes(request, max_bytes)
    rates: Rates | None = request.scope.get(_RATES)
    if rates is None or len(body) <= LARGE_BYTES:
        return message.read(cls, body, max_bytes=max_bytes)
    async with rates.large:
        return await asyncio.to_thread(message.read, cls, body, max_bytes=max_bytes)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """Read the request's body, at most `max_bytes`.

    A large one is charged to its party before it is read, one that does not say its length piece by piece.
    """
    rates: Rates | None = request.scope.get(_RATES)
    party = request.scope.get(_PARTY)
    charged_bytes = min(integer(request.headers, "content-length", 0, MAX_ANNOUNCED_BYTES), max_bytes)
    if rates is not None and party is not None:
        rates.charge(party, body_units(charged_bytes), PARTY_RATE)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise LimitExceeded("the request body is too large", why=f"more than {max_bytes:,} bytes")
        if len(body) > charged_bytes and rates is not None and party is not None:
            rates.charge(party, body_units(len(body)) - body_units(charged_bytes), PARTY_RATE)
            charged_bytes = len(body)
    return bytes(body)


def prove(request: Request, party: str) -> None:
    """Note whose valid token a request carries."""
    request.scope[_PARTY] = party
    through: tuple[Gate, Visitor] | None = request.scope.get("stannary.visitor")
    if through is not None:  # a request of this process has no connection
        gate, visitor = through
        gate.prove(visitor, party)


def answer(body: message.Message, status: int = 200) -> Response:
    """Answer with a message."""
    return Response(body.to_bytes(), status, media_type=JSON)


def no_content() -> Response:
    """Answer that there is nothing (yet)."""
    return Response(status_code=204)


def bearer(request: Request) -> str:
    """Return the bearer token of a request.

    Raises:
        AuthError: there is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_HEADER_CHARS:
        raise AuthError("the request carries no token", why="no Authorization: Bearer header")
    return token.strip()


def integer(query: Mapping[str, str], name: str, default: int, high: int) -> int:
    """Read a whole number from 0 to `high` from the query."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > high:
        raise UsageError(f"{name} is not a number from 0 to {high:,}", why=f"{text!r:.40}", detail=name)
    return int(text)


def wait_s(query: QueryParams) -> float:
    """Read how long a poll may wait, bounded by MAX_WAIT_S."""
    text = query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        raise UsageError("wait is not a number of seconds", why=f"{text!r:.40}", detail="wait") from None
    if not 0 <= seconds < float("inf"):
        raise UsageError("wait is not a number of seconds", why=f"{text!r:.40}", detail="wait")
    return min(seconds, limits.MAX_WAIT_S)


class Edge:
    """Outermost ASGI layer: a request id on everything, hot paths straight through, the last resort for the rest."""

    def __init__(self, app: ASGIApp, direct: Mapping[tuple[str, str], Endpoint], rates: Rates | None = None) -> None:
        self._app = app
        self._rates = rates if rates is not None else Rates()
        self._direct = direct  # by method and path: answered here, past the framework's layers (docs/performance.md)
        self._run = secrets.token_hex(4)  # of this process; numbers follow: an id must be found again, not unguessable
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{self._run}-{next(self._count):08x}"
        scope[_REQUEST_ID] = request_id
        scope[_RATES] = self._rates

        is_begun = False

        async def stamped(event: Message) -> None:
            nonlocal is_begun
            if event["type"] == "http.response.start":
                is_begun = True
                stamp = (routes.REQUEST_ID.lower().encode(), request_id.encode())
                event["headers"] = [*event.get("headers", []), stamp]
            await send(event)

        endpoint = self._direct.get((scope["method"], scope["path"]))
        request = Request(scope, receive)
        try:
            await self._turn_of(scope)
            if not scope["path"].isprintable():  # no name of ours: not every database takes a NUL in a question
                unheard = NotFound("no such path", why=f"{scope['path']!r:.200}")
                await _error(request_id, unheard)(scope, receive, stamped)
            elif endpoint is None:
                await self._app(scope, receive, stamped)
            else:
                await (await _answered(endpoint, request))(scope, receive, stamped)
        except ClientDisconnect:
            log.info("request %s %s %s: its client went away", request_id, scope["method"], scope["path"])
        except asyncio.CancelledError:  # the server stops and waits no longer; it would answer without an id
            log.warning("request %s %s %s is cut off: the market stops", request_id, scope["method"], scope["path"])
            if not is_begun:
                stopping = ServiceError("the market is stopping", hint="send the same request again in a moment")
                await _error(request_id, stopping)(scope, receive, stamped)
            raise
        except Exception as err:  # a process edge: one broken request must not take the others with it
            log.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if not is_begun:
                await (await broken(request, err))(scope, receive, stamped)

    async def _turn_of(self, scope: Scope) -> None:
        """Let a stranger wait until it is his address's turn: many of its requests harm none of its others."""
        through: tuple[Gate, Visitor] | None = scope.get("stannary.visitor")
        if through is not None and not through[1].party:
            gate, visitor = through
            await self._rates.turn(f"address:{visitor.address}", STRANGER_RATE, lambda: gate.is_in(visitor))


async def _answered(endpoint: Endpoint, request: Request) -> Response:
    """Answer as the application would, refusals included; what else is raised is Edge's."""
    try:
        return await endpoint(request)
    except StannaryError as err:
        return await refused(request, err)


async def refused(request: Request, err: Exception) -> Response:
    """Answer with the error body of a StannaryError; what is the market's own trouble is logged with its trace."""
    assert isinstance(err, StannaryError)
    request_id, status = request.scope[_REQUEST_ID], wire_errors.status_of(err)
    answered = _error(request_id, err)
    if isinstance(err, AuthError) and request.scope.get("stannary.visitor", (None, _NOBODY))[1].party:
        answered.headers["connection"] = "close"  # a token that is taken back must not keep a known party's place
    if status >= SERVER_ERROR:
        args = (request_id, request.method, request.url.path, status)
        log.error("request %s %s %s is answered %d", *args, exc_info=err)
    return answered


async def unrouted(request: Request, err: Exception) -> Response:
    """Answer for the framework's own refusals (no such path, wrong method)."""
    status = err.status_code if isinstance(err, HTTPException) else 500
    if status == 404:
        return await refused(request, NotFound("no such path", why=f"{request.url.path:.200}"))
    if status == 405:
        why = f"{request.method} {request.url.path:.200}"
        return await refused(request, UsageError("this path has no such method", why=why))
    return await refused(request, FormatError("the request is not understood", why=f"status {status}"))


async def broken(request: Request, err: Exception) -> Response:
    """Answer for a bug of ours without a word of the inside; Edge writes the trace into the log."""
    del err
    request_id = request.scope[_REQUEST_ID]
    hint = f"look for {request_id} in the market's log"
    return _error(request_id, StannaryError("the market failed to answer", hint=hint))


def _error(request_id: str, err: StannaryError) -> Response:
    return Response(wire_errors.to_body(err, request_id).to_bytes(), wire_errors.status_of(err), media_type=JSON)
