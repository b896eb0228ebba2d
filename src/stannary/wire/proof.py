"""A market's proof of its key, bound to one TCP connection: asked for before a token is shown on plain HTTP.

    GET /v1/market/proof?nonce=N     ->  {"signature": Ed25519 by the market's key over `signed(...)`}

Plain HTTP on loopback names nobody: whoever binds the port of a stopped market would be sent the API tokens of
all who knock. Rules:
1. The proof is the first exchange on each new connection; nothing else, and no token, is sent before it holds.
2. It names both ends of the connection, and each side writes down the ends it sees itself. What somebody in
   between fetched from the real market names other ends.
3. What follows goes over the same connection: a port that changes hands later changes nothing.

Over TLS the pinned certificate says as much, and no proof is asked for. Signing is market/http/routes_log.py.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any

import h11
import httpcore2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stannary.errors import AuthError, StannaryError
from stannary.formats import note
from stannary.wire import message, routes
from stannary.wire.message import Base64Signature, Message

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN = "stannary market proof v1"  # no log origin holds a space, no DSSE encoding starts so: one meaning a signature
NONCE_CHARS = 64
PATIENCE_S = 10.0
MAX_ANSWER_BYTES = 16 * 1024
SERVER_ERROR = 500
BUSY = frozenset({408, 429})

End = tuple[str, int]


class Proof(Message):
    """GET /v1/market/proof."""

    signature: Base64Signature


def sign(key: Ed25519PrivateKey, vkey: str, nonce: str, client: End, server: End) -> Proof:
    """Return the proof for one connection."""
    return Proof(signature=base64.b64encode(key.sign(_signed(vkey, nonce, client, server))).decode("ascii"))


def verify(proof: Proof, vkey: str, nonce: str, client: End, server: End) -> None:
    """Raise InvalidSignature unless the holder of `vkey` made `proof` for this nonce and connection."""
    public = Ed25519PublicKey.from_public_bytes(note.parse_vkey(vkey).public)
    public.verify(base64.b64decode(proof.signature), _signed(vkey, nonce, client, server))


class Proving(httpcore2.SyncBackend):
    """Opens TCP connections and hands over those whose other end has proved its key."""

    def __init__(self, vkey: str) -> None:
        self._vkey = vkey

    def connect_tcp(self, *place: Any, **named: Any) -> httpcore2.NetworkStream:
        stream = super().connect_tcp(*place, **named)
        with contextlib.ExitStack() as undo:  # an interrupt too leaves no socket open
            undo.callback(stream.close)
            _prove(stream, self._vkey)
            undo.pop_all()
        return stream


def _prove(stream: httpcore2.NetworkStream, vkey: str) -> None:
    client, server = (stream.get_extra_info(name)[:2] for name in ("client_addr", "server_addr"))
    nonce = secrets.token_hex(NONCE_CHARS // 2)
    status, body = _ask(stream, f"{routes.MARKET_PROOF}?nonce={nonce}")
    if status >= SERVER_ERROR or status in BUSY:  # a market in trouble is asked again, as for silence
        raise httpcore2.ConnectError(f"{status} when asked for its key")
    try:
        verify(message.read(Proof, body), vkey, nonce, client, server)
    except (StannaryError, InvalidSignature, ValueError) as err:
        raise AuthError(
            "something else answers at the market's address",
            why=f"{server[0]}:{server[1]} does not prove that it holds the pinned key {vkey:.80}",
            hint="stannary market status",
        ) from err


def _ask(stream: httpcore2.NetworkStream, target: str) -> tuple[int, bytes]:
    """Send one GET and return status and body, within PATIENCE_S and MAX_ANSWER_BYTES whatever is at the other end."""
    deadline = time.monotonic() + PATIENCE_S
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
    asked = http.send(h11.Request(method="GET", target=target, headers=[("Host", "market")]))
    stream.write(b"".join(item for item in (asked, http.send(h11.EndOfMessage())) if item), PATIENCE_S)
    status, body, num_bytes = 0, bytearray(), 0
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError:
            return 0, b""  # no HTTP at all
        if event is h11.NEED_DATA:
            left_s = deadline - time.monotonic()
            data = stream.read(MAX_ANSWER_BYTES, left_s) if left_s > 0 else b""
            num_bytes += len(data)
            if not data:  # cut off, as by a market that is just stopping
                raise httpcore2.ConnectError("no whole answer when asked for its key")
            if num_bytes > MAX_ANSWER_BYTES:
                return 0, b""
            http.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return 0, b""


def _signed(vkey: str, nonce: str, client: End, server: End) -> bytes:
    ends = (f"{client[0]} {client[1]}", f"{server[0]} {server[1]}")
    return "\n".join((DOMAIN, vkey, nonce, *ends, "")).encode()
