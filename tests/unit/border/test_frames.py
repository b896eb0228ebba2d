"""Frames between agent and worker."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.border import frames
from stannary.border.frames import Frame, FrameLimits
from stannary.errors import FormatError, LimitExceeded, ServiceError, StannaryError


def encode(header: dict, body: bytes = b"") -> bytes:
    file = io.BytesIO()
    frames.write(file, header, body)
    return file.getvalue()


@given(st.dictionaries(st.text(max_size=5), st.integers(-10, 10)), st.binary(max_size=50))
def test_round_trip(header: dict, body: bytes) -> None:
    """What is written is what is read, and then the stream ends."""
    file = io.BytesIO(encode(header, body))
    assert frames.read(file) == Frame(header, body)
    assert frames.read(file) is None


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """The reader survives any bytes and raises our errors only."""
    with contextlib.suppress(StannaryError):
        frames.read(io.BytesIO(data), FrameLimits(100, 100))


@given(st.integers(1, 30))
def test_cut_short(cut: int) -> None:
    """A frame that is cut anywhere inside is refused, never taken for the end."""
    whole = encode({"op": "run"}, b"x" * 10)
    with pytest.raises(FormatError):
        frames.read(io.BytesIO(whole[: len(whole) - min(cut, len(whole) - 1)]))


def test_lengths_are_not_believed() -> None:
    """A length over the limit is refused before anything of that size is read."""
    with pytest.raises(LimitExceeded):
        frames.read(io.BytesIO(struct.pack(">I", 2**32 - 1)))
    with pytest.raises(LimitExceeded):
        frames.read(io.BytesIO(struct.pack(">I", 2) + b"{}" + struct.pack(">Q", 2**63)))


def test_claimed_body_takes_no_memory() -> None:
    """A body that claims gigabytes and never comes costs only what arrived."""
    with pytest.raises(FormatError, match="cut short"):
        frames.read(io.BytesIO(struct.pack(">I", 2) + b"{}" + struct.pack(">Q", 8 * 1024**3) + b"abc"))


@pytest.mark.parametrize("header", [b"[]", b'{"a":1.5}', b'{"a":1,"a":2}', b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"])
def test_header_is_strict_json(header: bytes) -> None:
    """A header that is not one strict JSON object is refused."""
    with pytest.raises(FormatError):
        frames.read(io.BytesIO(struct.pack(">I", len(header)) + header + struct.pack(">Q", 0)))


def test_float_is_refused_on_the_way_out() -> None:
    """A worker cannot send a float by accident: fractions travel as decimal strings."""
    with pytest.raises(FormatError):
        frames.write(io.BytesIO(), {"loss": 1.5})  # type: ignore[dict-item]  # that is the point


def test_closed_stream_is_our_error() -> None:
    """A stream closed by a kill raises ServiceError, not ValueError."""
    file = io.BytesIO(b"")
    file.close()
    with pytest.raises(ServiceError):
        frames.read(file)
