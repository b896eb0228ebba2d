"""What may be sealed: safetensors, parquet, jsonl and plain bytes. A pickle is refused in any disguise.

Rules:
1. The kind follows from the name; the content must then be of that kind. Nothing is guessed from
   content alone, so a file cannot be one thing to the sealer and another to the reader.
2. A pickle runs code when it is read, so it is refused by name (`.pt`, `.pkl`, ...), by its opening
   bytes, and by walking its opcodes *without running them*: a stream that names an importable object
   and then calls, builds or returns it is a pickle, whatever the file is called.
3. Archives and compressed containers are refused: what is inside could be one, and a model folder has
   no need of them. `zipfile` finds an archive at the end of any file (a polyglot), so the end is
   searched too. So are numpy arrays of objects.

Scanners of this sort are lint for what we publish, not a licence to unpickle anything: no part of
this program calls pickle or torch.load at all.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import re
import zlib
from pathlib import PurePosixPath

from stannary.errors import FormatError
from stannary.seal.manifest import FileKind

PICKLE_SUFFIXES = frozenset(
    {".ckpt", ".dill", ".joblib", ".mar", ".npz", ".p", ".pickle", ".pkl", ".pt", ".pt2", ".ptc", ".pth"}
)
ARCHIVES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x5d\x00\x00", "lzma"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (257, b"ustar", "tar"),
)
ZIP_END = b"PK\x05\x06"
ZIP_END_SEARCH_BYTES = 65_557  # 22-byte record + 65,535 bytes of comment (APPNOTE 4.3.16)
PROBE_BYTES = 1024 * 1024  # opcodes are walked this far: a payload that imports and calls is far shorter
MAX_LINE_BYTES = 16 * 1024 * 1024
PARQUET_MAGIC = b"PAR1"
PARQUET_MIN_BYTES = 12

_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_LEGACY_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # LONG1 magic number of torch's old format
_IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}
_CALLS = {"REDUCE", "BUILD", "OBJ", "INST", "NEWOBJ", "NEWOBJ_EX", "STOP", "PERSID", "BINPERSID"}


def kind_of(path: str) -> FileKind:
    """Return the kind that the name of a file promises; refuse names that promise a pickle."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise _pickle(path, f"files named {suffix} are read with pickle")
    return {".safetensors": FileKind.SAFETENSORS, ".parquet": FileKind.PARQUET, ".jsonl": FileKind.JSONL}.get(
        suffix, FileKind.BIN
    )


def check_content(path: str, kind: FileKind, descriptor: int, size: int) -> None:
    """Check that an open file is what `kind` says (safetensors headers are checked by tensors.py)."""
    if kind is FileKind.SAFETENSORS:
        return
    start = os.pread(descriptor, PROBE_BYTES, 0)
    end = os.pread(descriptor, ZIP_END_SEARCH_BYTES, max(0, size - ZIP_END_SEARCH_BYTES))
    if kind is FileKind.PARQUET:
        _check_parquet(path, start, end, size)
        return
    check_not_archive(path, start, end)
    check_not_pickle(path, start)
    if kind is FileKind.JSONL:
        _check_jsonl(path, start, descriptor, size)


def check_not_archive(path: str, start: bytes, end: bytes) -> None:
    """Refuse archives and compressed containers, also at the end of another file (rule 3)."""
    for offset, magic, name in ARCHIVES:
        if start[offset : offset + len(magic)] == magic:
            raise _archive(path, name)
    if ZIP_END in end and _has_zip_end(end):
        raise _archive(path, "zip (at the end)")
    if _is_zlib(start):
        raise _archive(path, "zlib")


def check_not_pickle(path: str, start: bytes) -> None:
    """Refuse a pickle stream by its opcodes, without running one (rule 2)."""
    if start.startswith(b"\x93NUMPY"):
        if b"'|O'" in start[:1024] or b"'O'" in start[:1024] or b'"|O"' in start[:1024]:
            raise _pickle(path, "a numpy array of objects is a pickle inside")
        return
    if _LEGACY_TORCH in start[:64]:
        raise _pickle(path, "torch's old container starts with pickles")
    reason = _walk(start)
    if reason:
        raise _pickle(path, reason)


def _walk(start: bytes) -> str:
    """Return why these bytes are a pickle, empty if they are none."""
    imported = ""
    protocol = False
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(start)):
            if opcode.name == "PROTO" and isinstance(argument, int) and argument <= pickle_protocol():
                protocol = True
            elif opcode.name in _IMPORTS or opcode.name in _EXTENSIONS:
                if isinstance(argument, str) and _IDENTIFIER.fullmatch(argument) is None:
                    return ""  # reading this pickle stops here with an error, nothing imported
                imported = imported or (argument if isinstance(argument, str) else opcode.name)
            if imported and opcode.name in _CALLS:
                return f"its opcodes import {imported!r:.60} and then {opcode.name}"
            if protocol and opcode.name == "STOP":
                return "a whole pickle stream"
    except (ValueError, UnicodeDecodeError, OverflowError):
        # Not a pickle any further; what ran before would still have run.
        if protocol and imported:
            return f"its opcodes import {imported!r:.60}"
    return ""


def pickle_protocol() -> int:
    """Return the highest pickle protocol there is (PEP 574)."""
    return 5


def _check_parquet(path: str, start: bytes, end: bytes, size: int) -> None:
    if size < PARQUET_MIN_BYTES or not start.startswith(PARQUET_MAGIC) or not end.endswith(PARQUET_MAGIC):
        raise FormatError("not a parquet file", why=f"{path!r:.80} lacks PAR1 at both ends")
    footer = int.from_bytes(end[-8:-4], "little")
    if footer > size - PARQUET_MIN_BYTES:
        raise FormatError("not a parquet file", why=f"{path!r:.80}: footer of {footer:,} bytes in {size:,}")


def _check_jsonl(path: str, start: bytes, descriptor: int, size: int) -> None:
    if not size:
        return
    first = start.split(b"\n", 1)[0]
    if len(first) == len(start) < size:
        first = os.pread(descriptor, MAX_LINE_BYTES, 0).split(b"\n", 1)[0]
    try:
        json.loads(first.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise FormatError("not a jsonl file", why=f"{path!r:.80}: line 1: {err!s:.100}") from err
    if b"\0" in start:
        raise FormatError("not a jsonl file", why=f"{path!r:.80} holds a zero byte")


def _has_zip_end(end: bytes) -> bool:
    """Tell whether an end-of-central-directory record reaches exactly to the end of the file."""
    position = end.rfind(ZIP_END)
    while position >= 0:
        record = end[position:]
        if len(record) >= 22 and 22 + int.from_bytes(record[20:22], "little") <= len(record):
            directory_bytes = int.from_bytes(record[12:16], "little")
            if directory_bytes and int.from_bytes(record[10:12], "little"):
                return True
        position = end.rfind(ZIP_END, 0, position)
    return False


def _is_zlib(start: bytes) -> bool:
    """Tell whether the file is a zlib stream (joblib writes pickles so): header checksum, then it inflates."""
    if len(start) < 6 or start[0] != 0x78 or int.from_bytes(start[:2], "big") % 31:
        return False
    try:
        return len(zlib.decompressobj().decompress(start[:4096], 4096)) >= 16
    except zlib.error:
        return False


def _pickle(path: str, why: str) -> FormatError:
    return FormatError(
        "pickle refused", why=f"{path!r:.120}: {why}", hint="convert it: safetensors.torch.save_file(tensors, PATH)"
    )


def _archive(path: str, kind: str) -> FormatError:
    return FormatError("archive refused", why=f"{path!r:.120} is {kind}", hint="unpack it and seal the folder")
