"""The edge of the application: every answer has an id, and no failure goes without its trace in the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from stannary.errors import EnvironmentProblem, NotFound, ServiceError, StannaryError
from stannary.market.http.edge import Edge, read_bytes
from stannary.market.http.rates import BURST_S, PARTY_RATE, Rates, body_units
from stannary.wire import errors as wire_errors

PATH = "/v1/jobs"


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail before an answer is begun."""
    raise ZeroDivisionError("of the framework's own")


def ask(edge: Edge, path: str = PATH) -> list[Message]:
    """Send one request; return what came back."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Message) -> None:
        sent.append(event)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(edge(scope, receive, send))
    return sent


def edge_that(serve: Callable[[Request], Awaitable[Response]]) -> Edge:
    """Return an edge whose direct path is served so."""
    return Edge(no_app, {("POST", PATH): serve})


def raising(err: BaseException) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that raises."""

    async def serve(request: Request) -> Response:
        raise err

    return serve


@pytest.mark.parametrize("err", [KeyError("inside"), EnvironmentProblem("no disk", why="EIO"), StannaryError("odd")])
def test_a_500_leaves_its_trace_under_the_id_its_client_sees(err: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ends in a 500 is logged with a traceback and the request id of header, body and raised error."""
    with caplog.at_level(logging.ERROR, "stannary.market"):
        start, body = ask(edge_that(raising(err)))
    assert start["status"] == 500
    request_id = dict(start["headers"])[b"x-request-id"].decode()
    assert json.loads(body["body"])["request_id"] == request_id
    (record,) = [item for item in caplog.records if request_id in item.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[1] is err
    told = wire_errors.from_body(500, body["body"])
    assert request_id in f"{told.why} {told.hint}"
    assert "inside" not in body["body"].decode()


@pytest.mark.parametrize("headers", [[(b"content-length", b"1000000")], [(b"transfer-encoding", b"chunked")]])
def test_a_large_body_is_charged_whether_it_says_its_length_or_not(headers: list[tuple[bytes, bytes]]) -> None:
    """A party pays for what it sends; who leaves the length out is stopped where his bucket is empty."""
    pieces = [bytes(10_000)] * 100

    async def scenario() -> tuple[float, int]:
        rates, taken = Rates(lambda: 0.0), 0

        async def receive() -> Message:
            nonlocal taken
            taken += 1
            return {"type": "http.request", "body": pieces[taken - 1], "more_body": taken < len(pieces)}

        scope: Scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}
        scope |= {"stannary.rates": rates, "stannary.party": "buyer:eve"}
        await read_bytes(Request(scope, receive), 2_000_000)
        paid, taken = PARTY_RATE * BURST_S - rates._left["buyer:eve"][0], 0
        rates.charge("buyer:eve", PARTY_RATE * BURST_S - paid - 100, PARTY_RATE)
        with contextlib.suppress(ServiceError):
            for _ in range(2):
                await read_bytes(Request(scope, receive), 2_000_000)
        return paid, taken

    paid, taken = asyncio.run(scenario())
    assert paid == pytest.approx(body_units(1_000_000))
    assert taken == len(pieces) if headers[0][0] == b"content-length" else taken < 30  # announced, it is overdrawn once


def test_a_refusal_is_not_logged_as_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """What the client did wrong leaves no error in the market's log."""
    with caplog.at_level(logging.INFO, "stannary.market"):
        start, _ = ask(edge_that(raising(NotFound("no such job"))))
    assert start["status"] == 404
    assert not caplog.records


def test_a_request_that_breaks_outside_its_endpoint_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """A failure of the framework itself is answered with our body and an id, not with the server's bare 500."""
    start, body = ask(edge_that(raising(NotFound("unused"))), "/elsewhere")
    assert start["status"] == 500
    assert json.loads(body["body"])["error"]["code"] == "E-GENERAL"
    assert json.loads(body["body"])["request_id"] in caplog.text


def test_a_request_cut_off_by_a_stop_is_told_to_come_again() -> None:
    """A request the stopping server waits no longer for is answered 502, which clients retry, not 500."""
    sent: list[Message] = []

    async def scenario() -> None:
        begun = asyncio.Event()

        async def serve(request: Request) -> Response:
            begun.set()
            await asyncio.sleep(3600)
            raise AssertionError("unreachable")

        async def send(event: Message) -> None:
            sent.append(event)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope: Scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "query_string": b""}
        serving = asyncio.create_task(edge_that(serve)(scope, receive, send))
        await begun.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(scenario())
    assert sent[0]["status"] == 502
    assert json.loads(sent[1]["body"])["error"]["message"] == "the market is stopping"
