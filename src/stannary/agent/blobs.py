"""The blobs a worker sees: a read-only directory with one file per digest.

Rules:
1. An input is found by its digest and hashed before use: whoever put the file there is not believed.
2. A contribution is found by its root alone. Its output list is rebuilt from the blob itself, and
   only a blob whose list has that root is read, so nothing but the log says what is merged.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from stannary.errors import FormatError, NotFound
from stannary.formats import digest
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.predicates import Output, result_root

CONTRIBUTED = "delta"  # the one output of a round (train/round.py)

CHUNK_BYTES = 1024 * 1024

_HEX = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The read-only directory of inputs, one file per digest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: Digest) -> Path:
        """Return where the blob lies."""
        return self.directory / digest.parse(name)[len(PREFIX) :]

    def read(self, name: Digest) -> bytes:
        """Return the bytes of a blob, hashed.

        Raises:
            NotFound: the agent did not put it there.
            FormatError: its bytes are not those of its name.
        """
        try:
            data = self.path(name).read_bytes()
        except FileNotFoundError as err:
            raise NotFound("input is not in the sandbox", why=name) from err
        if digest.digest(data) != name:
            raise FormatError("input has other bytes than its digest says", why=name)
        return data

    def head(self, name: Digest, num_bytes: int) -> bytes:
        """Hash a blob in pieces, as `read` does whole, and return its first bytes.

        Raises:
            NotFound, FormatError: as `read`.
        """
        state = hashlib.sha256()
        try:
            with self.path(name).open("rb") as file:
                head = file.read(num_bytes)
                state.update(head)
                while part := file.read(CHUNK_BYTES):
                    state.update(part)
        except FileNotFoundError as err:
            raise NotFound("input is not in the sandbox", why=name) from err
        if PREFIX + state.hexdigest() != name:
            raise FormatError("input has other bytes than its digest says", why=name)
        return head

    def read_contribution(self, root: Digest) -> bytes:
        """Return the one output of the result with this root (rule 2)."""
        for file in sorted(self.directory.iterdir()):
            if _HEX.fullmatch(file.name) is None:
                continue  # half fetched: the agent adds files while a task runs
            listed = Output(CONTRIBUTED, Digest(PREFIX + file.name), file.stat().st_size)
            if result_root((listed,)) == root:
                return self.read(listed.digest)
        raise NotFound("contribution is not in the sandbox", why=root)
