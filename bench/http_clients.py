"""Clients of HTTP beside one another: shards of a sealed artifact, short exchanges, and what it costs to begin.

    python bench/http_clients.py [--megabytes 300]

docs/adr/0009 rests on these figures. A sealed load over loopback is timed with our own client (http.client, bodies
received past its buffers), with httpx2 as it comes (64 KiB a receive), and with httpx2 over a backend that receives
256 KiB: all tensors decrypted into reused memory, the client's CPU time of all threads, best of three. Short
exchanges are POSTs of 2 KB. The goal of a sealed load over HTTP, 1.2 GB/s per core, was set on a processor with VAES.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpcore2
import httpx2
from bench import _seal_world as world
from bench.help_cpu import cpu_ms
from bench.seal import OWNER, http_cpu_s, row

from stannary.seal import sealing
from stannary.seal.sealing import SealOptions
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.http import HttpSource
from stannary.wire.http import Asker

RECEIVE_BYTES = 256 * 1024
EXCHANGES = 300
BODY = bytes(2000)


class _Stream(httpcore2.NetworkStream):
    """A connection that receives more at once than it is asked for."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._socket = inner.get_extra_info("socket")
        self.write, self.close, self.get_extra_info = inner.write, inner.close, inner.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(max(max_bytes, RECEIVE_BYTES))


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(self, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        return _Stream(super().connect_tcp(*arguments, **named))


class Httpx2Source(HttpSource):
    """The same objects, streamed by httpx2."""

    backend: httpcore2.NetworkBackend | None = None

    def __init__(self, url: str) -> None:
        super().__init__(url)
        transport = httpx2.HTTPTransport()
        transport._pool = httpcore2.ConnectionPool(network_backend=self.backend)
        self._client = httpx2.Client(transport=transport, timeout=20.0, headers={"Accept-Encoding": "identity"})

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        headers = {"Range": f"bytes=0-{length - 1}"}
        with self._client.stream("GET", f"{self.url}/{name}", headers=headers) as answer:
            yield from map(memoryview, answer.iter_raw())


class WideHttpx2Source(Httpx2Source):
    """The same with larger receives."""

    backend = _Backend()


def loads(folder: Path, megabytes: int) -> None:
    """Print a sealed load from a folder and through each client."""
    model = folder / "model.safetensors"
    size = world.make_model(model, megabytes)
    digest = sealing.seal(model, DirectoryStore(folder / "store"), OWNER, SealOptions()).digest
    sources: dict[str, Callable[[str], HttpSource]] = {
        "sealed load: our client on http.client": HttpSource,
        "sealed load: httpx2": Httpx2Source,
        "sealed load: httpx2, 256 KiB a receive": WideHttpx2Source,
    }
    for name, connect in sources.items():
        row(name, size / http_cpu_s(folder / "store", digest, connect) / 1e9)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Take the body, say hello."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """Run a host that answers every POST."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "127.0.0.1", server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def exchanges() -> None:
    """Print the CPU time of a short exchange, of this thread alone."""
    with echo() as (host, port), Asker(20.0, 4096) as asker:

        def plain() -> None:
            connection = http.client.HTTPConnection(host, port, timeout=20.0)
            connection.request("POST", "/", BODY)
            connection.getresponse().read(4096)
            connection.close()

        def ours() -> None:
            asker.ask("POST", f"http://{host}:{port}/", BODY)

        for name, work in {
            "short exchange: http.client, a connection each": plain,
            "short exchange: ours": ours,
        }.items():
            began = time.thread_time()
            for _ in range(EXCHANGES):
                work()
            row(name, 1000 * (time.thread_time() - began) / EXCHANGES, "ms CPU", f"n = {EXCHANGES}")


def beginnings() -> None:
    """Print what importing each client costs a process, and what httpx2's own transport costs to make."""
    cases: Iterable[tuple[str, str]] = (
        ("begin: bare interpreter", "pass"),
        ("begin: import http.client", "import http.client"),
        ("begin: import httpx2", "import httpx2"),
        ("begin: and make its client", "import httpx2; httpx2.Client()"),
        (
            "begin: and make ours for loopback",
            "from stannary.wire.http import *; httpx2.Client(transport=PoolTransport())",
        ),
    )
    for name, code in cases:
        row(name, min(cpu_ms([sys.executable, "-c", code]) for _ in range(5)), "ms CPU", "best of 5")


def main() -> int:
    """Run every part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=300)
    options = parser.parse_args()
    print(world.processor())
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        loads(Path(name), options.megabytes)
    exchanges()
    beginnings()
    return 0


if __name__ == "__main__":
    sys.exit(main())
