"""Where sealed objects lie: a folder, an HTTP host or an S3 bucket, all with the same names.

    head/<hex of the artifact digest>         the public head (JCS)
    head/<hex of the artifact digest>.dsse    the owner's signature; written last, so it publishes
    b3/<hex BLAKE3>                           a ciphertext: shard or manifest

Every name is immutable, so any dumb host or mirror will do and none is trusted: readers check every
byte against the digest they started from. A source may lie, stall, cut and vanish; it may not hang a
reader: STALL_S and MIN_BYTES_PER_S bound every transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from stannary.errors import ServiceError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.seal.head import SealedObject
from stannary.seal.message import Buffer

STALL_S = 20.0  # no byte for so long: the host is given up for this object
MIN_BYTES_PER_S = 32 * 1024  # a host slower than a modem is as good as stalled
AGAIN_HINT = "run the same command again, it goes on where it stopped; or name another mirror"
PIECE_BYTES = 256 * 1024  # with its plaintext it fits a second-level cache: hash and cipher read it there


class SourceFailure(ServiceError):
    """A store did not give or take an object; another one may."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(what, why=why, hint=hint or AGAIN_HINT, detail=detail)


class Busy(SourceFailure):
    """A store is there and asks to be asked later, after `after_s` seconds if it says when."""

    def __init__(self, *, why: str, after_s: float = 0.0) -> None:
        hint = "run the same command again later, it goes on where it stopped; or ask with fewer --jobs"
        super().__init__("the store is busy", why=why, hint=hint)
        self.after_s = after_s


class Source(Protocol):
    """A store to read from. Thread safe.

    A source that is reached over a network may also have `doubt`: why the bytes this thread read last, if they are
    wrong, need not be the host's own answer (a log-in page, a coding on the way), empty if nothing speaks for that.
    """

    url: str

    def read(self, name: str, limit: int) -> bytes:
        """Return a small object whole; NotFound, SourceFailure, or LimitExceeded past `limit`."""
        ...

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        """Yield an object of exactly `length` bytes in pieces, each valid until the next.

        Raises NotFound or SourceFailure; a shorter object simply ends (the reader counts).
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return the names under `prefix/`."""
        ...


class Store(Source, Protocol):
    """A store to write to as well."""

    def put(self, name: str, data: Buffer) -> None:
        """Write one object; nothing is seen under `name` before it is whole and durable."""
        ...


def head_name(artifact: Digest) -> str:
    """Return where the head of an artifact lies."""
    return f"head/{digest.raw(artifact).hex()}"


def envelope_name(artifact: Digest) -> str:
    """Return where the owner's signature lies."""
    return head_name(artifact) + ".dsse"


def object_name(item: SealedObject) -> str:
    """Return where a ciphertext lies."""
    return f"b3/{item.blake3}"
