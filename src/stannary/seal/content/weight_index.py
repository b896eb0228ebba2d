"""The index beside sharded weights: `*.index.json` with a `weight_map` of tensor names to files.

A variant has its name inside, `x.index.fp16.json`. Loaders join its folder with what it names and read that file.
So every file it names must be one of the same artifact, named plainly below the index's own folder: `../../x` would
read whatever lies there on the machine of whoever opened it, and a shard that is missing shows only after the
download. Sealing refuses both; opening, which may meet artifacts of others and of older versions, refuses the first.
Other JSON of that name is bytes like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container
from pathlib import PurePosixPath

from stannary.errors import FormatError, LimitExceeded
from stannary.seal.content import names
from stannary.seal.content.file_bytes import Content

_NAMED = re.compile(r"\.index(\.[^./]+)?\.json$", re.IGNORECASE)
MAX_INDEX_BYTES = 64 * 1024 * 1024  # the largest public one, of 60,000 tensors, is about 6 MiB


def is_index(path: str) -> bool:
    """Whether a file of this name is read as an index."""
    return _NAMED.search(path) is not None


def check(path: str, content: Content, present: Container[str] | None = None) -> None:
    """Refuse an index at `path` that names a file outside its folder, or one that is not among the paths `present`."""
    if not is_index(path):
        return
    if content.size > MAX_INDEX_BYTES:
        raise LimitExceeded("index of shards too large", why=f"{path!r:.80}: {content.size:,} bytes")
    try:
        members = json.loads(content.read(0, content.size))  # in any encoding that json finds
    except (ValueError, RecursionError):
        return
    listed = members.get("weight_map") if isinstance(members, dict) else None
    if not isinstance(listed, dict):
        return
    folder = PurePosixPath(path).parent
    for name in dict.fromkeys(value if isinstance(value, str) else repr(value) for value in listed.values()):
        try:
            shard = str(folder / names.check_path(name))
        except FormatError as err:
            raise _refused(path, name, "which is no plain path below its folder") from err
        if present is not None and shard not in present:
            raise _refused(path, name, "which is not there")


def _refused(path: str, name: str, reason: str) -> FormatError:
    hint = "bring the whole model together, or leave the index out: --exclude"
    return FormatError("index names a file it may not", why=f"{path!r:.80} names {name!r:.80}, {reason}", hint=hint)
