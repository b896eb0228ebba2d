"""Blob files: whole under their digest, or not at all."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded
from stannary.formats import digest
from stannary.market import blobstore
from stannary.market.blobstore import BlobStore
from stannary.wire import errors as wire_errors

DATA = b"twenty pounds of tin"


async def stream(*chunks: bytes, fails: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if fails is not None:
        raise fails


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_stream_is_kept_under_its_digest(tmp_path: Path) -> None:
    """What comes in chunks is read back whole, and its size is known."""
    store, name = BlobStore(tmp_path), digest.digest(DATA)
    assert asyncio.run(store.receive(name, stream(DATA[:7], DATA[7:]))) == len(DATA)
    assert (store.size(name), store.whole(name), b"".join(store.chunks(name))) == (len(DATA), DATA, DATA)
    assert store.put(DATA) == name
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("fails", "raised"),
    [
        (None, FormatError),
        (ConnectionResetError(errno.ECONNRESET, "cut"), EnvironmentProblem),
        (OSError(errno.ENOSPC, "No space left on device"), EnvironmentProblem),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(tmp_path: Path, fails: OSError | None, raised: type) -> None:
    """Wrong bytes, a cut stream, a full disk: refused, and no file is left."""
    store, name = BlobStore(tmp_path), digest.digest(DATA)
    with pytest.raises(raised) as refused:
        asyncio.run(store.receive(name, stream(DATA[:7], fails=fails)))
    assert (refused.value.detail == wire_errors.DISK_FULL) == (fails is not None and fails.errno == errno.ENOSPC)
    assert store.size(name) is None
    assert files(tmp_path) == []


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob above the limit is refused while it comes, and a large one is never read at once."""
    store, name = BlobStore(tmp_path), digest.digest(DATA)
    monkeypatch.setattr(blobstore, "MAX_BLOB_BYTES", 10)
    with pytest.raises(LimitExceeded):
        asyncio.run(store.receive(name, stream(DATA)))
    store.put(DATA)
    monkeypatch.setattr(blobstore, "_WHOLE_READ_BYTES", 10)
    with pytest.raises(LimitExceeded):
        store.whole(name)


def test_leftovers_of_a_killed_market_are_removed(tmp_path: Path) -> None:
    """Half-written files do not outlive the next start; a name that is no digest leads nowhere."""
    BlobStore(tmp_path)
    (tmp_path / "incoming" / "half").write_bytes(b"x")
    store = BlobStore(tmp_path)
    assert files(tmp_path) == []
    with pytest.raises(FormatError):
        store.path(digest.Digest("sha256:../../key"))
