"""Puts to a bucket: tried again when the way fails, and not when the bucket refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stannary.errors import NotFound, StannaryError, UsageError
from stannary.seal.stores.patience import ATTEMPTS, PATIENCE_S
from stannary.seal.stores.s3 import S3Store
from stannary.seal.stores.source import Busy, SourceFailure

LISTING = b"""<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>models</Name><KeyCount>1</KeyCount>
<IsTruncated>false</IsTruncated><Contents><Key>sealed/head/aa</Key><LastModified>2026-11-30T00:00:00.000Z</LastModified>
<ETag>"x"</ETag><Size>1</Size></Contents></ListBucketResult>"""


class Bucket(ThreadingHTTPServer):
    """Answers each put with the next of `answers`: a status, or 0 for a connection that breaks."""

    daemon_threads = True
    block_on_close = False  # kept connections end with the test's process

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.objects: dict[str, bytes] = {}
        self.puts = 0
        self.retry_after, self.body = "", b""
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0
    server: Bucket

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.puts += 1
        status = self.server.answers.pop(0) if self.server.answers else 200
        if not status:
            self.close_connection = True
            return
        if status == 200:
            self.server.objects[self.path.partition("?")[0]] = data
        self.answer(status)

    def do_GET(self) -> None:
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.answer(status, body=LISTING if status == 200 else b"")

    def do_HEAD(self) -> None:
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.answer(status, length=len(self.server.objects.get(self.path.partition("?")[0], b"")))

    def answer(self, status: int, *, length: int = 0, body: bytes = b"") -> None:
        """Answer, a busy server with what it says of it."""
        body = self.server.body if status >= 400 and self.command != "HEAD" else body
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        if self.server.retry_after and status >= 400:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """Keep quiet."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket on loopback, and the environment that reaches it."""
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def store(pauses: list[float]) -> S3Store:
    """Return the bucket as a store that writes its pauses down instead of waiting."""
    return S3Store("s3://models/sealed", stall_s=2.0, pause=pauses.append)


@pytest.mark.parametrize("answers", [[0], [503], [500, 0, 503]])
def test_put_is_tried_again(bucket: Bucket, answers: list[int]) -> None:
    """A broken connection and an overloaded host cost a pause each, growing, and the object arrives whole."""
    bucket.answers = list(answers)
    pauses: list[float] = []
    data = memoryview(bytes(range(256)) * 4000)
    store(pauses).put("b3/x", data)
    assert bucket.objects == {"/models/sealed/b3/x": bytes(data)}
    assert len(pauses) == len(answers)
    assert pauses == sorted(set(pauses))


def test_put_gives_up(bucket: Bucket) -> None:
    """A host that never takes it ends in an error, after as many attempts as said and without a secret in it."""
    bucket.answers = [500] * 20
    pauses: list[float] = []
    with pytest.raises(SourceFailure) as caught:
        store(pauses).put("b3/x", b"x")
    assert (bucket.puts, len(pauses)) == (ATTEMPTS, ATTEMPTS - 1)
    assert "X-Amz" not in caught.value.diagnostics()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b""),
        (429, b""),
        (503, b"<Error><Code>SlowDown</Code></Error>"),
        (400, b"<Error><Code>RequestTimeout</Code>"),
    ],
)
def test_a_busy_bucket_is_waited_for(bucket: Bucket, status: int, body: bytes) -> None:
    """A bucket that asks for fewer requests is asked as late as it wishes, more often than a broken one, to a limit."""
    bucket.answers, bucket.body = [status] * 8, body
    pauses: list[float] = []
    store(pauses).put("b3/x", b"x")
    assert len(pauses) == 8
    assert sum(pauses) <= PATIENCE_S
    bucket.answers, bucket.retry_after = [status, status], "17"
    pauses.clear()
    store(pauses).put("b3/y", b"x")
    assert pauses == [17.0, 17.0]
    bucket.answers, bucket.retry_after = [status] * 99, ""
    pauses.clear()
    with pytest.raises(Busy) as caught:
        store(pauses).put("b3/z", b"x")
    assert PATIENCE_S / 2 < sum(pauses) <= PATIENCE_S
    assert "again" in caught.value.hint
    bucket.answers, bucket.retry_after = [status], str(PATIENCE_S + 1)[:-2]
    with pytest.raises(Busy):
        store([]).put("b3/z", b"x")


def test_what_a_busy_bucket_holds_is_asked_patiently(bucket: Bucket) -> None:
    """Length, presence and names of objects are told by a bucket that was busy a moment ago."""
    bucket.objects["/models/sealed/b3/x"] = bytes(70)
    bucket.answers = [503, 429]
    pauses: list[float] = []
    assert store(pauses).size("b3/x") == 70
    assert len(pauses) == 2
    bucket.answers = [404]
    assert store(pauses).size("b3/y") is None
    pauses.clear()
    bucket.answers, bucket.body = [503, 503], b"<Error><Code>SlowDown</Code></Error>"
    assert store(pauses).list("head") == ["head/aa"]
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("status", "error", "word"), [(403, SourceFailure, "AWS_ACCESS_KEY_ID"), (404, NotFound, "bucket")]
)
def test_refusal_is_final(bucket: Bucket, status: int, error: type[StannaryError], word: str) -> None:
    """Wrong keys and a bucket that is not there are told at once, with what to set or make."""
    bucket.answers = [status]
    pauses: list[float] = []
    with pytest.raises(error) as caught:
        store(pauses).put("b3/x", b"x")
    assert (bucket.puts, pauses) == (1, [])
    assert word in caught.value.hint


def test_pool_is_made_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pool of connections serves all requests to a host: a TLS context each would cost more than they do."""
    from stannary.seal.stores import s3

    made: list[object] = []
    real = s3.ConnectionPool

    def counting(*arguments: object) -> object:
        made.append(real(*arguments))  # type: ignore[arg-type]  # passed through
        return made[-1]

    monkeypatch.setattr(s3, "ConnectionPool", counting)
    target = store([])
    for number in range(5):
        target.put(f"b3/{number}", b"x")
    assert len(made) == 1


@pytest.mark.parametrize("url", ["s3://", "http://models", "s3:/models"])
def test_address_that_is_no_bucket(url: str) -> None:
    """A bucket has a name."""
    with pytest.raises(UsageError):
        S3Store(url)
