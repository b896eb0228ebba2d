"""What the broker has revealed for one job: an append-only file, synced before an answer leaves.

Rules:
1. A value serves one checkpoint and one list of candidates. The line that binds index to both is on disk
   before the reveal is signed, so that a kill in between cannot lead to a second binding.
2. Checkpoints only grow, each consistent with the one before: a market that shows the broker two
   histories gets nothing for the second.
3. A line cut short by a crash was never answered and is dropped; any other damage stops the broker.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary import files
from stannary.errors import EnvironmentProblem, FormatError, Refuted
from stannary.formats import canonical, digest, record
from stannary.formats.digest import Digest
from stannary.formats.note import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

MAX_LEDGER_BYTES = 32 * 1024 * 1024  # beacon.MAX_LENGTH lines of some 300 bytes


@dataclass(frozen=True, slots=True)
class Binding:
    """One index, and the checkpoint and candidates it was revealed for."""

    index: int
    size: int
    root: Digest
    candidates: Digest


class Bindings:
    """The bindings of one job, in order. One process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bindings = _load(path)

    @property
    def last(self) -> Binding | None:
        """The newest binding."""
        return self._bindings[-1] if self._bindings else None

    def find(self, index: int) -> Binding | None:
        """Return the binding of an index that was revealed."""
        return self._bindings[index] if 0 <= index < len(self._bindings) else None

    def bind(self, index: int, checkpoint: Checkpoint, candidates: Digest) -> Binding:
        """Bind the next index to a checkpoint and its candidates, durably; the same again is answered as before.

        Raises:
            Refuted: the index is bound to others, or values would be skipped.
        """
        wanted = Binding(index, checkpoint.size, digest.from_raw(checkpoint.root), candidates)
        known = self.find(index)
        if known is not None:
            if known != wanted:
                raise Refuted(
                    "the market asks for a revealed value a second time, for another checkpoint or other candidates",
                    why=f"index {index}, revealed for size {known.size}, asked for size {wanted.size}",
                )
            return known
        if index != len(self._bindings):
            raise Refuted("the market skips beacon values", why=f"index {index}, expected {len(self._bindings)}")
        _append(self._path, canonical.encode(record.to_json(wanted)) + b"\n")
        self._bindings.append(wanted)
        return wanted


def _load(path: Path) -> list[Binding]:
    try:
        size_bytes = path.stat().st_size
        data = path.read_bytes() if size_bytes <= MAX_LEDGER_BYTES else b""
    except FileNotFoundError:
        return []
    except OSError as err:
        raise EnvironmentProblem("cannot read the broker's ledger", why=str(err)) from err
    if size_bytes > MAX_LEDGER_BYTES:
        raise FormatError("the broker's ledger is too large", why=f"{size_bytes:,} bytes")
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):  # rule 3: what follows the last newline never left this process
        os.truncate(path, len(whole))
    bindings = [record.from_json(Binding, canonical.decode(line)) for line in whole.splitlines()]
    for expected, binding in enumerate(bindings):
        if binding.index != expected:
            raise FormatError(
                "the broker's ledger is damaged", why=f"{path}: index {binding.index} expected {expected}"
            )
    return bindings


def _append(path: Path, line: bytes) -> None:
    """Add a line, durable when this returns; one that does not get there whole leaves nothing behind."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                if os.write(fd, line) != len(line):  # a disk that fills up takes a part of it, and calls that no error
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, before)  # the next line would be glued to this rest and damage the ledger for good
                raise
        finally:
            os.close(fd)
        if before == 0:  # a file that is new is as durable as its name
            files.sync_dir(path.parent)
    except OSError as err:
        raise EnvironmentProblem("cannot write the broker's ledger", why=str(err), hint="free disk space") from err
