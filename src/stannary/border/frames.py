"""Frames: the only words between the agent and a worker inside the sandbox.

    frame = u32 header length | header (a JSON object) | u64 body length | body      (big-endian)

Rules:
1. The other side is hostile. Every length is checked against `FrameLimits` before a byte of it is
   read or memory for it is taken; headers go through the strict JSON reader (no floats, no
   duplicate names, bounded depth).
2. A stream that ends between frames is the end (`None`); one that ends inside a frame is an error.
3. Reading raises our errors only. A frame that was refused leaves the stream in an undefined place:
   the reader must not go on, and the agent kills the worker.

Files are plain blocking ones, so that a worker needs no event loop. The agent passes the two file
descriptor numbers on the worker's command line (`worker REQUESTS_FD REPLIES_FD`). How long a read
may take is left to the agent, which kills the sandbox and so ends the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stannary.errors import FormatError, LimitExceeded, ServiceError
from stannary.formats import canonical
from stannary.formats.canonical import Json

HEADER_LENGTH = struct.Struct(">I")
BODY_LENGTH = struct.Struct(">Q")

MAX_HEADER_BYTES = 4 * 1024 * 1024  # an assignment with 10,000 admitted contributions is about 2 MiB
MAX_BODY_BYTES = 16 * 1024**3  # one fp32 checkpoint of 4e9 parameters; the agent sets what a job may hand in
CHUNK_BYTES = 1024 * 1024  # memory is taken as bytes arrive, never on the word of a length field


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a JSON object and the bytes that belong to it."""

    header: dict[str, Json]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """The largest header and body a reader accepts."""

    header_bytes: int = MAX_HEADER_BYTES
    body_bytes: int = MAX_BODY_BYTES


DEFAULT_LIMITS = FrameLimits()


def write(file: BinaryIO, header: dict[str, Json], body: bytes | memoryview = b"") -> None:
    """Write one frame and flush it.

    Raises:
        FormatError: the header has no canonical JSON (a float, a lone surrogate).
        LimitExceeded: header or body over the format's limits.
        ServiceError: the other side has closed the stream.
    """
    num_body_bytes = memoryview(body).nbytes
    _put(file, _start(header, num_body_bytes))
    _put(file, body, flush=True)


def write_parts(file: BinaryIO, header: dict[str, Json], num_body_bytes: int, parts: Iterable[bytes]) -> None:
    """Write one frame whose body comes in parts, of which no more than `num_body_bytes` are taken.

    Where the parts end early or fail, the frame is filled up with zeros: the stream stays whole, and a refusal that
    follows is not read as more of the body.

    Raises:
        FormatError: the parts end early; what else they raise passes through.
        LimitExceeded, ServiceError: as `write`.
    """
    left = num_body_bytes
    _put(file, _start(header, num_body_bytes))
    try:
        for part in parts:
            _put(file, part[:left])
            left -= len(part[:left])
            if left == 0:
                break
    finally:
        for missing in range(left, 0, -CHUNK_BYTES):
            _put(file, bytes(min(missing, CHUNK_BYTES)))
        _put(file, b"", flush=True)
    if left:
        raise FormatError("a file became shorter while it was handed in", why=f"{left:,} bytes are missing")


def read(file: BinaryIO, limits: FrameLimits = DEFAULT_LIMITS) -> Frame | None:
    """Read one frame, or return None where the stream ends between frames.

    Raises:
        LimitExceeded: header or body over `limits`.
        FormatError: cut short, or a header that is not one JSON object.
        ServiceError: the stream cannot be read.
    """
    started = read_start(file, limits)
    if started is None:
        return None
    header, num_body_bytes = started
    return Frame(header, _whole(_read(file, num_body_bytes), num_body_bytes, "body"))


def read_start(file: BinaryIO, limits: FrameLimits = DEFAULT_LIMITS) -> tuple[dict[str, Json], int] | None:
    """Read a frame's header and the length of its body, which must be read next; None and errors as `read`."""
    prefix = _read(file, HEADER_LENGTH.size)
    if not prefix:
        return None
    num_header_bytes = HEADER_LENGTH.unpack(_whole(prefix, HEADER_LENGTH.size, "header length"))[0]
    if num_header_bytes > limits.header_bytes:
        raise LimitExceeded("frame header too large", why=f"{num_header_bytes:,} bytes, limit {limits.header_bytes:,}")
    encoded = _whole(_read(file, num_header_bytes), num_header_bytes, "header")
    header = canonical.decode_object(encoded, max_bytes=limits.header_bytes)
    suffix = _whole(_read(file, BODY_LENGTH.size), BODY_LENGTH.size, "body length")
    num_body_bytes = BODY_LENGTH.unpack(suffix)[0]
    if num_body_bytes > limits.body_bytes:
        raise LimitExceeded("frame body too large", why=f"{num_body_bytes:,} bytes, limit {limits.body_bytes:,}")
    return header, num_body_bytes


def pieces(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Yield a body in pieces; raise FormatError where the stream ends early."""
    left = num_bytes
    while left > 0:
        part = _read(file, min(left, CHUNK_BYTES))
        left -= len(_whole(part, min(left, CHUNK_BYTES), "body"))
        yield part


def _start(header: dict[str, Json], num_body_bytes: int) -> bytes:
    encoded = canonical.encode(header)
    if len(encoded) > MAX_HEADER_BYTES:
        raise LimitExceeded("frame header too large", why=f"{len(encoded):,} bytes, limit {MAX_HEADER_BYTES:,}")
    if num_body_bytes > MAX_BODY_BYTES:
        raise LimitExceeded("frame body too large", why=f"{num_body_bytes:,} bytes, limit {MAX_BODY_BYTES:,}")
    return HEADER_LENGTH.pack(len(encoded)) + encoded + BODY_LENGTH.pack(num_body_bytes)


def _put(file: BinaryIO, data: bytes | memoryview, *, flush: bool = False) -> None:
    try:
        file.write(data)
        if flush:
            file.flush()
    except OSError as err:
        raise ServiceError("cannot write a frame", why=str(err)) from err


def _read(file: BinaryIO, num_bytes: int) -> bytes:
    """Read up to `num_bytes`, less only at the end of the stream."""
    parts: list[bytes] = []
    left = num_bytes
    while left > 0:
        try:
            part = file.read(min(left, CHUNK_BYTES))
        except (OSError, ValueError) as err:  # ValueError: the file was closed under us by a kill
            raise ServiceError("cannot read a frame", why=str(err)) from err
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _whole(data: bytes, num_bytes: int, name: str) -> bytes:
    if len(data) != num_bytes:
        raise FormatError("frame cut short", why=f"{name}: {len(data):,} of {num_bytes:,} bytes")
    return data
