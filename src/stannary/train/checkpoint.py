"""Weights as bytes: deterministic safetensors, written and read by our own strict code.

Rules:
1. One value has one spelling. Tensors lie in name order, without gaps; the header is canonical
   JSON (sorted, no white space) padded with spaces to eight bytes; so equal weights are equal bytes
   and a digest names them. Any safetensors reader loads the result.
2. Reading trusts nothing: header size, unique members, name grammar, dtypes, shapes, and offsets
   that tile the body exactly are checked before a tensor is made (format: safetensors README).
3. Pickle is refused by file name and by magic, so that no loader down the line is handed one.

Left to others: which names and shapes a model needs (`recipe.py` compares them).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, workdir
from stannary.formats.canonical import Json

HEADER_LENGTH_BYTES = 8  # u64, little endian
MAX_HEADER_BYTES = 16 * 1024 * 1024  # formats/canonical.MAX_DOCUMENT_BYTES; safetensors itself allows 100 MB
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
ALIGNMENT_BYTES = 8
METADATA = "__metadata__"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# torch.save before 1.6 begins with a bare LONG1 opcode and this number, without a protocol byte.
_LEGACY_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Named tensors and the text beside them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the one safetensors spelling of named tensors."""
    header: dict[str, Json] = {METADATA: dict(metadata)} if metadata else {}
    bodies: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        body = _raw(tensor)
        header[_checked_name(name)] = {
            "dtype": _code(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(body)],
        }
        bodies.append(body)
        offset += len(body)
    encoded = canonical.encode(header)
    encoded += b" " * (-len(encoded) % ALIGNMENT_BYTES)
    return b"".join([len(encoded).to_bytes(HEADER_LENGTH_BYTES, "little"), encoded, *bodies])


def decode(data: bytes) -> Checkpoint:
    """Read a checkpoint; the tensors own their memory.

    Raises:
        FormatError: a pickle, or anything but one well-formed safetensors file.
        LimitExceeded: a header or tensor count over the limits.
    """
    refuse_pickle(data)
    header, body = _split(data)
    metadata = _metadata(header.pop(METADATA, {}))
    if len(header) > MAX_TENSORS:
        raise LimitExceeded("checkpoint has too many tensors", why=f"{len(header):,}, limit {MAX_TENSORS:,}")
    spans = sorted((_read_entry(name, value) for name, value in header.items()), key=lambda span: span.begin)
    expected = 0
    for span in spans:
        if span.begin != expected:
            raise FormatError("checkpoint has a gap or an overlap", why=f"{span.name} begins at {span.begin}")
        expected = span.end
    if expected != len(body):
        raise FormatError("checkpoint length differs", why=f"{len(body):,} bytes of tensors, header says {expected:,}")
    return Checkpoint({span.name: span.tensor(body) for span in sorted(spans, key=lambda s: s.name)}, metadata)


def refuse_pickle(data: bytes, name: str = "checkpoint") -> None:
    """Raise FormatError for a pickle, by file name or by its first bytes; loading one runs its code."""
    workdir.refuse_pickle_name(name)
    workdir.refuse_pickle_bytes(name, data[: workdir.PICKLE_MAGIC_BYTES])
    if data.startswith(_LEGACY_TORCH_MAGIC):
        raise FormatError("pickle refused", why=f"{name[:120]!r} is a torch.save file of the old kind")


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def tensor(self, body: memoryview) -> Tensor:
        if self.begin == self.end:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(bytearray(body[self.begin : self.end]), dtype=self.dtype).reshape(self.shape)


def _split(data: bytes) -> tuple[dict[str, Json], memoryview]:
    if len(data) < HEADER_LENGTH_BYTES:
        raise FormatError("checkpoint cut short", why=f"{len(data)} bytes")
    num_header_bytes = int.from_bytes(data[:HEADER_LENGTH_BYTES], "little")
    if num_header_bytes > MAX_HEADER_BYTES:
        raise LimitExceeded(
            "checkpoint header too large", why=f"{num_header_bytes:,}, limit {MAX_HEADER_BYTES:,} bytes"
        )
    end = HEADER_LENGTH_BYTES + num_header_bytes
    if end > len(data):
        raise FormatError("checkpoint cut short", why=f"header of {num_header_bytes:,} bytes in {len(data):,}")
    header = canonical.decode_object(data[HEADER_LENGTH_BYTES:end], max_bytes=MAX_HEADER_BYTES)
    return header, memoryview(data)[end:]


def _metadata(value: Json) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError("checkpoint metadata is not text")
    return cast("dict[str, str]", value)


def _read_entry(name: str, value: Json) -> _Span:
    _checked_name(name)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FormatError("checkpoint entry has missing or unknown members", why=name)
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise FormatError("checkpoint dtype is unknown", why=f"{name}: {value['dtype']!r:.40}")
    shape = _sizes(value["shape"], name, "shape")
    offsets = _sizes(value["data_offsets"], name, "data_offsets")
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError("checkpoint entry is malformed", why=name)
    # Python integers do not overflow: a shape whose product wraps 64 bits is simply too large here.
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise FormatError("checkpoint shape and length differ", why=f"{name}: {list(shape)}")
    return _Span(name, dtype, shape, offsets[0], offsets[1])


def _sizes(value: Json, name: str, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise FormatError(f"checkpoint {what} is not a list of sizes", why=name)
    return tuple(cast("list[int]", value))


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None or name == METADATA:
        raise FormatError("checkpoint tensor name is malformed", why=f"{name!r:.80}")
    return name


def _code(dtype: torch.dtype) -> str:
    code = _CODES.get(dtype)
    if code is None:
        raise FormatError("tensor dtype has no checkpoint form", why=str(dtype))
    return code


def _raw(tensor: Tensor) -> bytes:
    # Little endian throughout: safetensors says so, and torch runs on little-endian hosts only.
    if tensor.numel() == 0:
        return b""
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
