"""A disk that is really full: a small file system in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stannary.errors import EnvironmentProblem
from stannary.seal import opening, sealing
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors

OWNER = OwnerKey(bytes(range(32)))

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk_when_opening(small_disk: Path, tmp_path: Path) -> None:
    """Opening more than fits is refused, and the disk is as empty as before."""
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(8 * 1024 * 1024))
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), OWNER)
    artifact = SealedArtifact(Mirrors(report.digest, (DirectoryStore(tmp_path / "store"),)), OWNER)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        opening.open_to(artifact, small_disk / "data.bin")
    assert list(small_disk.iterdir()) == []


def test_full_disk_when_sealing(small_disk: Path, tmp_path: Path) -> None:
    """Sealing more than fits publishes nothing and leaves no half-written object."""
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(8 * 1024 * 1024))
    store = DirectoryStore(small_disk / "store")
    with pytest.raises(EnvironmentProblem, match="disk full"):
        sealing.seal(path, store, OWNER, sealing.SealOptions(shard_bytes=1024 * 1024))
    assert store.list("head") == []
    assert not [item for item in (small_disk / "store" / "b3").iterdir() if item.name.startswith(".")]
