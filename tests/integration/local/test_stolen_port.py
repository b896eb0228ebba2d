"""Somebody takes a stopped market's port: nobody's token, job or signature is shown to him."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from tests.integration.local.conftest import NODES
from tests.patience import wait_for

from stannary import buyer
from stannary.sdk import brokers, profile

pytestmark = pytest.mark.timeout(300)


class Thief:
    """Answers 200 to everything on a port, and keeps all he is told."""

    def __init__(self, port):
        self.heard = b""
        self.num_requests = 0
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        connection.settimeout(60)
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.heard += data
                self.num_requests += data.count(b" HTTP/1.1")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_who_takes_the_port_learns_nothing(private, stannary):
    """Agents, broker and command line knock on; all they say is a question for a proof. `market start` moves away."""
    used = private.ensure(NODES)
    place = buyer.root() / "jobs" / "j-000000000000"  # an open job: commands make sure of the broker
    place.mkdir(parents=True)
    (place / "market").write_text(used.profile.vkey)
    (place / "account").write_text("local")
    broker = brokers.find(brokers.home("local"))
    private.register.stop(private.register.find("market"), patience_s=15)
    thief = Thief(int(used.profile.url.rpartition(":")[2]))
    try:
        for command in (["ls"], ["wait", "j-000000000000"], ["offers"], ["market", "status"], ["market", "token"]):
            refused = stannary(*command)
            assert "next  stannary market start" in refused.stderr or "stannary market start" in refused.stdout, command
        wait_for(lambda: thief.num_requests >= 8, "nodes, which ask again after their pauses")
        assert stannary("market", "start").returncode == 0
        assert stannary("ls").returncode == 0
    finally:
        thief.close()
    requests = [line for line in thief.heard.split(b"\r\n") if b" HTTP/1.1" in line]
    assert all(line.startswith(b"GET /v1/market/proof?nonce=") for line in requests), requests
    assert used.token.value.encode() not in thief.heard and b"authorization" not in thief.heard.lower()
    assert broker is not None and profile.resolve(None, {}).profile.url != used.profile.url
