"""Inputs shared by digest: one file, a cap, the oldest first, nothing in use."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from stannary.agent.cache import BlobCache
from stannary.formats import digest


@pytest.fixture(name="jobs")
def fixture_jobs(tmp_path: Path) -> Path:
    made = tmp_path / "jobs"
    made.mkdir()
    return made


def keep(cache: BlobCache, jobs: Path, data: bytes, age_s: int = 0) -> Path:
    """Have a job fetch a blob; return where the job looks for it."""
    named = digest.digest(data)
    path = jobs / named[7:]
    path.write_bytes(data)
    cache.keep(named, path)
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return path


def test_two_jobs_share_one_file(tmp_path: Path, jobs: Path) -> None:
    """The second job gets a link, read-only, not a copy."""
    cache = BlobCache(tmp_path / "blobs")
    first = keep(cache, jobs, b"input")
    second = jobs / "second"
    assert cache.take(digest.digest(b"input"), 5, second)
    assert second.stat().st_ino == first.stat().st_ino
    assert second.stat().st_mode & 0o222 == 0
    assert not cache.take(digest.digest(b"absent"), 6, jobs / "third")


def test_the_oldest_goes_and_what_is_used_stays(tmp_path: Path, jobs: Path) -> None:
    """Over the cap the file unused for longest is removed, but none that a job still links to."""
    cache = BlobCache(tmp_path / "blobs", max_bytes=30)
    used = keep(cache, jobs, b"u" * 10, age_s=300)
    for data, age_s in ((b"a" * 10, 200), (b"b" * 10, 100)):
        keep(cache, jobs, data, age_s).unlink()
    keep(cache, jobs, b"c" * 10).unlink()
    names = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert names == {digest.digest(data)[7:] for data in (used.read_bytes(), b"b" * 10, b"c" * 10)}


def test_the_cap_counts_files_too(tmp_path: Path, jobs: Path) -> None:
    """Many small files are as much a load as one large."""
    cache = BlobCache(tmp_path / "blobs", max_files=3)
    for number in range(10):
        keep(cache, jobs, b"%d" % number, age_s=100 - number).unlink()
    assert len(list((tmp_path / "blobs").iterdir())) == 3


def test_many_files_are_not_counted_again_for_each(tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A work directory of many files costs one look at the cache, also where all of it is in use."""
    cache = BlobCache(tmp_path / "blobs", max_files=640)
    looks = []
    look = BlobCache.trim
    monkeypatch.setattr(BlobCache, "trim", lambda self, *spare: (looks.append(1), look(self, *spare))[1])
    for number in range(640):
        keep(cache, jobs, b"%d" % number)
    assert len(looks) == 1
    for number in range(640, 700):
        keep(cache, jobs, b"%d" % number)
    assert len(looks) <= 1 + 60 // 10
    assert len(list((tmp_path / "blobs").iterdir())) == 700  # all in use


def test_a_changed_file_is_not_given_out(tmp_path: Path, jobs: Path) -> None:
    """Bytes that rotted since the last start are found by their hash, removed, and fetched anew."""
    keep(BlobCache(tmp_path / "blobs"), jobs, b"input").unlink()
    kept = tmp_path / "blobs" / digest.digest(b"input")[7:]
    kept.chmod(0o600)
    kept.write_bytes(b"inpuT")
    assert not BlobCache(tmp_path / "blobs").take(digest.digest(b"input"), 5, jobs / "x")
    assert not kept.exists()


def test_room_is_made_when_the_disk_is_short(tmp_path: Path, jobs: Path) -> None:
    """Cached inputs give way to a job that needs the space."""
    cache = BlobCache(tmp_path / "blobs")
    for data in (b"a" * 10, b"b" * 10, b"c" * 10):
        keep(cache, jobs, data).unlink()
    cache.trim(spare_bytes=15)
    assert len(list((tmp_path / "blobs").iterdir())) == 1
    cache.trim(spare_files=1)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_full_disk_costs_a_fetch_and_no_job(tmp_path: Path, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is not kept, and nobody is told that his task failed."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    cache = BlobCache(tmp_path / "blobs")
    path = keep(cache, jobs, b"data")
    assert path.read_bytes() == b"data"
    assert not cache.has(digest.digest(b"data"), 4)
