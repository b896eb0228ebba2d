"""Opening to files: resume without trust in what lies there, full disks, two runs at once."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from tests.unit.seal.world import Sealed, small_model

from stannary.errors import ConflictError, EnvironmentProblem, Refuted, UsageError
from stannary.seal import opening, sealing
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.source import SourceFailure


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


def test_more_files_than_a_process_may_hold_open(tmp_path: Path, owner: OwnerKey) -> None:
    """A folder of many small files opens within the limit of descriptors that systems set."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.txt").write_text(str(number))
    sealed = Sealed(sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner), tmp_path / "store", owner)
    artifact = sealed.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 100, hard))
    try:
        opening.open_to(artifact, tmp_path / "again")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {path.read_text() for path in (tmp_path / "again").iterdir()} == {str(number) for number in range(300)}


def test_wide_names_fit_beside_the_private_folder(model: Sealed, tmp_path: Path) -> None:
    """A PATH of 240 bytes opens: the private folder's name is as short in bytes as names must be."""
    path = tmp_path / ("語" * 80)
    opening.open_to(model.open(), path)
    assert path.read_bytes() == small_model()
    first, second = (opening.partial_folder(model.open(), tmp_path / ("x" * 120 + end)) for end in "ab")
    assert first != second


@pytest.mark.parametrize("jobs", [0, 100])
def test_refused_number_of_jobs_leaves_nothing(model: Sealed, tmp_path: Path, jobs: int) -> None:
    """A mistake in the arguments is known before anything is made."""
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="number of jobs"):
        opening.open_to(model.open(), tmp_path / "out" / "m", jobs=jobs)
    assert list((tmp_path / "out").iterdir()) == []


def test_disk_without_hard_links(model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that has no hard links a file appears by renaming, and never over another one."""

    def none(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    opening.open_to(model.open(), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == small_model()
    with pytest.raises(UsageError, match="appeared"):
        opening.open_to(model.open(), tmp_path / "n", progress=lambda _: (tmp_path / "n").write_text("theirs"))
    assert (tmp_path / "n").read_text() == "theirs"


def test_failed_run_cleans_up_under_its_lock(model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The private folder goes before the lock does: a run that takes it next keeps what it makes."""
    artifact = model.open()
    real, refused = opening._Opening.discard, []

    def discard(run: opening._Opening) -> None:
        with pytest.raises(ConflictError):
            opening.open_to(model.open(), tmp_path / "m")
        refused.append(run)
        real(run)

    def broken(*_: object) -> None:
        raise Refuted("no")

    monkeypatch.setattr(opening._Opening, "discard", discard)
    monkeypatch.setattr(artifact, "read_shard", broken)
    with pytest.raises(Refuted):
        opening.open_to(artifact, tmp_path / "m")
    assert len(refused) == 1
    assert not opening.partial_folder(artifact, tmp_path / "m").exists()


def test_list_of_finished_shards_is_never_a_link(
    model: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in place of the list is not written through."""
    path = tmp_path / "m"
    artifact = model.open()
    interrupted(artifact, path, 2, monkeypatch)
    done = opening.partial_folder(artifact, path) / "done"
    done.unlink()
    (tmp_path / "victim").write_bytes(b"data")
    done.symlink_to(tmp_path / "victim")
    with pytest.raises(EnvironmentProblem):
        opening.open_to(model.open(), path)
    assert (tmp_path / "victim").read_bytes() == b"data"
