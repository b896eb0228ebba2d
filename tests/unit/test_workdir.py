"""Reading and writing work directories."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest

from stannary import workdir
from stannary.errors import EnvironmentProblem, FormatError, Refuted, UsageError
from stannary.formats import digest
from stannary.formats import workdir as grammar
from stannary.formats.digest import Digest
from stannary.formats.workdir import WorkFile


def listed(root: Path) -> tuple[WorkFile, ...]:
    """Return the listing of every file below a directory."""
    return grammar.check(
        workdir.read_entry(root, path.relative_to(root).as_posix())[1] for path in root.rglob("*") if path.is_file()
    )


def store_of(root: Path, entries: tuple[WorkFile, ...]) -> dict[Digest, bytes]:
    blobs = {}
    for entry in entries:
        with workdir.open_file(root, entry) as file:
            blobs[entry.digest] = file.read()
    return blobs


def opener(blobs: dict[Digest, bytes]) -> workdir.OpenBlob:
    return lambda wanted: io.BytesIO(blobs[wanted])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "pkg/deep").mkdir(parents=True)
    (root / "recipe.py").write_text("x = 1\n")
    (root / "pkg/deep/run.sh").write_text("#!/bin/sh\n")
    (root / "pkg/deep/run.sh").chmod(0o700)
    return root


def test_round_trip(tree: Path, tmp_path: Path) -> None:
    """A directory written from its listing and blobs has the same listing."""
    entries = listed(tree)
    assert [(entry.path, entry.mode) for entry in entries] == [("pkg/deep/run.sh", 0o755), ("recipe.py", 0o644)]
    workdir.materialise(entries, tmp_path / "copy", opener(store_of(tree, entries)))
    assert listed(tmp_path / "copy") == entries


def test_names_that_collide_by_case(tree: Path) -> None:
    """Two names that are one on a case-blind system are refused."""
    (tree / "Recipe.py").write_text("other")
    with pytest.raises(FormatError, match="one on some systems"):
        listed(tree)


@pytest.mark.parametrize("name", ["model.pkl", "model.PT", "x.ckpt", "w.pth", "a.pickle"])
def test_pickle_by_name(tree: Path, name: str) -> None:
    """A pickle is refused by its name whatever it holds."""
    (tree / name).write_text("nothing")
    with pytest.raises(FormatError, match="pickle refused"):
        listed(tree)


def test_pickle_by_magic(tree: Path) -> None:
    """A pickle under an innocent name is refused by its first bytes, a torch.save archive too."""
    (tree / "weights.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FormatError, match="pickle"):
        listed(tree)
    (tree / "weights.bin").write_bytes(b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + b"\0" * 100)
    with pytest.raises(FormatError, match="pickle"):
        listed(tree)


def test_wrong_blob_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    """A blob with other bytes is refused and the half-written directory is gone."""
    entries = listed(tree)
    blobs = store_of(tree, entries)
    blobs[entries[1].digest] = b"x = 2\n"
    with pytest.raises(Refuted):
        workdir.materialise(entries, tmp_path / "copy", opener(blobs))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("path", ["../evil", "/etc/cron.d/evil", "a/../../evil", "a//b", "./a", "a\\b", "a\nb", ""])
def test_listing_cannot_escape(tmp_path: Path, path: str) -> None:
    """A listing from a hostile party writes nowhere but inside the directory."""
    blob = b"evil"
    with pytest.raises(FormatError):
        workdir.materialise(
            (WorkFile(path, 0o644, digest.digest(blob), 4),), tmp_path / "copy", lambda _: io.BytesIO(blob)
        )
    assert not (tmp_path / "evil").exists()


def test_existing_target_is_not_touched(tree: Path, tmp_path: Path) -> None:
    """Writing into a directory that is already there is refused, so nothing can lie in wait inside."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/pkg").symlink_to("/tmp")
    with pytest.raises(EnvironmentProblem):
        workdir.materialise(listed(tree), tmp_path / "copy", opener({}))


def test_link_swapped_in_after_the_scan(tree: Path) -> None:
    """A file replaced by a link between listing and sending is refused, not followed."""
    entries = listed(tree)
    (tree / "recipe.py").unlink()
    (tree / "recipe.py").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="symlink"):
        workdir.open_file(tree, entries[1])


def test_folder_swapped_for_a_link_after_the_scan(tree: Path, tmp_path: Path) -> None:
    """A folder on the way replaced by a link leads nowhere: no step of a path is followed."""
    entries = listed(tree)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/run.sh").write_text("another's secret")
    (tree / "pkg").rename(tree / "was")
    (tree / "pkg").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        workdir.open_file(tree, entries[0])


def test_disk_full_leaves_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is named as such and the half-written directory is gone."""
    entries = listed(tree)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir, "_copy", full)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        workdir.materialise(entries, tmp_path / "copy", lambda _: io.BytesIO(b""))
    assert not (tmp_path / "copy").exists()
