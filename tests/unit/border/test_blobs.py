"""Inputs inside the sandbox."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stannary.border.blobs import Blobs
from stannary.errors import FormatError, NotFound
from stannary.formats.digest import PREFIX, Digest


def store(directory: Path, data: bytes) -> Digest:
    name = hashlib.sha256(data).hexdigest()
    (directory / name).write_bytes(data)
    return Digest(PREFIX + name)


def test_head_is_hashed_to_the_end(tmp_path: Path) -> None:
    """The first bytes are given only if the whole is what its name says."""
    name = store(tmp_path, b"a" * 3_000_000)
    assert Blobs(tmp_path).head(name, 5) == b"aaaaa"
    with (tmp_path / name.removeprefix(PREFIX)).open("ab") as file:
        file.write(b"b")
    with pytest.raises(FormatError):
        Blobs(tmp_path).head(name, 5)
    with pytest.raises(NotFound):
        Blobs(tmp_path).head(Digest(PREFIX + "0" * 64), 5)
