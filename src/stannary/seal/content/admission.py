"""What may be sealed: safetensors, parquet, jsonl and plain bytes. A pickle is refused in any disguise.

Rules:
1. The kind follows from the name; the content must then be of that kind. Nothing is guessed from
   content alone, so a file cannot be one thing to the sealer and another to the reader.
2. A pickle runs code when it is read, so it is refused by name (`.pt`, `.pkl`, ...) and by its opcodes
   (pickles.py), whatever the file is called.
3. Archives and compressed containers are refused (archives.py): what is inside could be a pickle.
4. Of a jsonl file the first line must be a JSON value and the first MiB free of zero bytes; of a parquet
   file both ends are looked at. The rest is bytes: what reads them must judge them.

Scanners of this sort are lint for what we publish, not a licence to unpickle anything: no part of
this program calls pickle or torch.load at all. safetensors headers are checked by tensors.py.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from stannary.errors import FormatError
from stannary.seal.content import archives, pickles
from stannary.seal.content.file_bytes import Content, of_file
from stannary.seal.content.kinds import FileKind

PICKLE_SUFFIXES = frozenset(
    {".ckpt", ".dill", ".joblib", ".mar", ".npz", ".p", ".pickle", ".pkl", ".pt", ".pt2", ".ptc", ".pth"}
)
PROBE_BYTES = 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
PARQUET_MAGIC = b"PAR1"
PARQUET_MIN_BYTES = 12
_RENAME = "a file must be what its name says; plain bytes are named .bin"


def kind_of(path: str) -> FileKind:
    """Return the kind that the name of a file promises; refuse names that promise a pickle."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise _pickle(path, f"files named {suffix} are read with pickle")
    return {".safetensors": FileKind.SAFETENSORS, ".parquet": FileKind.PARQUET, ".jsonl": FileKind.JSONL}.get(
        suffix, FileKind.BIN
    )


def check_content(path: str, kind: FileKind, descriptor: int, size: int) -> None:
    """Check that an open file is what `kind` says."""
    check(path, kind, of_file(descriptor, size))


def check(path: str, kind: FileKind, content: Content) -> None:
    """Check that bytes are what `kind` says."""
    if kind in {FileKind.SAFETENSORS, FileKind.PARQUET}:  # they start with what they are; a zip could end them
        if archives.has_zip_end(content):
            raise _archive(path, "zip at the end")
        if kind is FileKind.PARQUET:
            _check_parquet(path, content)
        return
    container = archives.kind_of(content)
    if container:
        raise _archive(path, container)
    reason = pickles.why_pickle(content)
    if reason:
        raise _pickle(path, reason)
    if kind is FileKind.JSONL:
        _check_jsonl(path, content)


def _check_parquet(path: str, content: Content) -> None:
    size = content.size
    end = content.read(max(0, size - 8), 8)
    if size < PARQUET_MIN_BYTES or content.read(0, 4) != PARQUET_MAGIC or end[4:] != PARQUET_MAGIC:
        raise FormatError("not a parquet file", why=f"{path!r:.80} lacks PAR1 at both ends", hint=_RENAME)
    footer = int.from_bytes(end[:4], "little")
    if footer > size - PARQUET_MIN_BYTES:
        raise FormatError(
            "not a parquet file", why=f"{path!r:.80}: footer of {footer:,} bytes in {size:,}", hint=_RENAME
        )


def _check_jsonl(path: str, content: Content) -> None:
    if not content.size:
        return
    start = content.read(0, PROBE_BYTES)
    first = start.split(b"\n", 1)[0]
    if len(first) == len(start) < content.size:
        first = content.read(0, MAX_LINE_BYTES).split(b"\n", 1)[0]
    try:
        json.loads(first.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise FormatError("not a jsonl file", why=f"{path!r:.80}: line 1: {err!s:.100}", hint=_RENAME) from err
    if b"\0" in start:
        raise FormatError("not a jsonl file", why=f"{path!r:.80} holds a zero byte", hint=_RENAME)


def _pickle(path: str, why: str) -> FormatError:
    return FormatError(
        "pickle refused", why=f"{path!r:.120}: {why}", hint="convert it: safetensors.torch.save_file(tensors, PATH)"
    )


def _archive(path: str, kind: str) -> FormatError:
    return FormatError("archive refused", why=f"{path!r:.120} is {kind}", hint="unpack it and seal the folder")
