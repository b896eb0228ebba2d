"""Durable job submits over HTTP: a real market process, signed jobs, fsync before every answer.

    python bench/http_submits.py [--jobs 2000] [--in-flight 64]

Prints accepted jobs per second, per second of the market's own CPU time, and latencies. The jobs are signed
beforehand (the client's work is not the market's). Two nodes are there and take no work; the market places the jobs
while others still arrive, as it would.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.market.fake_buyer import PROGRAM, command_spec
from tests.integration.market.fake_node import FakeNode

from stannary.formats import beacon, digest, dsse, instants, jobspec, note, statement
from stannary.formats.predicates import Job
from stannary.wire import admin, buyer, message, routes

BEACON_VALUES = 64


def signed_jobs(count: int, vkey: str) -> list[bytes]:
    """Return the bodies of `count` submits of one buyer."""
    key, market = Ed25519PrivateKey.generate(), dsse.key_id(note.parse_vkey(vkey).public)
    spec = jobspec.to_canonical(command_spec())
    public = base64.b64encode(dsse.public_bytes(key)).decode()
    now, tip = instants.spell(time.time()), beacon.tip(secrets.token_bytes(32), BEACON_VALUES)
    bodies = []
    for _ in range(count):
        order = Job(spec, market, public, tip, BEACON_VALUES, secrets.token_hex(16), now)
        bodies.append(buyer.Submit.of(statement.sign("job", order, (), key)).to_bytes())
    return bodies


def cpu_s(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def keep_alive(node: FakeNode) -> None:
    """Beat, and take no work."""
    while True:
        await node.beat()
        await asyncio.sleep(10)


async def prepare(url: str, token: str) -> tuple[str, list[FakeNode]]:
    """Let two nodes join and open a buyer's account; return its API token."""
    joined = []
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        for operator in ("north", "south"):
            asked = admin.JoinTokenRequest(operator=operator, bond_usd_micros=1)
            answer = await client.post(routes.ADMIN_JOIN_TOKENS, content=asked.to_bytes())
            made = FakeNode(url, operator)
            await made.join(message.read(admin.JoinTokenAnswer, answer.content).token)
            joined.append(made)
        account = admin.ApiTokenRequest(name="bench", deposit_usd_micros=10**12)
        answer = await client.post(routes.ADMIN_API_TOKENS, content=account.to_bytes())
        return message.read(admin.ApiToken, answer.content).token, joined


async def measure(url: str, token: str, bodies: list[bytes], in_flight: int) -> list[float]:
    """Submit all bodies, `in_flight` at a time; return the latency of each."""
    headers = {"Authorization": f"Bearer {token}"}
    waiting, latencies = iter(bodies), []
    limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as client:
        await client.put(routes.blob(digest.digest(PROGRAM)), content=PROGRAM)

        async def submit() -> None:
            for body in waiting:
                started = time.perf_counter()
                key = {routes.IDEMPOTENCY_KEY: secrets.token_hex(8)}
                answer = await client.post(routes.JOBS, content=body, headers=key)
                assert answer.status_code == 200, answer.text
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(submit() for _ in range(in_flight)))
    return latencies


async def main(count: int, in_flight: int) -> None:
    """Start a market, submit, print."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "stannary.market", "serve", "--dir", directory]
        market = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert market.stdout is not None
            card = json.loads(market.stdout.readline())
            token, joined = await prepare(card["url"], Path(card["admin_token_file"]).read_text().strip())
            bodies = signed_jobs(count, card["vkey"])
            nodes = [asyncio.create_task(keep_alive(node)) for node in joined]
            started, used = time.perf_counter(), cpu_s(market.pid)
            latencies = await measure(card["url"], token, bodies, in_flight)
            wall_s, used_s = time.perf_counter() - started, cpu_s(market.pid) - used
            for node in nodes:
                node.cancel()
        finally:
            market.terminate()
            market.wait(30)
    ranked = statistics.quantiles(latencies, n=100)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"durable submits over HTTP: {machine}; n = {count:,} jobs, {in_flight} in flight")
    print(f"  {count / wall_s:10,.0f} accepted per second of wall time (client on the same machine)")
    print(f"  {count / used_s:10,.0f} accepted per second of the market's CPU time (one core)")
    print(f"  {used_s / count * 1e6:10,.0f} us of CPU a submit, user and system")
    print(f"  {ranked[49] * 1000:10,.1f} ms median, {ranked[98] * 1000:,.1f} ms 99th percentile")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    asyncio.run(main(options.jobs, options.in_flight))
