"""A whole market for a test: the application in this process or a process of its own, nodes, a buyer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from tests.integration.market.fake_buyer import FakeBuyer
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.quiet import QuietClock

from stannary.formats.note import parse_vkey
from stannary.market.clock import Clock, SystemClock
from stannary.market.http import app, server
from stannary.market.settings import Settings, Timing
from stannary.wire import admin, message, routes
from stannary.wire import errors as wire_errors

BOND = 5_000_000
QUICK = Timing(answer_floor_s=3.0, answer_factor=0.1, start_link_s=1.0, sweep_s=0.1, progress_s=1.0)
# of a market whose time is the machine's: however loaded it is, an honest node is not late
PATIENT = Timing(answer_floor_s=120.0, start_link_s=60.0, sweep_s=0.1, progress_s=60.0)


@dataclass
class World:
    """One market and who is on it."""

    url: str
    vkey: str
    witness_vkeys: tuple[str, ...]
    admin_token: str
    transport: httpx2.AsyncBaseTransport | None = None
    nodes: list[FakeNode] = field(default_factory=list)
    buyers: list[FakeBuyer] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    inside: Any = None  # (exchange, engines) of a market in this process
    clock: Clock = field(default_factory=SystemClock)

    async def admin(self, method: str, path: str, body: message.Message | None = None) -> httpx2.Response:
        """Call an operator's route."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        async with httpx2.AsyncClient(base_url=self.url, transport=self.transport, timeout=60.0) as client:
            content = body.to_bytes() if body is not None else None
            response = await client.request(method, path, content=content, headers=headers)
        if response.status_code >= 400:
            raise wire_errors.from_body(response.status_code, response.content)
        return response

    async def join_token(self, operator: str, bond: int = BOND, uses: int = 1) -> str:
        """Return a fresh join token."""
        asked = admin.JoinTokenRequest(operator=operator, bond_usd_micros=bond, uses=uses)
        response = await self.admin("POST", routes.ADMIN_JOIN_TOKENS, asked)
        return message.read(admin.JoinTokenAnswer, response.content).token

    async def node(self, operator: str, cls: type[FakeNode] = FakeNode, *, run: bool = True, **more: Any) -> FakeNode:
        """Let a node join and serve."""
        made = cls(self.url, operator, transport=self.transport, clock=self.clock, **more)
        await made.join(await self.join_token(operator))
        self.nodes.append(made)
        if run:
            self.tasks.append(asyncio.create_task(made.run()))
        return made

    async def buyer(
        self, name: str = "ada", deposit: int = 10_000_000, *, cls: type[FakeBuyer] = FakeBuyer
    ) -> FakeBuyer:
        """Open an account."""
        asked = admin.ApiTokenRequest(name=name, deposit_usd_micros=deposit)
        token = message.read(admin.ApiToken, (await self.admin("POST", routes.ADMIN_API_TOKENS, asked)).content).token
        made = cls(self.url, token, transport=self.transport, clock=self.clock)
        self.buyers.append(made)
        return made

    def start(self, work: Any) -> None:
        """Run something beside the test until its end."""
        self.tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """End nodes and brokers; what one of them died of before is raised, it explains what the others did."""
        ended = [task for task in self.tasks if task.done() and not task.cancelled()]
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for party in (*self.nodes, *self.buyers):
            await party.client.aclose()
        for task in ended:
            task.result()


@asynccontextmanager
async def inside(directory: Path, timing: Timing = QUICK, **more: Any) -> AsyncIterator[World]:
    """Run a market in this process, without a socket, on a clock that no load of the machine moves."""
    settings, clock = Settings(directory=directory, timing=timing, **more), QuietClock()
    async with clock.ticking(), server.opened(settings, clock) as (exchange, engines):
        clock.watch(exchange)
        exchange.url = "http://127.0.0.1"
        transport = httpx2.ASGITransport(app=app.build(exchange, engines))
        owner = exchange.identity
        world = World(exchange.url, owner.vkey, exchange.witness_vkeys, owner.admin_token, transport)
        world.inside, world.clock = (exchange, engines), clock
        try:
            yield world
        finally:
            await world.stop()


class Process:
    """A market in a process of its own, that can be killed and started again on the same port."""

    def __init__(self, directory: Path, timing: Timing = PATIENT, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.timing = timing
        self.host = host
        self.card: dict[str, Any] = {}
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> World:
        """Start it; return once it serves."""
        command = [sys.executable, "-m", "stannary.market", "serve", "--dir", str(self.directory)]
        command += ["--host", self.host, "--port", str(self.port)]
        for name in self.timing.__dataclass_fields__:
            command += ["--timing", f"{name}={getattr(self.timing, name)}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.card = card = json.loads(line)
        self.port = int(card["url"].rpartition(":")[2])
        token = Path(card["admin_token_file"]).read_text(encoding="ascii").strip()
        parse_vkey(card["vkey"])
        return World(card["url"], card["vkey"], tuple(card["witness_vkeys"]), token)

    def kill(self) -> None:
        """Kill it hard."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Stop it in order; return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        return code
