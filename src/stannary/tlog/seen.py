"""What one party has seen of a log, kept from one visit to the next: who saw it knows a log that was rolled back.

Rules:
- The log must hold everything it held before: its new checkpoint is signed by the pinned key, is not smaller, and its
  consistency with the one kept is proven (RFC 9162). Then it is kept in the other's place, never the reverse.
- A file that cannot be read is no reason to forget: it is said, with where it lies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stannary import files
from stannary.errors import ConflictError, EnvironmentProblem, NotFound, Refuted
from stannary.formats import note
from stannary.tlog import tree
from stannary.wire import errors, routes
from stannary.wire.connection import Connection
from stannary.wire.market import LogState

MAX_STATE_BYTES = 4096
HINT = "send it nothing; ask its operator what happened, and show him the file"


@dataclass(frozen=True, slots=True)
class Seen:
    """A log's size and root."""

    size: int
    root: bytes


class SeenLog:
    """The last state seen of one log, in a file."""

    def __init__(self, path: Path, vkey: str) -> None:
        self.path = path
        self._key = note.parse_vkey(vkey)

    def last(self) -> Seen | None:
        """Return what was seen last, None before the first visit.

        Raises:
            EnvironmentProblem: the file is damaged.
        """
        try:
            members = json.loads(self.path.read_bytes()[:MAX_STATE_BYTES])
            size, root = int(members["size"]), bytes.fromhex(members["root"])
            if size < 0 or len(root) != len(tree.EMPTY_ROOT):
                raise ValueError(f"no state of a log: {size} statements, a root of {len(root)} bytes")
            return Seen(size, root)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as err:
            raise EnvironmentProblem(
                "what was seen of this log cannot be read",
                why=f"{self.path}: {err}",
                hint=f"mv {self.path} {self.path}.damaged (then what the log told you before is not held against it)",
            ) from err

    def advance(self, checkpoint: str, consistency: Sequence[bytes]) -> Seen:
        """Take a log's newest checkpoint and its proof from what was seen last; keep it.

        Raises:
            Refuted: the log does not hold what it held, or the checkpoint is not signed by its key.
        """
        signed = note.verify_checkpoint(checkpoint, self._key)
        before = self.last()
        if before is not None:
            if signed.size < before.size:
                raise self.rolled_back(f"it holds {signed.size:,} statements, and held {before.size:,}")
            try:
                tree.verify_consistency(before.size, before.root, signed.size, signed.root, consistency)
            except Refuted as err:
                raise self.rolled_back(f"its {signed.size:,} statements do not begin with those seen") from err
        if before is None or signed.size > before.size:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = {"origin": self._key.name, "size": signed.size, "root": signed.root.hex()}
            files.replace(self.path, json.dumps(content).encode())
        return Seen(signed.size, signed.root)

    def rolled_back(self, why: str) -> Refuted:
        """Return the error that says so."""
        return Refuted("the market's log is not the one that was seen before", why=f"{why} ({self.path})", hint=HINT)


def follow(link: Connection, seen: SeenLog) -> None:
    """Ask a market for its log's newest checkpoint, check that it holds what was seen, and remember it.

    Raises:
        Refuted: it does not, or it says nothing of its log any more.
    """
    last = seen.last()
    try:
        state = link.get(routes.LOG_STATE, LogState, params={"old": last.size if last is not None else 0})
    except NotFound as err:
        if last is None:
            return  # a market of an earlier release: nothing was ever seen of it
        raise seen.rolled_back("it does not answer for its log any more") from err
    except ConflictError as err:
        if err.detail != errors.LOG_BEHIND:
            raise
        raise seen.rolled_back(err.why) from err
    seen.advance(state.checkpoint, [bytes.fromhex(item) for item in state.consistency])
