"""The listing of a work directory: (path, mode, digest, size) of every file, and nothing else.

Rules (a listing that breaks one is refused, wherever it comes from; docs/receipt.md R7.5, R7.6):
1. A path is relative POSIX in UTF-8, NFC: no empty, `.` or `..` segment, no leading or trailing
   slash, no backslash, no control character, within the length limits. It names the same file on
   every system, and never one outside the directory.
2. A file has the mode 0644 or 0755. There are no links, devices, fifos or sockets.
3. Paths are sorted and unique; none collide by letter case (two files on one machine would be one
   on another), and none is both a file and a directory.
4. No pickle by name: loading one runs its author's code outside every promise we make.

Walking a directory and writing one are left to `stannary.workdir`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, digest
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.lean import dataclass

MODE_FILE = 0o644
MODE_EXECUTABLE = 0o755
FILE_TIME_S = 315_532_800  # 1980-01-01: when every file was changed that a job finds; no zip archive can say less

MAX_FILES = 20_000  # the longest list in a signed record (formats/record.py)
MAX_PATH_BYTES = 1024  # POSIX allows 4096; the market's and node's own prefix needs room
MAX_SEGMENT_BYTES = 255  # NAME_MAX of every common file system
MAX_DEPTH = 32

PICKLE_REFUSED = "pickle-refused"  # the detail of that error, and a failed task's reason
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC_BYTES = 64 * 1024  # how much of a file the magic test wants to see


@dataclass(frozen=True, slots=True)
class WorkFile:
    """One file of a work directory."""

    path: str
    mode: int
    digest: Digest
    size_bytes: int


def parse_path(text: str) -> str:
    """Return `text` if it is a path of rule 1."""
    segments = text.split("/")
    if not text or any(segment in ("", ".", "..") for segment in segments):
        raise FormatError("not a path inside the work directory", why=f"{text!r:.120}")
    if "\\" in text or any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise FormatError("path holds a backslash or control character", why=f"{text!r:.120}")
    if unicodedata.normalize("NFC", text) != text:
        raise FormatError("path is not in Unicode NFC", why=f"{text!r:.120}", hint="rename the file")
    if len(text.encode()) > MAX_PATH_BYTES or len(segments) > MAX_DEPTH:
        raise LimitExceeded("path too long", why=f"{text!r:.120}; {MAX_PATH_BYTES} bytes, {MAX_DEPTH} levels at most")
    if any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        raise LimitExceeded("file name too long", why=f"{text!r:.120}; {MAX_SEGMENT_BYTES} bytes at most")
    return text


def check(entries: Iterable[WorkFile]) -> tuple[WorkFile, ...]:
    """Return the entries in path order.

    Raises:
        FormatError: any rule above is broken.
        LimitExceeded: more than MAX_FILES.
    """
    listed = sorted(entries, key=lambda entry: entry.path)
    if len(listed) > MAX_FILES:
        raise LimitExceeded("too many files in the work directory", why=f"{len(listed):,}, limit {MAX_FILES:,}")
    spelled: dict[str, str] = {}
    for entry in listed:
        _check_entry(entry)
        _check_collision(entry.path, spelled)
    return tuple(listed)


def to_json(entries: tuple[WorkFile, ...]) -> list[Json]:
    """Return the listing as JSON members, in path order."""
    return [
        {"path": entry.path, "mode": entry.mode, "digest": entry.digest, "size_bytes": entry.size_bytes}
        for entry in entries
    ]


def listing_digest(entries: tuple[WorkFile, ...]) -> Digest:
    """Return the digest of the canonical listing."""
    return digest.digest(canonical.encode(to_json(entries)))


def refuse_pickle_name(path: str) -> None:
    """Refuse a file whose name says it is a pickle."""
    if path.lower().endswith(PICKLE_SUFFIXES):
        why = f"{path!r:.120}: loading a pickle runs its author's code"
        raise FormatError("pickle refused", why=why, hint=_HINT, detail=PICKLE_REFUSED)


def refuse_pickle_bytes(path: str, head: bytes) -> None:
    """Refuse a file whose first bytes are a pickle, or a zip that carries one (torch.save).

    Args:
        path: for the message.
        head: the first PICKLE_MAGIC_BYTES bytes.
    """
    if looks_like_pickle(head):
        why = f"{path!r:.120} is a pickle by its first bytes"
        raise FormatError("pickle refused", why=why, hint=_HINT, detail=PICKLE_REFUSED)


def looks_like_pickle(head: bytes) -> bool:
    """Say whether the first bytes are a pickle of protocol 2 and later, or a torch.save archive.

    Protocols 0 and 1 have no magic number; they are refused by name, and nothing of ours loads them.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        # A safetensors file may begin so too: a header of 640 bytes is 80 02 00 .. 00 as u64. No pickle
        # has an opcode 0.
        return head[2:8] != bytes(6)
    return head.startswith(ZIP_MAGIC) and b"data.pkl" in head


_HINT = "write it as safetensors, jsonl or plain bytes; what is not needed: name it in .stannaryignore"


def _check_entry(entry: WorkFile) -> None:
    parse_path(entry.path)
    refuse_pickle_name(entry.path)
    digest.parse(entry.digest)
    if entry.mode not in (MODE_FILE, MODE_EXECUTABLE):
        raise FormatError("file mode is neither 0644 nor 0755", why=f"{entry.path!r:.120}: {entry.mode:o}")
    if entry.size_bytes < 0:
        raise FormatError("file size is negative", why=f"{entry.path!r:.120}")


def _check_collision(path: str, spelled: dict[str, str]) -> None:
    """Refuse two spellings of one name, and a file that is also a directory; `spelled` grows."""
    segments = path.split("/")
    for depth in range(1, len(segments) + 1):
        prefix = "/".join(segments[:depth])
        is_file = depth == len(segments)
        # A directory is remembered with its slash: meeting the name as a file is then another spelling.
        spelling = prefix if is_file else prefix + "/"
        is_known = prefix.casefold() in spelled
        if is_known and (is_file or spelled[prefix.casefold()] != spelling):
            seen = spelled[prefix.casefold()]
            raise FormatError(
                "two names in the work directory are one on some systems",
                why=f"{seen!r:.120} and {path!r:.120}",
                hint="rename one of them, or name it in .stannaryignore",
            )
        spelled[prefix.casefold()] = spelling
