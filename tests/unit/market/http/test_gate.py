"""The market's door: strangers are bounded, nobody dawdles, and what is no body is small."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from stannary.market.http import gate as gates
from stannary.market.http.gate import Gate, Guarded, Visitor

HEAD = b"POST /v1/sessions HTTP/1.1\r\nHost: market\r\n"


class Transport:
    """A transport that keeps what is written and knows whether it is closed."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.unsent = 0

    def get_extra_info(self, name: str) -> Any:
        """Know nobody."""
        return None

    def write(self, data: bytes) -> None:
        """Keep bytes."""
        self.written += data

    def close(self) -> None:
        """Close."""
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        """Tell."""
        return self.closing

    def get_write_buffer_size(self) -> int:
        """Tell what nobody has taken."""
        return self.unsent

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read on."""


class Loop:
    """An event loop that begins nothing."""

    def create_task(self, coroutine: Any) -> Any:
        """Take a request; it is never answered."""
        coroutine.close()
        return type("Task", (), {"add_done_callback": lambda *_: None})()


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    """Serve nothing."""


def connect(gate: Gate | None = None, address: str = "203.0.113.7") -> tuple[Guarded, Transport, Visitor]:
    """Return a connection that stands, and its transport."""
    gate = gate if gate is not None else Gate(1000)
    config = Config(nobody, ws="none", log_config=None)
    config.load()
    made = Guarded(config=config, server_state=ServerState(), app_state={}, _loop=cast("Any", Loop()))
    visitor = gate.enter(address)
    assert visitor is not None
    made.gate, made.visitor = gate, visitor
    transport = Transport()
    made.connection_made(cast("Any", transport))
    return made, transport, visitor


def feed_until_closed(made: Guarded, transport: Transport, piece: bytes, most_bytes: int) -> int:
    """Send a piece again and again; return how many bytes were taken before the connection was closed."""
    sent = 0
    while not transport.closing and sent < most_bytes:
        made.data_received(piece)
        sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (HEAD + b"X-Long: ", b"a" * 1000),  # one header without end
        (HEAD, b"X-A: b\r\n" * 100),  # headers without end
        (b"GET /", b"a" * 1000),  # a request line without end
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 500 + b"\r\na\r\n"),  # frames, hardly a body
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-T: ", b"a" * 1000),  # a trailer without end
        (b"", b"GET / HTTP/1.1\r\nHost: m\r\n\r\n"),  # requests without end, nobody reads an answer
    ],
)
def test_what_is_no_body_is_bounded(first: bytes, piece: bytes) -> None:
    """Heads, frames, trailers and requests without end are refused within a few times MAX_HEAD_BYTES."""
    made, transport, _ = connect()
    made.data_received(first) if first else None
    sent = feed_until_closed(made, transport, piece, 10 * 2**20)
    assert transport.closing
    assert sent <= 4 * gates.MAX_HEAD_BYTES


def test_a_large_body_is_welcome() -> None:
    """Megabytes of body behind a small head close nothing, in chunks or not."""
    for head, frame in (
        (b"Content-Length: 4000000\r\n\r\n", b"%b"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n%b\r\n"),
    ):
        made, transport, _ = connect()
        made.data_received(HEAD + head)
        made.flow.pause_reading = lambda: None  # type: ignore[method-assign]  # nobody reads here
        for _ in range(3000):
            made.data_received(frame % (b"a" * 1000))
        assert not transport.closing


def test_who_dawdles_is_cut_off() -> None:
    """A head, a body, an unread answer and a quiet stranger each have their time; a party may be quiet."""
    now = time.monotonic()
    half, *_ = connect()
    half.data_received(HEAD)
    assert not half.is_overdue(now + gates.HEAD_S - 1)
    assert half.is_overdue(now + gates.HEAD_S + 2)
    drip, *_ = connect()
    drip.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n")
    assert not drip.is_overdue(now + gates.BODY_WINDOW_S - 1)
    drip.data_received(b"a")
    assert drip.is_overdue(now + gates.BODY_WINDOW_S + 2)
    waiting, *_ = connect()
    waiting.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n")
    waiting.data_received(b"a" * 100_000)  # more than is read ahead: from here on it is we who are late
    assert not waiting.is_overdue(now + 10 * gates.BODY_WINDOW_S)
    deaf, transport, _ = connect()
    transport.unsent = 1000
    assert not deaf.is_overdue(now + 1)
    assert deaf.is_overdue(now + 2 + gates.ANSWER_STALL_S)
    gate = Gate(1000)
    quiet, _, visitor = connect(gate)
    assert quiet.is_overdue(now + gates.HEAD_S + 2)  # said nothing at all
    quiet.data_received(b"GET / HTTP/1.1\r\nHost: m\r\n\r\n")
    assert not quiet.is_overdue(now + 100)  # it is we who answer: a long poll
    quiet.cycle.response_complete = True
    assert quiet.is_overdue(now + 2 + gates.QUIET_STRANGER_S)
    gate.prove(visitor, "node:n-1")
    assert not quiet.is_overdue(now + 2 + gates.QUIET_STRANGER_S)


def test_strangers_push_out_strangers_only() -> None:
    """An address beyond its share loses its oldest stranger; known parties and other addresses stay."""
    gate = Gate(1000)
    party = gate.enter("203.0.113.7")
    assert party is not None
    gate.prove(party, "node:n-1")
    other = gate.enter("198.51.100.1")
    closed: list[int] = []
    for number in range(gates.MAX_STRANGERS_OF_ADDRESS + 5):
        made = gate.enter("203.0.113.7")
        assert made is not None
        made.close = lambda number=number: closed.append(number)
    assert closed == [0, 1, 2, 3, 4]
    assert gate.num_connections == gates.MAX_STRANGERS_OF_ADDRESS + 2
    assert other is not None
    gate.leave(other)
    gate.leave(other)
    assert gate.num_connections == gates.MAX_STRANGERS_OF_ADDRESS + 1


def test_all_strangers_together_hold_a_share() -> None:
    """However many addresses they call from, strangers hold a quarter of the connections, parties the rest."""
    gate = Gate(400)
    for number in range(1000):
        gate.enter(f"2001:db8:{number:x}::1")
    assert gate.num_connections == gate.max_strangers == 100
    for number in range(300):
        made = gate.enter("192.0.2.1")
        assert made is not None
        gate.prove(made, f"node:n-{number}")
    assert gate.num_connections == 399
    for _ in range(200):  # full of parties: a stranger still finds a stranger's place
        assert gate.enter("192.0.2.9") is not None
    assert gate.num_connections <= 400


def test_an_ipv6_site_is_one_address() -> None:
    """Whoever owns a /64 is one address, and an IPv4 address is the same in both spellings."""
    gate = Gate(10_000)
    for number in range(1000):
        gate.enter(f"2001:db8::{number:x}")
    assert gate.num_connections == gates.MAX_STRANGERS_OF_ADDRESS
    first, second = gate.enter("::ffff:192.0.2.1"), gate.enter("192.0.2.1")
    assert first is not None
    assert second is not None
    assert first.address == second.address


def test_a_party_has_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token's connections are bounded; its own oldest goes."""
    monkeypatch.setattr(gates, "MAX_OF_PARTY", 3)
    gate = Gate(1000)
    closed: list[int] = []
    for number in range(5):
        made = gate.enter("192.0.2.1")
        assert made is not None
        made.close = lambda number=number: closed.append(number)
        gate.prove(made, "buyer:eve")
        gate.prove(made, "buyer:eve")
    assert closed == [0, 1]
    assert gate.num_connections == 3
