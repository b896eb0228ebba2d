"""The market's door: who may hold a connection, how long each part of a request may take, how large its head may be.

Rules:
- Every accepted socket is one visitor, from before its TLS handshake on. Whoever has shown a valid token on it is a
  known party; all others are strangers.
- A stranger is bounded: so many connections of one address (an IPv6 /64 is one), so many in all. Who comes beyond
  that closes the oldest stranger's, not his own: an honest request is answered long before its turn, and a node behind
  the same NAT as an attacker gets in. A known party is bounded by its token, wherever it calls from.
- A handshake, a head and each stretch of a body have their deadline; a body that only pauses because *we* do not read
  it is not late. An answer nobody reads is cut off. A quiet stranger is shown out soon.
- A head is at most MAX_HEAD_BYTES and MAX_HEADERS (beside what one read of the socket may bring); what frames a body
  in chunks may weigh no more than the body. No more than MAX_PIPELINED requests wait on a connection.
- Descriptors: the soft limit is raised to the hard one, and connections leave RESERVED_DESCRIPTORS for files.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024  # RFC 9110 recommends room for 8,000 octets a line; our largest head is below 2 KiB
MAX_HEADERS = 64
MAX_PIPELINED = 16  # our own clients never do
HANDSHAKE_S = 10.0
HEAD_S = 15.0  # from the first byte, or the accepted socket, to the end of the head
BODY_WINDOW_S = 20.0  # in each of these a sender must bring BODY_WINDOW_BYTES
BODY_WINDOW_BYTES = 64 * 1024  # 3 KiB/s: below any line a node may join by
ANSWER_STALL_S = 60.0  # of an answer nobody takes a byte of
QUIET_STRANGER_S = 20.0  # keep-alive of who has shown no token
SWEEP_S = 2.0
MAX_STRANGERS_OF_ADDRESS = 128
MAX_OF_PARTY = 1024  # connections of one token's owner
STRANGERS_SHARE = 4  # strangers hold at most a quarter of all connections
RESERVED_DESCRIPTORS = 512  # database, log tiles, blobs on their way, witness
MAX_DESCRIPTORS = 65_536
ACCEPT_PAUSE_S = 0.05

log = logging.getLogger("stannary.market")


class Visitor:
    """One accepted connection."""

    __slots__ = ("address", "close", "party", "since")

    def __init__(self, address: str, since: float) -> None:
        self.address = address
        self.since = since
        self.party = ""  # of a stranger
        self.close: Callable[[], object] = _nothing


class Gate:
    """All connections of one market."""

    def __init__(self, max_connections: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_connections = max_connections
        self.max_strangers = max(1, max_connections // STRANGERS_SHARE)
        self._clock = clock
        self._strangers: OrderedDict[Visitor, None] = OrderedDict()  # oldest first
        self._of_address: dict[str, OrderedDict[Visitor, None]] = {}
        self._of_party: dict[str, OrderedDict[Visitor, None]] = {}
        self._num = 0
        self.guarded: set[Guarded] = set()

    @property
    def num_connections(self) -> int:
        """Return how many visitors are in."""
        return self._num

    def enter(self, address: str) -> Visitor | None:
        """Let a stranger in, at the cost of the oldest where there are too many; None if there is no room at all."""
        place = _place(address)
        beside = self._of_address.get(place, OrderedDict())
        if len(beside) >= MAX_STRANGERS_OF_ADDRESS:
            self.show_out(next(iter(beside)))
        elif len(self._strangers) >= self.max_strangers or self._num >= self.max_connections:
            if not self._strangers:
                return None
            self.show_out(next(iter(self._strangers)))
        visitor = Visitor(place, self._clock())
        self._strangers[visitor] = None
        self._of_address.setdefault(place, OrderedDict())[visitor] = None
        self._num += 1
        return visitor

    def prove(self, visitor: Visitor, party: str) -> None:
        """Note whose token a visitor has shown; the oldest connection of a party with too many is closed."""
        if visitor.party or visitor not in self._strangers:
            return
        self._forget_stranger(visitor)
        visitor.party = party
        held = self._of_party.setdefault(party, OrderedDict())
        if len(held) >= MAX_OF_PARTY:
            self.show_out(next(iter(held)))
        self._of_party.setdefault(party, held)[visitor] = None

    def show_out(self, visitor: Visitor) -> None:
        """Close a visitor's connection now."""
        self.leave(visitor)
        visitor.close()

    def is_in(self, visitor: Visitor) -> bool:
        """Tell whether a visitor's connection still stands."""
        return visitor in (self._of_party.get(visitor.party, ()) if visitor.party else self._strangers)

    def leave(self, visitor: Visitor) -> None:
        """Forget a visitor whose connection is gone; once."""
        held = self._of_party.get(visitor.party) if visitor.party else None
        if visitor in self._strangers:
            self._forget_stranger(visitor)
        elif held is not None and visitor in held:
            del held[visitor]
            if not held:
                del self._of_party[visitor.party]
        else:
            return
        self._num -= 1

    def sweep(self) -> None:
        """Close every connection whose deadline has passed."""
        now = self._clock()
        for connection in list(self.guarded):
            if connection.is_overdue(now):
                connection.cut_off()

    async def keep(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    async def admit(
        self, listener: socket.socket, protocol: Callable[[], Guarded], secure: ssl.SSLContext | None
    ) -> None:
        """Accept connections for ever."""
        loop = asyncio.get_running_loop()
        handshakes: set[asyncio.Task[None]] = set()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as err:  # out of descriptors, or a peer that was gone before its turn
                log.warning("a connection is not accepted: %s", err)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            visitor = self.enter(str(address[0]))
            if visitor is None:
                accepted.close()
                continue
            task = asyncio.create_task(self._connect(accepted, visitor, protocol, secure))
            visitor.close = task.cancel  # until its connection stands
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)

    async def _connect(
        self,
        accepted: socket.socket,
        visitor: Visitor,
        protocol: Callable[[], Guarded],
        secure: ssl.SSLContext | None,
    ) -> None:
        def guarded() -> Guarded:
            made = protocol()
            made.visitor = visitor
            return made

        options: dict[str, Any] = {"ssl": secure, "ssl_handshake_timeout": HANDSHAKE_S} if secure is not None else {}
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(guarded, accepted, **options)
        except (OSError, TimeoutError, asyncio.CancelledError) as err:  # a handshake that failed, or was shown out
            log.debug("no connection with %s: %s", visitor.address, err)
            self.leave(visitor)
            with contextlib.suppress(OSError):
                accepted.close()

    def _forget_stranger(self, visitor: Visitor) -> None:
        del self._strangers[visitor]
        beside = self._of_address[visitor.address]
        del beside[visitor]
        if not beside:
            del self._of_address[visitor.address]


class Phase(StrEnum):
    """What of a request is on its way to us."""

    QUIET = "quiet"
    HEAD = "head"
    BODY = "body"


class Guarded(HttpToolsProtocol):
    """An HTTP connection that keeps to the gate's rules."""

    gate: Gate
    visitor: Visitor

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin: a stranger's first head is on its way from here."""
        super().connection_made(transport)
        now = time.monotonic()
        self._phase, self._since = Phase.HEAD, now
        self._num_fed = self._num_body = self._num_headers = 0  # of this request; bytes but for the last
        self._window = (now, 0)
        self._unsent_bytes, self._taken_at = 0, now
        self.visitor.close = transport.abort
        self.gate.guarded.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: the visitor is gone."""
        self.gate.guarded.discard(self)
        self.gate.leave(self.visitor)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless they are more of a head, or of what frames a body, than there may be."""
        if self.parser is None or self.transport.is_closing():
            return
        if self._phase is Phase.QUIET:
            self._phase, self._since = Phase.HEAD, time.monotonic()
        self._num_fed += len(data)
        super().data_received(data)
        # what is no body lies in memory, the parser's or ours, until the request is whole
        if self._phase is not Phase.QUIET and self._num_fed - self._num_body > MAX_HEAD_BYTES + self._num_body:
            self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        self._phase, self._since = Phase.HEAD, time.monotonic()
        self._num_fed = self._num_body = self._num_headers = (
            0  # of what one read brought, the rest is counted from here
        )
        self.scope["stannary.visitor"] = (self.gate, self.visitor)  # type: ignore[typeddict-unknown-key]  # ours

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request line."""
        if len(self.url) + len(url) > MAX_HEAD_BYTES:
            raise ValueError("the request line is too long")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; nobody we know sends trailers."""
        self._num_headers += 1
        size_bytes = len(name) + len(value)
        if self._num_headers > MAX_HEADERS or size_bytes > MAX_HEAD_BYTES or self._phase is not Phase.HEAD:
            raise ValueError("too many headers, too long a header, or a trailer")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head; the body's time begins."""
        self._phase, self._window = Phase.BODY, (time.monotonic(), 0)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._num_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request: what follows is another."""
        self._phase, self._since = Phase.QUIET, time.monotonic()
        super().on_message_complete()

    def is_overdue(self, now: float) -> bool:
        """Tell whether whoever is at the other end has let his time go by."""
        if self.transport.is_closing():
            return now - self._taken_at > ANSWER_STALL_S  # a last answer nobody takes
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent_bytes:
            self._unsent_bytes, self._taken_at = unsent, now
        if now - self._taken_at > ANSWER_STALL_S:
            return True
        if self._phase is Phase.HEAD:
            return now - self._since > HEAD_S and not self.flow.read_paused
        if self._phase is Phase.BODY:
            return self._is_starving(now)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return not self.visitor.party and not is_answering and now - self._since > QUIET_STRANGER_S

    def cut_off(self) -> None:
        """End the connection at once; what its request held goes with it."""
        log.debug("a connection from %s is cut off: it stood still", self.visitor.address)
        self.transport.abort()

    def _is_starving(self, now: float) -> bool:
        """Tell whether a body comes too slowly."""
        since, before = self._window
        is_answered = self.cycle is None or self.cycle.response_complete
        if self.flow.read_paused or (not is_answered and self._num_body - before >= BODY_WINDOW_BYTES):
            self._window = (now, self._num_body)
            return False
        return now - since > BODY_WINDOW_S

    def _refuse(self, status: str) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode("ascii"))
            self.transport.close()


def raise_descriptors() -> int:
    """Raise the soft limit of open files to the hard one; return how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or wanted > soft:
        with contextlib.suppress(ValueError, OSError):  # a container may forbid it: then what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(16, min(soft, MAX_DESCRIPTORS) - min(RESERVED_DESCRIPTORS, soft // 2))


def _place(address: str) -> str:
    """Return what counts as one address: an IPv4 one, or the /64 somebody was given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def _nothing() -> None:
    return None
