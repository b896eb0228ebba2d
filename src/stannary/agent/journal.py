"""What an agent must not forget when it is killed: claims, answers, meters.

Rules:
1. An entry is one file, replaced by rename after fsync: whole or absent.
2. It is written *before* what it describes is sent. A commitment whose salt is lost can never be opened,
   an answer whose blind is lost reads as silence, and a second reading with one number is a lie.
3. Signed envelopes are kept as they were sent, so that a repetition is the same bytes.

Entries of jobs long over are dropped once the node's clock and the market's agree (agent/clocks.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem
from stannary.formats import canonical
from stannary.formats.canonical import Json

KEPT_S = 14 * 86_400  # a job may run for seven days, and be asked about for as long again


class EntryKind(StrEnum):
    """Kinds of entries."""

    CLAIM = "claim"  # by lease: salt, root, outputs, both envelopes of a result not yet handed in
    RESULT = "result"  # by task: outputs handed in, for questions later, and what was signed of them in which epoch
    ANSWER = "answer"  # by audit and role: what opens an answer commitment
    METER = "meter"  # by job: cumulative time, number and hash of the last reading, and its envelope


@dataclass(frozen=True, slots=True)
class Journal:
    """The entries of one node."""

    root: Path

    def put(self, kind: EntryKind, name: str, members: dict[str, Json]) -> None:
        """Write an entry; durable when this returns."""
        files.replace(self._path(kind, name), canonical.encode({"name": name, "entry": members}))

    def get(self, kind: EntryKind, name: str) -> dict[str, Json] | None:
        """Return an entry, None if there is none."""
        try:
            data = self._path(kind, name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise EnvironmentProblem("cannot read the journal", why=str(err)) from err
        entry = canonical.decode_object(data).get("entry")
        return entry if isinstance(entry, dict) else None

    def all(self, kind: EntryKind) -> list[dict[str, Json]]:
        """Return every entry of a kind."""
        found = []
        for path in sorted((self.root / kind.value).glob("*.json")):
            entry = canonical.decode_object(path.read_bytes()).get("entry")
            found.extend([entry] if isinstance(entry, dict) else [])
        return found

    def drop(self, kind: EntryKind, name: str) -> None:
        """Remove an entry; one that is not there is no error."""
        self._path(kind, name).unlink(missing_ok=True)

    def prune(self, now_s: float | None = None) -> int:
        """Drop entries nobody can ask for any more; return how many."""
        oldest_s = (time.time() if now_s is None else now_s) - KEPT_S
        num_dropped = 0
        for path in self.root.glob("*/*.json"):
            with contextlib.suppress(FileNotFoundError):  # dropped meanwhile, in another thread
                if path.stat().st_mtime < oldest_s:
                    path.unlink()
                    num_dropped += 1
        return num_dropped

    def _path(self, kind: EntryKind, name: str) -> Path:
        # Names come from the market: hashed, they cannot lead out of the directory.
        return self.root / kind.value / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
