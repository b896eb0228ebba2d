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

from stannary.errors import FormatError, NotFound, StannaryError, UsageError
from stannary.seal import tensors as header_format
from stannary.seal.manifest import FileKind, TensorEntry
from stannary.seal.reader import SealedArtifact

if TYPE_CHECKING:
    import torch

HUGE_PAGE_BYTES = 2 * 1024 * 1024  # x86-64 and arm64 with 4 KiB pages
ALIGN_BYTES = 64  # a cache line; torch's own allocator aligns so


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
    arena: Arena | None = None,
    jobs: int | None = None,
) -> dict[str, torch.Tensor]:
    """Return tensors by name: all of them, or those of `names`.

    Raises:
        NotFound: a name that is not in the artifact.
        Refuted, AuthError, ServiceError: see reader.py. Nothing partial is returned.
    """
    wanted = _select(artifact, names)
    spans = list(_layout(wanted))
    memory = _reserve(arena, spans[-1][2] if spans else 0)
    target = memory.numpy().data
    result: dict[str, torch.Tensor] = {}
    askew: list[tuple[TensorEntry, int]] = []  # not aligned in their file: copied when they are there
    work: list[tuple[int, memoryview]] = []
    partial: list[tuple[int, int, memoryview]] = []
    for members, begin, stop in spans:
        file, first, last = members[0].file, members[0].begin, members[-1].end
        _assign(artifact, (file, first, last), target[begin:stop], work, partial)
        for entry in members:
            offset = begin + entry.begin - first
            if offset % header_format.DTYPES[entry.dtype]:
                askew.append((entry, offset))
            else:
                result[entry.name] = _view(memory, entry, offset)
    try:
        artifact.read_shards(work, jobs=jobs)
        for file, offset, into in partial:
            artifact.read_range(file, offset, into)
        if names is None:
            _check_headers(artifact)
    except StannaryError:
        if arena is not None:
            arena.clear()
        raise
    for entry, offset in askew:
        result[entry.name] = _view(memory[offset : offset + entry.end - entry.begin].clone(), entry, 0)
    return result


def _select(artifact: SealedArtifact, names: Iterable[str] | None) -> list[TensorEntry]:
    by_name: dict[str, TensorEntry] = {}
    for entry in artifact.manifest.tensors:
        if entry.name in by_name:
            raise FormatError("two files hold a tensor of one name", why=f"{entry.name!r:.80}", hint="open the folder")
        by_name[entry.name] = entry
    if names is None:
        if not by_name:
            raise UsageError("artifact holds no tensors", why=artifact.digest, hint="stannary open")
        return list(by_name.values())
    if isinstance(names, str):
        names = [names]
    chosen: list[TensorEntry] = []
    for name in dict.fromkeys(names):
        if name not in by_name:
            raise NotFound("no such tensor", why=f"{name!r:.80}", hint=f"stannary artifact show {artifact.digest}")
        chosen.append(by_name[name])
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
    if math.prod(entry.shape) == 0:
        return memory.new_empty(entry.shape, dtype=dtype)
    return part.view(dtype).reshape(entry.shape)


def _dtype(name: str) -> torch.dtype:
    import torch

    spelled = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
        "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64",
        "C64": "complex64",
    }[name]  # fmt: skip
    dtype: torch.dtype = getattr(torch, spelled)
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


def _check_headers(artifact: SealedArtifact) -> None:
    for index, entry in enumerate(artifact.manifest.files):
        if entry.kind is FileKind.SAFETENSORS:
            header = bytearray(entry.header)
            artifact.read_range(index, 0, memoryview(header))
            artifact.check_header(index, bytes(header))
