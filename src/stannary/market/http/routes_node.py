"""Routes of nodes: joining, sessions, heartbeats, leases and what is handed in under them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from stannary.errors import ConflictError, NotFound
from stannary.formats import bounds, dsse, instants
from stannary.jobs.course.state import ONE_PIECE, JobOrder, LeaseRow
from stannary.jobs.states import LeaseState
from stannary.market.engine import giving, loading
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.http import access, edge, routes_disputes
from stannary.market.intake import answers, grading, joining, readings, work
from stannary.market.intake.statements import Intake
from stannary.market.topics import QUEUE, WORK, job_topic, logs_topic, node_topic
from stannary.rules.reasons import Reason
from stannary.store import envelopes, leases, loglines, tasks
from stannary.store.loglines import LineSource, NewLine
from stannary.store.transitions import Cause
from stannary.wire import buyer as buyer_wire
from stannary.wire import errors as wire_errors
from stannary.wire import limits, message, node, routes

MAX_JOIN_BYTES = 64 * 1024  # of who is not known yet: a site of hundreds of members fits
MAX_PROOF_BYTES = 4096
MAX_PRINTING = 10_000  # leases whose lines sent again are known for such: a retry comes within minutes
PATIENCE_S = 5.0  # how often a waiting node is looked at when nothing rings

Taker = Callable[[Intake, str, str, dsse.Envelope], Awaitable[int]]


def router(exchange: Exchange, engines: Engines) -> APIRouter:
    """Return the nodes' routes."""
    api = APIRouter()
    intake = Intake(exchange, engines)
    _add_sessions(api, exchange)
    _add_leases(api, exchange, engines)
    _add_reports(api, exchange, engines)
    _add_power(api, exchange)
    _add_partial(api, intake)
    takers: dict[str, Taker] = {
        routes.LEASE_COMMITMENT: work.commitment,
        routes.LEASE_CONTRIBUTION: work.contribution,
        routes.LEASE_ANSWER_COMMITMENT: answers.answer_commitment,
        routes.LEASE_ANSWER: answers.answer,
    }
    for path, take in takers.items():
        api.add_api_route(path, _statement_route(intake, take), methods=["POST"])

    @api.post(routes.LEASE_READING)
    async def reading(request: Request, lease: str) -> Response:
        holder = await access.node(exchange, request)
        signed = await edge.read(request, node.ReadingSubmit)
        await readings.reading(intake, holder, lease, signed.envelope.open())
        return edge.no_content()

    return api


def _add_partial(api: APIRouter, intake: Intake) -> None:
    @api.post(routes.LEASE_PARTIAL)
    async def partial(request: Request, lease: str) -> Response:
        holder = await access.node(intake.exchange, request)
        await work.partial(intake, holder, lease, await edge.read(request, node.Partial))
        return edge.no_content()


def _statement_route(intake: Intake, take: Taker) -> Callable[[Request, str], Awaitable[Response]]:
    async def handed_in(request: Request, lease: str) -> Response:
        holder = await access.node(intake.exchange, request)
        signed = await edge.read(request, message.Signed, max_bytes=limits.MAX_ENVELOPE_BODY_BYTES)
        index = await take(intake, holder, lease, signed.envelope.open())
        return edge.answer(buyer_wire.Accepted(log_index=index))

    return handed_in


def _add_sessions(api: APIRouter, exchange: Exchange) -> None:
    @api.post(routes.JOIN)
    async def join(request: Request) -> Response:
        joined = await joining.join(exchange, await edge.read(request, node.JoinRequest, max_bytes=MAX_JOIN_BYTES))
        exchange.bell.ring(QUEUE)
        return edge.answer(joined, 201)

    @api.post(routes.SESSION_CHALLENGE)
    async def challenge(request: Request) -> Response:
        asked = await edge.read(request, node.ChallengeRequest, max_bytes=MAX_PROOF_BYTES)
        return edge.answer(await joining.challenge(exchange, asked.node))

    @api.post(routes.SESSIONS)
    async def session(request: Request) -> Response:
        asked = await edge.read(request, node.SessionRequest, max_bytes=MAX_PROOF_BYTES)
        opened = await joining.open_session(exchange, asked)
        edge.prove(request, f"node:{asked.node}")
        return edge.answer(opened, 201)


def _add_leases(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    @api.post(routes.HEARTBEAT)
    async def heartbeat(request: Request) -> Response:
        holder = await access.node(exchange, request)
        beat = await edge.read(request, node.Heartbeat)
        came_back = exchange.roster.beat(holder, beat.state.value, exchange.clock.steady())
        exchange.roster.call(holder, beat.name)
        if came_back is not None:
            exchange.bell.ring(WORK, QUEUE)
        appeal_s, now_ms = exchange.settings.timing.appeal_s, exchange.now_ms
        live, disputed = await exchange.store.aread(
            lambda c: (leases.live_of_node(c, holder), routes_disputes.of_node(c, holder, appeal_s, now_ms))
        )
        held, at_work = {item.lease for item in live}, {item.job for item in live}  # an appeal's is of an ended job
        drop = [item for item in beat.leases if item not in held]
        since_ms = now_ms - work.PARTIAL_MS
        stopped = await exchange.store.aread(lambda c: leases.stopped(c, holder, since_ms=since_ms)) if drop else []
        ended = [job for job in beat.jobs if job not in engines.orders and job not in at_work]
        interval_s = exchange.settings.timing.heartbeat_s
        now = instants.spell(exchange.clock.now())
        is_held = exchange.directory.get(holder).is_suspended
        if beat.wants_canary and is_held:
            exchange.canary_wishes.add(holder)
        said = node.HeartbeatAnswer(
            drop=drop,
            stopped=[item.lease for item in stopped if item.lease in drop],
            interval_s=interval_s,
            ended=ended,
            now=now,
            suspended=is_held,
            canary=exchange.canary_words.get(holder) or None,
            disputes=disputed,
        )
        return edge.answer(said)

    @api.post(routes.LEASE_NEXT)
    async def next_lease(request: Request) -> Response:
        holder = await access.node(exchange, request)
        asked = await edge.read(request, node.NextLease)
        until = exchange.clock.steady() + min(asked.wait_s, limits.MAX_WAIT_S)
        while True:
            mark = exchange.bell.mark()
            found = await _next(exchange, engines, holder, asked)
            if isinstance(found, node.PowerTest):
                return edge.answer(found, 202)
            if found is not None:
                return edge.answer(await _view(exchange, found))
            left_s = until - exchange.clock.steady()
            if left_s <= 0 or await request.is_disconnected():
                return edge.no_content()
            # a lane's task becomes anybody's with time, which rings nothing: look again now and then
            await exchange.bell.wait(mark, min(left_s, PATIENCE_S), node_topic(holder), WORK)
            await access.still_node(exchange, request)


def _add_power(api: APIRouter, exchange: Exchange) -> None:
    @api.post(routes.POWER_NEXT)
    async def asked(request: Request) -> Response:
        holder = await access.node(exchange, request)
        live = await exchange.store.aread(lambda c: leases.live_of_node(c, holder))
        is_due = grading.is_due(exchange, holder) and not live
        return edge.answer(grading.test(exchange, holder)) if is_due else edge.no_content()

    @api.post(routes.POWER)
    async def shown(request: Request) -> Response:
        holder = await access.node(exchange, request)
        answer = await edge.read(request, node.PowerAnswer, max_bytes=limits.MAX_ENVELOPE_BODY_BYTES)
        graded = await grading.take(exchange, holder, answer, exchange.clock.steady())
        exchange.bell.ring(WORK, QUEUE)
        return edge.answer(graded)


async def _view(exchange: Exchange, lease: LeaseRow) -> node.Lease:
    return giving.view(lease, await exchange.store.aread(lambda c: tasks.get(c, lease.task)))


async def _next(
    exchange: Exchange, engines: Engines, holder: str, asked: node.NextLease
) -> LeaseRow | node.PowerTest | None:
    """Return the oldest lease of the node it does not know of, or a new piece of work.

    Where a test of its power is due it gets that in place of work, and nothing new before it has shown its power.
    """
    exchange.roster.touch(holder, exchange.clock.steady())
    live = await exchange.store.aread(lambda c: leases.live_of_node(c, holder))
    unknown = next((item for item in live if item.lease not in asked.have), None)
    if unknown is not None or any(item.type in ONE_PIECE for item in live):
        return unknown
    if grading.is_due(exchange, holder):
        return grading.test(exchange, holder) if asked.tests and not live else None
    granted = await engines.mover.give(holder)
    if granted is not None:
        exchange.bell.ring(job_topic(granted.job), QUEUE)
    return granted


def _add_reports(api: APIRouter, exchange: Exchange, engines: Engines) -> None:
    kept_lines: OrderedDict[str, int] = OrderedDict()  # of each lease, the one written to last at the end

    @api.post(routes.LEASE_LOGS)
    async def logs(request: Request, lease: str) -> Response:
        holder = await access.node(exchange, request)
        upload = await edge.read(request, node.LogUpload, max_bytes=4 * limits.MAX_BODY_BYTES)
        held = await _held(exchange, holder, lease, or_stopped=True)
        known = max(kept_lines.get(lease, 0) - upload.first_seq, 0)
        span = bounds.Range(
            held.granted_at_ms, max(exchange.now_ms, held.granted_at_ms)
        )  # of the lease: node's clocks vary
        fresh = [
            NewLine(span.clamp(instants.parse(line.at) * 1000), line.stream, line.text) for line in upload.lines[known:]
        ]
        if fresh:
            source = LineSource(held.job, held.task, holder)
            await exchange.store.awrite(lambda c: loglines.append(c, source, fresh))
            kept_lines[lease] = upload.first_seq + len(upload.lines)
            kept_lines.move_to_end(lease)
            if len(kept_lines) > MAX_PRINTING:
                kept_lines.popitem(last=False)
            exchange.bell.ring(logs_topic(held.job))
        return edge.no_content()

    @api.post(routes.LEASE_PROGRESS)
    async def progress(request: Request, lease: str) -> Response:
        holder = await access.node(exchange, request)
        report = await edge.read(request, node.ProgressReport)
        engines.mover.hear(await _held(exchange, holder, lease), report.phase, report.step)
        return edge.no_content()

    @api.post(routes.LEASE_FAIL)
    async def fail(request: Request, lease: str) -> Response:
        holder = await access.node(exchange, request)
        failure = await edge.read(request, node.Failure)

        async def give_up() -> str:
            held = await _held(exchange, holder, lease)
            return await engines.mover.report(engines.orders.get(held.job), lease, failure)

        job = await engines.holds.alone(lease, give_up)
        exchange.bell.ring(job_topic(job), WORK, logs_topic(job))
        return edge.no_content()

    @api.post(routes.LEASE_RELEASE)
    async def release(request: Request, lease: str) -> Response:
        holder = await access.node(exchange, request)

        async def hand_back() -> str:
            held = await _held(exchange, holder, lease)
            cause = Cause(exchange.now_ms, Reason.RELEASED, f"{held.task} is handed back by {holder}")
            await exchange.store.awrite(lambda c: leases.end(c, lease, LeaseState.RELEASED, cause))
            return held.job

        exchange.bell.ring(job_topic(await engines.holds.alone(lease, hand_back)), WORK)
        return edge.no_content()

    @api.get(routes.JOB_MANIFEST)
    async def manifest(request: Request, job: str) -> Response:
        holder = await access.node(exchange, request)
        live = await exchange.store.aread(lambda c: leases.live_of_node(c, holder))
        if all(item.job != job for item in live):
            raise NotFound("no such job of yours", why=job)
        order = await exchange.store.aread(lambda c: loading.order(c, job))  # which an appeal's lease outlives
        return edge.answer(await exchange.store.aread(lambda c: _manifest(c, order)))


async def _held(exchange: Exchange, holder: str, lease: str, *, or_stopped: bool = False) -> LeaseRow:
    row = await exchange.store.aread(lambda c: leases.get(c, lease))
    if row.node != holder:
        raise NotFound("no such lease", why=lease, detail=wire_errors.NOT_YOUR_LEASE)
    if row.state is not LeaseState.GRANTED:
        if or_stopped:
            return await exchange.store.aread(lambda c: work.stopped_lease(c, holder, lease, exchange.now_ms))
        raise ConflictError(
            "this lease has ended",
            why=f"{lease} is {row.state}: {row.reason}",
            hint="drop the work and ask for the next lease",
            detail=wire_errors.STALE_EPOCH,
        )
    return row


def _manifest(connection: Connection, order: JobOrder) -> buyer_wire.JobManifest:
    envelope = dsse.from_bytes(envelopes.order_of(connection, order.job))
    files = order.spec.workdir
    setup = next((item.digest for item in files if item.path == order.spec.setup), None)
    return buyer_wire.JobManifest(
        job=message.Signed.of(envelope),
        workdir=[
            buyer_wire.ManifestFile(path=i.path, mode=i.mode, digest=i.digest, size_bytes=i.size_bytes) for i in files
        ],
        inputs=[
            buyer_wire.ManifestInput(name=name, digest=item.digest, size_bytes=item.size_bytes)
            for name, item in sorted(order.spec.inputs.items())
        ],
        environment=setup,
    )
