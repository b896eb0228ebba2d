"""One party's connection to a market: HTTPS, errors in our words, retries where they are safe.

Rules:
1. Plain HTTP goes to loopback only, and to whoever is there only what anybody may know: with a `vkey` each
   connection is proved before it is used (proof.py), and a token needs one. A pinned certificate is compared
   before anything is sent, and then is the only trust anchor; certificate checks are never switched off.
2. What the market answers with 400 and above is raised as the error it names (wire/errors.py);
   silence is MarketUnreachable with the address and the next command.
3. Only what may be sent twice is retried: GET, HEAD, PUT of a blob (named by its digest), and POST
   that carries an idempotency key or is one by nature.

What is asked is left to sdk/client.py and broker/.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpcore2
import httpx2

from stannary import files
from stannary.errors import AuthError, LimitExceeded, MarketUnreachable, Refuted, ServiceError, UsageError
from stannary.formats.digest import PREFIX, Digest
from stannary.wire import errors, http, limits, message, proof, routes, tls
from stannary.wire.message import Message

M = TypeVar("M", bound=Message)

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0  # beyond the wait a long poll asks for
RETRY_DELAYS_S = (0.2, 0.6, 1.5)
RETRIED_STATUS = frozenset({429, 502, 503, 504})
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # a page of 1,000 events or a receipt; blobs are streamed instead
MAX_WHOLE_BYTES = 128 * 1024 * 1024  # the largest answer anybody asks for whole: a receipt (sdk/client.py)
IS_BLOB = "stannary.blob"  # marks a request whose answer is streamed
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Params = Mapping[str, str | int | float]


class Connection:
    """A synchronous connection; use it as a context manager, from one thread."""

    def __init__(
        self,
        url: str,
        *,
        token: files.Secret | None = None,
        tls_fingerprint: str = "",
        vkey: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._sleep = sleep
        headers = {"Authorization": f"Bearer {token.value}"} if token else {}
        tls = _trust(self.url, tls_fingerprint)
        self._http = httpx2.Client(
            base_url=self.url,
            headers=http.HEADERS | headers,
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            transport=http.PoolTransport(tls=tls, backend=self._proving(token, vkey)),  # no proxy: it would see tokens
        )
        self._http.event_hooks = {"response": [_bound]}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def get(self, path: str, cls: type[M], *, params: Params | None = None, wait_s: float = 0.0) -> M:
        """GET a message."""
        answer = self.send("GET", path, params=params, wait_s=wait_s)
        return message.read(cls, answer.content, max_bytes=MAX_ANSWER_BYTES)

    def poll(self, path: str, cls: type[M], *, params: Params | None = None, wait_s: float = 0.0) -> M | None:
        """GET a message by long poll; None if nothing came (204)."""
        answer = self.send("GET", path, params={**(params or {}), "wait": wait_s}, wait_s=wait_s)
        return None if answer.status_code == 204 else message.read(cls, answer.content, max_bytes=MAX_ANSWER_BYTES)

    def post(self, path: str, body: Message | None, cls: type[M], *, key: str = "", is_repeatable: bool = False) -> M:
        """POST a message. With an idempotency `key`, or where it is harmless to repeat, it is retried."""
        headers = {"Content-Type": "application/json"}
        if key:
            headers[routes.IDEMPOTENCY_KEY] = key
        content = body.to_bytes() if body is not None else b"{}"
        answer = self.send("POST", path, content=content, headers=headers, retry=bool(key) or is_repeatable)
        return message.read(cls, answer.content, max_bytes=MAX_ANSWER_BYTES)

    def get_bytes(self, path: str, *, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
        """GET a whole body of bounded size."""
        content = self.send("GET", path).content
        if len(content) > max_bytes:
            raise LimitExceeded("the answer is too large", why=f"{len(content):,} bytes, limit {max_bytes:,}")
        return content

    def has(self, path: str) -> bool:
        """Ask by HEAD whether something is there."""
        return self.send("HEAD", path, accepted=(404,)).status_code < 300

    def put(self, path: str, chunks: Callable[[], Iterable[bytes]], size_bytes: int) -> None:
        """PUT a stream; `chunks` gives it anew for each attempt."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                answer = self._http.put(path, content=chunks(), headers=headers)
            except httpx2.TransportError as err:
                if delay_s is None:
                    raise self._unreachable(err) from err
            else:
                if answer.status_code not in RETRIED_STATUS or delay_s is None:
                    self._raise_for(answer)
                    return
            self._sleep(delay_s)

    def fetch(self, digest: Digest, size_bytes: int, file: BinaryIO, moving: Callable[[], None] = lambda: None) -> None:
        """Write a blob into `file`, hashing it on the way; `moving` is called with each piece.

        Raises:
            Refuted: the market sent other bytes than the digest names.
        """
        state, num_bytes = hashlib.sha256(), 0
        with self.stream(routes.blob(digest)) as chunks:
            for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > size_bytes:
                    break
                state.update(chunk)
                file.write(chunk)
                moving()
        if num_bytes != size_bytes or PREFIX + state.hexdigest() != digest:
            raise Refuted("the market sent other bytes than asked for", why=f"{digest}, {num_bytes:,} bytes")

    @contextmanager
    def stream(self, path: str, first_byte: int = 0) -> Iterator[Iterator[bytes]]:
        """GET a body in chunks, from a byte on.

        Raises:
            ServiceError: another part came than was asked for.
        """
        headers = {"Range": f"bytes={first_byte}-"} if first_byte else {}
        try:
            with self._http.stream("GET", path, headers=headers, extensions={IS_BLOB: True}) as answer:
                if answer.status_code >= 300 or _is_page(answer):
                    answer.read()
                self._raise_for(answer)
                begins = answer.headers.get("Content-Range", "bytes 0-").startswith(f"bytes {first_byte}-")
                if not begins:
                    raise ServiceError("the market sent another part of a blob", why=f"asked from byte {first_byte:,}")
                yield answer.iter_bytes(limits.BLOB_CHUNK_BYTES)
        except httpx2.TransportError as err:
            raise self._unreachable(err) from err

    def send(  # noqa: PLR0913  one place where a request is spelled out
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        retry: bool | None = None,
        accepted: tuple[int, ...] = (),
    ) -> httpx2.Response:
        """Send one request, retried if `retry` (default: for GET and HEAD), and return a good answer."""
        delays: list[float | None] = [None]
        if retry if retry is not None else method in {"GET", "HEAD"}:
            delays = [*RETRY_DELAYS_S, None]
        timeout = httpx2.Timeout(wait_s + ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        for delay_s in delays:
            try:
                answer = self._http.request(
                    method, path, params=_query(params), content=content, headers=headers, timeout=timeout
                )
            except httpx2.TransportError as err:
                if delay_s is None:
                    raise self._unreachable(err) from err
            else:
                if answer.status_code not in RETRIED_STATUS or delay_s is None:
                    self._raise_for(answer, accepted)
                    return answer
            self._sleep(delay_s)
        raise AssertionError("unreachable: the last delay is None")

    def _proving(self, token: files.Secret | None, vkey: str) -> proof.Proving | None:
        """Return what proves the market on plain HTTP, None where TLS does or nothing secret is said."""
        if not self.url.startswith("http://"):
            return None
        if token is not None and not vkey:
            raise UsageError(
                "no key of this market is pinned",
                why=f"{self.url} is plain HTTP: a token is shown only to a market that proves its key",
                hint="stannary market add URL --key KEY",
            )
        return proof.Proving(vkey) if vkey else None

    def _raise_for(self, answer: httpx2.Response, accepted: tuple[int, ...] = ()) -> None:
        if 300 <= answer.status_code < 400:  # never followed: a token is for the address that was pinned
            raise errors.redirected(self.url, answer.status_code, answer.headers.get("Location", ""))
        if answer.status_code >= 400 and answer.status_code not in accepted:
            if answer.request.method == "HEAD" and answer.status_code == 401:  # HEAD has no body to say why
                raise AuthError("the market does not know this token", why=f"at {self.url}")
            raise errors.from_body(answer.status_code, answer.content)
        if _is_page(answer):
            raise errors.foreign(answer.status_code, answer.content)

    def _unreachable(self, err: Exception) -> MarketUnreachable:
        return MarketUnreachable(
            f"no answer from the market at {self.url}",
            why=f"{type(err).__name__}: {err}"[:300],
            hint="stannary market status",
        )


class _Bounded(httpx2.SyncByteStream):
    """The bytes of an answer, up to a limit: a market that never stops sending takes no memory for it."""

    def __init__(self, inner: Iterable[bytes], limit_bytes: int) -> None:
        self._inner = inner
        self._limit_bytes = limit_bytes

    def __iter__(self) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in self._inner:
            num_bytes += len(chunk)
            if num_bytes > self._limit_bytes:
                raise LimitExceeded(
                    "the answer is too large",
                    why=f"over {self._limit_bytes:,} bytes",
                    hint="stannary market status; what answers may not be the market",
                )
            yield chunk

    def close(self) -> None:
        if isinstance(self._inner, httpx2.SyncByteStream):
            self._inner.close()


def _bound(answer: httpx2.Response) -> None:
    """Let no more of an answer be read than may be wanted of it (a hook: the head is here, the body is not)."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.foreign(answer.status_code, b"compressed, which was not asked for")
    is_blob = bool(answer.request.extensions.get(IS_BLOB)) and answer.status_code < 300 and not _is_page(answer)
    if isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = _Bounded(answer.stream, limits.MAX_BLOB_BYTES if is_blob else MAX_WHOLE_BYTES)


def _is_page(answer: httpx2.Response) -> bool:
    """Tell whether this is a page for people, such as the login of a network between: no market sends one."""
    return bool(answer.headers.get("Content-Type", "").startswith("text/html"))


def _query(params: Params | None) -> dict[str, str] | None:
    return {name: str(value) for name, value in params.items()} if params else None


def _trust(url: str, fingerprint: str) -> ssl.SSLContext | None:
    """Return how to know the server: by pin, by the system's roots, or (loopback) not at all."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError("not a market address", why=f"{url!r:.120}", hint="write it like https://market.example:7433")
    if parts.scheme == "http":
        if parts.hostname not in LOOPBACK:
            raise UsageError(
                "plain HTTP is for this machine only",
                why=f"{url} would show API tokens to the network",
                hint="use the https:// address and pin of the market",
            )
        return None
    if not fingerprint:
        return httpcore2.default_ssl_context()
    host, port = parts.hostname, parts.port or 443
    try:
        return tls.pinned(host, port, fingerprint, whose="the market's", timeout_s=CONNECT_TIMEOUT_S)
    except OSError as err:
        raise MarketUnreachable(
            f"no answer from the market at {host}:{port}", why=str(err), hint="stannary market status"
        ) from err
