"""Routes about disputed bonds: what stands open, and the file by which anybody can check what was ruled.

A ruling file holds the job's receipt: it is for the job's buyer, for nodes whose bond it is about or whose money it
moves, and for the market's operator, who hands it to whom it may concern.
"""

from __future__ import annotations

import asyncio
import hmac

from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from stannary.errors import NotFound
from stannary.formats import bounds, instants
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.states import DisputeStage, is_terminal
from stannary.market.engine import ruling
from stannary.market.exchange import Exchange
from stannary.market.http import access, edge
from stannary.store import disputes, jobs, nodes
from stannary.wire import buyer as wire
from stannary.wire import node as node_wire
from stannary.wire import routes


def router(exchange: Exchange) -> APIRouter:
    """Return the routes."""
    api = APIRouter()

    @api.get(routes.JOB_DISPUTES)
    async def listed(request: Request, job: str) -> Response:
        buyer = None if _is_admin(exchange, request) else await access.buyer(exchange, request)
        found = await exchange.store.aread(lambda c: _of_job(c, job, buyer, _appeal_s(exchange), exchange.now_ms))
        return edge.answer(wire.DisputeList(disputes=found))

    @api.get(routes.JOB_RULING)
    async def ruled(request: Request, job: str, node: str) -> Response:
        who = None if _is_admin(exchange, request) else await access.buyer_or_node(exchange, request)

        stated = await exchange.store.aread(lambda c: ruling.stated(c, job, node))
        index = await exchange.journal.logged(stated) if stated is not None else None

        def read(connection: Connection) -> ruling.Dossier:
            if who is not None and not _is_party(connection, job, node, who):
                raise NotFound("no such dispute of yours", why=f"{node} in {job}")
            return ruling.dossier(connection, job, node, index)

        made = await exchange.store.aread(read)
        receipt = exchange.blobs.whole(made.receipt_blob)
        data = await asyncio.to_thread(ruling.file_bytes, made, receipt, exchange.log)
        return Response(data, media_type=edge.JSON)

    return api


def of_node(connection: Connection, node: str, appeal_s: float, now_ms: int) -> list[node_wire.DisputedHere]:
    """Return what is disputed of a node's bond and not decided."""
    return [
        node_wire.DisputedHere(
            job=row.job,
            task=row.task,
            stage=row.stage.value,
            bond_usd_micros=bounds.MONEY.clamp(row.bond_usd_micros),
            until=_until(row, appeal_s, now_ms),
        )
        for row in disputes.waiting(connection, node)
    ]


def _of_job(
    connection: Connection, job: str, buyer: str | None, appeal_s: float, now_ms: int
) -> list[wire.DisputeView]:
    if buyer is not None and jobs.get(connection, job).buyer != buyer:
        raise NotFound("no such job of yours", why=job)
    return [
        wire.DisputeView(
            node=row.node,
            operator=bounds.shown(nodes.get(connection, row.node).operator),
            task=row.task,
            stage=row.stage.value,
            bond_usd_micros=bounds.MONEY.clamp(row.bond_usd_micros),
            opened_at=instants.spell(row.opened_at_ms / 1000),
            until=_until(row, appeal_s, now_ms),
            is_ruled=is_terminal(row.stage) and row.ruling is not None,
        )
        for row in disputes.of_job(connection, job)
    ]


def _until(row: DisputeRow, appeal_s: float, now_ms: int) -> str | None:
    """Return until when a hearing is offered at least; what was not yet noted of its window comes off."""
    if row.stage is not DisputeStage.HEARING:
        return None
    return instants.spell(now_ms / 1000 + max(appeal_s - row.listened_s, 0.0))


def _is_party(connection: Connection, job: str, node: str, who: tuple[str, bool]) -> bool:
    name, is_node = who
    if not is_node:
        return jobs.get(connection, job).buyer == name
    row = next((item for item in disputes.of_job(connection, job) if item.node == node), None)
    if row is None or row.node == name:
        return row is not None
    account = f"operator:{nodes.get(connection, name).operator}"
    return any(line["account"] == account or line["task"] == name for line in row.lines or ())


def _is_admin(exchange: Exchange, request: Request) -> bool:
    if not hmac.compare_digest(edge.bearer(request).encode(), exchange.identity.admin_token.encode()):
        return False
    access.admin(exchange, request)
    return True


def _appeal_s(exchange: Exchange) -> float:
    return exchange.settings.timing.appeal_s
