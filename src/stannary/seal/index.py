"""The owner's private memory of shards: what was sealed before is referred to, not sealed again.

Rules:
1. A row is found by keyed BLAKE3 of the plaintext's BLAKE3 and length, under a key that only the owner
   can derive. Whoever reads the file learns neither content nor which models share a layer (convergent
   encryption would tell everybody).
2. A row's shard key is itself sealed under that key, bound to every other field of the row: a changed
   row is no row, or an artifact would name a ciphertext that its key does not open. Names of
   ciphertexts are public anyway.
3. The index is a cache: the sealer asks the store before it refers to a row, and a lost index costs
   only bytes.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import blake3

from stannary.errors import EnvironmentProblem, Refuted
from stannary.seal import message
from stannary.seal.head import SealedObject
from stannary.seal.keys import OwnerKey
from stannary.seal.lineage import Known
from stannary.seal.manifest import Codec

BUSY_S = 30.0  # two seals of one owner may run at once
KEY_LABEL = b"seal/v1 index row"
_HINT = "--no-index goes without it; a damaged one may be removed, it costs only bytes"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (
  tag BLOB PRIMARY KEY, blake3 TEXT NOT NULL, length INTEGER NOT NULL,
  stored INTEGER NOT NULL, codec TEXT NOT NULL, key BLOB NOT NULL
) WITHOUT ROWID
"""


class PrivateIndex:
    """A file in the owner's data folder. Thread safe."""

    def __init__(self, path: Path, owner: OwnerKey) -> None:
        self._key = owner.index_key
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")  # rule 3: a lost row costs bytes only
            self._database.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as err:
            raise EnvironmentProblem("cannot use the shard index", why=f"{path}: {err}", hint=_HINT) from err

    def find(self, plain: bytes, size: int) -> Known | None:
        """Return what is known of a plaintext by its BLAKE3; None also for a row of another key."""
        tag = self._tag(plain, size)
        with self._lock:
            row = self._execute("SELECT blake3, length, stored, codec, key FROM shard WHERE tag = ?", (tag,)).fetchone()
        if row is None:
            return None
        try:
            key = message.unseal(row[4], self._key, self._context(tag, row[:4]), what="an index row")
        except (Refuted, TypeError):  # a column of a damaged file holds any type
            return None
        return Known(SealedObject(row[0], row[1]), key, row[2], Codec(row[3]))

    def add(self, plain: bytes, size: int, known: Known) -> None:
        """Remember a shard that the store holds."""
        tag = self._tag(plain, size)
        fields = (known.sealed.blake3, known.sealed.length, known.stored, known.codec.value)
        row = (tag, *fields, message.seal(known.key, self._key, self._context(tag, fields)))
        with self._lock:
            self._execute("INSERT OR REPLACE INTO shard VALUES (?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _execute(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as err:
            raise EnvironmentProblem("cannot use the shard index", why=str(err), hint=_HINT) from err

    def _tag(self, plain: bytes, size: int) -> bytes:
        return blake3.blake3(plain + size.to_bytes(8, "big"), key=self._key).digest()

    def _context(self, tag: bytes, fields: tuple[str, int, int, str]) -> bytes:
        return message.context(KEY_LABEL, message.KEY_BYTES, tag, *(str(item).encode() for item in fields))
