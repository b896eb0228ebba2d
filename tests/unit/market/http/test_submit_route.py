"""The direct submit path: past the framework's layers, and yet each refusal is the application's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Scope
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.world import World

from stannary.errors import EnvironmentProblem
from stannary.market.http import app
from stannary.market.http.edge import Edge
from stannary.market.intake import admission
from stannary.wire import buyer as wire
from stannary.wire import limits, routes


async def post(edge: Any, headers: dict[str, str], body: bytes, *, chunk_bytes: int = 2**20) -> tuple[int, Any, str]:
    """Send a submit; return status, decoded body and request id."""
    sent: list[Message] = []
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)] or [b""]

    async def receive() -> Message:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(event: Message) -> None:
        sent.append(event)

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": routes.JOBS,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await edge(scope, receive, send)
    request_id = dict(sent[0]["headers"])[routes.REQUEST_ID.lower().encode()].decode()
    return sent[0]["status"], json.loads(sent[1]["body"]), request_id


class Desk:
    """One market with two operators' nodes, a buyer, and a signed order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.edge = app.build(*world.inside)

    async def furnish(self) -> Desk:
        """Let nodes join and sign an order."""
        for operator in ("north", "south"):
            await self.world.node(operator, run=False)
        self.ada = await self.world.buyer()
        await self.ada.put_blob(b"print('hello')\n")
        self.order = wire.Submit.of(await self.ada.order(command_spec())).to_bytes()
        self.headers = {**self.ada.headers, routes.IDEMPOTENCY_KEY: "key"}
        return self


def at_desk(directory: Path, scenario: Any) -> None:
    """Run a scenario at a furnished desk."""

    async def run() -> None:
        async with worlds.inside(directory, witness=False) as world:
            await scenario(await Desk(world).furnish())

    asyncio.run(run())


def test_the_path_is_direct(tmp_path: Path) -> None:
    """Submits are answered by the edge itself; no route of the framework has them."""

    async def scenario(desk: Desk) -> None:
        assert isinstance(desk.edge, Edge)
        assert list(desk.edge._direct) == [("POST", routes.JOBS)]
        status, body, _ = await post(desk.edge, desk.headers, desk.order)
        assert (status, body["status"]) == (200, "queued")

    at_desk(tmp_path, scenario)


def test_the_same_submit_is_answered_as_the_job_stands(tmp_path: Path) -> None:
    """Sent again, a submit is answered with the job as it is now; another order under its key is a conflict."""

    async def scenario(desk: Desk) -> None:
        _, first, one = await post(desk.edge, desk.headers, desk.order)
        await desk.ada.call("POST", routes.job(routes.JOB_CANCEL, first["id"]))
        await desk.ada.finished(first["id"])
        status, again, two = await post(desk.edge, desk.headers, desk.order)
        assert (status, again["id"], again["status"]) == (200, first["id"], "cancelled")
        assert one != two
        other = wire.Submit.of(await desk.ada.order(command_spec())).to_bytes()
        status, refused, request_id = await post(desk.edge, desk.headers, other)
        assert (status, refused["error"]["param"], refused["request_id"]) == (409, "idempotency-key", request_id)

    at_desk(tmp_path, scenario)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Authorization": ""}, 401, "E-AUTH"),
        ({"Authorization": "Bearer stk_nobody"}, 401, "E-AUTH"),
        ({routes.IDEMPOTENCY_KEY: ""}, 400, "E-USAGE"),
        ({routes.IDEMPOTENCY_KEY: "k" * 256}, 400, "E-USAGE"),
        ({routes.IDEMPOTENCY_KEY: "tab\tkey"}, 400, "E-USAGE"),
    ],
)
def test_headers_are_checked(tmp_path: Path, change: dict[str, str], status: int, code: str) -> None:
    """Without a valid token or idempotency key nothing is taken, and the error body says why."""

    async def scenario(desk: Desk) -> None:
        observed, body, request_id = await post(desk.edge, {**desk.headers, **change}, desk.order)
        assert (observed, body["error"]["code"], body["request_id"]) == (status, code, request_id)
        assert (await desk.ada.call("GET", routes.JOBS)).json()["jobs"] == []

    at_desk(tmp_path, scenario)


def test_bodies_are_bounded_and_parsed(tmp_path: Path) -> None:
    """A body is read up to its limit and no further; what is no order is refused with the member at fault."""

    async def scenario(desk: Desk) -> None:
        large = b" " * (limits.MAX_ENVELOPE_BODY_BYTES + 1)
        assert (await post(desk.edge, desk.headers, large))[0] == 413
        for body in (b"", b"[]", b'{"envelope": {}}', b"\xff", desk.order[:-1], b'{"x": 1}'):
            status, answer, _ = await post(desk.edge, desk.headers, body)
            assert (status, answer["error"]["code"]) == (400, "E-FORMAT"), body
        assert (await post(desk.edge, desk.headers, desk.order, chunk_bytes=7))[0] == 200  # however it is cut

    at_desk(tmp_path, scenario)


def test_a_disk_that_fails_is_said_with_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 500 of the direct path has a request id that stands in the log with its trace."""

    async def fail(*_: Any) -> admission.AcceptedJob:
        raise EnvironmentProblem("the market cannot write to its disk", why="EIO")

    async def scenario(desk: Desk) -> None:
        monkeypatch.setattr(admission, "submit", fail)
        status, body, request_id = await post(desk.edge, desk.headers, desk.order)
        assert (status, body["error"]["code"], body["request_id"]) == (500, "E-ENVIRONMENT", request_id)

    at_desk(tmp_path, scenario)
