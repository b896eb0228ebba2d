"""The safetensors header, read more strictly than the format's own library does.

Every dtype, header size and text of a name that the library reads is read. Refused besides what it refuses:
duplicate names (it merges them silently), names that climb out of a folder (it accepts `../../x`), metadata that
is not text, members it would ignore, fractions. Offsets must tile the data area exactly, so that every byte of the
file belongs to the header or to one tensor: no hole can carry an archive or a pickle.

Source: the safetensors format description (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical
from stannary.formats.canonical import Json
from stannary.seal.content import names

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the library's own limit (MAX_HEADER_SIZE)
MAX_TENSORS = 200_000
MAX_COMMAS = 4_000_000  # 200,000 tensors of rank 10 have 2.6 million; more cost minutes and gigabytes to read
_MEMBERS = frozenset({"dtype", "shape", "data_offsets"})
NUM_OTHER_OBJECTS = 2  # of a header: itself and its metadata; every other one is a tensor
MAX_RANK = 64  # of a torch tensor

DTYPES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1,
    "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E5M2FNUZ": 1, "F8_E4M3FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


SUB_BYTE_BITS: dict[str, int] = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # packed; a tensor ends on a whole byte


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: offsets count from the start of the file, not of the data area."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(prefix: bytes, file_bytes: int) -> int:
    """Return the length of the JSON header from the first eight bytes of a file of `file_bytes`."""
    if len(prefix) < LENGTH_BYTES or file_bytes < LENGTH_BYTES:
        raise FormatError("not a safetensors file", why=f"{file_bytes} bytes, shorter than its length field")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise LimitExceeded("safetensors header too large", why=f"{length:,} bytes, limit {MAX_HEADER_BYTES:,}")
    if length < 2 or LENGTH_BYTES + length > file_bytes:
        raise FormatError("not a safetensors file", why=f"header of {length:,} bytes in a file of {file_bytes:,}")
    return length


def parse_header(header: bytes, file_bytes: int) -> tuple[Tensor, ...]:
    """Read the JSON header (without its length field) of a file of `file_bytes`.

    Returns:
        The tensors in the order of their bytes.

    Raises:
        FormatError, LimitExceeded: see the module's rules.
    """
    if not header.startswith(b"{"):
        raise FormatError("not a safetensors file", why="the header does not start with {")
    _check_crowd(header)
    start = LENGTH_BYTES + len(header)
    with _uncollected():
        members = canonical.decode_object(header, max_bytes=MAX_HEADER_BYTES)
        _check_metadata(members.pop("__metadata__", None))
        listed = [_read_tensor(name, value, start) for name, value in members.items()]
        return check_tiling(listed, start, file_bytes)


def check_tiling(tensors: list[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """Return `tensors` in byte order if they cover [start, stop) exactly, once each."""
    _require_few(len(tensors))
    ordered = sorted(tensors, key=lambda item: (item.begin, item.end, item.name))
    position = start
    for tensor in ordered:
        if tensor.begin != position:
            kind = "overlap" if tensor.begin < position else "leave a hole"
            raise FormatError(f"tensors {kind}", why=f"{tensor.name!r:.80} at byte {tensor.begin}, expected {position}")
        position = tensor.end
    if position != stop:
        raise FormatError("tensors do not fill the file", why=f"they end at byte {position} of {stop}")
    return tuple(ordered)


def check_tensor(tensor: Tensor) -> Tensor:
    """Return `tensor` if name, dtype, shape and length agree."""
    names.check_tensor_name(tensor.name)
    bits = SUB_BYTE_BITS.get(tensor.dtype) or 8 * DTYPES.get(tensor.dtype, 0)
    if not bits:
        raise FormatError(
            "unknown dtype",
            why=f"{tensor.dtype!r:.40} of tensor {tensor.name!r:.80}",
            hint=f"known are {' '.join((*DTYPES, *SUB_BYTE_BITS))}",
        )
    if len(tensor.shape) > MAX_RANK or min(tensor.shape, default=0) < 0:
        raise FormatError("tensor shape refused", why=f"{tensor.name!r:.80} has shape {tensor.shape!r:.80}")
    if tensor.begin < 0 or math.prod(tensor.shape) * bits != 8 * (tensor.end - tensor.begin):
        raise FormatError("tensor length does not match its shape", why=f"{tensor.name!r:.80}")
    return tensor


def _check_crowd(header: bytes) -> None:
    """Refuse by counting, before anything is parsed, what would be costly to read; texts may hold what they like."""
    if header.count(b"{") - NUM_OTHER_OBJECTS <= MAX_TENSORS and header.count(b",") <= MAX_COMMAS:
        return
    plain = canonical.outside_strings(header, b"{,")
    _require_few(plain.count(b"{") - NUM_OTHER_OBJECTS)
    if (num_commas := plain.count(b",")) > MAX_COMMAS:
        raise LimitExceeded("safetensors header too crowded", why=f"{num_commas:,} commas, limit {MAX_COMMAS:,}")


def _require_few(num_tensors: int) -> None:
    if num_tensors > MAX_TENSORS:
        raise LimitExceeded("too many tensors", why=f"{num_tensors:,}, limit {MAX_TENSORS:,}")


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the cyclic collector from walking a million new objects again and again: none of them is in a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_tensor(name: str, value: Json, start: int) -> Tensor:
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        raise FormatError("tensor entry has missing or unknown members", why=f"{name!r:.80}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise FormatError("tensor dtype is not a string", why=f"{name!r:.80}")
    begin, end = _integers(offsets, name, "data_offsets", exactly=2)
    if begin > end:
        raise FormatError("tensor ends before it begins", why=f"{name!r:.80}")
    return check_tensor(Tensor(name, dtype, _integers(shape, name, "shape"), start + begin, start + end))


def _integers(value: Json, name: str, what: str, *, exactly: int | None = None) -> tuple[int, ...]:
    if not isinstance(value, list) or (exactly is not None and len(value) != exactly):
        raise FormatError(f"tensor {what} is not a list of the right length", why=f"{name!r:.80}")
    whole: list[int] = []
    for item in value:
        if type(item) is not int or item < 0:  # a bool is an int to isinstance
            raise FormatError(f"tensor {what} is not of whole numbers", why=f"{name!r:.80}: {item!r:.40}")
        whole.append(item)
    return tuple(whole)


def _check_metadata(value: Json) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError("safetensors metadata is not a map of text to text")
