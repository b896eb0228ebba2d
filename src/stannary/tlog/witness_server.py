"""The witness as a process of its own: `python -m stannary.tlog.witness_server --dir D --port 0 --log-vkey KEY`.

Prints one JSON line `{"url": ..., "vkey": ..., "tls_pin": ...}` when it listens. On any other address than loopback it
speaks TLS, with the certificate it is given. Whoever asks is bounded: beyond MAX_CONNECTIONS the oldest is closed, and
its log asks again. SIGTERM ends it; it holds nothing that is not durable.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from stannary.errors import EnvironmentProblem, StannaryError, UsageError
from stannary.formats import note
from stannary.tlog.witness import MAX_REQUEST_BYTES, HttpReply, Witness, load_key

LOOPBACK = "127.0.0.1"
DEFAULT_NAME = "local.witness"
READ_TIMEOUT_S = 10.0  # a client that stalls must not hold a thread
MAX_CONNECTIONS = 64  # a log has one; each is a thread and a descriptor here
BACKLOG = 128


class WitnessServer(ThreadingHTTPServer):
    """HTTP face of one witness."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, address: tuple[str, int], witness: Witness, secure: ssl.SSLContext | None = None) -> None:
        self.witness = witness
        self._scheme = "http" if secure is None else "https"
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        self.parent_pid: int | None = None  # end when this process is no longer the parent
        super().__init__(address, _Handler)
        if secure is not None:  # the handshake is made by the thread that reads, within its READ_TIMEOUT_S
            self.socket = secure.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        """Return the address clients use."""
        return f"{self._scheme}://{self.server_address[0]!s}:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, at the cost of the oldest where there are too many."""
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes and closes it
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Forget a connection and close it."""
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that broke, or never spoke TLS: strangers must not fill a log."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def service_actions(self) -> None:
        """End when the parent is gone: a market killed hard must not leave a second witness on the same state."""
        self.witness.look_at_clock()
        if self.parent_pid is not None and os.getppid() != self.parent_pid:
            self.parent_pid = None
            threading.Thread(target=self.shutdown, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    timeout = READ_TIMEOUT_S
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if self.path != "/add-checkpoint":
            self._send(HttpReply(HTTPStatus.NOT_FOUND, "no such path\n"))
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_REQUEST_BYTES:
            self.close_connection = True
            self._send(HttpReply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request too large\n"))
            return
        request = self.rfile.read(int(length))
        try:
            answer = self.server.witness.add_checkpoint(request)
        except EnvironmentProblem as err:  # the disk is full: no state, no signature
            answer = HttpReply(HTTPStatus.INSUFFICIENT_STORAGE, f"{err}\n")
        self._send(answer)

    def _send(self, answer: HttpReply) -> None:
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's parameter name
        """Say nothing: stdout holds the one JSON line, stderr is for failures."""


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="stannary.tlog.witness_server", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="key and state live here")
    parser.add_argument("--host", default=LOOPBACK, help="any other than loopback needs --tls-cert and --tls-key")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls-cert", type=Path, help="certificate, PEM")
    parser.add_argument("--tls-key", type=Path, help="its private key, PEM")
    parser.add_argument("--name", default=DEFAULT_NAME)
    parser.add_argument("--log-vkey", action="append", required=True, help="verifier key of a log to witness")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    options = parser.parse_args(arguments)
    try:
        secure, pin = _secure(options)
        address = (options.host, options.port)
        server = WitnessServer(address, _open(options.dir, options.name, options.log_vkey), secure)
    except StannaryError as err:
        sys.stderr.write(err.diagnostics() + "\n")
        return err.exit_code

    if options.with_parent:
        server.parent_pid = os.getppid()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever, which runs in this very thread
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(json.dumps({"url": server.url, "vkey": server.witness.vkey, "tls_pin": pin}) + "\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0


def _secure(options: argparse.Namespace) -> tuple[ssl.SSLContext | None, str]:
    """Return how it speaks TLS, and the SHA-256 of its certificate (hex); nothing of both on loopback without one."""
    if options.tls_cert is None or options.tls_key is None:
        if options.host != LOOPBACK or options.tls_cert is not options.tls_key:
            hint = "give --tls-cert and --tls-key"
            raise UsageError("a witness on a network speaks TLS", why=f"--host {options.host}", hint=hint)
        return None, ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        pem = options.tls_cert.read_text("ascii")
        first = pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return context, hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[first.index(ssl.PEM_HEADER) :])).hexdigest()
    except (OSError, ValueError) as err:
        raise EnvironmentProblem("the witness's certificate cannot be used", why=f"{options.tls_cert}: {err}") from err


def _open(directory: Path, name: str, log_vkeys: list[str]) -> Witness:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    logs = [note.parse_vkey(item) for item in log_vkeys]
    return Witness(directory, name, load_key(directory / "key"), logs, time.time)


if __name__ == "__main__":
    sys.exit(main())
