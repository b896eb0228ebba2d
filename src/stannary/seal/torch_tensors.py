"""Sealed safetensors to torch tensors, decrypted where they will live.

`load` gives what `safetensors.torch.load_file` gives: tensors by name. Whole files are decrypted shard
by shard straight into one buffer per file, and the tensors are views of it: no further copy. With an
`Arena` the buffer is kept and reused, so that its pages are touched once in the life of a process (the
first touch of fresh pages costs more than AES does).

A failed load returns nothing; an arena it wrote to is cleared, so that unverified numbers are not left
where a caller might find them.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from stannary.errors import FormatError, NotFound, StannaryError, UnsupportedFormat, UsageError
from stannary.seal.content import tensors as header_format
from stannary.seal.content.kinds import FileKind
from stannary.seal.manifest import TensorEntry
from stannary.seal.reader import SealedArtifact

if TYPE_CHECKING:
    import torch

HUGE_PAGE_BYTES = 2 * 1024 * 1024  # x86-64 and arm64 with 4 KiB pages
ALIGN_BYTES = 64  # a cache line; torch's own allocator aligns so
PAIRED = frozenset({"F4"})


class Arena:
    """A buffer of torch memory that is kept between loads. Tensors of one load are gone with the next."""

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None

    def reserve(self, num_bytes: int) -> torch.Tensor:
        """Return at least `num_bytes` of touched memory, the same as last time if it is enough."""
        if self._memory is None or self._memory.numel() < num_bytes:
            self._memory = _fresh_memory(num_bytes)
            self._memory.zero_()  # touch every page now, once
        return self._memory

    def clear(self) -> None:
        """Overwrite everything with zeros."""
        if self._memory is not None:
            self._memory.zero_()


def load(
    artifact: SealedArtifact,
    names: Iterable[str] | None = None,
    *,
    file: str | None = None,
    arena: Arena | None = None,
    jobs: int | None = None,
) -> dict[str, torch.Tensor]:
    """Return tensors by name: all of them, or those of `names`; of one file, where `file` is its path.

    Raises:
        NotFound: a name or file that is not in the artifact.
        FormatError: a name that several files hold, without `file`.
        UnsupportedFormat: a dtype that torch does not have.
        Refuted, AuthError, ServiceError: see reader.py. Nothing partial is returned.
    """
    wanted = _select(artifact, names, file)
    for entry in wanted:
        _dtype(entry.dtype)  # known before a byte is fetched
    spans = list(_layout(wanted))
    memory = _reserve(arena, spans[-1][2] if spans else 0)
    target = memory.numpy().data
    result: dict[str, torch.Tensor] = {}
    askew: list[tuple[TensorEntry, int]] = []  # not aligned in their file: copied when they are there
    work: list[tuple[int, memoryview]] = []
    partial: list[tuple[int, int, memoryview]] = []
    for members, begin, stop in spans:
        first, last = members[0].begin, members[-1].end
        _assign(artifact, (members[0].file, first, last), target[begin:stop], work, partial)
        for entry in members:
            offset = begin + entry.begin - first
            if offset % header_format.DTYPES.get(entry.dtype, 1):
                askew.append((entry, offset))
            else:
                result[entry.name] = _view(memory, entry, offset)
    try:
        artifact.read_shards(work, jobs=jobs)
        for number, offset, into in partial:
            artifact.read_range(number, offset, into)
        if names is None:
            _check_headers(artifact, {entry.file for entry in wanted})
    except StannaryError:
        if arena is not None:
            arena.clear()
        raise
    for entry, offset in askew:
        result[entry.name] = _view(memory[offset : offset + entry.end - entry.begin].clone(), entry, 0)
    return result


def _select(artifact: SealedArtifact, names: Iterable[str] | None, file: str | None) -> list[TensorEntry]:
    files = artifact.manifest.files
    if file is not None and file not in {item.path for item in files}:
        raise NotFound("no such file", why=f"{file!r:.80}", hint=f"stannary artifact show {artifact.digest}")
    by_name: dict[str, list[TensorEntry]] = {}
    for entry in artifact.manifest.tensors:
        if file is None or files[entry.file].path == file:
            by_name.setdefault(entry.name, []).append(entry)
    if names is None and not by_name:
        raise UsageError("artifact holds no tensors", why=file or artifact.digest, hint="stannary open")
    chosen: list[TensorEntry] = []
    for name in by_name if names is None else dict.fromkeys([names] if isinstance(names, str) else names):
        found = by_name.get(name, [])
        if not found:
            raise NotFound("no such tensor", why=f"{name!r:.80}", hint=f"stannary artifact show {artifact.digest}")
        if len(found) > 1:
            held = ", ".join(files[entry.file].path for entry in found)
            raise FormatError(
                "two files hold a tensor of one name", why=f"{name!r:.80}: {held:.200}", hint="name one: file=PATH"
            )
        chosen += found
    return chosen


def _layout(wanted: list[TensorEntry]) -> Iterator[tuple[list[TensorEntry], int, int]]:
    """Group neighbours in a file into runs and place each run at an aligned offset of the memory."""
    position = 0
    run: list[TensorEntry] = []
    for entry in sorted(wanted, key=lambda item: (item.file, item.begin, item.end)):
        if run and (run[-1].file, run[-1].end) != (entry.file, entry.begin):
            size = run[-1].end - run[0].begin
            yield run, position, position + size
            position += -(-size // ALIGN_BYTES) * ALIGN_BYTES
            run = []
        run.append(entry)
    if run:
        yield run, position, position + run[-1].end - run[0].begin


def _assign(
    artifact: SealedArtifact,
    span: tuple[int, int, int],
    target: memoryview,
    work: list[tuple[int, memoryview]],
    partial: list[tuple[int, int, memoryview]],
) -> None:
    """Give each shard of a run its place; shards that also hold bytes outside it are read aside."""
    file, first, last = span
    for number in artifact.shards_of(file, first, last):
        shard = artifact.manifest.shards[number]
        begin, end = max(first, shard.offset), min(last, shard.offset + shard.size)
        place = target[begin - first : end - first]
        if (begin, end) == (shard.offset, shard.offset + shard.size):
            work.append((number, place))
        else:
            partial.append((file, begin, place))


def _view(memory: torch.Tensor, entry: TensorEntry, offset: int) -> torch.Tensor:
    dtype = _dtype(entry.dtype)
    size = entry.end - entry.begin
    part = memory[offset : offset + size]
    shape = entry.shape
    if entry.dtype in PAIRED:  # two values an element, as the library's own torch reader shows them
        if not shape or shape[-1] % 2:
            raise UnsupportedFormat(
                "torch holds such values in pairs", why=f"{entry.name!r:.80} has shape {shape!r:.80}"
            )
        shape = (*shape[:-1], shape[-1] // 2)
    if math.prod(shape) == 0:
        return memory[:0].view(dtype).reshape(shape)  # not a new one: deterministic mode would fill it, and cannot all
    return part.view(dtype).reshape(shape)


def _dtype(name: str) -> torch.dtype:
    import torch

    spelled: str = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F4": "float4_e2m1fn_x2", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
        "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64",
        "C64": "complex64",
    }.get(name, "")  # fmt: skip
    dtype: torch.dtype | None = getattr(torch, spelled, None)
    if dtype is None:
        raise UnsupportedFormat(
            "torch has no such dtype", why=name, hint="stannary open writes the file as it was sealed"
        )
    return dtype


def _reserve(arena: Arena | None, total: int) -> torch.Tensor:
    size = max(1, total)
    return arena.reserve(size) if arena is not None else _fresh_memory(size)


def _fresh_memory(num_bytes: int) -> torch.Tensor:
    """Return untouched memory in huge pages where the kernel has them: a third of the cost of first touch."""
    import torch

    if num_bytes < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8)
    area = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages: the memory is as good
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8)  # the tensor keeps the mapping alive


def _check_headers(artifact: SealedArtifact, files: set[int]) -> None:
    for index, entry in enumerate(artifact.manifest.files):
        if entry.kind is FileKind.SAFETENSORS and index in files:
            header = bytearray(entry.header)
            artifact.read_range(index, 0, memoryview(header))
            artifact.check_header(index, bytes(header))
