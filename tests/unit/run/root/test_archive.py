"""A root file system's tar: what it may hold, and that nothing of it lands outside."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import roots

from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded, StannaryError
from stannary.run.root import archive


def unpack(data: bytes, target: Path) -> archive.RootContents:
    target.mkdir()
    return archive.unpack(io.BytesIO(data), target)


def test_a_root_becomes_a_directory_of_plain_modes_and_its_own_times(tmp_path: Path) -> None:
    """A file of any mode is 0644 or 0755, and times are the archive's, of directories too."""
    made = roots.tar_of(
        [
            (roots.member("./", tarfile.DIRTYPE, 0o700), b""),
            (roots.member("./usr", tarfile.DIRTYPE, 0o2777), b""),
            (roots.member("./usr/su", mode=0o4755), b"su"),
            (roots.member("./usr/secret", mode=0o600), b"told"),
            (roots.member("./usr/same", tarfile.LNKTYPE, link="./usr/su"), b""),
            (roots.member("bin", tarfile.SYMTYPE, link="usr/bin"), b""),
        ]
    )
    found = unpack(made, tmp_path / "root")
    told = {path.name: path.lstat() for path in sorted((tmp_path / "root").rglob("*"))}
    assert {name: oct(stat.S_IMODE(item.st_mode)) for name, item in told.items() if name != "bin"} == {
        "usr": "0o755",
        "su": "0o755",
        "secret": "0o644",
        "same": "0o755",
    }
    assert {item.st_mtime for item in told.values()} == {roots.TIME_S}
    assert (tmp_path / "root/usr/same").read_bytes() == b"su"
    assert told["same"].st_nlink == 1
    assert (tmp_path / "root/bin").readlink() == Path("usr/bin")
    assert (found.num_files, found.size_bytes) == (5, 8)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_left_out(tmp_path: Path, kind: bytes) -> None:
    """What is no file, directory or link is not made, and does not keep the rest from being made."""
    made = roots.tar_of([(roots.member("dev/null", kind), b""), (roots.member("usr/a"), b"a")])
    unpack(made, tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == ["a", "usr"]


LINK = (roots.member("way", tarfile.SYMTYPE, link="/tmp"), b"")
ESCAPES = {
    "up": [(roots.member("../evil"), b"x")],
    "absolute": [(roots.member("/evil"), b"x")],
    "dots within": [(roots.member("usr/../../evil"), b"x")],
    "through a link": [LINK, (roots.member("way/evil"), b"x")],
    "a directory through a link": [LINK, (roots.member("way/evil", tarfile.DIRTYPE), b"")],
    "over a link": [LINK, (roots.member("way"), b"x")],
    "below a file": [(roots.member("usr"), b"x"), (roots.member("usr/evil"), b"x")],
    "a hard link out": [(roots.member("evil", tarfile.LNKTYPE, link="/etc/passwd"), b"")],
    "a hard link up": [(roots.member("evil", tarfile.LNKTYPE, link="../passwd"), b"")],
    "a hard link to a link": [LINK, (roots.member("evil", tarfile.LNKTYPE, link="way"), b"")],
    "a hard link to nothing": [
        (roots.member("evil", tarfile.LNKTYPE, link="later"), b""),
        (roots.member("later"), b"x"),
    ],
    "twice": [(roots.member("usr/a"), b"x"), (roots.member("usr/a"), b"y")],
    "empty segment": [(roots.member("usr//a"), b"x")],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out_of_a_root(tmp_path: Path, name: str) -> None:
    """Each way out that a tar knows is refused, and nothing stands outside the directory."""
    with pytest.raises(FormatError):
        unpack(roots.tar_of(ESCAPES[name]), tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert not list((tmp_path / "root").rglob("evil"))
    with pytest.raises(FormatError):
        archive.look(io.BytesIO(roots.tar_of(ESCAPES[name])))


def test_sizes_and_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes or names than a root may have are refused as they come."""
    made = roots.small({f"usr/n{index}": b"12345678" for index in range(20)})
    monkeypatch.setattr(archive, "MAX_ROOT_FILES", 10)
    with pytest.raises(LimitExceeded):
        unpack(made, tmp_path / "files")
    monkeypatch.setattr(archive, "MAX_ROOT_FILES", 1000)
    monkeypatch.setattr(archive, "MAX_ROOT_BYTES", 100)
    with pytest.raises(LimitExceeded):
        unpack(made, tmp_path / "bytes")
    with pytest.raises(LimitExceeded):
        unpack(roots.tar_of([(roots.member("a/" * archive.MAX_DEPTH + "b"), b"")]), tmp_path / "deep")


def test_a_compressed_archive_is_none(tmp_path: Path) -> None:
    """What is hashed is what is read: nothing grows on its way (rule 1)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as packed:
        packed.addfile(roots.member("usr/a"), io.BytesIO())
    with pytest.raises(FormatError):
        unpack(made.getvalue(), tmp_path / "root")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is ours, with what to do."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(EnvironmentProblem, match="not enough disk") as told:
        unpack(roots.small(), tmp_path / "root")
    assert "free disk space" in told.value.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_bytes_break_the_reader(data: st.DataObject) -> None:
    """Whatever is changed in a tar, the answer is a root or an error of ours."""
    made = bytearray(roots.small())
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(made)))
    for tried in (bytes(made), bytes(made[:cut])):
        try:
            archive.look(io.BytesIO(tried))
        except StannaryError:
            continue


def test_the_version_of_its_python_is_read_from_its_name() -> None:
    """A root says which Python it has by where its link leads; one without has none."""
    link = (roots.member("usr/bin/python3", tarfile.SYMTYPE, link="python3.11"), b"")
    assert archive.look(io.BytesIO(roots.tar_of([link]))).python == "3.11"
    assert archive.look(io.BytesIO(roots.small())).python == ""
