"""Routes of buyers: quotes, jobs, events, logs, beacon, results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from stannary.errors import FormatError, JobNotFinished, NotFound
from stannary.formats import bounds, instants
from stannary.formats.digest import Digest
from stannary.jobs.states import is_terminal
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.http import access, edge, views
from stannary.market.intake import admission, reveals
from stannary.market.intake.statements import Intake
from stannary.market.topics import account_topic, job_topic, logs_topic, seen_topic
from stannary.store import audits, events, jobs, loglines
from stannary.store.jobs import JobRow
from stannary.wire import buyer as wire
from stannary.wire import limits, routes

DEFAULT_PAGE = 50
MAX_SEQ = 2**53 - 1

T = TypeVar("T")


def router(exchange: Exchange, engines: Engines) -> APIRouter:
    """Return the buyers' routes."""
    api = APIRouter()
    _add_orders(api, exchange, engines)
    _add_watching(api, exchange, engines)
    _add_results(api, exchange, engines)
    _add_beacon(api, exchange, engines)
    return api


def submitting(exchange: Exchange, engines: Engines) -> edge.Endpoint:
    """Return what takes jobs: a plain endpoint, since nothing of the request is injected and this path is measured."""

    async def submit(request: Request) -> Response:
        buyer = await access.buyer(exchange, request)
        engines.check_room(buyer)
        key = request.headers.get(routes.IDEMPOTENCY_KEY, "")
        signed = await edge.read(request, wire.Submit, max_bytes=limits.MAX_ENVELOPE_BODY_BYTES)
        accepted = await admission.submit(exchange, engines, buyer, key, signed)
        if accepted.view is not None:
            return edge.answer(accepted.view)
        return edge.answer(await exchange.store.aread(lambda c: _view(c, accepted.job, buyer)))

    return submit


def _add_orders(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    @api.post(routes.QUOTES)
    async def quote(request: Request) -> Response:
        await access.buyer(exchange, request)
        asked = await edge.read(request, wire.QuoteRequest, max_bytes=limits.MAX_ENVELOPE_BODY_BYTES)
        return edge.answer(admission.quote(exchange, asked.spec))

    @api.get(routes.OFFERS)
    async def offers(request: Request) -> Response:
        await access.buyer(exchange, request)
        return edge.answer(wire.Offers(offers=admission.offers(exchange)))

    @api.get(routes.JOBS)
    async def listing(request: Request) -> Response:
        buyer = await access.buyer(exchange, request)
        limit = edge.integer(request.query_params, "limit", DEFAULT_PAGE, limits.MAX_PAGE_ITEMS)
        before = _cursor(request.query_params.get("cursor"))
        page = await exchange.store.aread(lambda c: _page(c, buyer, max(limit, 1), before))
        return edge.answer(page.model_copy(update={"jobs": [_waiting(engines, view) for view in page.jobs]}))


def _add_watching(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    @api.get(routes.JOB)
    async def view(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        return edge.answer(_waiting(engines, await exchange.store.aread(lambda c: _view(c, job, buyer))))

    @api.get(routes.JOB_EVENTS)
    async def read_events(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        query = request.query_params
        after = edge.integer(query, "after", 0, MAX_SEQ)
        limit = edge.integer(query, "limit", events.MAX_PAGE, events.MAX_PAGE)

        def read(connection: Connection) -> list[events.Event]:
            _own(connection, job, buyer)
            return events.after(connection, job, after, limit=max(limit, 1))

        found = await _poll(exchange, request, _news(job), lambda: exchange.store.aread(read))
        return edge.answer(
            wire.EventPage(events=[views.event(item) for item in found], next=found[-1].seq if found else after)
        )

    @api.get(routes.JOB_LOGS)
    async def read_logs(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        query = request.query_params
        after = edge.integer(query, "after", 0, MAX_SEQ)
        tail = edge.integer(query, "tail", 0, loglines.MAX_PAGE)
        since = query.get("since")
        since_ms = instants.parse(since) * 1000 if since is not None else None

        def read(connection: Connection) -> list[loglines.Line]:
            _own(connection, job, buyer)
            start = max(after, loglines.tail_start(connection, job, tail)) if tail else after
            return loglines.after(connection, job, start, since_ms=since_ms)

        found = await _poll(exchange, request, (logs_topic(job),), lambda: exchange.store.aread(read))
        return edge.answer(
            wire.LogPage(lines=[views.line(item) for item in found], next=found[-1].seq if found else after)
        )


def _add_results(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    @api.post(routes.JOB_CANCEL)
    async def cancel(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        await exchange.store.aread(lambda c: _own(c, job, buyer))
        await engines.cancel(job)
        return edge.answer(await exchange.store.aread(lambda c: _view(c, job, buyer)))

    @api.get(routes.JOB_COST)
    async def cost(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        return edge.answer(await exchange.store.aread(lambda c: views.cost(c, _own(c, job, buyer))))

    @api.get(routes.JOB_OUTPUTS)
    async def outputs(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)

        return edge.answer(await exchange.store.aread(lambda c: views.outputs(c, _own(c, job, buyer))))

    @api.get(routes.JOB_RECEIPT)
    async def receipt(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        row = await exchange.store.aread(lambda c: _own(c, job, buyer))
        if row.receipt is None and is_terminal(row.status):  # market-fault: there is nothing to state
            hint = "nothing more comes of it; submit the job again"
            raise JobNotFinished("this job ended without a receipt", why=row.message, hint=hint)
        if row.receipt is None:
            raise JobNotFinished("the job has no receipt yet", why=f"it is {row.status}", hint=f"stannary wait {job}")
        return Response(exchange.blobs.whole(Digest(row.receipt)), media_type=edge.JSON)


def _add_beacon(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    intake = Intake(exchange, engines)

    @api.get(routes.JOB_BEACON)
    async def owed(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)

        def read(connection: Connection) -> list[wire.BeaconRequest]:
            _own(connection, job, buyer)
            return _owed(connection, job)

        found = await _poll(
            exchange, request, _news(job), lambda: exchange.store.aread(read), go_on=lambda: job in engines.orders
        )
        return edge.answer(found[0]) if found else edge.no_content()

    @api.post(routes.JOB_BEACON)
    async def reveal(request: Request, job: str) -> Response:
        buyer = await access.buyer(exchange, request)
        signed = await edge.read(request, wire.RevealSubmit)
        return edge.answer(wire.Accepted(log_index=await reveals.reveal(intake, buyer, job, signed.envelope.open())))


async def _poll(
    exchange: Exchange,
    request: Request,
    topics: tuple[str, ...],
    look: Callable[[], Awaitable[list[T]]],
    go_on: Callable[[], bool] = lambda: True,
) -> list[T]:
    """Look until there is something, or the poll's time is over, or nothing can come any more.

    Raises:
        AuthError: the token it came with was revoked meanwhile.
    """
    account = account_topic(await access.still_buyer(exchange, request))
    until = exchange.clock.steady() + edge.wait_s(request.query_params)
    while True:
        mark = exchange.bell.mark()
        found = await look()
        left_s = until - exchange.clock.steady()
        if found or left_s <= 0 or not go_on() or await request.is_disconnected():
            return found
        await exchange.bell.wait(mark, left_s, account, *topics)
        await access.still_buyer(exchange, request)


def _news(job: str) -> tuple[str, ...]:
    return job_topic(job), seen_topic(job)


def _owed(connection: Connection, job: str) -> list[wire.BeaconRequest]:
    drawn = audits.draws_of_job(connection, job)
    if not drawn or drawn[-1].value is not None:
        return []
    last = drawn[-1]
    listed = audits.candidates_of(connection, job, last.number)
    if listed is None or listed.log_index is None or listed.inclusion is None:
        return []
    request = wire.BeaconRequest(
        index=last.number,
        checkpoint=last.checkpoint,
        old_size=drawn[-2].checkpoint_size if len(drawn) > 1 else 0,
        consistency=list(last.consistency),
        candidates=listed.leaf,
        candidates_index=listed.log_index,
        inclusion=list(listed.inclusion),
    )
    return [request]


def _own(connection: Connection, job: str, buyer: str) -> JobRow:
    """Return a job of this buyer; another's is not found, as one that does not exist."""
    row = jobs.get(connection, job)
    if row.buyer != buyer:
        raise NotFound("no such job", why=job, hint="stannary ls")
    return row


def _view(connection: Connection, job: str, buyer: str) -> wire.JobView:
    row = _own(connection, job, buyer)
    return views.job(connection, row)


def _waiting(engines: Engines, view: wire.JobView) -> wire.JobView:
    """Return a view with what its job waits for, as of its last move."""
    if view.finished_at is not None:
        return view
    return view.model_copy(update={"waits": views.waits(engines.waits_of(view.id))})


def _page(connection: Connection, buyer: str, limit: int, before: tuple[int, str] | None) -> wire.JobPage:
    rows = jobs.of_buyer(connection, buyer, limit=limit, before=before)
    following = f"{rows[-1].submitted_at_ms}.{rows[-1].job}" if len(rows) == min(limit, jobs.MAX_PAGE) else None
    return wire.JobPage(jobs=[views.job(connection, row) for row in rows], next=following)


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    at, _, job = text.partition(".")
    if not at.isascii() or not at.isdigit() or len(at) > 16 or not bounds.JOB.fits(job):
        raise FormatError("not a cursor", why=f"{text!r:.80}", detail="cursor")
    return int(at), job
