"""Coders: lossless, and bounded before they run."""

from __future__ import annotations

import contextlib
import resource

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, StannaryError
from stannary.seal import codec
from stannary.seal.stores.link import LinkMeter, coding_pays


@given(st.binary(max_size=600).filter(lambda data: len(data) % 2 == 0))
def test_bf16_split_gives_back_every_bit(data: bytes) -> None:
    """Any 16-bit words come back."""
    into = bytearray(len(data))
    codec.decode_bf16_split(codec.encode_bf16_split(data), memoryview(into))
    assert into == data


@given(st.data(), st.sampled_from([1, 2, 4]), st.integers(0, 100))
def test_xor_sparse_gives_back_every_bit(data: st.DataObject, width: int, words: int) -> None:
    """Any words against any base come back."""
    plain = data.draw(st.binary(min_size=words * width, max_size=words * width))
    base = data.draw(st.one_of(st.just(plain), st.binary(min_size=len(plain), max_size=len(plain))))
    into = bytearray(len(plain))
    codec.decode_xor_sparse(codec.encode_xor_sparse(plain, base, width), base, memoryview(into))
    assert into == plain


@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_to_a_decoder(stored: bytes, size: int) -> None:
    """Whatever is stored, only our errors come out."""
    for decode in (
        lambda: codec.decode_bf16_split(stored, memoryview(bytearray(size))),
        lambda: codec.decode_xor_sparse(stored, bytes(size), memoryview(bytearray(size))),
    ):
        with contextlib.suppress(StannaryError):
            decode()


def section(frame: bytes) -> bytes:
    """Frame a section as the coder does."""
    return len(frame).to_bytes(4, "big") + frame


def lying_frame(true_bytes: int, declared: int) -> bytes:
    """Return a frame of zeros that declares another content size (RFC 8878 3.1.1.1.4)."""
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(true_bytes)))
    flag = frame[4] >> 6
    width = {0: 1, 1: 2, 2: 4, 3: 8}[flag]
    start = 5 + (0 if frame[4] & 0x20 else 1)
    value = declared - 256 if width == 2 else declared
    frame[start : start + width] = value.to_bytes(width, "little")
    return bytes(frame)


@pytest.mark.parametrize("declared", [100, 4096, 1 << 20, (1 << 32) - 1])
def test_frame_that_lies_about_its_size_is_refused(declared: int) -> None:
    """A frame that declares more or less than it holds, or than it should, is refused."""
    into = memoryview(bytearray(2 * 70_000))
    stored = section(lying_frame(70_000, declared)) + bytes(70_000)
    with pytest.raises(FormatError):
        codec.decode_bf16_split(stored, into)


def test_bomb_costs_no_memory() -> None:
    """A frame of 32 KiB that unfolds to a gigabyte is refused before anything is allocated."""
    bomb = zstandard.ZstdCompressor(level=3, write_content_size=True).compressobj(size=1 << 30)
    zeros = bytes(1 << 20)
    frame = b"".join(bomb.compress(zeros) for _ in range(1 << 10)) + bomb.flush()
    assert len(frame) < 128 * 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match="lies about its size"):
        codec.decode_bf16_split(section(frame) + bytes(1000), memoryview(bytearray(2000)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_frame_without_a_size_is_refused() -> None:
    """A frame that declares nothing is refused: the length must be known before."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(FormatError):
        codec.decode_bf16_split(section(frame) + bytes(100), memoryview(bytearray(200)))


def test_bytes_after_a_frame_are_refused() -> None:
    """A second frame or garbage behind the first is refused."""
    frame = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(100))
    for more in (frame, b"x"):
        with pytest.raises(FormatError):
            codec.decode_bf16_split(section(frame + more) + bytes(100), memoryview(bytearray(200)))


def test_delta_of_a_fifth_of_the_weights_is_small() -> None:
    """With 20 % of bf16 weights moved by one unit in the last place a delta is below 11 % of the size."""
    import random

    source = random.Random(1)
    base = bytearray(source.randbytes(400_000))
    plain = bytearray(base)
    for word in range(0, len(plain), 2):
        if source.random() < 0.2:
            value = int.from_bytes(plain[word : word + 2], "little")
            plain[word : word + 2] = ((value + source.choice((-1, 1))) & 0xFFFF).to_bytes(2, "little")
    assert len(codec.encode_xor_sparse(bytes(plain), bytes(base), 2)) <= 0.11 * len(plain)


def test_coding_pays_on_slow_links_only() -> None:
    """The rule is the sum of times, not a constant."""
    assert coding_pays(10e6, 200e6, 0.68)
    assert not coding_pays(1e9, 200e6, 0.68)
    assert not coding_pays(0, 200e6, 0.68)


def test_meter_turns_coding_on_and_off() -> None:
    """A slow put turns the coder on, a fast one off again."""
    now = [0.0]
    meter = LinkMeter(lambda: now[0])
    assert not meter.coder_pays()
    with meter.putting(1_000_000):
        now[0] += 1.0
    assert meter.coder_pays()  # one trial
    with meter.coding(1_000_000) as coding:
        now[0] += 0.01
        coding.coded_bytes = 680_000
    assert meter.coder_pays()
    for _ in range(30):
        with meter.putting(1_000_000):
            now[0] += 0.0001
    assert not meter.coder_pays()


def framed(data: bytes) -> bytes:
    """Return a section with a frame of those bytes."""
    return section(zstandard.ZstdCompressor(write_content_size=True).compress(data))


def delta(width: int, bitmap: bytes, number: int, *planes: bytes) -> bytes:
    """Write a delta by hand."""
    return bytes([width]) + framed(bitmap) + number.to_bytes(4, "big") + b"".join(framed(plane) for plane in planes)


GOOD_DELTA = delta(1, b"\xe0", 3, b"abc")  # three words of one byte, all of them changed


@pytest.mark.parametrize(
    ("stored", "base", "size", "reason"),
    [
        (b"", 3, 3, "malformed"),
        (delta(3, b"\x80", 1, b"a", b"b", b"c"), 3, 3, "malformed"),
        (delta(0, b"", 0), 3, 3, "malformed"),
        (delta(2, b"\x80", 1, b"a", b"b"), 5, 5, "malformed"),
        (GOOD_DELTA, 2, 3, "malformed"),
        (GOOD_DELTA, 4, 3, "malformed"),
        (delta(1, b"\xf0", 4, b"abcd"), 3, 3, "past its end"),
        (delta(1, b"\xe0", 2, b"ab"), 3, 3, "another number of values"),
        (delta(1, b"\x00", 0)[:-2], 3, 3, "another number of values"),
        (delta(1, b"\xe0\x00", 3, b"abc"), 3, 3, "lies about its size"),
        (delta(1, b"\xe0", 3, b"abcd"), 3, 3, "lies about its size"),
        (delta(1, b"\xe0", 3), 3, 3, "is cut"),
        (GOOD_DELTA[:-1], 3, 3, "is cut"),
        (GOOD_DELTA + b"\0", 3, 3, "after the last section"),
        (b"\1" + section(b"no frame") + bytes(4), 3, 3, "malformed"),
    ],
)
def test_delta_is_refused_for_its_reason(stored: bytes, base: int, size: int, reason: str) -> None:
    """Each rule of the delta container refuses what breaks it."""
    with pytest.raises(FormatError, match=reason):
        codec.decode_xor_sparse(stored, bytes(base), memoryview(bytearray(size)))


def test_good_delta_by_hand() -> None:
    """The container the cases above change is a good one; an empty plane may be an empty section."""
    into = bytearray(3)
    codec.decode_xor_sparse(GOOD_DELTA, b"\0\1\2", memoryview(into))
    assert into == bytes([ord("a"), ord("b") ^ 1, ord("c") ^ 2])
    codec.decode_xor_sparse(b"\1" + framed(b"\0") + bytes(4) + section(b""), b"abc", memoryview(into))
    assert into == b"abc"


@pytest.mark.parametrize(
    ("stored", "size", "reason"),
    [
        (framed(b"ab") + b"cd", 5, "odd length"),
        (framed(b"ab") + b"cde", 4, "mantissa bytes"),
        (framed(b"ab") + b"c", 4, "mantissa bytes"),
        (framed(b"abc") + b"cd", 4, "lies about its size"),
        (section(b"") + b"cd", 4, "malformed"),
        (b"\0\0", 4, "is cut"),
    ],
)
def test_split_is_refused_for_its_reason(stored: bytes, size: int, reason: str) -> None:
    """Each rule of the split container refuses what breaks it."""
    with pytest.raises(FormatError, match=reason):
        codec.decode_bf16_split(stored, memoryview(bytearray(size)))


def test_worth_is_a_sixteenth() -> None:
    """Coding is kept from one sixteenth saved on."""
    assert codec.worth(15, 16)
    assert not codec.worth(16, 17)
