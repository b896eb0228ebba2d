"""The list of packages a job's `setup` names, and the lists it may be locked from.

    name==version --hash=sha256:<64 hex> [--hash=...]     locked: what nodes install
    name, name>=1.2, name[extra]==1.0 ; marker            open: the client locks it before it is sent

Rules:
1. A node installs locked lines and nothing else: no options, addresses, files or editable installs, so
   that a job cannot point the installer (which has network) at anything.
2. A list is UTF-8 without byte order mark. A line ended by a backslash goes on; `#` begins a comment.
3. Each refusal names the line and says what to write instead; both sides use the same words.

Pure. Locking is sdk/lock.py, installing run/environment.py; where packages come from is the setting of
whoever does it, never the list's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stannary.errors import LimitExceeded, SpecError
from stannary.formats.jobspec import MAX_SETUP_BYTES
from stannary.formats.text import decode

MAX_LIST_BYTES = MAX_SETUP_BYTES
MAX_REQUIREMENTS = 2000

_NAME = r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
_EXTRAS = r"(\s*\[[A-Za-z0-9._, -]{1,100}\])?"
_MARKER = r"(?P<marker>\s*;[ A-Za-z0-9_.\"'=<>!()-]{1,200})?"
_LOCKED = re.compile(_NAME + _EXTRAS + r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]{0,60})" + _MARKER)
_VERSION = r"(?:===?|[~!<>]=|[<>])\s*[A-Za-z0-9][A-Za-z0-9.!+_*-]{0,60}"
_OPEN = re.compile(_NAME + _EXTRAS + rf"\s*\(?({_VERSION}(\s*,\s*{_VERSION}){{0,20}})?\s*\)?" + _MARKER)
_HASH = re.compile(r"--hash[= ]sha256:[0-9a-f]{64}")
_CONDA = re.compile(r"[\w.-]+=[\w.*]+(=\S*)?")

_HINT = "write name==version --hash=sha256:..., or let the client do it: stannary lock FILE"
# What a line may be that pip understands and a job may not say: how it begins, what it is, what to do instead.
_REFUSED: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"(-r|--requirement)\b"), "another list", "copy its lines into this one"),
    (re.compile(r"(-c|--constraint)\b"), "a list of constraints", "write its versions into the lines of this one"),
    (re.compile(r"(-e|--editable)\b"), "an editable install",
     "keep its folder in the work directory, where programs find it: take the line out"),
    (re.compile(r"(-i|-f|--index-url|--extra-index-url|--find-links|--no-index|--trusted-host|--index)\b"),
     "where packages come from", "take it out; to lock set UV_INDEX_URL or PIP_INDEX_URL here; nodes use their own"),
    (re.compile(r"-"), "an option of pip", "take it out: nodes install wheels by hash and nothing else"),
    (re.compile(r"(\S+\s*@\s*)?(git|hg|svn|bzr)\+"), "source in a repository",
     "put its folder into the work directory, or name a version that was published as a wheel"),
    (re.compile(r"(\S+\s*@\s*)?[a-z][a-z0-9+.-]*:/", re.IGNORECASE), "an address",
     "name a published version, name==version; nodes fetch from their own index only"),
    (re.compile(r"[./~\\]|[A-Za-z]:\\|\S+[/\\]\S|\S+\.(whl|tar\.gz|zip)$"), "a file",
     "put its folder into the work directory, or name a published version, name==version"),
    (re.compile(r"\["), "TOML", "export a list first: uv export --format requirements-txt -o requirements.txt"),
    (re.compile(r"(import|from|def|pip|pip3|python|apt|apt-get|conda|#!)\s"), "a command",
     "setup names a list of packages, one a line; commands belong into run"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackageLine:
    """One requirement: where it stands, what it asks for, and its hashes."""

    number: int
    requirement: str
    name: str  # normalised: lower case, one dash
    hashes: tuple[str, ...]

    @property
    def is_locked(self) -> bool:
        """Tell whether a node would install it as it stands."""
        return bool(self.hashes) and _LOCKED.fullmatch(self.requirement) is not None


def read(data: bytes) -> tuple[PackageLine, ...]:
    """Read a list, open or locked.

    Raises:
        SpecError: a line that is neither, with its number and what to write instead.
        LimitExceeded: more than MAX_LIST_BYTES or MAX_REQUIREMENTS.
    """
    lines = [_line(number, text) for number, text in _logical_lines(_text(data))]
    if len(lines) > MAX_REQUIREMENTS:
        raise LimitExceeded(
            "too many requirements", why=f"{len(lines):,}, limit {MAX_REQUIREMENTS:,}", hint="take out what is not used"
        )
    _refuse_contradictions(lines)
    return tuple(lines)


def locked(data: bytes) -> list[str]:
    """Return the lines of a locked list as an installer reads them; raise as `read`, and for an open line."""
    lines = read(data)
    for line in lines:
        if not line.is_locked:
            what = "is not pinned to one version" if line.hashes else "has no hash"
            raise SpecError(f"line {line.number}: a requirement {what}", why=f"{line.requirement!r:.120}", hint=_HINT)
    return [" ".join([line.requirement, *line.hashes]) for line in lines]


def _text(data: bytes) -> str:
    if len(data) > MAX_LIST_BYTES:
        raise LimitExceeded(
            "requirements list too large",
            why=f"{len(data):,} bytes, limit {MAX_LIST_BYTES:,}",
            hint="take out packages or hashes that are not used",
        )
    text = decode(data, "the list")
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise SpecError(f"line {number}: a NUL in the list", why="it is no text", hint="save the list as UTF-8")
    return text


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Return the first line's number and the text of each line that says something, continuations joined."""
    found: list[tuple[int, str]] = []
    begun, parts = 0, [""]
    for number, physical in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        # A comment ends a line also where it would go on: `# via x` below a hash.
        said = re.sub(r"(^|\s)#.*$", "", physical).strip()
        begun = begun or number
        # Blanks mean nothing but an end of a word; long runs of them would cost their square to read.
        parts.append(" ".join(said.removesuffix("\\").split()))
        if not said.endswith("\\"):
            joined = " ".join(part for part in parts if part)
            if joined:
                found.append((begun, joined))
            begun, parts = 0, []
    joined = " ".join(part for part in parts if part)
    return [*found, (begun, joined)] if joined else found


def _line(number: int, text: str) -> PackageLine:
    for pattern, what, hint in _REFUSED:
        if pattern.match(text):
            raise SpecError(f"line {number} names {what}", why=f"{_shown(text)!r:.120}", hint=hint)
    requirement, *options = re.split(r"\s+(?=--?[A-Za-z])", text)
    for option in options:
        if _HASH.fullmatch(option.strip()) is None:
            raise SpecError(
                f"line {number} carries an option that is no sha256 hash", why=f"{_shown(option)!r:.120}", hint=_HINT
            )
    match = _OPEN.fullmatch(requirement.strip())
    if match is None or (_CONDA.fullmatch(requirement) and "==" not in requirement):
        hint = "a version is pinned with two signs: name==version" if _CONDA.fullmatch(requirement) else _HINT
        raise SpecError(f"line {number} is no requirement", why=f"{_shown(requirement)!r:.120}", hint=hint)
    hashes = tuple(option.strip().replace("--hash ", "--hash=") for option in options)
    return PackageLine(number, requirement.strip(), normalised(match["name"]), hashes)


def normalised(name: str) -> str:
    """Return the one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_contradictions(lines: Sequence[PackageLine]) -> None:
    """Refuse a package that stands twice without markers that tell when each holds."""
    seen: dict[str, PackageLine] = {}
    for line in lines:
        before = seen.setdefault(line.name, line)
        if before is not line and ";" not in before.requirement and ";" not in line.requirement:
            raise SpecError(
                f"line {line.number} names a package again",
                why=f"{before.requirement!r:.60} on line {before.number}, {line.requirement!r:.60} here",
                hint="keep one of the two",
            )


def _shown(text: str) -> str:
    """Return a line without what stands before an @ in an address: it may be a password."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)
