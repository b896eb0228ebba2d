"""What of a work directory travels to strangers, and what stays.

Rules:
1. Our own folders (configuration, keys, seeds, markets, nodes) never travel, wherever a link, a bind
   mount or a hard link shows them: they are known by device and inode, and no flag or pattern asks
   for them.
2. A home directory, the root directory and what lies above a home are asked about before they are
   read; so is more than CONFIRM_BYTES.
3. Files that hold keys or passwords by name or first bytes, histories of version control, receipts and
   fetched results stay, unless `.stannaryignore` asks for them with `!name`. What `.gitignore` and
   `.stannaryignore` exclude stays (sdk/ignore.py). What stays is listed, with the reason.
4. Reading follows no link: a symlink, device, fifo or socket that would travel is refused by name.
5. A file that is also an input of the job travels as that input alone, not a second time in the work directory.
6. Walking ends: after MAX_SEEN names or the listing's MAX_FILES files, saying where the most lie.

Opening and hashing a file is workdir.py; the form of a listing is formats/workdir.py.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from stannary import files, workdir
from stannary.errors import ConfirmationRequired, FormatError, LimitExceeded, UsageError
from stannary.formats import secrecy
from stannary.formats import workdir as grammar
from stannary.formats.workdir import WorkFile
from stannary.sdk import fetched, ignore
from stannary.sdk.ignore import IgnoreRules, Word

CONFIRM_BYTES = 1024**3  # above it --yes is asked for: minutes of sending, which nobody should find out by waiting
MAX_SEEN = 200_000  # names looked at, ten times what may travel: seconds, not hours, in a directory of millions
NUM_LARGEST_SHOWN = 3
SLOW_BYTES = 256 * 1024**2  # about a second of hashing

# Never wanted on a node: histories, caches, environments of this machine. `!name` asks for them all the same.
_CLUTTER = {
    ".git", ".hg", ".svn", "__pycache__", ".venv", ".tox", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".ipynb_checkpoints", ".DS_Store",
}  # fmt: skip
_RECEIPT_SUFFIX = ".receipt.json"
_RESULTS = "out"  # where the guide has `stannary get` write
_IGNORE_FILES = {ignore.OUR_FILE}

CLUTTER = "history, cache or environment"
AS_INPUT = "it travels as input"

Place = tuple[int, int]  # device and inode
Ask = Callable[[ConfirmationRequired], None]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stay:
    """A file or folder that does not travel, and why."""

    path: str
    reason: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Travel:
    """What travels (`entries`), what stays, and what of the former should be looked at."""

    entries: tuple[WorkFile, ...]
    stays: tuple[Stay, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.entries)

    @property
    def largest(self) -> tuple[WorkFile, ...]:
        """The largest files, largest first."""
        return tuple(sorted(self.entries, key=lambda entry: (-entry.size_bytes, entry.path))[:NUM_LARGEST_SHOWN])


def refuse(question: ConfirmationRequired) -> None:
    """Answer every question with no: where nobody can be asked."""
    raise question


def silent(_: str) -> None:
    """Take what is being done without a word."""


def scan(
    root: Path, ask: Ask = refuse, inputs: Mapping[Place, str] = MappingProxyType({}), tell: Tell = silent
) -> Travel:
    """Read a directory into the listing of what travels.

    Args:
        root: the work directory; it is resolved.
        ask: called with each question of rule 2; returns to go on, raises to stop.
        inputs: names of the job's inputs by the place of their files (rule 5).
        tell: gets a line before each file that takes seconds to read.

    Raises:
        UsageError: not a directory, one of our own, or it holds a link, device, fifo or socket.
        FormatError: a name or a pickle that a listing refuses.
        LimitExceeded: more files or names than the limits.
    """
    root = root.resolve()
    if not root.is_dir():
        raise UsageError("the work directory is not a directory", why=str(root), hint="set `workdir:` in the job spec")
    own = own_places()
    if not own.isdisjoint(_places_up(root)):
        raise UsageError(
            "the work directory holds Stannary's own keys",
            why=str(root),
            hint="set `workdir:` to your program's folder",
        )
    _ask_about_home(root, ask)
    walk = _Walk(root, own, inputs)
    found = list(walk.files())
    _ask_about_size(found, ask)
    entries: list[WorkFile] = []
    doubts: list[str] = []
    for item in found:
        if item.size_bytes >= SLOW_BYTES:
            tell(f"reading {item.relative}")
        read = _read(root, item)
        if isinstance(read, Stay):
            walk.stays.append(read)
            continue
        entry, doubt = read
        entries.append(entry)
        if doubt:
            doubts.append(f"{entry.path}: {doubt}")
    stays = tuple(sorted(walk.stays, key=lambda item: item.path))
    return Travel(grammar.check(entries), stays, tuple(doubts))


def own_places() -> frozenset[Place]:
    """Return device and inode of everything in our own folders (rule 1)."""
    places: set[Place] = set()
    for top in files.own_dirs():
        for folder, _, names in os.walk(top):  # follows no links
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                place = place_of(path)
                if place is not None:
                    places.add(place)
    return frozenset(places)


def place_of(path: Path) -> Place | None:
    """Return where a path lies, itself and not what it links to; None if nothing is there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_own(path: Path, own: frozenset[Place]) -> bool:
    """Tell whether a resolved path is, or lies in, one of our own folders."""
    return not own.isdisjoint(_places_up(path))


@dataclass(frozen=True, slots=True)
class _Found:
    relative: str
    size_bytes: int
    is_asked: bool


def _own_output() -> frozenset[Place]:
    """Return the files this process writes its output to: `stannary run job.yaml > run.log` grows as we read."""
    places: set[Place] = set()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            places.add((status.st_dev, status.st_ino))
    return frozenset(places)


@dataclass(slots=True)
class _Walk:
    """One walk through a directory; `stays` and `seen` grow."""

    root: Path
    own: frozenset[Place]
    inputs: Mapping[Place, str]
    own_output: frozenset[Place] = field(default_factory=_own_output)
    fetched: frozenset[fetched.Mark] = field(default_factory=fetched.known)
    stays: list[Stay] = field(default_factory=list)
    seen: int = 0

    def files(self) -> Iterator[_Found]:
        """Yield every plain file that may travel, refusing what is neither that nor a folder."""
        pending = [(self.root, ignore.above(self.root).entering(self.root), "")]
        found: Counter[str] = Counter()
        while pending:
            folder, rules, inherited = pending.pop()
            for child, status in self._children(folder):
                path, relative = Path(child.path), self._relative(child.path)
                is_folder = stat.S_ISDIR(status.st_mode)
                reason, is_asked = self._judge(child, status, rules, inherited)
                if reason and not inherited and child.name not in _IGNORE_FILES:
                    self.stays.append(Stay(relative, reason, is_folder))
                if is_folder:
                    if reason != _OWN and (not reason or path in rules.asked):
                        pending.append((path, rules.entering(path), reason))
                elif reason:
                    continue
                elif stat.S_ISREG(status.st_mode):
                    found[relative.partition("/")[0] if "/" in relative else "."] += 1
                    _check_count(found)
                    yield _Found(_parse(relative), status.st_size, is_asked)
                else:
                    raise workdir.not_plain(relative, status.st_mode)

    def _judge(
        self, child: os.DirEntry[str], status: os.stat_result, rules: IgnoreRules, inherited: str
    ) -> tuple[str, bool]:
        """Return why a name stays ("" if it travels), and whether the buyer asked for it by name."""
        is_folder = stat.S_ISDIR(status.st_mode)
        if (status.st_dev, status.st_ino) in self.own or (is_folder and _has_marks(child.path)):
            return _OWN, False
        if (status.st_dev, status.st_ino) in self.own_output:
            return "what this command prints", False
        said = rules.of_buyer(child.path, is_folder)
        if said is Word.IN:
            return "", True
        if said is Word.OUT:
            return ignore.OUR_FILE, False
        if (status.st_dev, status.st_ino) in self.inputs:
            return f"{AS_INPUT} {self.inputs[status.st_dev, status.st_ino]}", False
        reason = inherited or _unasked(self._relative(child.path), is_folder)
        if not reason and not is_folder and fetched.mark(status) in self.fetched:
            reason = "a result that was fetched"
        if not reason and rules.of_git(child.path, is_folder) is Word.OUT:
            reason = ignore.GIT_FILE
        return reason, False

    def _children(self, folder: Path) -> list[tuple[os.DirEntry[str], os.stat_result]]:
        children: list[tuple[os.DirEntry[str], os.stat_result]] = []
        try:
            with os.scandir(folder) as listing:
                for child in listing:
                    self.seen += 1
                    if self.seen > MAX_SEEN:
                        raise LimitExceeded(
                            "the work directory holds too many names to look through",
                            why=f"over {MAX_SEEN:,}, the last of them in {str(folder)!r:.120}",
                            hint=f"name folders that are not needed in {ignore.OUR_FILE}, or set `workdir:`",
                        )
                    with contextlib.suppress(FileNotFoundError):  # gone again already
                        children.append((child, child.stat(follow_symlinks=False)))
        except OSError as err:
            raise UsageError(
                "cannot read a folder of the work directory",
                why=f"{str(folder)!r:.160}: {err.strerror}",
                hint=f"chmod u+rx it, or name it in {ignore.OUR_FILE}",
            ) from err
        return sorted(children, key=lambda pair: pair[0].name, reverse=True)

    def _relative(self, path: str) -> str:
        return path[len(str(self.root).rstrip("/")) + 1 :]


_OWN = "Stannary's own keys and data"
_MARKS = (
    ("key", "node.json"), ("key", "market.json"), ("key", "admin-token"), ("config.toml", "trust.toml"),
    ("config.toml", "tokens"), ("buyer/key", "buyer/jobs"), ("key", "jobs"),
)  # fmt: skip


def _has_marks(folder: str) -> bool:
    """Tell whether a folder is a market's, a node's or a buyer's by what lies in it: another account's, a copy."""
    return any(all(os.path.lexists(f"{folder}/{name}") for name in names) for names in _MARKS)


def _unasked(relative: str, is_folder: bool) -> str:
    """Return why a name stays unless asked for, "" if it may travel (rule 3)."""
    name = relative.rpartition("/")[2]
    if name in _IGNORE_FILES:
        return "it is for the client only"
    if name in _CLUTTER:
        return CLUTTER
    if name.endswith(_RECEIPT_SUFFIX):
        return "a receipt"
    if is_folder and relative == _RESULTS:
        return "results that were fetched"
    return secrecy.by_path(relative) or ""


def _read(root: Path, item: _Found) -> Stay | tuple[WorkFile, str]:
    """Hash a file; one that shows a key stays unless it was asked for."""
    head, entry = workdir.read_entry(root, item.relative)
    if item.is_asked:
        return entry, ""
    secret = secrecy.in_head(head)
    if secret:
        return Stay(item.relative, f"it holds {secret}", is_folder=False)
    return entry, _doubt(head)


def _doubt(head: bytes) -> str:
    """Return what in a text should be looked at before it is sent, "" if nothing."""
    if b"\0" in head:
        return ""
    found = secrecy.shape_in(head.decode("utf-8", errors="replace"))
    return f"line {found[0]} has {found[1]}" if found else ""


def _parse(relative: str) -> str:
    try:
        return grammar.parse_path(relative)
    except FormatError as err:
        hint = err.hint or f"rename it, or name it in {ignore.OUR_FILE}"
        raise type(err)(err.what, why=err.why, hint=hint) from err


def _check_count(found: Counter[str]) -> None:
    if found.total() > grammar.MAX_FILES:
        most = ", ".join(f"{name!r:.60} {count:,}" for name, count in found.most_common(NUM_LARGEST_SHOWN))
        raise LimitExceeded(
            "too many files in the work directory",
            why=f"over {grammar.MAX_FILES:,}; so far most in: {most}",
            hint=f"name what is not needed in {ignore.OUR_FILE}, or pack data into one file under `inputs:`",
        )


def _ask_about_home(root: Path, ask: Ask) -> None:
    place = place_of(root)
    for home in files.homes():
        if place is not None and place in _places_up(home):
            what = "your home directory" if place == place_of(home) else "a directory above your home"
            ask(
                ConfirmationRequired(
                    f"the work directory is {what}",
                    why=f"{root}: everything in it would be sent to the nodes' operators",
                    hint="set `workdir:` in the job spec to your program's folder, or pass --yes",
                )
            )
            return


def _ask_about_size(found: list[_Found], ask: Ask) -> None:
    num_bytes = sum(item.size_bytes for item in found)
    if num_bytes <= CONFIRM_BYTES:
        return
    largest = sorted(found, key=lambda item: item.size_bytes, reverse=True)[:NUM_LARGEST_SHOWN]
    named = ", ".join(f"{item.relative} {item.size_bytes / 1024**3:.2f} GiB" for item in largest)
    ask(
        ConfirmationRequired(
            "the work directory is large",
            why=f"{num_bytes / 1024**3:.2f} GiB in {len(found):,} files; largest: {named}",
            hint=f"add what is not needed to {ignore.OUR_FILE}, or pass --yes",
        )
    )


def _places_up(path: Path) -> set[Place]:
    """Return the places of a path and of every folder above it."""
    return {place for item in (path, *path.parents) if (place := place_of(item)) is not None}
