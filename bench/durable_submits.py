"""Durable job submits per second, at the store.

A submit is the whole of it: job, first event, envelope for the log, escrow entry with its two
postings and balances; it counts when its commit has been fsynced (SQLite WAL, synchronous=FULL).
Clients keep a fixed number in flight. Printed with machine, load and n; no figure without them.

    python bench/durable_submits.py [--seconds 4] [--in-flight 1,64,512]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stannary.settle import escrow
from stannary.store import accounts, jobs, ledger
from stannary.store.database import Store

BUYERS = 4
ENVELOPE_BYTES = 2_000  # a signed train job with its canonical spec


@dataclass(frozen=True)
class Run:
    """One measurement."""

    in_flight: int
    num_submits: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Return acknowledged submits per second of wall time."""
        return self.num_submits / self.seconds


def submissions() -> Iterator[jobs.Submission]:
    """Make submissions that differ as real ones do."""
    envelope = os.urandom(ENVELOPE_BYTES)
    for number in itertools.count():
        hexed = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
        yield jobs.Submission(
            job=f"j-{hexed[:12]}",
            buyer=f"buyer{number % BUYERS}",
            idempotency_key=hexed[:32],
            payload_digest=f"sha256:{hexed}",
            job_digest=f"sha256:{hexed}",
            leaf=f"sha256:{hexed}",
            name="hello",
            kind="train",
            verification="replay",
            envelope=envelope,
            escrow_usd_micros=1_000,
            submitted_at_ms=number,
        )


def prepare(store: Store) -> None:
    """Give each buyer money."""
    for number in range(BUYERS):
        buyer = f"buyer{number}"
        store.write(lambda c, buyer=buyer: accounts.add_buyer(c, buyer, at_ms=0)).result()
        entry = escrow.deposit(buyer, buyer, 10**12)
        store.write(lambda c, entry=entry: ledger.post(c, entry, at_ms=0)).result()


async def measure(store: Store, source: Iterator[jobs.Submission], in_flight: int, seconds: float) -> Run:
    """Keep `in_flight` submits unanswered for `seconds`, from one event loop, as the market's routes do."""
    latencies: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()

    async def client() -> None:
        while (started := time.perf_counter()) - begin < seconds:
            assert (await store.awrite_bulk(jobs.submit, next(source))).created
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(in_flight)))
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    latencies.sort()
    num = len(latencies)
    return Run(in_flight, num, elapsed, cpu, latencies[num // 2] * 1e3, latencies[num * 99 // 100] * 1e3)


def main() -> None:
    """Measure at each concurrency on one database and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--in-flight", default="1,64,512")
    parser.add_argument("--directory", default=None, help="where the database is made (default: the temporary one)")
    arguments = parser.parse_args()
    print(
        f"durable submits, store: SQLite {sqlite3.sqlite_version} WAL FULL, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.directory) as home, Store.open(Path(home) / "m.db") as store:
        prepare(store)
        source = submissions()
        print(f"{'in flight':>9} {'submits/s':>10} {'n':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/submit':>14}")
        for in_flight in map(int, arguments.in_flight.split(",")):
            run = asyncio.run(measure(store, source, in_flight, arguments.seconds))
            cpu_us = run.cpu_seconds / run.num_submits * 1e6
            print(
                f"{run.in_flight:>9} {run.per_second:>10,.0f} {run.num_submits:>8,} {run.p50_ms:>8.1f} "
                f"{run.p99_ms:>8.1f} {cpu_us:>14.0f}"
            )
        total = store.read(lambda c: sum(ledger.all_balances(c).values()))
        print(f"ledger sum {total}, load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
