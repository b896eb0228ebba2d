"""Public routes: what the market says of itself, the log's files, proofs; and blobs, to whom they belong.

A digest is no secret, so knowing one opens nothing: a blob is served to its owners only, but for the root file systems
the market has published, and what it computed again to rule on a bond: those anybody may fetch. What a party stores
and no job claims is bounded, and cleared away after a time (blobkeeping.py, clearing.py).
"""

from __future__ import annotations

import logging
import re

from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from stannary.errors import ConflictError, FormatError, NotFound
from stannary.formats import bounds, digest, note
from stannary.market.exchange import Exchange
from stannary.market.http import access, edge
from stannary.market.settings import kept_words
from stannary.store import blobs
from stannary.wire import errors as wire_errors
from stannary.wire import proof as proofs
from stannary.wire import routes
from stannary.wire.market import LogState

_TILE = re.compile(r"(entries|\d{1,2})/(x\d{3}/){0,5}\d{3}(\.p/\d{1,3})?")
BYTES = "application/octet-stream"
MAX_SIZE = 2**53 - 1

log = logging.getLogger("stannary.market")


def router(exchange: Exchange) -> APIRouter:
    """Return the public routes and those of blobs."""
    api = APIRouter()
    _add_log(api, exchange)
    _add_blobs(api, exchange)
    return api


def _add_log(api: APIRouter, exchange: Exchange) -> None:
    @api.get(routes.MARKET)
    async def market() -> Response:
        return edge.answer(exchange.info())

    @api.get(routes.MARKET_PROOF)
    async def prove(request: Request) -> Response:
        nonce, client, server = request.query_params.get("nonce", ""), request.client, request.scope.get("server")
        if not bounds.HEX32.fits(nonce) or client is None or server is None:
            raise FormatError("not a question for a proof", why=f"nonce {nonce!r:.80}, expected 64 hex digits")
        owner = exchange.identity
        return edge.answer(proofs.sign(owner.key, owner.vkey, nonce, (client.host, client.port), tuple(server)))

    @api.get(routes.CHECKPOINT)
    async def checkpoint() -> Response:
        return PlainTextResponse(exchange.log.checkpoint())

    @api.get(routes.TILE)
    async def tile(path: str) -> Response:
        # the pattern admits no dot-dot: nothing outside tile/ can be named
        if _TILE.fullmatch(path) is None:
            raise NotFound("no such tile", why=f"{path!r:.120}")
        file = exchange.settings.directory / "log" / "tile" / path
        if not file.is_file():
            raise NotFound("no such tile", why=f"{path!r:.120}")
        return FileResponse(file, media_type=BYTES)

    @api.get(routes.LOG_STATE)
    async def state(request: Request) -> Response:
        return edge.answer(_state(exchange, edge.integer(request.query_params, "old", 0, MAX_SIZE)))

    @api.get(routes.LOG_PROOF)
    async def proof(leaf_hex: str) -> Response:
        if not bounds.HEX32.fits(leaf_hex):
            raise FormatError("not a leaf", why=f"{leaf_hex!r:.80}, expected 64 lower-case hex digits")
        index = exchange.log.index_of(bytes.fromhex(leaf_hex))
        if index is None:
            raise NotFound("this leaf is not in the log", why=leaf_hex)
        return PlainTextResponse(exchange.log.proof(index))


def _state(exchange: Exchange, old: int) -> LogState:
    """Return the newest checkpoint and its consistency with what somebody has seen."""
    text = exchange.log.checkpoint()
    size = note.parse_checkpoint(note.parse(text).text).size
    if old > size:
        log.error("somebody has seen %d statements of this log, which holds %d: was it rolled back?", old, size)
        raise ConflictError(
            "this log holds less than was seen of it",
            why=f"{size:,} statements, {old:,} were seen",
            hint="ask the market's operator",
            detail=wire_errors.LOG_BEHIND,
        )
    return LogState(checkpoint=text, consistency=[item.hex() for item in exchange.log.consistency(old, size)])


def _add_blobs(api: APIRouter, exchange: Exchange) -> None:
    @api.api_route(routes.BLOB, methods=["GET", "HEAD"])
    async def fetch(request: Request, digest: str) -> Response:
        name = await _readable(exchange, request, digest)
        return FileResponse(exchange.blobs.found(name), media_type=BYTES)

    @api.put(routes.BLOB)
    async def store(request: Request, digest: str) -> Response:
        who, is_node = await access.buyer_or_node(exchange, request)
        name, limits_ = _parse(digest), exchange.settings
        owner = f"{'node' if is_node else 'buyer'}:{who}"
        quota = limits_.node_quota if is_node else limits_.buyer_quota
        await receive(exchange, request, name, owner, quota)
        return Response(status_code=201)


async def receive(
    exchange: Exchange, request: Request, name: digest.Digest, owner: str, quota: tuple[int, int]
) -> None:
    """Store a request's body under its digest for `owner`, within what may wait unclaimed of him."""
    keeping = exchange.blobkeeping
    length = request.headers.get("content-length")
    announced = edge.integer({"length": length}, "length", 0, edge.MAX_ANNOUNCED_BYTES) if length is not None else None
    async with keeping.room(owner, quota, announced) as left_bytes:
        keeping.begin(name)
        try:
            size_bytes = await exchange.blobs.receive(name, request.stream(), left_bytes=left_bytes)
            await exchange.store.awrite(lambda c: blobs.add(c, name, size_bytes, owner, at_ms=exchange.now_ms))
            keeping.stored(owner, size_bytes)
        finally:
            keeping.end(name)


async def _readable(exchange: Exchange, request: Request, text: str) -> digest.Digest:
    name = _parse(text)
    if name in exchange.roots or await exchange.store.aread(lambda c: blobs.may_have(c, name, [blobs.PUBLIC])):
        return name
    who, is_node = await access.buyer_or_node(exchange, request)

    def may_have(connection: Connection) -> bool:
        if is_node:
            return blobs.may_node_have(connection, name, who)
        return blobs.may_have(connection, name, [f"buyer:{who}"])

    if not await exchange.store.aread(may_have):
        hint = f"of what a job used and made: {kept_words(exchange.settings.retention)}"
        raise NotFound("no such blob of yours", why=name, hint=hint)
    return name


def _parse(text: str) -> digest.Digest:
    return digest.parse(text)
