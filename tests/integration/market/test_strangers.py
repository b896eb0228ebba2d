"""Attacks of people without a token, and of one with, on a real market process: bounded in time and count, loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import command_spec
from tests.integration.market.world import World

from stannary.market.http import gate, rates
from stannary.wire import node, routes

PATIENCE_S = 20.0  # of an honest party's request, on a loaded machine; without bounds it waits for ever
ENDLESS_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.Process]:
    """A market in a process of its own."""
    process = worlds.Process(tmp_path_factory.mktemp("market"))
    process.world = process.start()  # type: ignore[attr-defined]  # for the tests of this module
    try:
        yield process
    finally:
        assert process.stop() == 0


def world_of(market: worlds.Process) -> World:
    """Return the running market's world, with nobody on it yet."""
    made: World = market.world  # type: ignore[attr-defined]  # set by the fixture
    return World(made.url, made.vkey, made.witness_vkeys, made.admin_token)


def status(market: worlds.Process, name: str) -> int:
    """Return a figure of the market process, in KiB or alone."""
    assert market.process is not None
    text = Path(f"/proc/{market.process.pid}/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def descriptors(market: worlds.Process) -> int:
    """Return how many files the market process has open."""
    assert market.process is not None
    return len(list(Path(f"/proc/{market.process.pid}/fd").iterdir()))


def dial(market: worlds.Process) -> socket.socket:
    """Open a connection."""
    return socket.create_connection((market.host, market.port), timeout=PATIENCE_S)


async def an_honest_job(world: World, name: str) -> str:
    """Let two nodes join and do a buyer's job; return its verdict."""
    try:
        for operator in ("north", "south"):
            await world.node(f"{operator}-{name}")
        ada = await world.buyer(name)
        job = (await ada.submit(command_spec())).id
        world.start(ada.broker(job))
        verdict = (await ada.finished(job)).verdict
        for made in world.nodes:  # else the next test's job may be placed on who is here no more
            await made.beat(node.NodeState.LEFT)
    finally:
        await world.stop()
    return verdict


def test_endless_headers_cost_nothing(market: worlds.Process) -> None:
    """A head without end is refused at once; the market's memory stays where it was."""
    before_kib = status(market, "VmRSS")
    for line in (b"X-A: b\r\n" * 1000, b"a" * 8000):
        with dial(market) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: m\r\nX-Long: ")
            sent = 0
            with contextlib.suppress(OSError):
                while sent < ENDLESS_BYTES:
                    sent += connection.send(line)
            assert sent < ENDLESS_BYTES
    assert status(market, "VmRSS") - before_kib < 32 * 1024


def test_half_sent_requests_use_up_no_descriptors(market: worlds.Process) -> None:
    """With a thousand requests begun and never ended, nodes still join and jobs still run; the limit was raised."""
    before = descriptors(market)
    held: list[socket.socket] = []
    try:
        for _ in range(1200):
            held.append(dial(market))
            with contextlib.suppress(OSError):
                held[-1].sendall(b"POST /v1/join HTTP/1.1\r\nHost: m\r\nContent-Length: 60000\r\n\r\n{")
        assert asyncio.run(an_honest_job(world_of(market), "beside")) == "verified"
        assert descriptors(market) - before < gate.MAX_STRANGERS_OF_ADDRESS + 64
    finally:
        for connection in held:
            connection.close()
    assert market.process is not None
    limits = Path(f"/proc/{market.process.pid}/limits").read_text(encoding="ascii")
    soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
    assert int(soft) == min(int(hard), gate.MAX_DESCRIPTORS)


def test_pipelined_requests_without_end_are_refused(market: worlds.Process) -> None:
    """Thousands of requests on one connection whose answers nobody reads do not pile up."""
    before_kib = status(market, "VmRSS")
    with dial(market) as connection:
        sent, flood = 0, b"GET /v1/market HTTP/1.1\r\nHost: m\r\n\r\n" * 2000
        connection.settimeout(2.0)
        with contextlib.suppress(OSError):
            while sent < ENDLESS_BYTES:
                sent += connection.send(flood)
        assert sent < ENDLESS_BYTES
    assert status(market, "VmRSS") - before_kib < 32 * 1024


def test_challenges_leave_nothing_behind(tmp_path: Path) -> None:
    """A thousand challenges asked for write nothing; one that is signed opens one session, once."""

    async def scenario() -> tuple[int, int]:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False)
            exchange, _ = world.inside

            def rows(c: Any) -> int:
                return int(c.exec_driver_sql("SELECT count(*) FROM challenges").scalar_one())

            before = await exchange.store.aread(rows)
            for _ in range(1000):
                await made.call(routes.SESSION_CHALLENGE, node.ChallengeRequest(node=made.id))
            after = await exchange.store.aread(rows)
            await world.clock.sleep(200.0)  # what was spent expires, and is deleted; so are sessions
            gone = await exchange.store.aread(rows)
            assert gone == 0
            return before, after

    before, after = asyncio.run(scenario())
    assert before == after


def test_a_flood_of_challenges_refuses_nobody_beside_it(market: worlds.Process) -> None:
    """While somebody at the same address asks for challenges as fast as he can, others there join and do a job."""
    body = b'{"node":"n-000000000000"}'
    head = f"POST {routes.SESSION_CHALLENGE} HTTP/1.1\r\nHost: m\r\nContent-Length: {len(body)}\r\n\r\n"
    ending, spent, num_answers = threading.Event(), threading.Event(), itertools.count()

    def flood() -> None:
        while not ending.is_set():
            with contextlib.suppress(OSError), dial(market) as connection:
                connection.sendall(head.encode() + body)
                while answered := connection.recv(65536).count(b"HTTP/1.1 "):
                    if any(next(num_answers) > 1.1 * rates.STRANGER_RATE * rates.BURST_S for _ in range(answered)):
                        spent.set()  # the address has had its burst
                    if ending.is_set():
                        break
                    connection.sendall(answered * (head.encode() + body))

    before_kib = status(market, "VmRSS")
    attackers = [threading.Thread(target=flood) for _ in range(4)]
    try:
        for attacker in attackers:
            attacker.start()
        assert spent.wait(PATIENCE_S * 3)
        assert asyncio.run(an_honest_job(world_of(market), "flooded")) == "verified"
    finally:
        ending.set()
        for attacker in attackers:
            attacker.join()
    assert status(market, "VmRSS") - before_kib < 32 * 1024


def test_orders_of_megabytes_hold_up_nobody(market: worlds.Process) -> None:
    """While one token sends order upon order of 3 MB, another party's small request is answered between them."""

    async def scenario() -> float:
        world = world_of(market)
        try:
            eve, ada = await world.buyer("eve"), await world.buyer("quick")
            flood = b'{"envelope":{"payload":"' + b"a" * 3_000_000 + b'","payloadType":"x","signatures":[]}}'
            headers = {routes.IDEMPOTENCY_KEY: "k"}

            async def order() -> None:
                with contextlib.suppress(Exception):
                    await eve.call("POST", routes.JOBS, content=flood, headers=headers)

            orders = [asyncio.create_task(order()) for _ in range(10)]
            slowest = 0.0
            while not all(item.done() for item in orders):
                began = time.monotonic()
                await ada.call("GET", routes.JOBS)
                slowest = max(slowest, time.monotonic() - began)
            return slowest
        finally:
            await world.stop()

    assert asyncio.run(scenario()) < PATIENCE_S


def test_handshakes_that_never_end_keep_nobody_out(tmp_path: Path) -> None:
    """Hundreds of connections that begin no TLS handshake leave the door open for a node, a buyer and a job."""
    market = worlds.Process(tmp_path, host="127.0.0.2")
    market.start()
    held: list[socket.socket] = []
    try:
        before = descriptors(market)
        for _ in range(400):
            held.append(dial(market))
        deadline = time.monotonic() + PATIENCE_S
        while descriptors(market) - before > gate.MAX_STRANGERS_OF_ADDRESS + 16 and time.monotonic() < deadline:
            dial(market).close()
        assert descriptors(market) - before <= gate.MAX_STRANGERS_OF_ADDRESS + 16
        with Connected(market) as answer:
            assert b'"vkey"' in answer
    finally:
        for connection in held:
            connection.close()
        assert market.stop() == 0


class Connected:
    """One TLS request to a market, answered."""

    def __init__(self, market: worlds.Process) -> None:
        self._market = market

    def __enter__(self) -> bytes:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # only whether it answers is asked here
        with dial(self._market) as plain, context.wrap_socket(plain) as secure:
            secure.sendall(b"GET /v1/market HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := secure.recv(65536):
                answer += piece
        return answer

    def __exit__(self, *_: object) -> None:
        return None
