"""A plain HTTP host as a source of sealed objects: ranged GETs on immutable names, one connection a thread.

Bytes are received into one reused buffer per thread. Every read has the stall limit, and a host that
drips below MIN_BYTES_PER_S is given up as well. Redirects are not followed and nothing is decompressed:
an object is the bytes of its name or it is refused by the reader.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import TypeAlias

from stannary.errors import LimitExceeded, NotFound, UsageError
from stannary.seal.link import prefer_bbr
from stannary.seal.message import Buffer
from stannary.seal.source import MIN_BYTES_PER_S, PIECE_BYTES, STALL_S, SourceFailure

CONNECT_S = 10.0
GRACE_S = 15.0  # before the least rate is asked for: name lookup, handshake, a slow first byte
MAX_LISTING_BYTES = 8 * 1024 * 1024

Connection: TypeAlias = http.client.HTTPConnection
_HREF = re.compile(r'href="([0-9a-f]{64}(?:\.dsse)?)"')


class HttpSource:
    """Objects below a base URL."""

    def __init__(self, url: str, *, stall_s: float = STALL_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise UsageError("not an HTTP address", why=f"{url!r:.100}")
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._pool = ConnectionPool(parts, stall_s)

    def read(self, name: str, limit: int) -> bytes:
        """Return an object whole."""
        return self._pool.read(f"{self._base}/{name}", limit)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        """Yield an object in pieces of one reused buffer per thread."""
        return self._pool.stream(f"{self._base}/{name}", length)

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        return self._pool.size(f"{self._base}/{name}")

    def list(self, prefix: str) -> list[str]:
        """Return names from the host's index page, as our own server and common ones print it."""
        try:
            page = self._pool.read(f"{self._base}/{prefix}/", MAX_LISTING_BYTES).decode("utf-8", "replace")
        except NotFound:
            return []
        return [f"{prefix}/{name}" for name in sorted(set(_HREF.findall(page)))]


class ConnectionPool:
    """One kept connection and one buffer per thread, to one host."""

    def __init__(self, parts: urllib.parse.SplitResult, stall_s: float = STALL_S) -> None:
        self._parts = parts
        self._stall_s = stall_s
        self._local = threading.local()
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    def read(self, target: str, limit: int) -> bytes:
        """GET a small object."""
        with self._responding("GET", target) as response:
            data = response.read(limit + 1)
        if len(data) > limit:
            self._close()
            raise LimitExceeded("object too large", why=f"{target:.120}: more than {limit:,} bytes")
        return data

    def stream(self, target: str, length: int) -> Iterator[memoryview]:
        """GET exactly `length` bytes in pieces."""
        scratch = self._buffer()
        deadline = time.monotonic() + GRACE_S + length / MIN_BYTES_PER_S
        received = 0
        with self._responding("GET", target, {"Range": f"bytes=0-{length - 1}"}) as response:
            _check_total(response, target, length)
            while received < length:
                count = response.readinto(scratch[: min(PIECE_BYTES, length - received)])
                if count == 0:
                    raise SourceFailure("the host closed early", why=f"{target:.120}: {received:,} of {length:,} bytes")
                received += count
                if time.monotonic() > deadline:
                    raise SourceFailure("the host is too slow", why=f"{target:.120}: {received:,} of {length:,} bytes")
                yield scratch[:count]
            response.read(0)

    def size(self, target: str) -> int | None:
        """HEAD an object."""
        try:
            with self._responding("HEAD", target) as response:
                response.read()
                return response.length if response.length else _content_length(response)
        except NotFound:
            return None

    def put(self, target: str, data: Buffer) -> None:
        """PUT an object."""
        with self._responding("PUT", target, {"Content-Length": str(len(data))}, data) as response:
            response.read()

    @contextlib.contextmanager
    def _responding(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: Buffer | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask once more on a fresh connection if a kept one turns out to be closed; then give up."""
        whole = False
        try:
            response = self._ask(method, target, headers or {}, body)
            if response.status == http.client.NOT_FOUND:
                response.read(MAX_LISTING_BYTES)
                whole = True
                raise NotFound("no such object", why=f"{self._parts.netloc}{target:.120}")
            if response.status not in {200, 201, 204, 206}:
                raise SourceFailure("the host refused", why=f"{response.status} for {target:.120}")
            yield response
            whole = response.isclosed()
        except (OSError, http.client.HTTPException) as err:
            raise SourceFailure("the host failed", why=f"{self._parts.netloc}: {err!r:.160}") from err
        finally:
            if not whole:
                self._close()  # a connection in the middle of a body cannot be used again

    def _ask(self, method: str, target: str, headers: dict[str, str], body: Buffer | None) -> http.client.HTTPResponse:
        kept = getattr(self._local, "connection", None) is not None
        try:
            return self._ask_once(method, target, headers, body)
        except (ConnectionError, http.client.BadStatusLine):
            if not kept:
                raise
        self._close()
        return self._ask_once(method, target, headers, body)

    def _ask_once(
        self, method: str, target: str, headers: dict[str, str], body: Buffer | None
    ) -> http.client.HTTPResponse:
        connection = self._connection()
        connection.request(method, target, body=body, headers={"Accept-Encoding": "identity", **headers})
        return connection.getresponse()

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            if self._tls is not None:
                connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=self._tls)
            else:
                connection = http.client.HTTPConnection(host, port, timeout=CONNECT_S)
            connection.connect()
            connection.sock.settimeout(self._stall_s)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            prefer_bbr(connection.sock)  # matters when we send: uploads
            self._local.connection = connection
        return connection

    def _close(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(PIECE_BYTES))
        return buffer


def _check_total(response: http.client.HTTPResponse, target: str, length: int) -> None:
    """Refuse an answer whose object is of another length than the one asked for by name."""
    total = _content_length(response)
    if response.status == http.client.PARTIAL_CONTENT:
        stated = (response.getheader("Content-Range") or "").rpartition("/")[2]
        total = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else None
    if total is not None and total != length:
        raise SourceFailure("the object has another length", why=f"{target:.120}: {total:,}, expected {length:,}")


def _content_length(response: http.client.HTTPResponse) -> int | None:
    stated = response.getheader("Content-Length") or ""
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else None
