"""Log appends per second and the cost of proofs at a million leaves (goals: 300k/s in memory, 1 ms a proof).

    python bench/log_appends.py [--leaves 1000000]

Peers and floors in the same run: pymerkle in memory, and the two SHA-256 calls an append cannot do without. The durable
figure is the whole writer: group commit, tiles, fsync, signed checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pymerkle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.tlog import tree
from stannary.tlog.log import Log
from stannary.tlog.tree import Tree

PEER_LEAVES = 50_000
DURABLE_LEAVES = 20_000
PROOFS = 2_000


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU seconds of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def one_by_one(leaves: list[bytes]) -> None:
    """Append leaves to a fresh tree, each by its own call."""
    append = Tree().append
    for leaf in leaves:
        append(leaf)


def bare_hashes(leaves: list[bytes]) -> None:
    """Hash each leaf, and one inner node for each, with nothing around it."""
    sha256 = hashlib.sha256
    for leaf in leaves:
        sha256(b"\x01" + leaf + sha256(b"\x00" + leaf).digest()).digest()


def peer(leaves: list[bytes]) -> None:
    """Append leaves to pymerkle's tree in memory."""
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        oracle.append_entry(leaf)


def proofs(grown: Tree) -> tuple[float, float]:
    """Return the CPU milliseconds of making and of checking one inclusion proof."""
    size, root = grown.size, grown.root()
    indexes = [number * 7_919 % size for number in range(PROOFS)]
    made: list[list[bytes]] = []
    making = cpu_s(lambda: made.extend(grown.inclusion(index, size) for index in indexes))

    def check() -> None:
        for index, path in zip(indexes, made, strict=True):
            tree.verify_inclusion(index.to_bytes(32, "big"), index, size, path, root)

    return 1000 * making / PROOFS, 1000 * cpu_s(check) / PROOFS


def durable(leaves: list[bytes]) -> float:
    """Return leaves a second through the writer, each its own future, wall clock."""
    with tempfile.TemporaryDirectory() as directory:
        log = Log.open(Path(directory) / "log", "bench.log", Ed25519PrivateKey.generate())
        start = time.monotonic()
        for future in [log.append(leaf) for leaf in leaves]:
            future.result()
        taken = time.monotonic() - start
        log.close()
    return len(leaves) / taken


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    count: int = parser.parse_args().leaves
    leaves = [number.to_bytes(32, "big") for number in range(count)]
    grown = Tree()
    rates = {
        "appends, one list": count / cpu_s(lambda: grown.extend(leaves)),
        "appends, one by one": count / cpu_s(lambda: one_by_one(leaves)),
        "two bare SHA-256 calls": count / cpu_s(lambda: bare_hashes(leaves)),
        "pymerkle in memory": PEER_LEAVES / cpu_s(lambda: peer(leaves[:PEER_LEAVES])),
        "durable, wall clock": durable(leaves[:DURABLE_LEAVES]),
    }
    making, checking = proofs(grown)
    print(f"{'in one process, CPU time':<28}{'leaves/s':>12}   ({os.cpu_count()} cores)")
    for name, rate in rates.items():
        print(f"{name:<28}{rate:>12,.0f}")
    print(f"{f'proof at {count:,} leaves':<28}{making:>12.3f} ms to make, {checking:.3f} ms to check")


if __name__ == "__main__":
    main()
