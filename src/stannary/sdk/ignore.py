"""Which files the buyer has named as not to travel: `.gitignore` and `.stannaryignore`, as git reads them.

Rules:
1. Both files may stand in any folder; a pattern reaches what lies in its folder and below. Within one
   kind of file the last match of the deepest folder decides, `!` takes an exclusion back.
2. A pattern is asked about each name on its own; what lies in an excluded folder is never looked at.
   So `!data/` brings back a folder, and what is excluded inside it stays excluded.
3. `.stannaryignore` has the last word, in both directions: its `!name` is how a buyer asks for a file
   that `.gitignore` or our own list of secrets keeps back. It may name a file below an excluded
   folder (`!data/small.bin`); git would demand the folder first.
4. The ignore files of the repository above the work directory count too, up to the one with `.git`;
   not where they exclude the work directory itself (a folder in `.venv`, in `build/`): it was named.

The patterns are compiled by pathspec, which knows git's corner cases; walking is sdk/travel.py.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from stannary import workdir
from stannary.errors import EnvironmentProblem, LimitExceeded, SpecError

GIT_FILE = ".gitignore"
OUR_FILE = workdir.IGNORE_FILE
MAX_IGNORE_BYTES = 256 * 1024
MAX_PATTERNS = 2_000  # each name is held against each of them
MAX_STARS = 3  # where each place a star may end must be tried
_STAR = "[^/]*"  # what pathspec makes of `*` within a name
_ANY_FOLDER = "(?P<ps_d>/)"  # what pathspec makes of `*/`


class Word(Enum):
    """What the ignore files say of a name."""

    OUT = "excluded"
    IN = "asked for"


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    expression: re.Pattern[str]
    is_exclusion: bool
    wants_folder: bool


@dataclass(frozen=True, slots=True)
class _Layer:
    """The lines of one file, which lies in `folder`."""

    folder: Path
    lines: tuple[_Line, ...]

    def says(self, path: str, is_folder: bool) -> Word | None:
        relative = path[len(str(self.folder).rstrip("/")) + 1 :]
        for line in reversed(self.lines):
            if _matches(line, relative, is_folder):
                return Word.OUT if line.is_exclusion else Word.IN
        return None


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The ignore files that reach a folder, outermost first."""

    git: tuple[_Layer, ...] = ()
    ours: tuple[_Layer, ...] = ()
    asked: frozenset[Path] = frozenset()  # folders above a path that `.stannaryignore` asks for by name

    def entering(self, folder: Path) -> IgnoreRules:
        """Return the rules inside `folder`, with the ignore files that lie there."""
        git = _read(folder / GIT_FILE)
        ours = _read(folder / OUR_FILE)
        if not git and not ours:
            return self
        return IgnoreRules(
            (*self.git, _Layer(folder, git)) if git else self.git,
            (*self.ours, _Layer(folder, ours)) if ours else self.ours,
            self.asked | _asked(folder, ours),
        )

    def of_buyer(self, path: str, is_folder: bool) -> Word | None:
        """Say what `.stannaryignore` says."""
        return _last(self.ours, path, is_folder)

    def of_git(self, path: str, is_folder: bool) -> Word | None:
        """Say what `.gitignore` says."""
        return _last(self.git, path, is_folder)


def above(root: Path) -> IgnoreRules:
    """Return the rules that reach `root` from the repository it lies in (rule 4)."""
    chain: list[Path] = []
    for folder in (root, *root.parents):
        chain.append(folder)
        if os.path.lexists(folder / ".git"):
            break
    else:
        return IgnoreRules()
    rules = IgnoreRules()
    exclude = _read(chain[-1] / ".git" / "info" / "exclude")
    if exclude:
        rules = IgnoreRules(git=(_Layer(chain[-1], exclude),))
    for folder, inner in zip(reversed(chain[1:]), reversed(chain[:-1]), strict=True):
        found = _read(folder / GIT_FILE)
        rules = IgnoreRules((*rules.git, _Layer(folder, found))) if found else rules
        if rules.of_git(str(inner), is_folder=True) is Word.OUT:
            return IgnoreRules()
    return rules


def _last(layers: tuple[_Layer, ...], path: str, is_folder: bool) -> Word | None:
    for layer in reversed(layers):
        said = layer.says(path, is_folder)
        if said is not None:
            return said
    return None


def _matches(line: _Line, relative: str, is_folder: bool) -> bool:
    """Tell whether a line names this very path, and not only a folder above it (rule 2)."""
    if line.wants_folder and not is_folder:
        return False
    text = relative + "/" if line.wants_folder else relative
    found = line.expression.search(text)
    if found is None:
        return False
    if line.expression.pattern == _ANY_FOLDER or "ps_d" not in line.expression.groupindex:
        return True
    return found.end("ps_d") in (-1, len(text))


def _asked(folder: Path, lines: tuple[_Line, ...]) -> frozenset[Path]:
    """Return the folders that lead to what `!` lines name in full (rule 3)."""
    wanted: set[Path] = set()
    for line in lines:
        text = line.text
        if line.is_exclusion:
            continue
        literal = []
        for part in text[1:].strip("/").split("/"):
            if any(char in part for char in "*?[\\"):
                break
            literal.append(part)
        named = folder.joinpath(*literal)
        wanted.update(parent for parent in named.parents if parent != folder and folder in parent.parents)
        if text.rstrip("/").count("/") and named != folder and len(literal) < text[1:].strip("/").count("/") + 1:
            wanted.add(named)  # `!data/*.json`: the wildcard lies inside this folder
    return frozenset(wanted)


def _read(path: Path) -> tuple[_Line, ...]:
    """Read an ignore file; what is no plain file is none, as for git."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as err:
        if path.is_symlink():
            return ()
        raise _unreadable(path, err) from err
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return ()
    with os.fdopen(fd, "rb") as file:
        try:
            data = file.read(MAX_IGNORE_BYTES + 1)
        except OSError as err:
            raise _unreadable(path, err) from err
    if len(data) > MAX_IGNORE_BYTES:
        raise LimitExceeded(
            f"{path.name} is too long", why=f"{path}: over {MAX_IGNORE_BYTES:,} bytes", hint="name folders, not files"
        )
    texts = data.decode("utf-8-sig", errors="surrogateescape").splitlines()
    lines = tuple(line for number, text in enumerate(texts, 1) if (line := _line(text, path, number)) is not None)
    if len(lines) > MAX_PATTERNS:
        raise LimitExceeded(
            f"{path.name} is too long", why=f"{path}: {len(lines):,} patterns, limit {MAX_PATTERNS:,}",
            hint="name folders, not files",
        )  # fmt: skip
    return lines


def _unreadable(path: Path, err: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        "cannot read an ignore file", why=f"{path!s:.200}: {err.strerror}", hint="make it readable, or take it away"
    )


def _line(text: str, path: Path, number: int) -> _Line | None:
    try:
        pattern = GitIgnoreSpecPattern(text)
    except (ValueError, re.error) as err:
        if path.name != OUR_FILE:
            return None  # git takes no notice of it either
        raise SpecError(
            f"{path.name} line {number} is no pattern", why=f"{text!r:.80}", hint="write it as for git, or take it out"
        ) from err
    if pattern.include is None or pattern.regex is None:
        return None
    kept = text if text.endswith("\\ ") else text.rstrip()
    expression = _without_backtracking(pattern.regex.pattern)
    if expression is None:
        raise LimitExceeded(
            f"{path.name} line {number} has too many wildcards",
            why=f"{path!s:.200}: {text!r:.80}, at most {MAX_STARS} stars beside `**`",
            hint="write a plainer pattern",
        )
    return _Line(kept, expression, pattern.include, kept.endswith("/"))


def _without_backtracking(expression: str) -> re.Pattern[str] | None:
    """Compile a pattern so that each star but the last takes the first place that fits, for good.

    For a glob the first place is never worse than a later one, and trying them all would let a
    repository's ignore file keep us busy for ever (`*a*a*a*a*a*b`). None where `**` stands between too many.
    """
    first, *others = expression.split(_STAR)
    if len(others) < 2:
        return re.compile(expression)
    if any(sign in part for part in others[:-1] for sign in "(+"):
        return re.compile(expression) if len(others) <= MAX_STARS else None
    return re.compile(first + "".join(f"(?>{_STAR}?{part})" for part in others[:-1]) + _STAR + others[-1])
