"""Opening to files: resume without trust in what lies there, full disks, two runs at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.unit.seal.world import Sealed, small_model

from stannary.errors import ConflictError, EnvironmentProblem, UsageError
from stannary.seal import opening
from stannary.seal.reader import SealedArtifact
from stannary.seal.source import SourceFailure


def interrupted(artifact: SealedArtifact, path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open, and lose the source after some shards."""
    real = artifact.mirrors.open_shard
    calls = iter(range(10**6))

    def lost(*arguments: object) -> None:
        if next(calls) >= after:
            raise SourceFailure("the link is gone")
        real(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(artifact.mirrors, "open_shard", lost)
    with pytest.raises(SourceFailure):
        opening.open_to(artifact, path, jobs=1)
    assert not path.exists()


def test_resume_keeps_finished_shards(model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost link the next run fetches only what is missing, and leaves nothing beside PATH."""
    path = tmp_path / "out" / "m"
    path.parent.mkdir()
    interrupted(model.open(), path, 3, monkeypatch)
    report = opening.open_to(model.open(), path)
    assert report.resumed_shards == 3
    assert path.read_bytes() == small_model()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["zero", "cut", "list", "torn list", "longer"])
def test_damaged_partial_costs_a_fetch_only(
    model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A partial file that was changed, cut or listed wrongly never becomes a wrong result."""
    path = tmp_path / "m"
    artifact = model.open()
    interrupted(artifact, path, 4, monkeypatch)
    folder = opening.partial_folder(artifact, path)
    data, done = folder / "data" / "model.safetensors", folder / "done"
    if damage == "zero":
        data.write_bytes(bytes(data.stat().st_size))
    elif damage == "cut":
        os.truncate(data, 100)
    elif damage == "longer":
        data.write_bytes(data.read_bytes() + b"more")
    elif damage == "list":
        done.write_bytes(b"".join(opening.RECORD.pack(number) for number in [*range(10), 2**32 - 1, 2]))
    else:
        done.write_bytes(done.read_bytes() + b"\0\0")
    opening.open_to(model.open(), path)
    assert path.read_bytes() == small_model()


def test_full_disk_leaves_nothing(model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full is known before a shard is fetched, and the private folder goes too."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    (tmp_path / "out").mkdir()
    artifact = model.open()
    before = artifact.mirrors.fetched_bytes
    with pytest.raises(EnvironmentProblem, match="disk full"):
        opening.open_to(artifact, tmp_path / "out" / "m")
    assert artifact.mirrors.fetched_bytes == before
    assert list((tmp_path / "out").iterdir()) == []


def test_disk_full_in_mid_open(model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half way ends in the same error with nothing left."""
    real, calls = os.pwrite, iter(range(10**6))

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr("os.pwrite", failing)
    (tmp_path / "out").mkdir()
    with pytest.raises(EnvironmentProblem):
        opening.open_to(model.open(), tmp_path / "out" / "m")
    assert list((tmp_path / "out").iterdir()) == []


def test_two_runs_at_once(model: Sealed, tmp_path: Path) -> None:
    """A second run to the same place is refused while the first one works, and does not harm it."""
    refused = []

    def second(_: int) -> None:
        if not refused:
            with pytest.raises(ConflictError) as caught:
                opening.open_to(model.open(), tmp_path / "m")
            refused.append(caught.value)

    opening.open_to(model.open(), tmp_path / "m", progress=second)
    assert refused
    assert (tmp_path / "m").read_bytes() == small_model()


def test_path_that_appears_meanwhile_is_not_overwritten(model: Sealed, tmp_path: Path) -> None:
    """If somebody else makes PATH during the run, theirs stays."""
    path = tmp_path / "m"

    def meddle(_: int) -> None:
        path.write_text("theirs")

    with pytest.raises(Exception, match="appeared"):
        opening.open_to(model.open(), path, progress=meddle)
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("trap", ["link", "open folder", "file"])
def test_prepared_folder_is_refused(model: Sealed, tmp_path: Path, trap: str) -> None:
    """A private folder that somebody else put there, or that others may read, is refused and left alone."""
    artifact = model.open()
    folder = opening.partial_folder(artifact, tmp_path / "m")
    (tmp_path / "elsewhere").mkdir()
    if trap == "link":
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "file":
        folder.write_text("x")
    else:
        folder.mkdir(mode=0o755)
    with pytest.raises((UsageError, EnvironmentProblem)):
        opening.open_to(artifact, tmp_path / "m")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "m").exists()
