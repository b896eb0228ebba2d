"""Replaying a receipt: bring the blobs it names, start the process that computes, collect what it found.

    source = BlobFolder(path)  or  Market(client)
    found = replay(plan, items, source, talk)

Rules:
1. Blobs are found by digest alone, from the market with the buyer's token or in a folder with one file per hex
   digest; bytes that are not those of their name count as missing.
2. A blob that cannot be had leaves its units unchecked and stops nothing else.
3. Computing needs torch and runs the buyer's code: it is a process of its own with a sandbox
   (`python -m stannary.replay`), never this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stannary import files
from stannary.errors import EnvironmentProblem, FormatError, NotFound, Refuted, ServiceError
from stannary.formats import canonical, jobspec, record
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.predicates import Output
from stannary.run.root.shelf import Shelf
from stannary.verify.recomputation import Found, ReplayPlan

if TYPE_CHECKING:
    from stannary.sdk.client import Client

CHUNK_BYTES = 1024 * 1024
LOG_TAIL_BYTES = 2_000
MODULE = "stannary.replay"


class BlobSource(Protocol):
    """Where blobs come from."""

    def bring(self, item: Output, target: Path) -> None:
        """Write a blob to `target`; NotFound, FormatError or Refuted where it cannot be had."""
        ...

    def root(self, named: Digest, tell: Callable[[str], None]) -> Path:
        """Return the directory of an unpacked root file system; the same errors, and those of the shelf."""
        ...


class Talk(Protocol):
    """Who is told how it goes (cli/output.py)."""

    def say(self, line: str = "") -> None:
        """Take one line."""
        ...

    def status(self, line: str) -> None:
        """Take a line that the next one replaces."""
        ...


@dataclass(frozen=True, slots=True)
class BlobFolder:
    """A folder of blobs, one file per hex digest, as `stannary get JOB --artifacts` leaves it."""

    path: Path

    def bring(self, item: Output, target: Path) -> None:
        """Copy a blob, hashing it on the way."""
        state = hashlib.sha256()
        try:
            with (self.path / file_name(item.digest)).open("rb") as source, target.open("wb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    state.update(chunk)
                    file.write(chunk)
        except FileNotFoundError as err:
            raise NotFound(
                "the folder does not hold it",
                why=file_name(item.digest),
                hint="fetch all: stannary get JOB --artifacts -o DIR",
            ) from err
        except OSError as err:
            raise EnvironmentProblem("cannot copy a blob", why=str(err)) from err
        if PREFIX + state.hexdigest() != item.digest:
            target.unlink()
            raise FormatError("the file holds other bytes than its name says", why=file_name(item.digest))

    def root(self, named: Digest, tell: Callable[[str], None]) -> Path:
        """Unpack the root that lies in the folder under its hex digest, unless it is on this machine already."""
        path = self.path / file_name(named)
        place = Shelf.own().place(named)
        if not path.exists() and not place.is_dir():
            raise NotFound(
                "the folder does not hold the root file system the job ran in",
                why=file_name(named),
                hint="fetch it from the market (GET /v1/blobs), or build it: stannary market root build FILE",
            )

        @contextlib.contextmanager
        def fetch(start: int) -> Iterator[Iterator[bytes]]:
            with path.open("rb") as file:
                file.seek(start)
                yield iter(lambda: file.read(CHUNK_BYTES), b"")

        return Shelf.own().take(named, path.stat().st_size if path.exists() else 0, fetch, tell)


@dataclass(frozen=True, slots=True)
class Market:
    """The market a job ran on, asked with its buyer's token."""

    client: Client

    def bring(self, item: Output, target: Path) -> None:
        """Download a blob; the client hashes it."""
        self.client.download(item.digest, target, item.size_bytes)

    def root(self, named: Digest, tell: Callable[[str], None]) -> Path:
        """Fetch and unpack a root the market has published."""
        shelf = Shelf.own()
        if (place := shelf.place(named)).is_dir():
            return place
        return shelf.take(named, self.client.blob_bytes(named), self.client.part_of(named), tell)


def file_name(named: Digest) -> str:
    """Return the name of a blob's file in a folder of blobs."""
    return named.removeprefix(PREFIX)


def bring_all(items: Iterable[Output], source: BlobSource, directory: Path, talk: Talk) -> list[Path]:
    """Bring every blob into `directory`, each once, and return their files; those that cannot be had are named."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {item.digest: item for item in items}
    brought: list[Path] = []
    hints: dict[str, None] = {}
    for number, item in enumerate(wanted.values(), 1):
        target = directory / file_name(item.digest)
        talk.status(f"    fetching  {number}/{len(wanted)}  {item.name[:40]}  {item.size_bytes:,} bytes")
        try:
            if not target.exists():
                source.bring(item, target)
            brought.append(target)
        except (NotFound, FormatError, Refuted) as err:
            talk.say(f"  missing    {item.name[:60]}  {item.digest}: {err}")
            hints[err.hint] = None
    for hint in filter(None, hints):
        talk.say(f"  {hint}")
    return brought


def replay(plan: ReplayPlan, items: Iterable[Output], source: BlobSource, talk: Talk) -> tuple[Found, ...]:
    """Bring `items`, compute the units of `plan` again on this machine, and return what was found.

    Raises:
        EnvironmentProblem: no torch or no sandbox here.
        ServiceError: the computing process broke off.
    """
    if importlib.util.find_spec("torch") is None:
        raise EnvironmentProblem(
            "replaying needs torch", why="it is not installed here", hint="pip install 'stannary[train]'"
        )
    with tempfile.TemporaryDirectory(prefix="stannary-replay-") as name:
        directory = Path(name)
        bring_all(items, source, directory / "blobs", talk)
        (directory / "plan.json").write_bytes(canonical.encode(record.to_json(plan)))
        root = jobspec.from_canonical(plan.spec).root
        return _compute(directory, source.root(root, talk.say) if root is not None else None, talk)


def _compute(directory: Path, root: Path | None, talk: Talk) -> tuple[Found, ...]:
    found: list[Found] = []
    log = directory / "replay.log"
    # -P: the current directory is no place to import from
    argv = [sys.executable, "-P", "-m", MODULE, str(directory), *([str(root)] if root is not None else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as errors,
        subprocess.Popen(  # noqa: S603  our own module, no shell
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as done,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(done.kill)  # after Ctrl-C, say: leaving the `with` waits for a process that may compute for hours
        assert done.stdout is not None
        for line in done.stdout:
            _take(json.loads(line), found, talk)
        undo.pop_all()
    if done.returncode != 0:
        tail = files.tail(log, LOG_TAIL_BYTES).decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ServiceError("the replay broke off", why=tail or f"exit code {done.returncode}")
    return tuple(found)


def _take(event: dict[str, canonical.Json], found: list[Found], talk: Talk) -> None:
    if "error" in event:
        said = event["error"]
        members = said if isinstance(said, dict) else {}
        what, why, hint = (str(members.get(name, "")) for name in ("what", "why", "hint"))
        raise EnvironmentProblem(f"cannot replay here: {what}", why=why, hint=hint)
    if "found" in event:
        item = record.from_json(Found, event["found"], what="found")
        found.append(item)
        _, _, unit = item.task.partition("/")
        talk.say(f"  {item.outcome:<17}{unit:<18}{item.engine_class}  {item.detail}".rstrip())
    elif "say" in event:
        talk.say(f"  {event['say']}")
    else:
        talk.status(f"    computing  {event.get('task')}  step {event.get('step')}/{event.get('steps')}")
