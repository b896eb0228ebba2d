"""A market proves its key on each connection before a token is shown: whoever else is there gets nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.errors import AuthError, MarketUnreachable, UsageError
from stannary.formats import dsse, note
from stannary.wire import proof
from stannary.wire.connection import Connection

KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(KEY))
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
TOKEN = files.Secret("stk_secret")
Ends = tuple[proof.End, proof.End]
Answer = Callable[[str, Ends], bytes]


def ok(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def honest(nonce: str, ends: Ends) -> bytes:
    return ok(proof.sign(KEY, VKEY, nonce, *ends).to_bytes())


class Listener:
    """Whoever has the port: answers each request as told and keeps every byte it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.heard = b""
        self.num_connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.num_connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        ends = (connection.getpeername(), connection.getsockname())
        with connection, contextlib.suppress(OSError):
            for answer in self.answers:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    data = connection.recv(4096)
                    if not data:
                        return
                    asked += data
                self.heard += asked
                nonce = asked.split(b" ")[1].partition(b"nonce=")[2].decode()
                connection.sendall(answer(nonce, ends))


@pytest.fixture
def listen():
    made = []

    def start(*answers: Answer) -> Listener:
        made.append(Listener(*answers))
        return made[-1]

    yield start
    for item in made:
        item.close()


def ask(url: str, **more: object) -> bytes:
    with Connection(url, token=TOKEN, vkey=VKEY, sleep=lambda _: None, **more) as link:
        return link.send("GET", "/v1/jobs").content


def test_a_market_that_proves_its_key_is_shown_the_token(listen) -> None:
    """The proof comes first, the request with its token after it, on the same connection."""
    market = listen(honest, lambda *_: ok(b"[]"))
    assert ask(market.url) == b"[]"
    first, _, second = market.heard.partition(b"\r\n\r\n")
    assert first.startswith(b"GET /v1/market/proof?nonce=") and b"stk_secret" not in first
    assert b"stk_secret" in second
    assert market.num_connections == 1


FAKES: dict[str, Answer] = {
    "200 to everything": lambda *_: ok(b"{}"),
    "an empty 200": lambda *_: ok(b""),
    "a page": lambda *_: ok(b"<html>welcome</html>"),
    "no such route": lambda *_: ok(b"{}", "404 Not Found"),
    "sent elsewhere": lambda *_: b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "another key": lambda nonce, ends: ok(proof.sign(OTHER, VKEY, nonce, *ends).to_bytes()),
    "an old nonce": lambda _, ends: ok(proof.sign(KEY, VKEY, "0" * 64, *ends).to_bytes()),
    "another vkey": lambda nonce, ends: ok(proof.sign(KEY, "x" + VKEY, nonce, *ends).to_bytes()),
    "no HTTP": lambda *_: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "endless headers": lambda *_: b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"a" * 200_000,
    "endless body": lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"a" * 200_000,
}


@pytest.mark.parametrize("fake", FAKES)
def test_whoever_took_the_port_gets_no_token(listen, fake: str) -> None:
    """A server that answers anything at all, but not the proof, is refused, and saw neither token nor request."""
    thief = listen(FAKES[fake], lambda *_: ok(b"[]"))
    with pytest.raises(AuthError, match="something else answers"):
        ask(thief.url)
    assert b"stk_secret" not in thief.heard and b"/v1/jobs" not in thief.heard


def test_a_proof_cannot_be_relayed(listen) -> None:
    """Who has the port and asks the real market, on another port, for its proof holds one of another connection."""
    market = listen(honest, lambda *_: ok(b"[]"))

    def relayed(nonce: str, _: Ends) -> bytes:
        with socket.create_connection(("127.0.0.1", market.port)) as link:
            link.sendall(f"GET /v1/market/proof?nonce={nonce} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            return link.recv(65536)

    thief = listen(relayed, lambda *_: ok(b"[]"))
    with pytest.raises(AuthError, match="something else answers"):
        ask(thief.url)
    assert b"stk_secret" not in thief.heard + market.heard


def test_a_port_that_changes_hands_between_two_requests(listen) -> None:
    """Each new connection is proved anew: that one was good says nothing of the next."""
    hands = [honest, lambda *_: ok(b"{}")]

    def changing(nonce: str, ends: Ends) -> bytes:
        return hands.pop(0)(nonce, ends)

    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"
    market = listen(changing, lambda *_: closing)
    with Connection(market.url, token=TOKEN, vkey=VKEY, sleep=lambda _: None) as link:
        assert link.send("GET", "/v1/jobs").content == b"[]"
        with pytest.raises(AuthError):
            link.send("GET", "/v1/again")
    assert b"/v1/again" not in market.heard


def test_a_market_that_stops_or_is_busy_is_silence(listen) -> None:
    """A connection cut off before the answer, or a 503, is waited out as silence is, and no fake is cried."""
    for answers in ((), (lambda *_: ok(b"", "503 Service Unavailable"),)):
        market = listen(*answers)
        with pytest.raises(MarketUnreachable):
            ask(market.url)
        assert b"stk_secret" not in market.heard


def test_a_token_needs_a_key() -> None:
    """On plain HTTP without a pinned key no token is even put into a connection; TLS is known by its certificate."""
    with pytest.raises(UsageError, match="no key of this market is pinned"):
        Connection("http://127.0.0.1:9", token=TOKEN)
    Connection("https://127.0.0.1:9", token=TOKEN).close()


def test_every_part_of_a_proof_counts() -> None:
    """Changing nonce, key or either end of the connection breaks it."""
    ends = (("127.0.0.1", 50_000), ("127.0.0.1", 7433))
    made = proof.sign(KEY, VKEY, "a" * 64, *ends)
    proof.verify(made, VKEY, "a" * 64, *ends)
    others = [
        (VKEY, "b" * 64, *ends),
        (note.format_vkey("test.market", dsse.public_bytes(OTHER)), "a" * 64, *ends),
        (VKEY, "a" * 64, ("127.0.0.1", 50_001), ends[1]),
        (VKEY, "a" * 64, ends[0], ("127.0.0.1", 7434)),
        (VKEY, "a" * 64, ends[1], ends[0]),
    ]
    for changed in others:
        with pytest.raises(InvalidSignature):
            proof.verify(made, *changed)
