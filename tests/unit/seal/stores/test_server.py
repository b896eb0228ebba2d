"""The mirror server and the HTTP source: ranges, names, failures, mirrors that lie or stall."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.loopback import listening
from tests.unit.seal.world import Sealed, small_model

from stannary.errors import LimitExceeded, NotFound, Refuted, StannaryError
from stannary.seal import blame, opening
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.http import HttpSource
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.server import MirrorServer
from stannary.seal.stores.source import Source, SourceFailure, object_name


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve a folder on loopback."""
    server = MirrorServer(("127.0.0.1", 0), root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Run a host that treats every connection with `answer(connection, request)`."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(connection, connection.recv(65536))

    with listening(serve) as url:
        yield url


def opened(sealed: Sealed, *sources: Source) -> SealedArtifact:
    """Open through given sources, without pauses."""
    return SealedArtifact(Mirrors(sealed.digest, sources, pause=lambda _: None), sealed.owner)


def everything(artifact: SealedArtifact) -> bytes:
    """Read the first file whole."""
    data = bytearray(artifact.manifest.files[0].size)
    artifact.read_range(0, 0, memoryview(data))
    return bytes(data)


def test_round_trip_over_http(model: Sealed, tmp_path: Path) -> None:
    """An artifact opens over HTTP to the bytes that were sealed, with many connections."""
    with serving(model.root) as url:
        opening.open_to(opened(model, HttpSource(url)), tmp_path / "again", jobs=8)
    assert (tmp_path / "again").read_bytes() == small_model()


def test_server_answers_ranges(model: Sealed) -> None:
    """One range is served with its place in the whole; one past the end is refused with 416."""
    item = model.open().head.shards[0]
    data = (model.root / object_name(item)).read_bytes()
    with serving(model.root) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/" + object_name(item), headers={"Range": "bytes=10-19"})
        response = connection.getresponse()
        assert (response.status, response.read()) == (206, data[10:20])
        assert response.getheader("Content-Range") == f"bytes 10-19/{len(data)}"
        connection.request("GET", "/" + object_name(item), headers={"Range": f"bytes={len(data)}-"})
        response = connection.getresponse()
        assert (response.status, response.read()) == (416, b"")
        for odd in ("bytes=9-5", "bytes=-5", "bytes=0-1,3-4", "chunks=0-1"):
            connection.request("GET", "/" + object_name(item), headers={"Range": odd})
            response = connection.getresponse()
            assert (response.status, response.read()) == (416, b"")
        connection.close()


@pytest.mark.parametrize(
    "path", ["/", "/b3/", "/../secret", "/b3/../../secret", "/b3/%2e%2e/secret", "/secret", "//etc/passwd", "/head/x"]
)
def test_server_serves_objects_only(model: Sealed, path: str) -> None:
    """No name but that of a sealed object is served, however it is spelled."""
    (model.root / "secret").write_text("plain")
    with serving(model.root) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_server_follows_no_link(model: Sealed, tmp_path: Path) -> None:
    """A link among the objects is not followed out of the folder."""
    (tmp_path / "plain").write_text("secret")
    (model.root / "b3" / ("0" * 64)).symlink_to(tmp_path / "plain")
    with serving(model.root) as url, pytest.raises(SourceFailure):
        HttpSource(url).read("b3/" + "0" * 64, 100)


def test_listing_and_sizes(model: Sealed) -> None:
    """Heads are listed and objects measured over HTTP as on the disk."""
    store = DirectoryStore(model.root)
    with serving(model.root) as url:
        source = HttpSource(url)
        assert source.list("head") == store.list("head")
        name = object_name(model.open().head.shards[0])
        assert source.size(name) == store.size(name)
        assert source.size("b3/" + "0" * 64) is None
        with pytest.raises(NotFound):
            source.read("b3/" + "0" * 64, 10)
        with pytest.raises(LimitExceeded):
            source.read(name, 10)


def test_stalled_mirror_is_left_for_another(model: Sealed, tmp_path: Path) -> None:
    """A mirror that stalls at 99 % of a shard costs its time limit, not the transfer."""
    store = DirectoryStore(model.root)

    def stall(connection: socket.socket, request: bytes) -> None:
        name = request.split()[1].decode().lstrip("/")
        data = store.read(name, 10**9)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.sendall(head + (data if name.startswith("head/") else data[: len(data) * 99 // 100]))

    with answering(stall) as bad, serving(model.root) as good:
        artifact = opened(model, HttpSource(bad, stall_s=0.2), HttpSource(good))
        assert everything(artifact) == small_model()
        assert artifact.mirrors.blames == []  # slow is not a lie


def test_stalled_mirror_alone_ends_in_an_error(model: Sealed, tmp_path: Path) -> None:
    """With nobody else to ask, a stalling mirror ends in a service error and nothing at PATH."""
    with answering(lambda connection, request: None) as url, pytest.raises(SourceFailure):
        opened(model, HttpSource(url, stall_s=0.1))


def test_host_that_drips_is_given_up(model: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that sends a byte now and then never trips the stall limit; the least rate ends it."""
    monkeypatch.setattr("stannary.seal.stores.http.GRACE_S", 0.0)
    monkeypatch.setattr("stannary.seal.stores.http.MIN_BYTES_PER_S", 10**12)

    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")

    with answering(drip) as url, pytest.raises(SourceFailure, match="too slow"):
        list(HttpSource(url, stall_s=5.0).stream("b3/" + "0" * 64, 100))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-99/999\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
        b"garbage\r\n\r\n",
        b"",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_strange_answers_are_failures_of_the_host(answer: bytes) -> None:
    """Redirects, other lengths, garbage and errors are a failing host, never data."""

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with answering(respond) as url, pytest.raises(SourceFailure):
        list(HttpSource(url, stall_s=1.0).stream("b3/" + "0" * 64, 100))


def test_poisoned_mirror_is_blamed_and_replaced(model: Sealed, tmp_path: Path) -> None:
    """Of two mirrors, the one that served wrong bytes is named in a signed record, and the other is used."""
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(model.root, bad)
    shards = {object_name(item): item for item in model.open().head.shards}
    for name in shards:  # whichever it is asked for first
        data = (bad / name).read_bytes()
        (bad / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with serving(bad) as bad_url, serving(model.root) as good_url:
        artifact = opened(model, HttpSource(bad_url), HttpSource(good_url))
        for _ in range(2):
            assert everything(artifact) == small_model()
    (record,) = artifact.mirrors.blames
    assert (record.mirror, record.expected) == (bad_url, shards[record.object].spell())
    envelope = blame.sign(record, model.owner.signing)
    assert blame.check(envelope, model.owner.public) == record
    with pytest.raises(StannaryError):
        blame.check(envelope, bytes(32))


def test_all_mirrors_poisoned(model: Sealed, tmp_path: Path) -> None:
    """When every mirror lies the result is a refusal, not a retry without end."""
    path = model.root / object_name(model.open().head.shards[0])
    path.write_bytes(b"x" * path.stat().st_size)
    pauses: list[float] = []
    stores = (DirectoryStore(model.root), DirectoryStore(model.root))
    with pytest.raises(Refuted):
        everything(SealedArtifact(Mirrors(model.digest, stores, pause=pauses.append), model.owner))
    assert pauses == []  # a folder that holds other bytes is not waited for


def test_right_bytes_are_accepted_from_a_liar_about_nothing(model: Sealed) -> None:
    """A mirror that lacks an object is asked for the others: absence is no lie."""
    import shutil

    half = model.root.with_name("half")
    shutil.copytree(model.root, half)
    (half / object_name(model.open().head.shards[0])).unlink()
    artifact = model.open(half, model.root)
    assert everything(artifact) == small_model()
    assert artifact.mirrors.blames == []
