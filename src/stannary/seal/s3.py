"""An S3 bucket as a store of sealed objects: `s3://bucket/prefix`.

`obstore` knows the accounts, regions and signatures (AWS_* environment, AWS_ENDPOINT_URL for others);
the bulk of the bytes travels on our own sockets over URLs it signs, for two reasons: a stalled host
is noticed within seconds instead of by a whole-request timeout, and the sender's congestion control
can be chosen (link.py). Signed URLs are secrets and appear in no message.
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from stannary.errors import UsageError
from stannary.seal.http import ConnectionPool
from stannary.seal.message import Buffer
from stannary.seal.source import STALL_S, SourceFailure

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SIGNATURE_LIFE = timedelta(minutes=15)  # longer than any object may take (MIN_BYTES_PER_S)
REQUEST_TIMEOUT = "60s"  # obstore's own requests are small: list, head


class S3Store:
    """Objects below a bucket and prefix."""

    def __init__(self, url: str, *, stall_s: float = STALL_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise UsageError("not a bucket address", why=f"{url!r:.100}", hint="s3://BUCKET/PREFIX")
        self.url = url.rstrip("/")
        self._stall_s = stall_s
        options: ClientConfig = {"timeout": REQUEST_TIMEOUT, "connect_timeout": "10s", "allow_http": True}
        try:
            self._bucket = Bucket(parts.netloc, prefix=parts.path.strip("/") or None, client_options=options)
        except BaseError as err:
            raise UsageError("bucket address refused", why=str(err)[:200]) from err
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
        try:
            return int(obstore.head(self._bucket, name)["size"])
        except FileNotFoundError:
            return None
        except BaseError as err:
            raise SourceFailure("the bucket failed", why=_reason(err)) from err

    def list(self, prefix: str) -> list[str]:
        """Return the names under `prefix/`."""
        try:
            return sorted(item["path"] for batch in obstore.list(self._bucket, prefix) for item in batch)
        except BaseError as err:
            raise SourceFailure("the bucket failed", why=_reason(err)) from err

    def put(self, name: str, data: Buffer) -> None:
        """Write one object; S3 shows it only when it is whole."""
        pool, target = self._signed("PUT", name)
        pool.put(target, data)

    def _signed(self, method: Literal["GET", "PUT"], name: str) -> tuple[ConnectionPool, str]:
        try:
            url: str = obstore.sign(self._bucket, method, name, SIGNATURE_LIFE)
        except BaseError as err:
            raise SourceFailure("the bucket failed", why=_reason(err)) from err
        parts = urllib.parse.urlsplit(url)
        with self._lock:
            pool = self._pools.setdefault(parts.netloc, ConnectionPool(parts, self._stall_s))
        return pool, f"{parts.path}?{parts.query}"


def _reason(err: BaseError) -> str:
    return str(err).split("\n", 1)[0][:200]
