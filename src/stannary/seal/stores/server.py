"""A mirror: serves a folder of sealed objects over HTTP, read only, to anybody.

Everything it serves is ciphertext or public, and readers check every byte, so there is nothing to log
in to. What it does that a plain file server does not: BBR on each sending socket (link.py), names by
grammar instead of by path (no other file of the disk can be asked for), single ranges, and an index of
`head/` for `artifact ls`.

Limits: MAX_CLIENTS connections at once, IDLE_S without a request or progress ends one.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stannary.errors import NotFound, StannaryError
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.link import prefer_bbr

IDLE_S = 30.0
MAX_CLIENTS = 256
SEND_BYTES = 1024 * 1024

_OBJECT = re.compile(r"/(head/[0-9a-f]{64}(?:\.dsse)?|b3/[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


class MirrorServer(ThreadingHTTPServer):
    """Serves one folder. `serve_forever` in a thread or a process; `server_close` ends it."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], root: Path) -> None:
        self.store = DirectoryStore(root)
        self.clients = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """The base URL readers use."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Refuse a connection too many at once instead of queueing it."""
        if not self.clients.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve one connection, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.clients.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "stannary-mirror"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: MirrorServer

    def setup(self) -> None:
        super().setup()
        prefer_bbr(self.connection)

    def do_GET(self) -> None:
        """Serve an object, a range of it, or the index of heads."""
        self._serve(send_body=True)

    def do_HEAD(self) -> None:
        """Serve the length of an object."""
        self._serve(send_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """Keep no log: a mirror has no business knowing who reads what."""

    def _serve(self, *, send_body: bool) -> None:
        if self.path == "/head/":
            self._index(send_body=send_body)
            return
        match = _OBJECT.fullmatch(self.path)
        try:
            if match is None:
                raise NotFound("no such object")
            descriptor, length = self.server.store.open_object(match[1])
        except NotFound:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        except StannaryError:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        try:
            self._send(descriptor, length, send_body=send_body)
        finally:
            os.close(descriptor)

    def _send(self, descriptor: int, length: int, *, send_body: bool) -> None:
        first, last, partial = 0, length - 1, False
        asked = self.headers.get("Range")
        if asked is not None:
            match = _RANGE.fullmatch(asked)
            backwards = match is not None and match[2] != "" and int(match[2]) < int(match[1])
            if match is None or backwards or int(match[1]) >= length:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{length}")
                return
            first = int(match[1])
            last = min(last, int(match[2])) if match[2] else last
            partial = True
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Cache-Control", "public, max-age=31536000, immutable")
        self.send_header("Accept-Ranges", "bytes")
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{length}")
        self.end_headers()
        if send_body:
            self.wfile.flush()
            self._send_file(descriptor, first, last + 1)

    def _send_file(self, descriptor: int, first: int, stop: int) -> None:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            while first < stop:
                count = min(SEND_BYTES, stop - first)
                self.connection.sendfile(file, first, count)
                first += count

    def _index(self, *, send_body: bool) -> None:
        names = [name.removeprefix("head/") for name in self.server.store.list("head")]
        page = "\n".join(f'<a href="{name}">{name}</a>' for name in names).encode("ascii")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if send_body:
            self.wfile.write(page)

    def _refuse(self, status: HTTPStatus, content_range: str = "") -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", "0")
        self.end_headers()
