"""A witness: cosigns a log's checkpoints as long as each extends the one before (C2SP tlog-witness).

Rules:
1. A request names the size the log believes we hold; if we hold another, the answer is 409 with our size. If we hold
   the same size with another root, the log shows two histories: 409 as well, and never a signature.
2. The consistency proof from our size to the new one must hold, else 422.
3. The new state is durable *before* the signature is made: after any crash we never sign two histories.
4. The time in a cosignature never falls, also over a restart (rising.py).
5. Only logs whose keys were pinned at the start are known (404); their signature must hold (403).

A witness on the market's own machine proves order and protects against a careless operator, not against a
dishonest one: a receipt of a market that asks no other says `local, not independent`. HTTP is left to
witness_server.py.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import EnvironmentProblem, FormatError, Refuted, StannaryError
from stannary.formats import note
from stannary.formats.dsse import encode_base64, public_bytes
from stannary.formats.note import Checkpoint, KeyType, VerifierKey
from stannary.tlog import tree
from stannary.tlog.proof import MAX_PATH, read_hash
from stannary.tlog.rising import Rising
from stannary.tlog.tiles import TileDirectory

MAX_REQUEST_BYTES = 128 * 1024  # a proof of MAX_PATH hashes and a note of note.MAX_NOTE_BYTES fit
RESTORE = "put its folder back from a backup: stannary market restore --from FOLDER"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Held:
    """The last state of one log that this witness has cosigned."""

    size: int
    root: bytes
    stamped_at: int = field(default=0, compare=False)  # the time that was cosigned with it; it never falls


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What goes back over HTTP: status, body, content type."""

    status: HTTPStatus
    body: str
    content_type: str = "text/plain; charset=utf-8"


class Witness:
    """State and key of one witness in a directory; calls are serialised."""

    def __init__(
        self,
        directory: Path,
        name: str,
        key: Ed25519PrivateKey,
        logs: Sequence[VerifierKey],
        clock_s: Callable[[], float],
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = TileDirectory(directory)
        self._name = name
        self._key = key
        self._logs = {log.name: log for log in logs}
        self._lock = threading.Lock()
        self._held = {name: self._load(name) for name in self._logs}
        floor_s = max((held.stamped_at for held in self._held.values()), default=0)
        self._clock = Rising(clock_s, floor_s, steady_s)

    @property
    def vkey(self) -> str:
        """Return the verifier key of this witness's cosignatures."""
        return note.format_vkey(self._name, public_bytes(self._key), KeyType.WITNESS)

    def look_at_clock(self) -> None:
        """Note the time, so that a step of the clock between two checkpoints is seen as those beside see it."""
        self._clock.now()

    def held(self, origin: str) -> Held:
        """Return the last state cosigned for a log."""
        return self._held[origin]

    def add_checkpoint(self, request: bytes) -> HttpReply:
        """Judge one add-checkpoint request and answer as the protocol says."""
        try:
            old, proof, signed = parse_request(request)
            origin = note.parse_checkpoint(note.parse(signed).text).origin
        except FormatError as err:
            return HttpReply(HTTPStatus.BAD_REQUEST, f"{err}\n")
        if origin not in self._logs:
            return HttpReply(HTTPStatus.NOT_FOUND, "unknown log\n")
        try:
            checkpoint = note.verify_checkpoint(signed, self._logs[origin])
        except StannaryError as err:
            return HttpReply(HTTPStatus.FORBIDDEN, f"{err}\n")
        with self._lock:
            return self._extend(old, proof, checkpoint, signed)

    def _extend(self, old: int, proof: Sequence[bytes], checkpoint: Checkpoint, signed: str) -> HttpReply:
        if old > checkpoint.size:
            return HttpReply(HTTPStatus.BAD_REQUEST, "old size is beyond the checkpoint\n")
        held = self._held[checkpoint.origin]
        # rule 1: the same size must mean the same root, else the log shows two histories
        if old != held.size or (checkpoint.size == held.size and held.size and checkpoint.root != held.root):
            return HttpReply(HTTPStatus.CONFLICT, f"{held.size}\n", "text/x.tlog.size")
        try:
            tree.verify_consistency(old, held.root, checkpoint.size, checkpoint.root, proof)
        except Refuted as err:
            return HttpReply(HTTPStatus.UNPROCESSABLE_ENTITY, f"{err}\n")
        stamp = int(self._clock.now())
        state = Held(checkpoint.size, checkpoint.root, stamp)
        self._store(checkpoint.origin, state)  # rule 3: before the signature exists
        self._held[checkpoint.origin] = state
        return HttpReply(HTTPStatus.OK, note.cosign(signed, self._name, self._key, stamp))

    def _load(self, origin: str) -> Held:
        data = self._files.read(_state_name(origin))
        if data is None:
            return Held(0, tree.EMPTY_ROOT)
        try:
            members = json.loads(data)
            return Held(int(members["size"]), bytes.fromhex(members["root"]), int(members.get("time", 0)))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as err:
            # signing from an empty state again could vouch for a second history
            why = f"{_state_name(origin)}: {err}"
            raise EnvironmentProblem("the witness's state is damaged", why=why, hint=RESTORE) from err

    def _store(self, origin: str, held: Held) -> None:
        members = {"origin": origin, "size": held.size, "root": held.root.hex(), "time": held.stamped_at}
        content = json.dumps(members)
        self._files.write(_state_name(origin), content.encode())


def format_request(old: int, proof: Sequence[bytes], signed: str) -> bytes:
    """Return the body of an add-checkpoint request."""
    lines = [f"old {old}", *(encode_base64(item) for item in proof), "", signed]
    return "\n".join(lines).encode()


def parse_request(request: bytes) -> tuple[int, list[bytes], str]:
    """Read an add-checkpoint request: old size, consistency proof, checkpoint note."""
    if len(request) > MAX_REQUEST_BYTES:
        raise FormatError("request too large", why=f"{len(request):,} bytes, limit {MAX_REQUEST_BYTES:,}")
    try:
        text = request.decode("utf-8")
    except UnicodeDecodeError as err:
        raise FormatError("not an add-checkpoint request", why=str(err)) from err
    head, separator, signed = text.partition("\n\n")
    lines = head.split("\n")
    match = _OLD.fullmatch(lines[0])
    if not separator or match is None or len(lines) - 1 > MAX_PATH:
        raise FormatError("not an add-checkpoint request", why=f"{lines[0]!r:.60}, {len(lines) - 1} hashes")
    return int(match[1]), [read_hash(line) for line in lines[1:]], signed


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a raw private key, or make one readable by its owner only."""
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
        return key
    except ValueError as err:
        raise EnvironmentProblem("not an Ed25519 key", why=f"{path}: {err}", hint=RESTORE) from err


def _state_name(origin: str) -> str:
    return f"state/{origin.encode().hex()}.json"  # an origin may hold slashes and dots
