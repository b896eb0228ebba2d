"""The root file systems this machine has: fetched and unpacked once for all its nodes, by digest.

    ROOTS/<64 hex>/          one of them, whole: it appears by rename
    ROOTS/<64 hex>.part      what came so far of the tar of one; a fetch goes on where the last one stopped
    ROOTS/.unpacking-*       what a killed process left; the next one removes it

Rules:
1. Bytes are hashed, those of an earlier start too, before anything is unpacked: another digest is an error, and what
   came goes.
2. One process of the machine fetches or unpacks at a time; others wait for it and find the result.
3. A full disk is said with the directory and what is missing, before anything is fetched where that can be known.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem, MarketUnreachable, Refuted
from stannary.formats.digest import PREFIX, Digest
from stannary.run.root import archive

ROOTS = "roots"
MIB = 1024**2
FRUITLESS_ATTEMPTS = 3  # fetches in a row that bring no byte, before the error is told
PAUSE_S = 1.0
SAID_EVERY_PERCENT = 10
_UNPACKING = ".unpacking-"

Tell = Callable[[str], None]
Fetch = Callable[[int], AbstractContextManager[Iterator[bytes]]]  # the bytes of the tar from this one on


@dataclass(frozen=True, slots=True)
class Shelf:
    """The roots of one machine."""

    directory: Path
    pause: Callable[[float], None] = time.sleep

    @classmethod
    def own(cls) -> Shelf:
        """Return this account's."""
        return cls(files.data_dir() / ROOTS)

    def place(self, named: Digest) -> Path:
        """Return where a root lies, or would lie."""
        return self.directory / named.removeprefix(PREFIX)

    def take(self, named: Digest, size_bytes: int, fetch: Fetch, tell: Tell) -> Path:
        """Return the directory of a root, fetching and unpacking it first where it is not yet here.

        Args:
            named: the digest of its tar.
            size_bytes: the size of its tar.
            fetch: gives its bytes from a place on.
            tell: gets a line for each step.

        Raises:
            Refuted: other bytes came than the digest names.
            FormatError, LimitExceeded: it is no root file system (archive.py).
            EnvironmentProblem: this disk is too small.
            MarketUnreachable: nothing comes; what came is kept.
        """
        place = self.place(named)
        if place.is_dir():
            return place
        files.make_private_dir(self.directory)
        with files.locked(self.directory / ".lock"):
            if not place.is_dir():
                for left in self.directory.glob(f"{_UNPACKING}*"):
                    shutil.rmtree(left, ignore_errors=True)
                part = place.with_name(f"{place.name}.part")
                self._check_room(size_bytes, part)
                self._fetch(named, size_bytes, fetch, part, tell)
                self._unpack(part, place, tell)
        return place

    def _check_room(self, size_bytes: int, part: Path) -> None:
        disk = os.statvfs(self.directory)
        free_bytes, come_bytes = disk.f_bavail * disk.f_frsize, part.stat().st_size if part.exists() else 0
        wanted_bytes = max(0, size_bytes - come_bytes) + size_bytes  # unpacked it is about as large
        if free_bytes < wanted_bytes:
            raise EnvironmentProblem(
                "not enough disk for the market's root file system",
                why=f"{self.directory}: {free_bytes:,} bytes free, {wanted_bytes:,} wanted",
                hint="free disk space, then again",
            )

    def _fetch(self, named: Digest, size_bytes: int, fetch: Fetch, part: Path, tell: Tell) -> None:
        state, come_bytes = _hash(part, size_bytes)
        fruitless, said = 0, come_bytes * 100 // max(1, size_bytes)
        short = named.removeprefix(PREFIX)[:12]
        tell(
            f"root file system {short}: fetching {size_bytes / MIB:,.0f} MiB" + (f", {said} % is here" if said else "")
        )
        while come_bytes < size_bytes:
            before = come_bytes
            try:
                with fetch(come_bytes) as pieces, part.open("ab") as file:
                    for piece in pieces:
                        wanted = piece[: size_bytes - come_bytes]
                        file.write(wanted)
                        state.update(wanted)
                        come_bytes += len(wanted)
                        percent = come_bytes * 100 // size_bytes
                        if percent >= said + SAID_EVERY_PERCENT or come_bytes == size_bytes:
                            said = percent
                            tell(f"root file system {short}: {percent} %")
                        if come_bytes == size_bytes:
                            break
            except MarketUnreachable:
                fruitless = 0 if come_bytes > before else fruitless + 1
                if fruitless == FRUITLESS_ATTEMPTS:
                    raise
                self.pause(PAUSE_S)
            except OSError as err:
                raise EnvironmentProblem(
                    "cannot keep the market's root file system", why=str(err), hint="free disk space, then again"
                ) from err
            else:
                if come_bytes < size_bytes:
                    break  # the stream ended: there are no more
        if PREFIX + state.hexdigest() != named:
            part.unlink(missing_ok=True)
            raise Refuted(
                "the market sent another root file system than it names", why=f"{named}, {come_bytes:,} bytes came"
            )

    def _unpack(self, part: Path, place: Path, tell: Tell) -> None:
        tell(f"root file system {place.name[:12]}: unpacking")
        fresh = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=self.directory))
        try:
            with part.open("rb") as file:
                archive.unpack(file, fresh)
            fresh.chmod(0o755)
            os.sync()  # before it bears its name: after a power cut it is whole or not there
            fresh.rename(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        part.unlink(missing_ok=True)


def _hash(part: Path, size_bytes: int) -> tuple[hashlib._Hash, int]:
    """Return the hash of what came before, and how much that is; what cannot belong to it goes."""
    state, come_bytes = hashlib.sha256(), 0
    if part.exists() and part.stat().st_size > size_bytes:
        part.unlink()
    if part.exists():
        with part.open("rb") as file:
            while piece := file.read(MIB):
                state.update(piece)
                come_bytes += len(piece)
    return state, come_bytes
