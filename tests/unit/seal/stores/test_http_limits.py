"""Every request ends: hosts that drip, flood or never finish, uploads over a slow link, connections that break."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator

import pytest
from tests.loopback import listening
from tests.unit.seal.world import Sealed

from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.http import ConnectionPool, HttpSource
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import SourceFailure

STALL_S = 1.0
SECONDS = 20.0  # what a test may take before it is called a hang
MIB = 1024 * 1024
NAME = "b3/" + "0" * 64

Answer = Callable[[socket.socket, bytes, threading.Event], None]


@contextlib.contextmanager
def host(answer: Answer) -> Iterator[str]:
    """Run a host that treats each connection with `answer`; its event is set when the test is over."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(connection, connection.recv(65536), over)

    with listening(serve) as url:
        try:
            yield url
        finally:
            over.set()


def ended(work: Callable[[], object]) -> object:
    """Return what `work` returned or raised; fail if it hangs."""
    result: list[object] = []

    def run() -> None:
        try:
            result.append(work())
        except SourceFailure as err:
            result.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert result, "still waiting"
    return result[0]


def dripping(head: bytes) -> Answer:
    """Send some bytes, then one now and then."""

    def answer(connection: socket.socket, request: bytes, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"x")

    return answer


def continuing(connection: socket.socket, request: bytes, over: threading.Event) -> None:
    """Say 100 Continue without end."""
    while not over.wait(0.01):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


HOSTS: dict[str, Answer] = {
    "drips its status line": dripping(b"HTTP/1.1 "),
    "drips its head": dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "drips its body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "drips a body without a length": dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
    "drips its refusal": dripping(b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\n"),
    "continues without end": continuing,
}


@pytest.mark.parametrize("name", HOSTS)
def test_host_that_drips_anywhere_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small objects and streams end in time wherever a host drips: no byte now and then holds a reader."""
    monkeypatch.setattr("stannary.seal.stores.http.GRACE_S", 0.2)
    monkeypatch.setattr("stannary.seal.stores.http.MIN_BYTES_PER_S", 10**9)
    with host(HOSTS[name]) as url:
        source = HttpSource(url, stall_s=STALL_S)
        assert isinstance(ended(lambda: source.read(NAME, 10**6)), SourceFailure)
        assert isinstance(ended(lambda: list(source.stream(NAME, 1000))), SourceFailure)


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n\r\n64\r\n", b"\r\n"])
def test_endless_body_behind_an_object_is_not_read(framing: bytes) -> None:
    """After the bytes of the name, what more a host sends is left where it is."""
    sent = []

    def flood(connection: socket.socket, request: bytes, over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"x" * 100)
        while not over.is_set() and len(sent) < 256:
            connection.sendall(b"\r\n100000\r\n" + bytes(MIB) if b"chunked" in framing else bytes(MIB))
            sent.append(MIB)

    with host(flood) as url:
        source = HttpSource(url, stall_s=STALL_S)
        assert ended(lambda: b"".join(bytes(piece) for piece in source.stream(NAME, 100))) == b"x" * 100
        assert len(sent) < 64


def test_slow_but_steady_upload_is_no_stall() -> None:
    """An upload that moves all the time may take longer than the stall limit as a whole."""
    size = 12 * MIB
    received = []

    def slow(connection: socket.socket, request: bytes, over: threading.Event) -> None:
        left = size - len(request.partition(b"\r\n\r\n")[2])
        while left > 0 and not over.wait(0.01):
            piece = connection.recv(64 * 1024)
            left -= len(piece)
        received.append(left)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with host(slow) as url:
        pool = ConnectionPool(urllib.parse.urlsplit(url), STALL_S)
        assert ended(lambda: pool.put("/b3/x", memoryview(bytes(size)))) is None
    assert received == [0]


def test_host_that_stops_taking_an_upload_is_given_up() -> None:
    """An upload of which nothing moves ends with the stall limit."""

    def deaf(connection: socket.socket, request: bytes, over: threading.Event) -> None:
        over.wait(SECONDS)

    with host(deaf) as url:
        pool = ConnectionPool(urllib.parse.urlsplit(url), 0.3)
        assert isinstance(ended(lambda: pool.put("/b3/x", memoryview(bytes(64 * MIB)))), SourceFailure)


def test_connection_that_breaks_in_a_small_object_is_no_lie(model: Sealed) -> None:
    """A head, signature or manifest that was cut on the way is asked for again, and nobody is blamed."""
    store = DirectoryStore(model.root)
    seen: set[str] = set()

    def cut(connection: socket.socket, request: bytes, over: threading.Event) -> None:
        name = request.split()[1].decode().lstrip("/")
        data = store.read(name, 10**9)
        part = data if name in seen else data[: len(data) // 2]
        seen.add(name)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + part)
        connection.shutdown(socket.SHUT_RDWR)

    with host(cut) as url:
        mirrors = Mirrors(model.digest, (HttpSource(url, stall_s=STALL_S),), pause=lambda _: None)
        assert SealedArtifact(mirrors, model.owner).manifest.name == "model.safetensors"
    assert mirrors.blames == []
    assert len(seen) == 3
