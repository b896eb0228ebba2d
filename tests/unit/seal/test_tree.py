"""Finding the files of a folder: no link, no pipe, no name that another disk would read otherwise."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, NotFound, StannaryError
from stannary.seal import opening, sealing, tree
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors


def made(root: Path, *names: str) -> Path:
    """Make a folder with files of those names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a:b.bin", "disks disagree"),
        ("a.bin.", "disks disagree"),
        (" a.bin", "disks disagree"),
        ("a\nb", "disks disagree"),
        ("aux.txt", "a device on Windows"),
        (unicodedata.normalize("NFD", "é.bin"), "is not NFC"),
        (os.fsdecode(b"\xff.bin"), "not text"),
    ],
)
def test_name_is_refused_before_anything_is_sealed(tmp_path: Path, name: str, reason: str) -> None:
    """A name other disks spell otherwise is refused: of a file alone, in a folder, and of the folder itself."""
    file = made(tmp_path / "one", name) / name
    folder = made(tmp_path / "two", f"sub/{name}")
    root = made(tmp_path / "three" / name, "plain.bin")
    for path in (file, folder, root):
        with pytest.raises(FormatError, match="path refused") as caught:
            tree.scan(path)
        assert reason in str(caught.value)
        assert caught.value.hint


def test_names_that_fold_to_one(tmp_path: Path) -> None:
    """Two names that differ in case only are refused, files and empty folders alike."""
    with pytest.raises(FormatError, match="one on a case-folding disk"):
        tree.scan(made(tmp_path / "a", "x.bin", "X.bin"))
    (made(tmp_path / "b", "x") / "X").mkdir()
    with pytest.raises(FormatError, match="one on a case-folding disk"):
        tree.scan(tmp_path / "b")


def test_root_that_is_neither_file_nor_folder(tmp_path: Path) -> None:
    """A pipe and a link are refused as PATH itself, however good what the link points to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(made(tmp_path / "model", "a.bin"))
    with pytest.raises(FormatError, match="not a regular file"):
        tree.scan(tmp_path / "pipe")
    with pytest.raises(FormatError, match="symbolic link"):
        tree.scan(tmp_path / "link")
    with pytest.raises(NotFound):
        tree.scan(tmp_path / "model" / "a.bin" / "x")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many files, too many empty folders and too deep a nest are refused."""
    monkeypatch.setattr(tree, "MAX_FILES", 3)
    assert len(tree.scan(made(tmp_path / "three", *"abc")).leaves) == 3
    with pytest.raises(LimitExceeded, match="too many files"):
        tree.scan(made(tmp_path / "four", *"abcd"))
    for name in "wxyz":
        (made(tmp_path / "hollow", "a") / name).mkdir()
    with pytest.raises(LimitExceeded, match="too many files"):
        tree.scan(tmp_path / "hollow")
    with pytest.raises(LimitExceeded, match="nested too deeply"):
        tree.scan(made(tmp_path / "deep", "d/" * (tree.MAX_FOLDER_DEPTH + 1) + "f"))


@pytest.mark.parametrize("part", ["f.bin", "sub"])
def test_link_put_there_after_the_listing(tmp_path: Path, part: str) -> None:
    """A file or folder that became a link between listing and opening is refused, not followed."""
    root = made(tmp_path / "model", "f.bin", "sub/g.bin")
    found = tree.scan(root)
    (root / part).rename(tmp_path / "moved")
    (root / part).symlink_to(tmp_path / "moved")
    leaf = next(item for item in found.leaves if item.path.startswith(part))
    with pytest.raises(ConflictError, match="changed while it was read"):
        found.open(leaf)


def test_folder_that_goes_away(tmp_path: Path) -> None:
    """When the whole folder is gone after the listing, the error is ours."""
    root = made(tmp_path / "model", "f.bin")
    found = tree.scan(root)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(ConflictError, match="changed while it was read"):
        found.open(found.leaves[0])


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _replace(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.write_text(path.name)


@pytest.mark.parametrize("change", [_touch, _replace, lambda path: path.write_text("longer than before")])
def test_change_is_seen(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Another length, another time of change and another file of the same name are all a change."""
    found = tree.scan(made(tmp_path / "model", "f.bin"))
    os.close(found.open(found.leaves[0]))
    change(tmp_path / "model" / "f.bin")
    with pytest.raises(ConflictError):
        found.open(found.leaves[0])


def test_only_a_regular_file_is_unchanged(tmp_path: Path) -> None:
    """What is no regular file is never taken for the leaf, whatever its numbers are."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ConflictError):
            tree.check_unchanged(descriptor, tree._leaf("x", os.fstat(descriptor)))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["scandir", "open"])
def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """A folder or file without permission, or on a failing disk, is an error of ours that names it."""
    found = tree.scan(made(tmp_path / "model", "f.bin"))
    real = getattr(os, call)

    def failing(path: str | Path, *arguments: object, **more: object) -> object:
        if str(path).endswith(("model", "f.bin")):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(tree.os, call, failing)
    with pytest.raises(StannaryError) as caught:
        tree.scan(tmp_path / "model") if call == "scandir" else found.open(found.leaves[0])
    if call == "scandir":
        assert isinstance(caught.value, EnvironmentProblem if code == errno.EACCES else ConflictError)
    assert "model" in caught.value.why or "f.bin" in caught.value.why


def test_hard_links_and_hidden_files_come_back(tmp_path: Path, owner: OwnerKey) -> None:
    """A hard link is a file like any other; names that start with a dot and wide letters are kept."""
    root = made(tmp_path / "model", "a.bin", ".hidden", "語/模型.bin", "zero.bin")
    os.link(root / "a.bin", root / "b.bin")
    (root / "zero.bin").write_bytes(b"")
    store = DirectoryStore(tmp_path / "store")
    report = sealing.seal(root, store, owner)
    opening.open_to(SealedArtifact(Mirrors(report.digest, (store,)), owner), tmp_path / "again")
    for path in root.rglob("*"):
        twin = tmp_path / "again" / path.relative_to(root)
        assert path.is_dir() == twin.is_dir()
        assert path.is_dir() or twin.read_bytes() == path.read_bytes()
    assert (tmp_path / "again" / "a.bin").stat().st_nlink == 1
