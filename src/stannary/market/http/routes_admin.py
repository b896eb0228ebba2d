"""Routes of the market's operator: accounts, join tokens, nodes, ledger."""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import asdict
from pathlib import Path

from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from stannary.formats import bounds, instants
from stannary.formats.digest import parse as parse_digest
from stannary.jobs.states import Settlement
from stannary.market import backup
from stannary.market.exchange import Exchange
from stannary.market.http import access, edge
from stannary.market.http.routes_log import receive
from stannary.market.topics import DEADLINES, QUEUE, WORK
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import INSURANCE, Entry, operator_bond
from stannary.store import (
    accounts,
    blobs,
    canaries,
    disputes,
    jobs,
    leases,
    ledger,
    nodes,
    readings,
    standings,
)
from stannary.store.accounts import ApiTokenRow, NewJoinToken
from stannary.wire import admin, join_token, limits, routes

SEVERAL = "several"  # accounts gave or took together: no part of it is one account's
MAX_LEDGER_ENTRIES = 1000
ROOT_QUOTA = (16 * limits.MAX_BLOB_BYTES, 100)  # of root file systems published within a week
MAX_TOKENS = 4000  # of one answer; a view is 200 bytes, and an answer is read up to 1 MiB


def router(exchange: Exchange) -> APIRouter:
    """Return the operator's routes."""
    api = APIRouter()
    _add_tokens(api, exchange)
    _add_nodes(api, exchange)
    _add_looking_after(api, exchange)
    return api


def _add_tokens(api: APIRouter, exchange: Exchange) -> None:
    @api.post(routes.ADMIN_API_TOKENS)
    async def add_api_token(request: Request) -> Response:
        access.admin(exchange, request)
        asked = await edge.read(request, admin.ApiTokenRequest)
        token = "stk_" + secrets.token_urlsafe(32)

        def write(connection: Connection) -> None:
            accounts.add_buyer(connection, asked.name, at_ms=exchange.now_ms)
            accounts.add_api_token(connection, token, asked.name, at_ms=exchange.now_ms)
            if asked.deposit_usd_micros:
                entry = escrow.deposit(accounts.token_hash(token), asked.name, asked.deposit_usd_micros)
                ledger.post(connection, entry, at_ms=exchange.now_ms)

        await exchange.store.awrite(write)
        return edge.answer(admin.ApiToken(token=token, account=asked.name), 201)

    @api.get(routes.ADMIN_API_TOKENS)
    async def list_api_tokens(request: Request) -> Response:
        access.admin(exchange, request)
        account = request.query_params.get("account")
        found = await exchange.store.aread(lambda c: accounts.newest_api_tokens(c, account, limit=MAX_TOKENS))
        return edge.answer(admin.ApiTokenList(tokens=[_token(exchange, row) for row in found]))

    @api.post(routes.ADMIN_API_TOKEN_REVOKE)
    async def revoke_api_token(request: Request, token: str) -> Response:
        access.admin(exchange, request)
        at_ms = exchange.now_ms
        row = await exchange.store.awrite(lambda c: accounts.revoke_api_token(c, token, at_ms=at_ms))
        exchange.forget_token(row.token_hash, row.buyer)
        return edge.answer(_token(exchange, row))

    @api.post(routes.ADMIN_JOIN_TOKENS)
    async def add_join_token(request: Request) -> Response:
        access.admin(exchange, request)
        asked = await edge.read(request, admin.JoinTokenRequest)
        now_ms = exchange.now_ms
        word = join_token.JoinToken(
            url=exchange.url,
            vkey=exchange.identity.vkey,
            tls=exchange.tls_fingerprint,
            secret=secrets.token_urlsafe(32),
            operator=asked.operator,
            bond_usd_micros=asked.bond_usd_micros,
        ).spell()
        expires_at_ms = now_ms + asked.ttl_s * 1000
        new = NewJoinToken(word, asked.operator, asked.bond_usd_micros, asked.uses, now_ms, expires_at_ms)
        await exchange.store.awrite(lambda c: accounts.add_join_token(c, new))
        expires_at = instants.spell(expires_at_ms / 1000)
        return edge.answer(admin.JoinTokenAnswer(token=word, expires_at=expires_at), 201)


def _add_nodes(api: APIRouter, exchange: Exchange) -> None:
    @api.get(routes.ADMIN_NODES)
    async def list_nodes(request: Request) -> Response:
        access.admin(exchange, request)
        return edge.answer(admin.NodeList(nodes=await exchange.store.aread(lambda c: _nodes(exchange, c))))

    @api.post(routes.ADMIN_NODE_REVOKE)
    async def revoke_node(request: Request, node: str) -> Response:
        access.admin(exchange, request)
        await exchange.store.awrite(lambda c: nodes.revoke(c, node, "revoked by the operator", at_ms=exchange.now_ms))
        await exchange.forget_nodes([node])
        exchange.bell.ring(DEADLINES)
        return edge.no_content()

    @api.post(routes.ADMIN_NODE_DRAIN)
    async def drain_node(request: Request, node: str) -> Response:
        access.admin(exchange, request)
        asked = await edge.read(request, admin.DrainRequest)
        await exchange.store.awrite(lambda c: nodes.drain(c, node, draining=asked.draining))
        exchange.roster.drain(node, draining=asked.draining)
        exchange.bell.ring(WORK, QUEUE)
        return edge.no_content()


def _add_looking_after(api: APIRouter, exchange: Exchange) -> None:
    backing_up = asyncio.Lock()

    @api.get(routes.ADMIN_LEDGER)
    async def read_ledger(request: Request) -> Response:
        access.admin(exchange, request)
        account = request.query_params.get("account")
        return edge.answer(await exchange.store.aread(lambda c: _ledger(c, account)))

    @api.post(routes.ADMIN_BACKUP)
    async def make_backup(request: Request) -> Response:
        access.admin(exchange, request)
        asked = await edge.read(request, admin.BackupRequest)
        target, quiet = Path(asked.directory), exchange.journal.paused()
        async with backing_up:
            made = await backup.make(exchange.settings.directory, target, quiet, asyncio.to_thread)
        body = admin.BackupMade(
            log_size=made.log_size, num_blobs=made.num_blobs, num_missing_blobs=made.num_missing_blobs
        )
        return edge.answer(body, 201)

    @api.put(routes.ADMIN_ROOT)
    async def publish_root(request: Request, digest: str) -> Response:
        access.admin(exchange, request)
        name = parse_digest(digest)
        await receive(exchange, request, name, blobs.ROOT, ROOT_QUOTA)
        await exchange.store.awrite(lambda c: blobs.publish_root(c, name))
        await exchange.read_root()
        return Response(status_code=201)

    @api.get(routes.ADMIN_BLOBS)
    async def count_blobs(request: Request) -> Response:
        access.admin(exchange, request)
        num_blobs, size_bytes = await exchange.store.aread(blobs.total)
        kept = {name: int(kept_s) for name, kept_s in asdict(exchange.settings.retention).items() if kept_s < math.inf}
        return edge.answer(admin.StorageUse(num_blobs=num_blobs, size_bytes=size_bytes, **kept))

    @api.get(routes.ADMIN_FAULTS)
    async def list_faults(request: Request) -> Response:
        access.admin(exchange, request)
        return edge.answer(admin.FaultList(faults=await exchange.store.aread(_faults)))


def _token(exchange: Exchange, row: ApiTokenRow) -> admin.ApiTokenView:
    used_at_ms = exchange.token_uses.get(row.token_hash, row.last_used_at_ms)
    return admin.ApiTokenView(
        id=row.id,
        account=bounds.shown(row.buyer),
        created_at=instants.spell(row.created_at_ms / 1000),
        last_used_at=instants.spell(used_at_ms / 1000) if used_at_ms is not None else None,
        revoked_at=instants.spell(row.revoked_at_ms / 1000) if row.revoked_at_ms is not None else None,
    )


def _faults(connection: Connection) -> list[admin.Fault]:
    return [
        admin.Fault(
            job=row.job,
            buyer=bounds.shown(row.buyer),
            message=row.message,
            at=instants.spell((row.finished_at_ms or row.submitted_at_ms) / 1000),
            refunded_usd_micros=row.escrow_usd_micros if row.settlement is Settlement.REFUNDED else 0,
        )
        for row in jobs.ended_for(connection, Reason.MARKET_FAULT)
    ]


def _nodes(exchange: Exchange, connection: Connection) -> list[admin.NodeView]:
    bonds = ledger.all_balances(connection)
    views = []
    now_s, steady_s = exchange.clock.now(), exchange.clock.steady()
    held = standings.held_against(connection, round(1000 * now_s))
    for row in nodes.all_nodes(connection):
        silent_s = exchange.roster.silent_s(row.node, steady_s)
        against = held.get(row.node, standings.HeldAgainst())
        views.append(
            admin.NodeView(
                node=row.node,
                operator=bounds.shown(row.operator),
                tier=row.tier.value,
                engine_class=bounds.shown(row.engine_class),
                state=exchange.roster.presence(row.node, steady_s).value,
                revoked=row.revoked_at_ms is not None,
                convicted=row.convicted_at_ms is not None,
                draining=exchange.roster.state(row.node) == "draining",
                suspended=against.is_suspended,
                canary=(exchange.canary_words.get(row.node) or None) if against.is_suspended else None,
                struck_by=against.num_buyers,
                voices_ppm=against.score_ppm,
                last_seen_at=instants.spell(now_s - silent_s) if silent_s is not None else None,
                leases=len(leases.live_of_node(connection, row.node)),
                bond_usd_micros=bounds.MONEY.clamp(bonds.get(operator_bond(row.operator), 0)),
                ask_usd_micros_per_hour=bounds.ASK.clamp(row.ask_usd_micros_per_hour),
                grade_ppm=exchange.directory.grade_of(row.node),
                name=exchange.roster.name(row.node),
            )
        )
    return views


def _ledger(connection: Connection, account: str | None) -> admin.LedgerPage:
    """Return the newest movements, of one account where one is named."""
    lines: list[admin.LedgerLine] = []
    if account is None:
        entries = ledger.newest(connection, limit=MAX_LEDGER_ENTRIES)
    else:
        entries = ledger.newest_of(connection, account, limit=MAX_LEDGER_ENTRIES)
    for number, entry in entries:
        if account == INSURANCE:
            lines += [_moved(number, entry, *way) for way in _causes(connection, entry)]
        else:
            lines += [_moved(number, entry, *way, entry.reason) for way in _ways(entry, account)]
    return admin.LedgerPage(balances=dict(ledger.all_balances(connection).items()), entries=lines)


def _causes(connection: Connection, entry: Entry) -> list[tuple[str, str, int, str]]:
    """Return what an entry moves into insurance or out of it, apart by what for: void, redo, forfeit, appeal, canary.

    Where the lines of the entry do not add up to it, for a bond held less than was taken of it, it is told whole.
    """
    ((source, target, usd_micros),) = _ways(entry, INSURANCE)
    moved = usd_micros if target == INSURANCE else -usd_micros
    other = source if target == INSURANCE else target
    parts: dict[str, int] = {}
    for reason, amount in _lines(connection, entry):
        parts[reason] = parts.get(reason, 0) + amount
    if sum(parts.values()) != moved:
        return [(source, target, usd_micros, entry.reason)]
    return [
        (other, INSURANCE, amount, reason) if amount > 0 else (INSURANCE, other, -amount, reason)
        for reason, amount in sorted(parts.items())
        if amount
    ]


def _lines(connection: Connection, entry: Entry) -> list[tuple[str, int]]:
    """Return reason and amount of the lines by which an entry moves insurance's money."""
    job = entry.job or ""
    if entry.key == escrow.settle_key(job):
        return [
            (line.reason, line.usd_micros) for line in readings.settlement(connection, job) if line.account == INSURANCE
        ]
    kept = [row.lines for row in canaries.of_job(connection, job)] if entry.key == escrow.probe_key(job) else []
    kept += [row.lines for row in disputes.of_job(connection, job) if entry.key == escrow.ruling_key(job, row.node)]
    told = [line for lines in kept for line in lines or () if line["account"] == INSURANCE]
    return [(str(line["reason"]), int(str(line["usd_micros"]))) for line in told]


def _ways(entry: Entry, account: str | None) -> list[tuple[str, str, int]]:
    """Return from where, to where and how much an entry moves: all of it, or what one account gives or takes."""
    if account is None:
        first = next(item for item in entry.postings if item.usd_micros < 0)
        return [(first.account, item.account, item.usd_micros) for item in entry.postings if item.usd_micros > 0]
    amount = next(item.usd_micros for item in entry.postings if item.account == account)
    others = [item.account for item in entry.postings if item.usd_micros * amount < 0]
    other = others[0] if len(others) == 1 else SEVERAL
    return [(other, account, amount) if amount > 0 else (account, other, -amount)]


def _moved(number: int, entry: Entry, source: str, target: str, usd_micros: int, reason: str) -> admin.LedgerLine:
    return admin.LedgerLine(
        seq=number,
        debit=bounds.shown(source),
        credit=bounds.shown(target),
        usd_micros=usd_micros,
        reason=reason,
        key=entry.key,
        job=entry.job,
    )
