"""Names that came from outside: file paths of a sealed folder, and names of tensors.

Rules:
1. A path is relative POSIX, NFC, at most MAX_PATH_BYTES, of segments that are neither empty, `.` nor
   `..`, hold no control character, backslash or colon, and neither start nor end with a space or end
   with a dot (Windows drops those and would let two names meet).
2. Two paths of one artifact that differ only in case, or where one is a folder of the other, are
   refused: on a case-folding disk the second would overwrite the first.
3. A tensor name is any text of 1 to MAX_TENSOR_NAME_BYTES, with no `.`/`..`/empty segment between slashes of either
   kind: programs write tensors to files named after them (`../../x` is the attack). Who prints one escapes it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from stannary.errors import FormatError

MAX_PATH_BYTES = 1024  # PATH_MAX is 4096; object stores stop at 1024 (S3 user guide, object keys)
MAX_SEGMENT_BYTES = 255  # NAME_MAX
MAX_TENSOR_NAME_BYTES = 64 * 1024  # the longest name in public checkpoints is below 200

_CLIMBS = re.compile(r"(?:\A|[/\\])\.{0,2}(?:[/\\]|\Z)")  # an empty segment, `.` or `..`
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def check_path(path: str) -> str:
    """Return `path` if it keeps rule 1; raise FormatError otherwise."""
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError as err:
        raise _refused(path, "is not text") from err
    if not 1 <= len(encoded) <= MAX_PATH_BYTES:
        raise _refused(path, f"is empty or longer than {MAX_PATH_BYTES} bytes")
    if unicodedata.normalize("NFC", path) != path:
        raise _refused(path, "is not NFC: accents stand apart from their letters, as old macOS writes them")
    for segment in path.split("/"):
        if segment in {"", ".", ".."} or len(segment.encode("utf-8")) > MAX_SEGMENT_BYTES:
            raise _refused(path, "leaves its folder or has an empty or long segment")
        if _FORBIDDEN.search(segment) or segment != segment.strip(" ") or segment.endswith("."):
            raise _refused(path, "holds a character that disks disagree about")
        if _RESERVED.fullmatch(segment):
            raise _refused(path, "is a device on Windows")
    return path


def _refused(path: str, reason: str) -> FormatError:
    return FormatError("path refused", why=f"{path!r:.80} {reason}", hint="rename it (docs/seal-v1.md, section 6)")


def check_paths(paths: Iterable[str]) -> None:
    """Check every path, and that no two meet on a case-folding disk (rule 2)."""
    seen: set[str] = set()
    parents: set[str] = set()
    for path in paths:
        folded = check_path(path).casefold()
        if folded in seen:
            raise FormatError(
                "two paths are one on a case-folding disk", why=f"{path!r:.80}", hint="rename one of them"
            )
        seen.add(folded)
        parts = folded.split("/")
        parents.update("/".join(parts[:count]) for count in range(1, len(parts)))
    clash = seen & parents
    if clash:
        raise FormatError("a path is both a file and a folder", why=f"{min(clash)!r:.80}")


def check_tensor_name(name: str) -> str:
    """Return `name` if it keeps rule 3; raise FormatError otherwise."""
    try:
        num_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError as err:
        raise FormatError("tensor name refused", why=f"{name!r:.80} is not text") from err
    if num_bytes > MAX_TENSOR_NAME_BYTES:
        raise FormatError("tensor name refused", why=f"{name!r:.80} is longer than {MAX_TENSOR_NAME_BYTES:,} bytes")
    if _CLIMBS.search(name):
        raise FormatError("tensor name refused", why=f"{name!r:.80} would leave its folder as a file name")
    return name
