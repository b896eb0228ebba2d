"""A plain HTTP host as a source of sealed objects: ranged GETs on immutable names over kept connections.

Every receive has the stall limit, and every request a time by which it must have ended, header and body
together: a host that drips below MIN_BYTES_PER_S is given up wherever it drips. Uploads go out in pieces,
each with the stall limit, so that a slow link is no stall. Redirects are not followed and nothing is
decompressed: an object is the bytes of its name or it is refused by the reader. Proxies are those of the
environment (wire/proxy.py).

Between us and a host stand log-in pages, caches that compress and servers of errors. What says so in an
answer's head (type, coding, range) is kept as `doubt` for the reader: the right bytes are right whatever
stands around them, and wrong bytes in such an answer are no lie of the host.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import http.client
import io
import re
import socket
import ssl
import threading
import time
import urllib.parse
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

from stannary.errors import LimitExceeded, NotFound, UsageError
from stannary.seal.message import Buffer
from stannary.seal.stores.link import prefer_bbr
from stannary.seal.stores.patience import PAUSE_S, Patience, Pause, patiently
from stannary.seal.stores.source import MIN_BYTES_PER_S, STALL_S, Busy, SourceFailure
from stannary.wire import proxy
from stannary.wire.retry_after import retry_after_s

CONNECT_S = 10.0
GRACE_S = 15.0  # before the least rate is asked for: name lookup, handshake, a slow first byte
RECEIVE_BYTES = 512 * 1024
SEND_BYTES = 256 * 1024
UNSENT_BYTES = 4 * 1024 * 1024  # what the kernel may still hold of an upload when the last piece was handed to it
MAX_LISTING_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024  # of an error's body: S3's are below 2 KiB
OCTET_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})  # the last is what S3 says
BUSY_STATUSES = frozenset({408, 425, 429, 503})
BUSY_CODES = frozenset(  # of S3 and stores like it, in the body of an error of any status
    {"Busy", "RequestLimitExceeded", "RequestThrottled", "RequestTimeout", "ServiceUnavailable", "SlowDown",
     "Throttling", "TooManyRequests"}
)  # fmt: skip
LOGIN_HINT = "a log-in page or a moved store: open the address in a browser, or give the one that answers itself"

Connection: TypeAlias = http.client.HTTPConnection
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
_RANGE = re.compile(r"bytes 0-(\d{1,15})/(\d{1,15}|\*)")
_told = threading.local()  # what stood around the bytes that this thread read last
_HREF = re.compile(r'href="([0-9a-f]{64}(?:\.dsse)?)"')


class HttpSource:
    """Objects below a base URL."""

    def __init__(self, url: str, *, stall_s: float = STALL_S, pause: Pause | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise UsageError("not an HTTP address", why=f"{url!r:.100}")
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._pool = ConnectionPool(parts, stall_s)
        self._pause = pause or threading.Event().wait

    def read(self, name: str, limit: int) -> bytes:
        """Return an object whole."""
        return self._pool.read(f"{self._base}/{name}", limit)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        """Yield an object in pieces."""
        return self._pool.stream(f"{self._base}/{name}", length)

    @property
    def doubt(self) -> str:
        """Say why wrong bytes that this thread read last need not be the host's own."""
        return last_doubt()

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        return self._pool.size(f"{self._base}/{name}")

    def list(self, prefix: str) -> list[str]:
        """Return names from the host's index page, as our own server and common ones print it; wait for a busy host."""

        def ask() -> str:
            return self._pool.read(f"{self._base}/{prefix}/", MAX_LISTING_BYTES).decode("utf-8", "replace")

        try:
            page = patiently(ask, Patience(self._pause, PAUSE_S))
        except NotFound:
            return []
        return [f"{prefix}/{name}" for name in sorted(set(_HREF.findall(page)))]


def last_doubt() -> str:
    """Say why wrong bytes that this thread read last, from any host, need not be that host's own."""
    return str(getattr(_told, "doubt", ""))


class ConnectionPool:
    """Kept connections to one host; each request takes one and gives it back."""

    def __init__(self, parts: urllib.parse.SplitResult, stall_s: float = STALL_S) -> None:
        self._parts = parts
        self._stall_s = stall_s
        self._proxy = proxy.find(parts.scheme, parts.hostname or "")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: collections.deque[Connection] = collections.deque()  # append and pop are atomic
        weakref.finalize(self, _close_all, self._idle)

    def read(self, target: str, limit: int) -> bytes:
        """GET a small object."""
        with self._responding("GET", target) as response:
            stated = _content_length(response)
            _allow(response, min(limit, limit if stated is None else stated))
            if response.status == http.client.PARTIAL_CONTENT:
                _told.doubt = "it is a part, and the whole was asked for"
            data = response.read(limit + 1)
            if len(data) > limit:
                raise LimitExceeded("object too large", why=f"{_path(target)}: more than {limit:,} bytes")
            if stated is not None and len(data) < stated:  # a broken connection, which is no lie
                raise SourceFailure("the host closed early", why=f"{_path(target)}: {len(data):,} of {stated:,} bytes")
        return data

    def stream(self, target: str, length: int) -> Iterator[memoryview]:
        """GET exactly `length` bytes in pieces."""
        deadline = time.monotonic() + GRACE_S + length / MIN_BYTES_PER_S
        received = 0
        with self._responding("GET", target, {"Range": f"bytes=0-{length - 1}"}) as response:
            _check_total(response, target, length)
            _allow(response, length)
            while received < length:
                # One receive at a time: `readinto` would wait for a full buffer, and a host that drips a
                # byte now and then would stay below every limit.
                piece = response.read1(min(RECEIVE_BYTES, length - received))
                received += len(piece)
                if not piece or time.monotonic() > deadline:
                    what = "the host is too slow" if piece else "the host closed early"
                    raise SourceFailure(what, why=f"{_path(target)}: {received:,} of {length:,} bytes")
                yield memoryview(piece)
            # The end of the body, so that the connection can be kept; more than that is not read.
            if response.read(1):
                _told.doubt = f"more than the {length:,} bytes that were asked for"

    def size(self, target: str) -> int | None:
        """HEAD an object."""
        try:
            with self._responding("HEAD", target) as response:
                response.read()
                return _content_length(response)
        except NotFound:
            return None

    def put(self, target: str, data: Buffer) -> None:
        """PUT an object."""
        with self._responding("PUT", target, {"Content-Length": str(len(data))}, data) as response:
            response.read(MAX_LISTING_BYTES)

    @contextlib.contextmanager
    def _responding(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: Buffer | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request on a kept or a fresh connection; keep it again if the body was read to its end."""
        connection: Connection | None = None
        response: http.client.HTTPResponse | None = None
        try:
            connection, response = self._ask(method, target, headers or {}, body)
            if response.status == http.client.NOT_FOUND:
                response.read(MAX_LISTING_BYTES)
                raise NotFound("no such object", why=f"{self._parts.netloc}{_path(target)}")
            if response.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
                raise SourceFailure("the proxy asks for a name and password", why=_via(self._proxy), hint=proxy.HINT)
            if response.status not in {200, 201, 204, 206}:
                raise _refusal(response, target)
            through_proxy = self._proxy is not None and self._tls is None
            _told.doubt = "it came through a proxy that may change it" if through_proxy else _doubt(response)
            yield response
            if response.isclosed() and not response.will_close:
                self._idle.append(connection)
                connection = None
        except (OSError, http.client.HTTPException) as err:
            raise SourceFailure("the host failed", why=f"{self._parts.netloc}: {err!r:.160}") from err
        finally:
            if connection is not None:  # in the middle of a body: cannot be used again
                connection.close()
                if response is not None:
                    response.close()  # a response that ends its connection is no longer known to it

    def _ask(
        self, method: str, target: str, headers: dict[str, str], body: Buffer | None
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Send on a kept connection; the host may have closed it meanwhile, then on a fresh one."""
        if self._proxy is not None and self._tls is None:  # asked of the proxy, by whole address
            target = f"http://{self._parts.netloc}{target}"
            headers = headers | dict(self._proxy.headers())
        while self._idle:
            connection = self._idle.pop()
            try:
                return connection, self._ask_on(connection, (method, target), headers, body)
            except (OSError, http.client.HTTPException):
                connection.close()
        with contextlib.ExitStack() as undo:  # an interrupt too leaves no socket open
            connection = self._connect()
            undo.callback(connection.close)
            answer = self._ask_on(connection, (method, target), headers, body)
            undo.pop_all()
        return connection, answer

    def _connect(self) -> Connection:
        host, port = self._parts.hostname or "", self._parts.port
        via = self._proxy
        first, first_port = (host, port) if via is None else (via.host, via.port)
        connection: Connection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(first, first_port, timeout=CONNECT_S, context=self._tls)
            if via is not None:
                connection.set_tunnel(host, port or http.client.HTTPS_PORT, headers=dict(via.headers()))
        else:
            connection = http.client.HTTPConnection(first, first_port, timeout=CONNECT_S)
        connection.connect()
        connection.sock.settimeout(self._stall_s)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        prefer_bbr(connection.sock)  # matters when we send: uploads
        return connection

    def _ask_on(
        self, connection: Connection, line: tuple[str, str], headers: dict[str, str], body: Buffer | None
    ) -> http.client.HTTPResponse:
        """Send a request line, headers and body; return the response when its head is there."""
        unsent = 0 if body is None else min(len(body), UNSENT_BYTES)
        limits_s = (self._stall_s + unsent / MIN_BYTES_PER_S, self._stall_s)
        timed = functools.partial(_Response, limits_s=limits_s)
        connection.response_class = timed  # type: ignore[assignment]  # http.client only calls it
        # An iterable body is sent piece by piece: the time limit of a socket holds for all of one `sendall`.
        pieces = None if body is None else _pieces(memoryview(body), line[1])
        connection.request(*line, body=pieces, headers={"Accept-Encoding": "identity", **headers})
        return connection.getresponse()


def _pieces(body: memoryview, target: str) -> Iterator[memoryview]:
    deadline = time.monotonic() + GRACE_S + len(body) / MIN_BYTES_PER_S
    for start in range(0, len(body), SEND_BYTES):
        if time.monotonic() > deadline:
            raise SourceFailure("the host is too slow", why=f"{_path(target)}: {start:,} of {len(body):,} bytes taken")
        yield body[start : start + SEND_BYTES]


class _Response(http.client.HTTPResponse):
    """A response with a time by which it must have ended, from the first byte of its status line on."""

    def __init__(self, sock: socket.socket, *arguments: Any, limits_s: tuple[float, float], **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.timed = _Timed(self.fp.detach(), sock, limits_s)
        self.fp = io.BufferedReader(self.timed)


class _Timed(io.RawIOBase):
    """What a socket receives until `deadline`: the first byte within one limit, each further within another."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, limits_s: tuple[float, float]) -> None:
        super().__init__()
        self._raw, self._sock = raw, sock
        self._wait_s, self._stall_s = limits_s
        self.deadline = time.monotonic() + GRACE_S + self._wait_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._sock.settimeout(min(self._wait_s, left))
        try:
            return self._raw.readinto(buffer)
        finally:
            self._wait_s = self._stall_s
            self._sock.settimeout(self._stall_s)  # sending has the limit to itself

    def close(self) -> None:
        self._raw.close()
        super().close()


def _allow(response: http.client.HTTPResponse, num_bytes: int) -> None:
    """Give a body the time its length needs at the least rate."""
    if isinstance(response, _Response):
        response.timed.deadline = time.monotonic() + GRACE_S + num_bytes / MIN_BYTES_PER_S


def _close_all(idle: collections.deque[Connection]) -> None:
    while idle:
        idle.pop().close()


def _via(found: proxy.Proxy | None) -> str:
    return "none is configured" if found is None else f"{found.host}:{found.port}"


def _path(target: str) -> str:
    """Return what may be shown of a target: a signed URL's query is a secret."""
    return target.partition("?")[0][:160]


def _check_total(response: http.client.HTTPResponse, target: str, length: int) -> None:
    """Refuse an answer that is not all of an object of the length asked for by name."""
    total = _content_length(response)
    if response.status == http.client.PARTIAL_CONTENT:
        stated = response.getheader("Content-Range") or ""
        found = _RANGE.fullmatch(stated)
        if found is None or int(found[1]) != length - 1:
            raise SourceFailure(
                "the host sent another range", why=f"{_path(target)}: {stated!r:.60}, asked for the whole"
            )
        total = None if found[2] == "*" else int(found[2])
    if total is not None and total != length:
        raise SourceFailure("the object has another length", why=f"{_path(target)}: {total:,}, expected {length:,}")


def _refusal(response: http.client.HTTPResponse, target: str) -> SourceFailure:
    """Return what an error's status and body say: busy, elsewhere, broken or refused."""
    found = _CODE.search(response.read(MAX_ERROR_BYTES))
    code = found[1].decode("ascii") if found else ""
    why = f"{response.status}{' ' * bool(code)}{code} for {_path(target)}"
    if response.status in BUSY_STATUSES or code in BUSY_CODES:
        after_s = retry_after_s(response.getheader("Retry-After"), datetime.now(UTC))
        return Busy(why=f"{why}, asks for {after_s:,.0f} s" if after_s else why, after_s=after_s)
    if 300 <= response.status < 400:
        where = urllib.parse.urlsplit(response.getheader("Location") or "").hostname or "elsewhere"
        return SourceFailure("the host leads elsewhere", why=f"{why}, to {where:.80}", hint=LOGIN_HINT)
    return SourceFailure("the host refused", why=why)


def _doubt(response: http.client.HTTPResponse) -> str:
    coding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        return f"it was coded on the way: {coding:.40}"
    kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    return "" if kind in OCTET_TYPES else f"it is called {kind:.60}, which no sealed object is"


def _content_length(response: http.client.HTTPResponse) -> int | None:
    stated = response.getheader("Content-Length") or ""
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else None
