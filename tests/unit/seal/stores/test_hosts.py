"""Hosts that lie, cut, stall, encode and wander, each beside an honest one and each alone."""

from __future__ import annotations

import collections
import contextlib
import email.utils
import gzip
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.loopback import listening
from tests.unit.seal.world import SMALL_SHARD_BYTES, Sealed, pattern

from stannary.errors import Refuted, StannaryError
from stannary.seal import opening
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.http import HttpSource
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.patience import PATIENCE_S
from stannary.seal.stores.source import Busy, object_name

STALL_S = 0.2
PAGE = b"<!doctype html><html><body>Please sign in to use this network</body></html>"
DATA = pattern(3 * SMALL_SHARD_BYTES)

Answer = Callable[[bytes], tuple[bytes, bool]]  # what to send for an object, and whether to close then


def reply(body: bytes, *, status: str = "200 OK", length: int | None = None, more: str = "") -> bytes:
    """Return a response."""
    stated = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {stated}\r\n{more}\r\n".encode() + body


def ranged(body: bytes, first: int, total: int) -> bytes:
    """Return a partial response that names any range."""
    place = f"Content-Range: bytes {first}-{first + len(body) - 1}/{total}\r\n"
    return reply(body, status="206 Partial Content", more=place)


def cut(share: float, *, close: bool) -> Answer:
    """Send a part of the object only; then close, or keep silent."""
    return lambda data: (reply(data[: int(len(data) * share)], length=len(data)), close)


GOOD: dict[str, Answer] = {
    "plain": lambda data: (reply(data), False),
    "no length": lambda data: (b"HTTP/1.1 200 OK\r\n\r\n" + data, True),
    "chunked": lambda data: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), False,
    ),
    "an answer nobody asked for behind it": lambda data: (
        reply(data + reply(b"x"), length=len(data)), False,
    ),
}  # fmt: skip
BAD: dict[str, Answer] = {
    "coded on the way": lambda data: (reply(gzip.compress(data), more="Content-Encoding: gzip\r\n"), False),
    "redirect": lambda data: (reply(b"", status="302 Found", more="Location: http://127.0.0.1:1/\r\n"), False),
    "page of a captive portal": lambda data: (reply(b"<html>sign in</html>"), False),
    "longer": lambda data: (reply(data + b"x"), False),
    "longer in all": lambda data: (ranged(data, 0, len(data) + 1), False),
    "another place": lambda data: (ranged(data[16:] + data[:16], 16, len(data)), False),
    "a part, named as one": lambda data: (ranged(data[:100], 0, len(data)), False),
    "page of the right length": lambda data: (
        reply(PAGE.ljust(len(data), b" "), more="Content-Type: text/html; charset=utf-8\r\n"),
        False,
    ),
    "error of the right length": lambda data: (
        reply(b"{}".ljust(len(data), b" "), more="Content-Type: application/json\r\n"),
        False,
    ),
    "coded, of the right length": lambda data: (
        reply(gzip.compress(data)[: len(data)].ljust(len(data), b"\0"), more="Content-Encoding: br\r\n"),
        False,
    ),
    "page in chunks, longer": lambda data: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(data) + 9, PAGE.ljust(len(data) + 9)),
        False,
    ),
    "page to the end of the connection": lambda data: (b"HTTP/1.1 200 OK\r\n\r\n" + PAGE.ljust(len(data) * 2), True),
    "another part of the right length": lambda data: (ranged(data[16:] + data[:16], 16, len(data) + 16), False),
    "a part of no place": lambda data: (reply(bytes(len(data)), status="206 Partial Content"), False),
    "slow down": lambda data: (
        reply(b"<Error><Code>SlowDown</Code></Error>", status="503 Slow Down", more="Retry-After: 1\r\n"),
        False,
    ),
    "switching": lambda data: (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + data, False),
    "overloaded": lambda data: (reply(b"", status="503 Service Unavailable"), False),
    "other bytes": lambda data: (reply(bytes(len(data))), False),
    "closes at once": cut(0, close=True),
    "closes half way": cut(0.5, close=True),
    "closes at the last byte": cut(0.99999, close=True),
    "stalls at once": cut(0, close=False),
    "stalls half way": cut(0.5, close=False),
    "stalls at 99 %": cut(0.99, close=False),
}


@contextlib.contextmanager
def host(root: Path, special: set[str], answer: Answer) -> Iterator[str]:
    """Serve a store, the objects of `special` in the way of `answer`."""
    store = DirectoryStore(root)

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            while request := lines.readline():
                while lines.readline().strip():
                    pass
                name = request.split()[1].decode().lstrip("/")
                data = store.read(name, 10**9)
                sent, close = answer(data) if name in special else (reply(data), False)
                connection.sendall(sent)
                if close:
                    connection.shutdown(socket.SHUT_RDWR)
                    return

    with listening(serve) as url:
        yield url


@pytest.fixture
def tokens(seal_bytes: Callable[..., Sealed]) -> Sealed:
    """A file of three shards."""
    return seal_bytes(DATA, "tokens.bin")


def shards(sealed: Sealed) -> set[str]:
    """Name the shards of an artifact."""
    return {object_name(item) for item in sealed.open().head.shards}


def opened(sealed: Sealed, path: Path, *urls: str) -> SealedArtifact:
    """Open an artifact to a file from hosts, without pauses."""
    sources = tuple(HttpSource(url, stall_s=STALL_S) for url in urls)
    artifact = SealedArtifact(Mirrors(sealed.digest, sources, pause=lambda _: None), sealed.owner)
    opening.open_to(artifact, path, jobs=3)
    return artifact


@pytest.mark.parametrize("name", GOOD)
def test_host_that_is_odd_but_right(tokens: Sealed, tmp_path: Path, name: str) -> None:
    """The right bytes are taken, however they are framed."""
    with host(tokens.root, shards(tokens), GOOD[name]) as url:
        artifact = opened(tokens, tmp_path / "out", url)
    assert (tmp_path / "out").read_bytes() == DATA
    assert artifact.mirrors.blames == []


@pytest.mark.parametrize("name", BAD)
def test_bad_host_beside_an_honest_one(tokens: Sealed, tmp_path: Path, name: str) -> None:
    """Whatever one mirror does, the other one's bytes come, and only whole wrong bytes are called a lie."""
    with (
        host(tokens.root, shards(tokens), BAD[name]) as bad,
        host(tokens.root, set(), GOOD["plain"]) as good,
    ):
        artifact = opened(tokens, tmp_path / "out", bad, good)
    assert (tmp_path / "out").read_bytes() == DATA
    lies = {item.mirror for item in artifact.mirrors.blames}
    assert lies == ({bad} if name == "other bytes" else set())


@pytest.mark.parametrize("name", BAD)
def test_bad_host_alone(tokens: Sealed, tmp_path: Path, name: str) -> None:
    """With nobody else to ask it ends in an error of ours that says what to do, and nothing at PATH."""
    with host(tokens.root, shards(tokens), BAD[name]) as url, pytest.raises(StannaryError) as caught:
        opened(tokens, tmp_path / "out", url)
    assert caught.value.code in {"E-SERVICE", "E-REFUTED"}
    assert caught.value.hint or caught.value.code == "E-REFUTED"
    assert not (tmp_path / "out").exists()


HARMLESS = {"longer in all"}  # a small object is read whole and hashed, whatever its frame says


@pytest.mark.parametrize("name", [item for item in BAD if item not in HARMLESS])
def test_bad_host_of_head_and_manifest(tokens: Sealed, tmp_path: Path, name: str) -> None:
    """The same at the head, its signature and the manifest."""
    small = {str(path.relative_to(tokens.root)) for path in tokens.root.rglob("*") if path.is_file()} - shards(tokens)
    with host(tokens.root, small, BAD[name]) as bad, host(tokens.root, set(), GOOD["plain"]) as good:
        artifact = opened(tokens, tmp_path / "out", bad, good)
        assert (tmp_path / "out").read_bytes() == DATA
        assert not artifact.mirrors.blames or name == "other bytes"
        with pytest.raises(StannaryError):
            opened(tokens, tmp_path / "alone", bad)
    assert not (tmp_path / "alone").exists()


@contextlib.contextmanager
def moody(root: Path, moods: list[bytes]) -> Iterator[str]:
    """Serve a store, the first answers to each name being `moods`."""
    store = DirectoryStore(root)
    asked: collections.Counter[str] = collections.Counter()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            while request := lines.readline():
                while lines.readline().strip():
                    pass
                name = request.split()[1].decode().lstrip("/")
                asked[name] += 1
                mood = moods[asked[name] - 1] if asked[name] <= len(moods) else b""
                connection.sendall(mood.replace(b"@LATER@", later(40).encode()) or reply(store.read(name, 10**9)))

    with listening(serve) as url:
        yield url


ABSENT = reply(b"", status="404 Not Found")


def later(seconds: int) -> str:
    """Write a moment some seconds from now as HTTP does."""
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("moods", "least_s"),
    [
        ([ABSENT], 0),  # a store shows an object a moment after it was put
        ([ABSENT, ABSENT], 0),
        ([reply(b"", status="503 Service Unavailable")] * 7, 20),
        ([reply(b"", status="429 Too Many Requests", more="Retry-After: 13\r\n")], 13),
        ([reply(b"", status="503 Slow Down", more="Retry-After: @LATER@\r\n")], 30),
        ([reply(b"<Error><Code>SlowDown</Code></Error>", status="500 Internal Server Error")] * 6, 10),
        ([reply(b"", status="500 Internal Server Error")] * 3, 0),
        ([ABSENT, reply(b"", status="503 Service Unavailable"), reply(b"", status="502 Bad Gateway")], 0),
    ],
)
def test_a_store_that_asks_for_time_is_given_it(
    tokens: Sealed, tmp_path: Path, moods: list[bytes], least_s: float
) -> None:
    """Busy stores and objects that are not shown yet are asked again, as late as the store wishes."""
    pauses: list[float] = []
    with moody(tokens.root, moods) as url:
        sources = (HttpSource(url, stall_s=STALL_S),)
        artifact = SealedArtifact(Mirrors(tokens.digest, sources, pause=pauses.append), tokens.owner)
        opening.open_to(artifact, tmp_path / "out", jobs=1)
    assert (tmp_path / "out").read_bytes() == DATA
    assert artifact.mirrors.blames == []
    assert sum(pauses) >= least_s


def test_a_store_that_is_busy_for_ever_ends_the_run(tokens: Sealed, tmp_path: Path) -> None:
    """After the limit it is an error that says the store was busy; so it is at once where it asks for a day."""
    for more in ("", "Retry-After: 86400\r\n"):
        pauses: list[float] = []
        with moody(tokens.root, [reply(b"", status="503 Service Unavailable", more=more)] * 99) as url:
            mirrors = Mirrors(tokens.digest, (HttpSource(url, stall_s=STALL_S),), pause=pauses.append)
            with pytest.raises(Busy) as caught:
                SealedArtifact(mirrors, tokens.owner)
        assert sum(pauses) <= PATIENCE_S
        assert len(pauses) == (0 if more else len(pauses))
        assert "again" in caught.value.hint


def test_a_list_of_a_busy_host_is_waited_for(tokens: Sealed) -> None:
    """A listing has the patience that objects have; a host that stays busy is an error and not an empty store."""
    name = next((tokens.root / "head").iterdir()).name
    page = reply(f'<a href="{name}">'.encode(), more="Content-Type: text/html\r\n")
    busy = reply(b"", status="429 Too Many Requests", more="Retry-After: 13\r\n")
    for moods, expected in (([busy, busy, page], 26), ([reply(b"", status="502 Bad Gateway")] * 3 + [page], 0)):
        pauses: list[float] = []
        with moody(tokens.root, moods) as url:
            assert HttpSource(url, stall_s=STALL_S, pause=pauses.append).list("head") == [f"head/{name}"]
        assert sum(pauses) >= expected
    with moody(tokens.root, [busy] * 99) as url, pytest.raises(Busy):
        HttpSource(url, stall_s=STALL_S, pause=lambda _: None).list("head")


def test_a_busy_mirror_does_not_hold_up_an_idle_one(tokens: Sealed, tmp_path: Path) -> None:
    """Nobody waits for a busy store while another one answers."""
    pauses: list[float] = []
    with (
        moody(tokens.root, [reply(b"", status="503 Service Unavailable", more="Retry-After: 100\r\n")] * 99) as busy,
        host(tokens.root, set(), GOOD["plain"]) as good,
    ):
        sources = (HttpSource(busy), HttpSource(good))
        artifact = SealedArtifact(Mirrors(tokens.digest, sources, pause=pauses.append), tokens.owner)
        opening.open_to(artifact, tmp_path / "out", jobs=1)
    assert pauses == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: b"HTTP/1.1 200 OK\r\n\r\n" + data[:-1],
        lambda data: b"HTTP/1.1 200 OK\r\nContent-Type: binary/octet-stream\r\n\r\n" + data[: len(data) // 2],
        lambda _: reply(b'{"error":"no session","status":401}'),
    ],
)
def test_a_head_that_was_cut_or_is_an_errors_text_is_not_a_lie(
    tokens: Sealed, tmp_path: Path, answer: Callable[[bytes], bytes]
) -> None:
    """A head's digest tells no length: a page or a cut is a broken path; another head, or a damaged one, is a lie."""
    name = {f"head/{tokens.digest.removeprefix('sha256:')}"}
    with (
        host(tokens.root, name, lambda data: (answer(data), True)) as bad,
        host(tokens.root, set(), GOOD["plain"]) as good,
    ):
        assert opened(tokens, tmp_path / "out", bad, good).mirrors.blames == []
        with pytest.raises(StannaryError) as caught:
            opened(tokens, tmp_path / "alone", bad)
    assert caught.value.code == "E-SERVICE"
    with (
        host(tokens.root, name, lambda data: (reply(data.replace(b"artifact", b"artefact", 1)), False)) as junk,
        host(tokens.root, name, lambda data: (reply(_changed(data)), False)) as liar,
        host(tokens.root, set(), GOOD["plain"]) as good,
    ):
        artifact = opened(tokens, tmp_path / "third", junk, liar, good)
        assert {item.mirror for item in artifact.mirrors.blames} <= {liar}
        with pytest.raises(Refuted):
            opened(tokens, tmp_path / "lied", liar)


def _changed(head: bytes) -> bytes:
    return head.replace(b'"owner":"', b'"owner":"~', 1)


@pytest.mark.parametrize("page", [PAGE, b'{"error":"no such bucket"}', None])
def test_a_copy_that_was_cut_is_not_a_lie(tokens: Sealed, tmp_path: Path, page: bytes | None) -> None:
    """A folder whose copy ended early, or that holds a page for a head, is passed over and blamed for nothing."""
    bad = tmp_path / "bad"
    shutil.copytree(tokens.root, bad)
    for name in shards(tokens):
        (bad / name).write_bytes((bad / name).read_bytes()[:-1])
    for path in (bad / "head").iterdir():
        path.write_bytes(path.read_bytes()[:-1] if page is None else page)
    for roots in ((bad, tokens.root), (tokens.root, bad)):
        sources = tuple(map(DirectoryStore, roots))
        artifact = SealedArtifact(Mirrors(tokens.digest, sources, pause=lambda _: None), tokens.owner)
        opening.open_to(artifact, tmp_path / roots[0].name / "out", jobs=1)
        assert artifact.mirrors.blames == []
