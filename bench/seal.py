"""Sealed artifacts against plain files and other encrypted ones: GB/s per core, and a lossy wide-area link.

    python bench/seal.py [--megabytes 500] [--no-wan]

All rows read and write the same tensors in memory-backed files, in one process group; figures are bytes
per CPU second, best of three, because a busy machine's wall clock says nothing. The goals (sealed load
1.8 into reused memory, 0.9 x plain into fresh; seal 0.66; HTTP 1.2) were set on a processor with VAES; the
first lines print what this one can do at all. Peers come from the package index into .bench/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import _seal_world as world

from stannary.seal import sealing, torch_tensors
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.sealing import CodecPolicy, SealOptions
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.http import HttpSource
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import Source

OWNER = OwnerKey(bytes(range(32)))
SERVER = """
import sys
from pathlib import Path
from stannary.seal.stores.server import MirrorServer
server = MirrorServer((sys.argv[2], int(sys.argv[3])), Path(sys.argv[1]))
print(server.url, flush=True)
server.serve_forever()
"""
CLIENT = """
import sys, time
from pathlib import Path
from bench.seal import opened
from stannary.seal import opening
from stannary.seal.stores.http import HttpSource
began, marks = time.monotonic(), []
artifact = opened(sys.argv[1], HttpSource(sys.argv[2]))
done = lambda count: marks.append((time.monotonic(), count))
opening.open_to(artifact, Path(sys.argv[3]), jobs=int(sys.argv[4]), progress=done)
whole = sum(count for _, count in marks) * 8 / (time.monotonic() - began)
first, last = len(marks) // 5, len(marks) * 4 // 5
steady = sum(count for _, count in marks[first + 1 : last + 1]) * 8 / (marks[last][0] - marks[first][0])
print(whole / 1e6, steady / 1e6)
"""
WAN_JOBS = 16
WAN_BYTES = 384 * 1024 * 1024


class Throttled:
    """A store that gives so many bytes a second, all readers together."""

    def __init__(self, inner: DirectoryStore, bytes_per_s: float) -> None:
        self.url = inner.url
        self._inner = inner
        self._bytes_per_s = bytes_per_s
        self._free = 0.0
        self._lock = threading.Lock()

    def read(self, name: str, limit: int) -> bytes:
        return self._inner.read(name, limit)

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def list(self, prefix: str) -> list[str]:
        return self._inner.list(prefix)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        for piece in self._inner.stream(name, length):
            self.take(len(piece))
            yield piece

    def take(self, num_bytes: int) -> None:
        """Wait until the link has carried that much more."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + num_bytes / self._bytes_per_s
            due = self._free
        time.sleep(max(0.0, due - time.monotonic()))


def opened(digest: str, *sources: Source) -> SealedArtifact:
    """Open an artifact as its owner."""
    return SealedArtifact(Mirrors(digest, sources), OWNER)  # type: ignore[arg-type]  # a digest of ours


def row(name: str, value: float, unit: str = "GB/s per core", goal: str = "") -> None:
    """Print one figure."""
    print(f"  {name:<52}{value:>9.3f} {unit:<15}{goal}", flush=True)


def throughput(folder: Path, model: Path, size: int, ceilings: dict[str, float]) -> str:
    """Print sealing and loading beside the peers; return the artifact's digest."""
    store = DirectoryStore(folder / "store")
    reports = []

    def seal(*, sign: bool) -> None:
        shutil.rmtree(store.root, ignore_errors=True)
        reports.append(sealing.seal(model, store, OWNER, SealOptions(sign_model=sign)))

    signed = size / world.cpu_s(lambda: seal(sign=True), 2) / 1e9
    plain_seal = size / world.cpu_s(lambda: seal(sign=False)) / 1e9
    digest = reports[-1].digest
    arena = torch_tensors.Arena()
    torch_tensors.load(opened(digest, store), arena=arena)
    reused = size / world.cpu_s(lambda: torch_tensors.load(opened(digest, store), arena=arena), 5) / 1e9
    fresh = size / world.cpu_s(lambda: torch_tensors.load(opened(digest, store))) / 1e9
    over_http = size / http_cpu_s(folder / "store", digest) / 1e9
    rows = world.peers("speed", str(model))
    plain = rows["plain safetensors"]["load"]
    row("seal", plain_seal, goal="goal 0.66")
    row("seal, with an OpenSSF bundle (SHA-256 of every file)", signed)
    row("sealed file -> torch, reused memory", reused, goal="goal 1.8")
    row("  as a share of read, hash and open", reused / ceilings["read, hash and open"], "x")
    row("sealed file -> torch, fresh memory", fresh, goal="goal 0.9 x plain")
    row("  as a share of plain", fresh / plain, "x")
    row("sealed HTTP on loopback -> torch, reused memory", over_http, goal="goal 1.2")
    for name, figures in rows.items():
        row(f"{name}: write", figures["seal"])
        row(f"{name}: load, fresh memory", figures["load"])
    return digest


def http_cpu_s(root: Path, digest: str, connect: Callable[[str], Source] = HttpSource) -> float:
    """Return the client's CPU seconds of a load over HTTP from a server process of ours."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(root), "127.0.0.1", "0"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    url = server.stdout.readline().decode().strip()
    arena = torch_tensors.Arena()
    try:
        return world.cpu_s(lambda: torch_tensors.load(opened(digest, connect(url)), arena=arena, jobs=4), 4)
    finally:
        server.kill()
        server.wait()


def slow_sources(folder: Path, size: int, digest: str) -> None:
    """Print how much longer than the link itself a sealed load takes: plain bytes cannot beat the link either."""
    for rate in (0.1e9, 0.25e9, 1e9):
        arena = torch_tensors.Arena()
        torch_tensors.load(opened(digest, DirectoryStore(folder / "store")), arena=arena)
        store = Throttled(DirectoryStore(folder / "store"), rate)
        began = time.monotonic()
        torch_tensors.load(opened(digest, store), arena=arena, jobs=4)
        spent = time.monotonic() - began
        name = f"sealed load from {rate / 1e6:,.0f} MB/s, against the link's own time"
        row(name, spent / (size / rate), "x", "1 = as fast as plain can be")


def deltas(folder: Path, model: Path, digest: str) -> None:
    """Print what a fine-tune costs against its parent, and the lossless coder."""
    import numpy as np

    store = DirectoryStore(folder / "store")
    data = bytearray(model.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    words = np.frombuffer(memoryview(data)[header:], dtype="<u2")
    source = np.random.default_rng(1)
    for share in (0.01, 0.2):
        tuned = words.copy()
        moved = source.random(len(words)) < share
        tuned[moved] += source.choice(np.array([1, 65535], dtype=np.uint16), size=int(moved.sum()))
        path = folder / "tuned.safetensors"
        path.write_bytes(bytes(data[:header]) + tuned.tobytes())
        options = SealOptions(parent=opened(digest, store))
        began = time.process_time()
        report = sealing.seal(path, store, OWNER, options)
        spent = time.process_time() - began
        goal = "goal <= 0.11" if share == 0.2 else ""
        row(f"delta, {share:.0%} of the weights moved", report.written_bytes / report.size_bytes, "of the size", goal)
        row("  made at", report.size_bytes / spent / 1e9)
        path.unlink()
    began = time.process_time()
    report = sealing.seal(model, DirectoryStore(folder / "coded"), OWNER, SealOptions(codec=CodecPolicy.SMALL))
    spent = time.process_time() - began
    row("lossless bf16 coding", report.written_bytes / report.size_bytes, "of the size")
    row("  made at", report.size_bytes / spent / 1e9)
    shutil.rmtree(folder / "coded")


def wide_area(folder: Path) -> None:
    """Print the goodput of an open through 200 Mbit/s, 100 ms, 1 % loss: BBR, and the loss-based default elsewhere."""
    from tests.integration.seal.wan import A_ADDRESS, WanLink

    path = folder / "wan.bin"
    path.write_bytes(os.urandom(WAN_BYTES))
    store = folder / "wan"
    report = sealing.seal(path, DirectoryStore(store), OWNER, SealOptions(shard_bytes=2 * 1024 * 1024))
    with WanLink() as link:
        command = [*link.a, sys.executable, "-c", SERVER, str(store), A_ADDRESS, "8190"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().decode().strip()
            command = [*link.b, sys.executable, "-c", CLIENT, report.digest, url, str(folder / "got"), str(WAN_JOBS)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=world.HERE.parent)
        finally:
            server.kill()
            server.wait()
    whole, steady = map(float, done.stdout.split())
    row(f"200 Mbit/s, 100 ms, 1 % loss, {WAN_JOBS} connections: steady", steady, "Mbit/s", "goal 185")
    row("  from the first request to the last byte", whole, "Mbit/s")


def main() -> int:
    """Run every part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--wan", action=argparse.BooleanOptionalAction, default=os.geteuid() == 0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(world.processor())
    ceilings = world.ceilings()
    for name, value in ceilings.items():
        row(f"ceiling: {name}", value)
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        size = world.make_model(model, options.megabytes)
        digest = throughput(folder, model, size, ceilings)
        slow_sources(folder, size, digest)
        deltas(folder, model, digest)
        if options.wan and Path("/dev/net/tun").exists():
            wide_area(folder)
        else:
            print("  wide-area link: left out, needs root and /dev/net/tun")
    return 0


if __name__ == "__main__":
    sys.exit(main())
