"""What stays out of an artifact: patterns of the command line and of an ignore file, as git reads them.

`.stannaryignore` at the top of the folder is read first, then the patterns of the command line; the last match
decides, `!` takes an exclusion back, and what lies in an excluded folder is never looked at (gitignore(5)). The ignore
file itself is not sealed. `.gitignore` says what is not to be committed, which is no statement about weights: it is a
file like any other here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from stannary.errors import EnvironmentProblem, LimitExceeded, UsageError
from stannary.workdir import IGNORE_FILE

MAX_IGNORE_BYTES = 256 * 1024


class Exclusion:
    """Tells which paths below a folder stay out."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        from pathspec import GitIgnoreSpec  # compiles nothing for a run without patterns

        lines = list(patterns)
        try:
            self._spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as err:
            raise UsageError("pattern refused", why=str(err)[:160], hint="write it as for git: *.bin, cache/") from err

    def __call__(self, path: str, *, is_folder: bool = False) -> bool:
        return bool(self._spec.match_file(f"{path}/" if is_folder else path))


def read(root: Path, patterns: Iterable[str] = ()) -> Exclusion:
    """Return what the ignore file of `root`, if it is a folder with one, and `patterns` leave out."""
    return Exclusion([*_lines(root / IGNORE_FILE), f"/{IGNORE_FILE}", *patterns])


def _lines(path: Path) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise EnvironmentProblem(
            "cannot read the ignore file", why=f"{path}: {err.strerror}", hint="take it away"
        ) from err
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        data = file.read(MAX_IGNORE_BYTES + 1)
    if len(data) > MAX_IGNORE_BYTES:
        raise LimitExceeded("ignore file too long", why=f"{path}: over {MAX_IGNORE_BYTES:,} bytes")
    return data.decode("utf-8-sig", "surrogateescape").splitlines()
