"""The blobs a worker sees: a read-only directory with one file per digest.

Rules:
1. An input is found by its digest and hashed before use: whoever put the file there is not believed.
2. A contribution is found by its root alone. Its output list is rebuilt from the blob itself, and
   only a blob whose list has that root is read, so nothing but the log says what is merged.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stannary.errors import FormatError, NotFound
from stannary.formats import bounds, digest
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.predicates import Output, result_root
from stannary.rules.kinds import DELTA


class Blobs:
    """The read-only directory of inputs, one file per digest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: Digest) -> Path:
        """Return where the blob lies."""
        return self.directory / digest.parse(name)[len(PREFIX) :]

    def checked(self, name: Digest) -> Path:
        """Return where the blob lies, its bytes hashed without being held.

        Raises:
            NotFound: the agent did not put it there.
            FormatError: its bytes are not those of its name.
        """
        path = self.path(name)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as err:
            raise NotFound("input is not in the sandbox", why=name) from err
        if PREFIX + found != name:
            raise FormatError("input has other bytes than its digest says", why=name)
        return path

    def head(self, name: Digest, num_bytes: int) -> bytes:
        """Return the first bytes of a blob that is whole (errors as `checked`)."""
        with self.checked(name).open("rb") as file:
            return file.read(num_bytes)

    def read(self, name: Digest) -> bytes:
        """Return the bytes of a small blob, hashed (errors as `checked`)."""
        return self.checked(name).read_bytes()

    def contribution(self, root: Digest) -> Path:
        """Return where the one output of the result with this root lies (rule 2)."""
        for file in sorted(self.directory.iterdir()):
            if not bounds.HEX32.fits(file.name):
                continue  # half fetched: the agent adds files while a task runs
            listed = Output(DELTA, Digest(PREFIX + file.name), file.stat().st_size)
            if result_root((listed,)) == root:
                return self.checked(listed.digest)
        raise NotFound("contribution is not in the sandbox", why=root)
