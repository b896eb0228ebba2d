"""How long a suspension lasts where the node passes its canary: a real market, agent and torch on this machine.

    python bench/canaries.py [--times 3] [--json]

A market with one node runs in a directory of its own; the node is written down as suspended, as three buyers' strikes
would have it, and what follows is timed: until it is asked, has answered, and is restored. Insurance holds a dollar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.integration.market import world as worlds

from stannary.jobs.canary import CanaryRow
from stannary.jobs.standing import StandingChange
from stannary.sdk import slots
from stannary.settle.ledger import INSURANCE, WORLD, transfer
from stannary.store import canaries, envelopes, ledger
from stannary.store.database import Store
from stannary.store.schema import nodes, standing_changes

PATIENCE_S = 600.0


def main() -> None:
    """Time some suspensions, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory, place = Path(name) / "market", Path(name) / "node"
        market = worlds.Process(directory)
        token = asyncio.run(market.start().join_token("north"))
        slots.join(place, token, ["--name", "one", "--operator", "north"], lambda _: None)
        agent = subprocess.Popen([sys.executable, "-m", "stannary.agent", "run", "--dir", str(place)])
        try:
            found = [_timed(market, number) for number in range(options.times)]
        finally:
            agent.terminate()
            agent.wait()
            market.stop()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        print(json.dumps({"canaries": found, "machine": machine}))
        return
    for item in found:
        times = (f"{word} after {item[f'{word}_s']:.1f} s" for word in ("asked", "answered", "over"))
        print(f"{item['outcome']:<10} ({item['reason']})  {', '.join(times)}, ${item['usd']:.6f}")
    print(f"median {statistics.median(float(item['over_s']) for item in found):.1f} s of suspension; {machine}")


def _timed(market: worlds.Process, number: int) -> dict[str, float | str]:
    database = market.directory / "market.db"
    market.stop()  # it reads how nodes stand at its start
    store = Store.open(database)
    node = store.write(lambda c: _suspend(c, number)).result(30)
    store.close()
    began = time.time()
    market.start()
    while time.time() < began + PATIENCE_S:
        time.sleep(1)
        row = _copy_of(database, node, number)
        if row is not None:
            return {name: float(value) - began if name.endswith("_s") else value for name, value in row.items()}
    raise SystemExit("the canary was not decided")


def _suspend(connection: Connection, number: int) -> str:
    node = str(connection.execute(sa.select(nodes.c.node)).scalar_one())
    at_ms = round(1000 * time.time())
    values = {"node": node, "at_ms": at_ms, "change": StandingChange.SUSPEND.value, "score_ppm": 3_000_000}
    connection.execute(sa.insert(standing_changes).values(**values))
    ledger.post(connection, transfer(f"bench:{number}", "forfeit", (WORLD, INSURANCE), 1_000_000), at_ms=at_ms)
    return node


def _copy_of(database: Path, node: str, number: int) -> dict[str, float | str] | None:
    """Read the outcome of a node's last canary beside the market that writes it."""
    engine = sa.create_engine(f"sqlite:///file:{database}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            rows = canaries.of_node(connection, node)
            if len(rows) <= number or rows[number].decided_at_ms is None:
                return None
            return _told(connection, rows[number])
    finally:
        engine.dispose()


def _told(connection: Connection, row: CanaryRow) -> dict[str, float | str]:
    answers = [item.received_at_ms for item in envelopes.of_job(connection, row.job, kind="answer")]
    paid = sum(int(str(line["usd_micros"])) for line in row.lines or () if str(line["account"]).startswith("operator"))
    return {
        "outcome": str(row.outcome),
        "reason": str(row.reason),
        "asked_s": row.asked_at_ms / 1000,
        "answered_s": max(answers, default=row.decided_at_ms or 0) / 1000,
        "over_s": (row.decided_at_ms or 0) / 1000,
        "usd": paid / 1e6,
    }


if __name__ == "__main__":
    main()
