"""Where a file is cut into shards, and which key group each shard belongs to.

Rules:
1. A shard is one range of one file. Tensors of at least a shard are cut at their own start, small
   neighbours of one group are packed, a group never shares a shard with another. So a frozen layer
   gives the same shards in every version (no content-defined chunking needed), one tensor is a few
   shards, and a pipeline stage is a set of groups.
2. Groups: `<block list>.<number>` for tensors of a layer block, `tensors` for the rest (embeddings,
   norms, head), `index` for safetensors headers, `data.<n>` for dataset files (those of one n share a
   group when there are more than MAX_DATA_GROUPS), `files` for everything else (tokenizer, config).
3. Headers are shards of their own: changed metadata must not change a shard of weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stannary.errors import UsageError
from stannary.seal.content.kinds import FileKind
from stannary.seal.content.tensors import Tensor
from stannary.seal.manifest import MAX_SHARD_BYTES

SHARD_BYTES = 8 * 1024 * 1024  # the most a broken transfer fetches again; a request's own time is small beside it
DATA_SHARD_BYTES = 1024 * 1024
ALIGN_BYTES = 64 * 1024  # shard sizes are a multiple of padding and of every dtype

MAX_DATA_GROUPS = 2048  # manifest.MAX_GROUPS leaves as many to layer blocks

INDEX_GROUP = "index"
TENSORS_GROUP = "tensors"
FILES_GROUP = "files"

_BLOCK = re.compile(r"(?:^|\.)(layers|layer|blocks|block|h|resblocks|stages)\.(\d{1,5})\.")


@dataclass(frozen=True, slots=True)
class Cut:
    """One shard to be: a range of a file, its group, and the word width of its content."""

    file: int
    offset: int
    size: int
    group: str
    dtype: str  # of all tensors in it; empty where they differ or it is no tensor


def check_shard_bytes(value: int) -> int:
    """Return a permitted shard size."""
    if value % ALIGN_BYTES or not ALIGN_BYTES <= value <= MAX_SHARD_BYTES:
        raise UsageError(
            "shard size refused", why=f"{value:,}", hint=f"a multiple of {ALIGN_BYTES:,} up to {MAX_SHARD_BYTES:,}"
        )
    return value


def group_of(tensor: str) -> str:
    """Return the key group of a tensor by its name."""
    match = _BLOCK.search(tensor)
    return f"{match[1]}.{int(match[2])}" if match else TENSORS_GROUP


def cut_file(file: int, kind: FileKind, size: int, shard_bytes: int) -> Iterator[Cut]:
    """Cut a file that has no tensors."""
    is_data = kind in {FileKind.PARQUET, FileKind.JSONL}
    group = f"data.{file % MAX_DATA_GROUPS}" if is_data else FILES_GROUP
    step = min(shard_bytes, DATA_SHARD_BYTES) if is_data else shard_bytes
    for offset in range(0, size, step):
        yield Cut(file, offset, min(step, size - offset), group, "")


def cut_tensors(file: int, header: int, tensors: tuple[Tensor, ...], shard_bytes: int) -> Iterator[Cut]:
    """Cut a safetensors file: its header, then its tensors in the order of their bytes."""
    for offset in range(0, header, shard_bytes):
        yield Cut(file, offset, min(shard_bytes, header - offset), INDEX_GROUP, "")
    run: list[Tensor] = []
    for tensor in tensors:
        if tensor.begin == tensor.end:
            continue
        if run and (group_of(run[0].name) != group_of(tensor.name) or tensor.end - run[0].begin > shard_bytes):
            yield from _cut_run(file, run, shard_bytes)
            run = []
        run.append(tensor)
    yield from _cut_run(file, run, shard_bytes)


def _cut_run(file: int, run: list[Tensor], shard_bytes: int) -> Iterator[Cut]:
    if not run:
        return
    begin, end = run[0].begin, run[-1].end
    dtype = run[0].dtype if len({tensor.dtype for tensor in run}) == 1 else ""
    for offset in range(begin, end, shard_bytes):
        size = min(shard_bytes, end - offset)
        yield Cut(file, offset, size, group_of(run[0].name), dtype)
