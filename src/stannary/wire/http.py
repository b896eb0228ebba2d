"""Asking over HTTP: what all our clients have in common, and short exchanges with anybody.

Rules:
1. No redirect is followed: a token is for the address that was given, and a responder could lead us into our own
   network. Nothing coded is asked for or unpacked: a few bytes could unpack into gigabytes.
2. A short exchange has one time by which head and body must be there, at whatever pace they come, and a size at which
   its answer is cut off.
3. Certificates of https are checked always, against the roots of the system or the one certificate that is pinned.
4. A proxy is asked only where the caller says so, and never for loopback (proxy.py).

What markets are asked, with tokens and retries, is connection.py. The ciphertexts of sealed artifacts are gigabytes,
which httpx2 copies too often: they have a client of their own (seal/stores/http.py, docs/adr/0009).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpcore2
import httpx2

from stannary import __version__
from stannary.errors import ServiceError
from stannary.wire import proxy, tls

CONNECT_S = 10.0
HTTPS_PORT = 443
KEEP_ALIVE_S = 5.0  # servers close idle connections; most wait longer than this
HEADERS = {"User-Agent": f"stannary/{__version__}", "Accept-Encoding": "identity"}


class NoAnswer(ServiceError):
    """Nobody answered, or not to the end in time; asked again they may."""


class PoolTransport(httpx2.HTTPTransport):
    """Connections of a client, opened by a backend of ours where one is given.

    httpx2 takes no backend and httpcore2 does; and httpx2 reads every root certificate of the system, which takes
    longer than asking, even where nothing is asked over TLS.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        backend: httpcore2.NetworkBackend | None = None,
        via: proxy.Proxy | None = None,
    ) -> None:
        through = None
        if via is not None:
            place = httpcore2.URL(scheme=via.scheme, host=via.host, port=via.port, target="")
            headers = [(name.encode(), text.encode()) for name, text in via.headers()]
            through = httpcore2.Proxy(place, headers=headers)
        self._pool = httpcore2.ConnectionPool(
            tls, through, max_connections=None, keepalive_expiry=KEEP_ALIVE_S, network_backend=backend
        )


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whole; of a body that goes with another status than 2xx perhaps the beginning only."""

    status: int
    headers: httpx2.Headers
    body: bytes


class Asker:
    """Asks hosts for short answers; use it as a context manager, by one thread at a time.

    Args:
        limit_s: seconds for head and body together, from the moment of asking.
        max_bytes: of one answer's body.
        stall_s: seconds without a byte, where these are to be fewer.
        proxied: whether the proxies of the environment are asked.
        pin: SHA-256 (hex) of the one certificate to believe; empty for the roots of the system.
    """

    def __init__(
        self, limit_s: float, max_bytes: int, *, stall_s: float | None = None, proxied: bool = False, pin: str = ""
    ) -> None:
        self._limit_s, self._max_bytes, self._proxied, self._pin = limit_s, max_bytes, proxied, pin
        self._timeout = httpx2.Timeout(stall_s or limit_s, connect=min(CONNECT_S, limit_s))
        self._backend = _Until()
        self._clients: dict[tuple[str, str], httpx2.Client] = {}  # by scheme and place
        self._roots: ssl.SSLContext | None = None  # read once

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        while self._clients:
            self._clients.popitem()[1].close()

    def ask(self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        """Send one request and return the answer, whatever its status.

        Raises:
            NoAnswer: no connection, or no whole answer in time.
            ServiceError: an address that cannot be asked; a good answer that is too large, or one that is packed.
            AuthError: another certificate than the pinned one.
        """
        self._backend.until = time.monotonic() + self._limit_s
        try:
            with self._client(url).stream(method, url, content=body or None, headers=headers) as answer:
                return Response(answer.status_code, answer.headers, self._body(answer))
        except (httpx2.TransportError, OSError) as err:
            self.close()  # a pinned certificate is looked at anew
            raise NoAnswer("no answer", why=f"{type(err).__name__}: {err}"[:200]) from err
        except (httpx2.InvalidURL, ValueError) as err:
            raise ServiceError("address cannot be asked", why=f"{url!r:.120}: {err}", hint="check the address") from err

    def _client(self, url: str) -> httpx2.Client:
        parts = urlsplit(url)
        place = (parts.scheme, parts.netloc)
        if place not in self._clients:
            via = proxy.find(parts.scheme, parts.hostname or "", schemes=("http", "https")) if self._proxied else None
            transport = PoolTransport(tls=self._trust(parts), backend=self._backend, via=via)
            self._clients[place] = httpx2.Client(transport=transport, timeout=self._timeout, headers=HEADERS)
        return self._clients[place]

    def _trust(self, parts: SplitResult) -> ssl.SSLContext | None:
        if parts.scheme != "https":
            return None
        if self._pin:
            place = (parts.hostname or "", parts.port or HTTPS_PORT)
            return tls.pinned(*place, self._pin, whose="the server's", timeout_s=min(CONNECT_S, self._limit_s))
        if self._roots is None:
            self._roots = httpcore2.default_ssl_context()
        return self._roots

    def _body(self, answer: httpx2.Response) -> bytes:
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise ServiceError("answer is packed", why=f"{coding:.40}", hint="let the mirror serve bodies as they are")
        body = bytearray()
        for piece in answer.iter_raw():
            body += piece
            if len(body) > self._max_bytes:
                if answer.is_success:
                    why = f"more than {self._max_bytes:,} bytes"
                    raise ServiceError(
                        "answer too large", why=why, hint="check the address: somebody else may be there"
                    )
                break
        return bytes(body[: self._max_bytes])


class _Until(httpcore2.SyncBackend):
    """Opens connections on which nothing is waited for after `until` (of the monotonic clock)."""

    until = 0.0

    def connect_tcp(self, *place: Any, **named: Any) -> httpcore2.NetworkStream:
        return _Timed(super().connect_tcp(*place, **named), self)


class _Timed(httpcore2.NetworkStream):
    """A connection whose every wait ends with its backend's time."""

    def __init__(self, inner: httpcore2.NetworkStream, backend: _Until) -> None:
        self._inner, self._backend = inner, backend
        self.close, self.get_extra_info = inner.close, inner.get_extra_info  # type: ignore[method-assign]

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left_s(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._inner.start_tls(ssl_context, server_hostname, self._left_s(timeout)), self._backend)

    def _left_s(self, timeout: float | None) -> float:
        left_s = self._backend.until - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the exchange takes too long")
        return left_s if timeout is None else min(timeout, left_s)
