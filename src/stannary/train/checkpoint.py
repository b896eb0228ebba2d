"""Weights as bytes: deterministic safetensors, written and read by our own strict code.

Rules:
1. One value has one spelling. Tensors lie in name order, without gaps; the header is canonical
   JSON (sorted, no white space) padded with spaces to eight bytes; so equal weights are equal bytes
   and a digest names them. Any safetensors reader loads the result.
2. Reading trusts nothing: header size, unique members, name grammar, dtypes, shapes, and offsets
   that tile the body exactly are checked before a tensor is made (format: safetensors README).
3. Pickle is refused by file name and by magic, so that no loader down the line is handed one.
4. Neither way holds a checkpoint twice: `Stored` reads one tensor at a time, from bytes or from a file, and
   `Encoder` takes one at a time.

Left to others: which names and shapes a model needs (`recipe.py` compares them).
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from stannary.errors import FormatError, LimitExceeded, NotFound
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
class NamedTensors:
    """Named tensors and the text beside them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


Described = tuple[torch.dtype, tuple[int, ...]]  # what is known of a tensor without its values
Source = bytes | Path  # where a checkpoint lies


class Stored(Mapping[str, Tensor]):
    """A checkpoint where it lies: checked whole at the start, each tensor read when it is asked for.

    Raises:
        FormatError: a pickle, or anything but one well-formed safetensors file.
        LimitExceeded: a header or tensor count over the limits.
        NotFound: no such file.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        with _open(source) as file:
            self.size_bytes = file.seek(0, io.SEEK_END)
            header, self._body = _read_header(file, self.size_bytes)
        self.metadata = _metadata(header.pop(METADATA, {}))
        if len(header) > MAX_TENSORS:
            raise LimitExceeded("checkpoint has too many tensors", why=f"{len(header):,}, limit {MAX_TENSORS:,}")
        spans = sorted((_read_entry(name, value) for name, value in header.items()), key=lambda span: span.begin)
        _check_tiling(spans, self.size_bytes - self._body)
        self._spans = {span.name: span for span in sorted(spans, key=lambda span: span.name)}

    @property
    def described(self) -> dict[str, Described]:
        """Dtype and shape by name."""
        return {name: (span.dtype, span.shape) for name, span in self._spans.items()}

    def forget(self, names: Iterable[str]) -> None:
        """Leave tensors out, as though they were not in the file."""
        for name in names:
            del self._spans[name]

    def __getitem__(self, name: str) -> Tensor:
        span = self._spans[name]
        if span.begin == span.end:
            return torch.empty(span.shape, dtype=span.dtype)
        data = bytearray(span.end - span.begin)
        with _open(self._source) as file:
            file.seek(self._body + span.begin)
            if file.readinto(data) != len(data):  # type: ignore[attr-defined]  # both kinds of file have it
                raise FormatError("checkpoint cut short", why=f"{name}: the file ends inside it")
        return torch.frombuffer(data, dtype=span.dtype).reshape(span.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


class Encoder:
    """Writes the one safetensors spelling of tensors whose names and shapes are known beforehand."""

    def __init__(self, described: Mapping[str, Described], metadata: Mapping[str, str] | None = None) -> None:
        self._waiting = sorted(described, reverse=True)
        self._file = io.BytesIO()
        self._file.write(_header(described, metadata))

    def add(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor, in name order."""
        if self._waiting.pop() != name:
            raise FormatError("checkpoint tensor out of order", why=name)
        self._file.write(_raw(tensor.detach().contiguous()))

    def finish(self) -> bytes:
        """Return the checkpoint."""
        if self._waiting:
            raise FormatError("checkpoint lacks a tensor", why=self._waiting[-1])
        return self._file.getvalue()  # the buffer itself: nothing is copied


class Hasher:
    """Feeds the bytes an `Encoder` would write, without metadata, to a hash; nothing is held."""

    def __init__(self, described: Mapping[str, Described], state: hashlib._Hash | None = None) -> None:
        self._state = hashlib.sha256() if state is None else state
        self._waiting = sorted(described, reverse=True)
        self._state.update(_header(described, None))

    def add(self, name: str, tensor: Tensor) -> None:
        """Feed the next tensor, in name order."""
        if self._waiting.pop() != name:
            raise FormatError("checkpoint tensor out of order", why=name)
        self._state.update(_raw(tensor.detach().contiguous()))

    def finish(self) -> bytes:
        """Return the hash."""
        if self._waiting:
            raise FormatError("checkpoint lacks a tensor", why=self._waiting[-1])
        return self._state.digest()


Spell = Callable[[Mapping[str, Described]], Encoder | Hasher]  # how a state is kept: whole, or as a hash


def spelled(tensors: Mapping[str, Tensor], spell: Spell) -> bytes:
    """Return what a spelling makes of named tensors."""
    writer = spell(describe(tensors))
    for name in sorted(tensors):
        writer.add(name, tensors[name])
    return writer.finish()


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the one safetensors spelling of named tensors."""
    return spelled(tensors, lambda described: Encoder(described, metadata))


def encoded_bytes(described: Mapping[str, Described], metadata: Mapping[str, str] | None = None) -> int:
    """Return the size of the spelling of tensors of these names, dtypes and shapes."""
    return len(_header(described, metadata)) + sum(_num_bytes(*item) for item in described.values())


def size_of(source: Source) -> int:
    """Return how many bytes a checkpoint has where it lies."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Described]:
    """Return dtype and shape by name; nothing is read from a file for it."""
    if isinstance(tensors, Stored):
        return tensors.described
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def decode(data: bytes) -> NamedTensors:
    """Read a checkpoint whole; the tensors own their memory.

    Raises:
        FormatError: a pickle, or anything but one well-formed safetensors file.
        LimitExceeded: a header or tensor count over the limits.
    """
    stored = Stored(data)
    return NamedTensors(dict(stored), stored.metadata)


def refuse_pickle(data: bytes, name: str = "checkpoint") -> None:
    """Raise FormatError for a pickle, by file name or by its first bytes; loading one runs its code."""
    workdir.refuse_pickle_name(name)
    workdir.refuse_pickle_bytes(name, data[: workdir.PICKLE_MAGIC_BYTES])
    if data.startswith(_LEGACY_TORCH_MAGIC):
        why = f"{name[:120]!r} is a torch.save file of the old kind"
        raise FormatError("pickle refused", why=why, detail=workdir.PICKLE_REFUSED)


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _open(source: Source) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except FileNotFoundError as err:
        raise NotFound("no such checkpoint", why=str(source)) from err


def _header(described: Mapping[str, Described], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Json] = {METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name in sorted(described):
        dtype, shape = described[name]
        end = offset + _num_bytes(dtype, shape)
        header[_checked_name(name)] = {"dtype": _code(dtype), "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = canonical.encode(header)
    encoded += b" " * (-len(encoded) % ALIGNMENT_BYTES)
    return len(encoded).to_bytes(HEADER_LENGTH_BYTES, "little") + encoded


def _num_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _read_header(file: BinaryIO, num_bytes: int) -> tuple[dict[str, Json], int]:
    file.seek(0)
    first = file.read(workdir.PICKLE_MAGIC_BYTES)
    refuse_pickle(first)
    if num_bytes < HEADER_LENGTH_BYTES:
        raise FormatError("checkpoint cut short", why=f"{num_bytes} bytes")
    num_header_bytes = int.from_bytes(first[:HEADER_LENGTH_BYTES], "little")
    if num_header_bytes > MAX_HEADER_BYTES:
        raise LimitExceeded(
            "checkpoint header too large", why=f"{num_header_bytes:,}, limit {MAX_HEADER_BYTES:,} bytes"
        )
    end = HEADER_LENGTH_BYTES + num_header_bytes
    file.seek(HEADER_LENGTH_BYTES)
    encoded = file.read(num_header_bytes)
    if end > num_bytes or len(encoded) != num_header_bytes:
        raise FormatError("checkpoint cut short", why=f"header of {num_header_bytes:,} bytes in {num_bytes:,}")
    return canonical.decode_object(encoded, max_bytes=MAX_HEADER_BYTES), end


def _check_tiling(spans: list[_Span], num_body_bytes: int) -> None:
    expected = 0
    for span in spans:
        if span.begin != expected:
            raise FormatError("checkpoint has a gap or an overlap", why=f"{span.name} begins at {span.begin}")
        expected = span.end
    if expected != num_body_bytes:
        raise FormatError(
            "checkpoint length differs", why=f"{num_body_bytes:,} bytes of tensors, header says {expected:,}"
        )


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
    if _num_bytes(dtype, shape) != offsets[1] - offsets[0]:
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


def _raw(tensor: Tensor) -> bytes | memoryview:
    # Little endian throughout: safetensors says so, and torch runs on little-endian hosts only.
    if tensor.numel() == 0:
        return b""
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy().data
