"""An S3 bucket as a store of sealed objects: `s3://bucket/prefix`.

`obstore` knows the accounts, regions and signatures (AWS_* environment, AWS_ENDPOINT_URL for others);
the bulk of the bytes travels on our own sockets over URLs it signs, for two reasons: a stalled host
is noticed within seconds instead of by a whole-request timeout, and the sender's congestion control
can be chosen (link.py). Signed URLs are secrets and appear in no message.

A put that fails on the way or meets a busy bucket is tried again within the limits of patience.py: the name is
the hash of the content, so it does no harm twice. A put that the host refuses (4xx) is not.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from stannary.errors import NotFound, UsageError
from stannary.seal.message import Buffer
from stannary.seal.stores.http import ConnectionPool, last_doubt
from stannary.seal.stores.patience import Patience, patiently
from stannary.seal.stores.source import STALL_S, Busy, SourceFailure

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SIGNATURE_LIFE = timedelta(minutes=15)  # longer than any object may take (MIN_BYTES_PER_S)
REQUEST_TIMEOUT = "60s"  # obstore's own requests are small: list, head
PAUSE_S = 0.5  # after the first failed attempt
KEYS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; elsewhere than AWS also AWS_ENDPOINT_URL and AWS_REGION"

T = TypeVar("T")
_BUSY = re.compile(r"\b(429|503)\b|SlowDown")


class S3Store:
    """Objects below a bucket and prefix."""

    def __init__(self, url: str, *, stall_s: float = STALL_S, pause: Callable[[float], object] | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise UsageError("not a bucket address", why=f"{url!r:.100}", hint="s3://BUCKET/PREFIX")
        self.url = url.rstrip("/")
        self._pause = pause or threading.Event().wait
        self._stall_s = stall_s
        options: ClientConfig = {"timeout": REQUEST_TIMEOUT, "connect_timeout": "10s", "allow_http": True}
        retry: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(0)}  # patience.py is the one that asks again
        prefix = parts.path.strip("/") or None
        try:
            self._bucket = Bucket(parts.netloc, prefix=prefix, client_options=options, retry_config=retry)
        except BaseError as err:
            raise UsageError("bucket address refused", why=_reason(err), hint="s3://BUCKET/PREFIX") from err
        self._pools: dict[str, ConnectionPool] = {}
        self._lock = threading.Lock()

    def read(self, name: str, limit: int) -> bytes:
        """Return an object whole."""
        pool, target = self._signed("GET", name)
        return pool.read(target, limit)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        """Yield an object in pieces."""
        pool, target = self._signed("GET", name)
        return pool.stream(target, length)

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""

        def ask() -> int | None:
            pool, target = self._signed("HEAD", name)
            return pool.size(target)

        return self._patiently(ask)

    def list(self, prefix: str) -> list[str]:
        """Return the names under `prefix/`."""

        def ask() -> list[str]:
            try:
                return sorted(item["path"] for batch in obstore.list(self._bucket, prefix) for item in batch)
            except BaseError as err:
                raise _failure(err) from err

        return self._patiently(ask)

    def put(self, name: str, data: Buffer) -> None:
        """Write one object; S3 shows it only when it is whole."""

        def ask() -> None:
            pool, target = self._signed("PUT", name)  # anew each time: a signature lives as long as one attempt may
            pool.put(target, data)

        try:
            self._patiently(ask)
        except NotFound as err:
            raise NotFound("no such bucket", why=self.url, hint="make the bucket first, or correct its name") from err

    def _patiently(self, ask: Callable[[], T]) -> T:
        try:
            return patiently(ask, Patience(self._pause, PAUSE_S), _is_refusal)
        except SourceFailure as err:
            if _is_refusal(err):
                raise SourceFailure("the bucket refused", why=f"{err.why:.40}", hint=KEYS_HINT) from err
            raise

    @property
    def doubt(self) -> str:
        """Say why wrong bytes that this thread read last need not be the bucket's own."""
        return last_doubt()

    def _signed(self, method: Literal["GET", "HEAD", "PUT"], name: str) -> tuple[ConnectionPool, str]:
        try:
            url: str = obstore.sign(self._bucket, method, name, SIGNATURE_LIFE)
        except BaseError as err:
            raise _failure(err) from err
        parts = urllib.parse.urlsplit(url)
        with self._lock:
            pool = self._pools.get(parts.netloc)
            if pool is None:  # made once: its TLS context reads every root certificate of the system
                pool = self._pools[parts.netloc] = ConnectionPool(parts, self._stall_s)
        return pool, f"{parts.path}?{parts.query}"


def _is_refusal(err: SourceFailure) -> bool:
    return not isinstance(err, Busy) and err.why.startswith(("400 ", "401 ", "403 "))


def _failure(err: BaseError) -> SourceFailure:
    """Return our error; without keys obstore asks the cloud's metadata host, of which the user knows nothing."""
    if _BUSY.search(str(err)):
        return Busy(why=_reason(err))
    no_keys = "AWS_ACCESS_KEY_ID" not in os.environ or "relative URL" in str(err)
    return SourceFailure("the bucket failed", why=_reason(err), hint=KEYS_HINT if no_keys else "")


def _reason(err: BaseError) -> str:
    return str(err).split("\n", 1)[0][:200]
