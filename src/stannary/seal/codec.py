"""What a shard stores in place of its bytes, when that is shorter. Lossless, and bounded before it runs.

    raw              the bytes
    bf16-split-zstd  16-bit words: the exponent byte coded, sign and mantissa byte as it is
    xor-sparse-zstd  words that differ from the parent: a bitmap, and their XOR split in byte planes

Rules:
1. Decoding is given the exact decoded length by the signed manifest. Every zstd frame must declare its
   content size and it must be the one that follows from that length; checked before a byte is
   allocated. (The library ignores its own `max_output_size` when the frame declares a size: a frame of
   32 KiB gave 1 GiB.)
2. A container is a run of sections: u32 length, bytes. Nothing may follow the last one.
3. Bytes in, bytes out: base bytes come from the caller, already verified.

A coder is used only where its result is at most WORTH of the raw bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from stannary.errors import FormatError
from stannary.seal.message import Buffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | npt.NDArray[np.uint8]

ZSTD_LEVEL = 1  # higher levels gain below 1 % on exponents and cost 5x (measured, bench/seal.py)
WORTH_NUM, WORTH_DEN = 15, 16
BLOCK_WORDS = 128 * 1024  # temporaries stay in the cache, and small whatever the shard
SECTION_BYTES = 4
XOR_PREFIX_BYTES = 1


def encode_bf16_split(plain: Buffer) -> bytes:
    """Code bf16 words. `plain` has an even length."""
    import numpy as np

    words = np.frombuffer(plain, dtype="<u2")
    exponents = np.empty(len(words), dtype=np.uint8)
    rest = np.empty(len(words), dtype=np.uint8)
    for start in range(0, len(words), BLOCK_WORDS):
        block = slice(start, start + BLOCK_WORDS)
        part = words[block]
        exponents[block] = part >> 7 & 0xFF
        rest[block] = part >> 8 & 0x80 | part & 0x7F
    return _section(_compress(exponents.tobytes())) + rest.tobytes()


def decode_bf16_split(stored: Buffer, into: memoryview) -> None:
    """Decode into `into`, whose length is the exact decoded length."""
    import numpy as np

    if len(into) % 2:
        raise FormatError("bf16 shard of an odd length", why=f"{len(into)} bytes")
    num = len(into) // 2
    frame, rest = _take(memoryview(stored))
    if len(rest) != num:
        raise FormatError("coded shard has another length", why=f"{len(rest)} mantissa bytes, expected {num}")
    exponents = np.frombuffer(_decompress(frame, num), dtype=np.uint8)
    mantissas = np.frombuffer(rest, dtype=np.uint8)
    words = np.frombuffer(into, dtype="<u2")
    for start in range(0, num, BLOCK_WORDS):
        block = slice(start, start + BLOCK_WORDS)
        rest_block = mantissas[block].astype("<u2")
        words[block] = (rest_block & 0x80) << 8 | rest_block & 0x7F | exponents[block].astype("<u2") << 7


def encode_xor_sparse(plain: Buffer, base: Buffer, width: int) -> bytes:
    """Code `plain` against `base` of the same length, in words of `width` bytes (1, 2 or 4)."""
    import numpy as np

    kind = f"<u{width}"
    changed = np.frombuffer(plain, dtype=kind) ^ np.frombuffer(base, dtype=kind)
    mask = changed != 0
    values = changed[mask]
    planes = values.view(np.uint8).reshape(-1, width).T
    sections = [_section(_compress(np.packbits(mask).tobytes())), len(values).to_bytes(SECTION_BYTES, "big")]
    sections += [_section(_compress(plane.tobytes())) for plane in planes]
    return bytes([width]) + b"".join(sections)


def decode_xor_sparse(stored: Buffer, base: Buffer, into: memoryview) -> None:
    """Decode into `into`; `base` has the same length."""
    import numpy as np

    view = memoryview(stored)
    if len(view) < XOR_PREFIX_BYTES or view[0] not in (1, 2, 4) or len(into) % view[0] or len(base) != len(into):
        raise FormatError("delta shard is malformed", why=f"{len(view)} bytes for {len(into)}")
    width = view[0]
    num_words = len(into) // width
    frame, view = _take(view[XOR_PREFIX_BYTES:])
    bits = np.frombuffer(_decompress(frame, -(-num_words // 8)), dtype=np.uint8)
    mask = np.unpackbits(bits)
    if mask[num_words:].any():
        raise FormatError("delta shard marks words past its end")
    mask = mask[:num_words].astype(bool)
    num_values = int.from_bytes(view[:SECTION_BYTES], "big")
    if len(view) < SECTION_BYTES or num_values != int(mask.sum()):
        raise FormatError("delta shard has another number of values", why=f"{num_values:,}, marked {int(mask.sum()):,}")
    view = view[SECTION_BYTES:]
    values = np.empty((num_values, width), dtype=np.uint8)
    for plane in range(width):
        frame, view = _take(view)
        values[:, plane] = np.frombuffer(_decompress(frame, num_values), dtype=np.uint8)
    if len(view):
        raise FormatError("bytes after the last section", why=f"{len(view)} bytes")
    kind = f"<u{width}"
    target = np.frombuffer(into, dtype=kind)
    target[:] = np.frombuffer(base, dtype=kind)
    target[mask] ^= values.view(kind).reshape(-1)


def worth(stored_bytes: int, plain_bytes: int) -> bool:
    """Tell whether coding saved enough to be kept."""
    return stored_bytes * WORTH_DEN <= plain_bytes * WORTH_NUM


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(data)


def _decompress(frame: memoryview, expected: int) -> bytes:
    """Decompress one frame to exactly `expected` bytes, or refuse it before it runs (rule 1)."""
    if expected == 0 and len(frame) == 0:
        return b""
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != expected:
            raise FormatError("zstd frame lies about its size", why=f"declares {declared:,}, expected {expected:,}")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise FormatError("zstd frame is malformed", why=str(err)[:200]) from err
    if len(data) != expected:
        raise FormatError("zstd frame lies about its size", why=f"gave {len(data):,}, expected {expected:,}")
    return data


def _section(data: bytes) -> bytes:
    return len(data).to_bytes(SECTION_BYTES, "big") + data


def _take(view: memoryview) -> tuple[memoryview, memoryview]:
    length = int.from_bytes(view[:SECTION_BYTES], "big")
    if len(view) < SECTION_BYTES + length:
        raise FormatError("coded shard is cut", why=f"a section of {length:,} bytes in {len(view):,}")
    return view[SECTION_BYTES : SECTION_BYTES + length], view[SECTION_BYTES + length :]
