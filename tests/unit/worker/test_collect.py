"""Outputs of a command: what is handed in, what is left out, and in which bytes."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from stannary.errors import NotFound
from stannary.worker import collect
from stannary.worker.collect import Collected

PLENTY = 1024**3


def names(found: Collected) -> list[str]:
    return [file.name for file in found.files]


def put(directory: Path, *paths: str, data: bytes = b"x") -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)


def test_directories_and_depths(tmp_path: Path) -> None:
    """A directory stands for what is below it; `**`, `./` and dot files are met."""
    put(tmp_path, "results/a", "results/deep/b", "x/y/t.csv", "t.csv", ".hidden", "other")
    found = collect.collect(tmp_path, ["./results/", "**/*.csv", ".h*"], PLENTY)
    assert names(found) == [".hidden", "results/a", "results/deep/b", "t.csv", "x/y/t.csv"]
    assert found.refusals == ()


def test_one_bad_name_loses_one_file(tmp_path: Path) -> None:
    """Newlines, other encodings, fifos and over-long paths are left out by name; the good ones go."""
    put(tmp_path, "out/good", "out/-rf", "out/a b", "out/größe")
    put(tmp_path, "out/new\nline", "out/back\\slash", "out/tab\t")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/out/\xff\xfe"))).write_bytes(b"x")
    os.mkfifo(tmp_path / "out/fifo")
    deep = tmp_path / "out"
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    put(deep, "f")
    found = collect.collect(tmp_path, ["out"], PLENTY)
    assert names(found) == ["out/-rf", "out/a b", "out/good", "out/größe"]
    assert len(found.refusals) == 6
    lines = list(collect.words(found))
    assert all(line.isprintable() for line in lines)
    assert any("new\\nline" in line for line in lines)
    assert any("\\udcff" in line for line in lines)


def test_links(tmp_path: Path) -> None:
    """A link inside gives the bytes it leads to; one that leads outside, nowhere or upwards gives nothing."""
    outside = tmp_path / "outside"
    put(outside, "secret", data=b"secret")
    work = tmp_path / "work"
    put(work, "steps/7/weights", data=b"w")
    (work / "latest").symlink_to("steps/7")
    (work / "weights").symlink_to(work / "steps/7/weights")
    (work / "up").symlink_to(".")
    (work / "steps/round").symlink_to("../steps")
    (work / "nowhere").symlink_to("gone")
    (work / "out").symlink_to("../outside/secret")
    (work / "outdir").symlink_to(outside)
    (work / "hops").symlink_to("out")
    (work / "proc").symlink_to("/proc/self/environ")
    (work / "prefix").symlink_to(tmp_path / "work-other")
    put(tmp_path / "work-other", "x")
    found = collect.collect(work, ["**"], PLENTY)
    assert names(found) == ["latest/weights", "steps/7/weights", "weights"]
    assert {b"".join(collect.read(file)) for file in found.files} == {b"w"}
    left_out = {refusal.name.strip("'"): refusal.why for refusal in found.refusals}
    assert {name for name, why in left_out.items() if "outside" in why} == {
        "out", "outdir", "hops", "proc", "prefix",
    }  # fmt: skip
    assert set(left_out) == {"out", "outdir", "hops", "proc", "prefix", "up", "nowhere", "steps/round"}


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Directories that link to one another end, although every name on the way is new."""
    for name in "abcd":
        (tmp_path / name).mkdir()
    for name in "abcd":
        for other in "abcd":
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    put(tmp_path, "a/f")
    found = collect.collect(tmp_path, ["a/f"], PLENTY)
    assert names(found) == ["a/f"]


def test_modes_are_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or directory the job made unreadable to itself is read."""
    put(tmp_path, "d/f")
    (tmp_path / "d/f").chmod(0)
    (tmp_path / "d").chmod(0)
    real = os.access
    if os.geteuid() == 0:  # to root everything is accessible: ask for the mode instead
        monkeypatch.setattr(
            collect.os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o400) and real(path, mode)
        )
    found = collect.collect(tmp_path, ["d"], PLENTY)
    assert b"".join(collect.read(found.files[0])) == b"x"
    assert (tmp_path / "d").stat().st_mode & 0o700 == 0o700


def test_a_file_larger_than_the_disk(tmp_path: Path) -> None:
    """A sparse file of a terabyte is left out with its size; the rest goes."""
    put(tmp_path, "a", "c")
    with (tmp_path / "b").open("wb") as file:
        file.truncate(1024**4)
    found = collect.collect(tmp_path, ["*"], 1000)
    assert names(found) == ["a", "c"]
    assert "1,099,511,627,776 bytes" in found.refusals[0].why


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Patterns that name nothing are all named, and the rest is found; a link that leads outside is left out."""
    put(tmp_path, "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "l").symlink_to("/etc/passwd")
    found = collect.collect(tmp_path, ["a", "b/*.txt", "empty/", "l"], PLENTY)
    assert found.missing == ("b/*.txt", "empty/")
    assert [item.name for item in found.files] == ["a"]
    lines = list(collect.words(found))
    assert lines[0] == "no such output: b/*.txt, empty/"
    assert "leads outside" in lines[1]


def test_jobs_of_rules_2_want_every_output(tmp_path: Path) -> None:
    """There a pattern that names nothing is a failure, and so is a result of which nothing is left."""
    put(tmp_path, "a")
    with pytest.raises(NotFound) as caught:
        collect.collect_all(tmp_path, ["a", "b/*.txt"], PLENTY)
    assert caught.value.why == "b/*.txt"
    (tmp_path / "l").symlink_to("/etc/passwd")
    with pytest.raises(NotFound) as caught:
        collect.collect_all(tmp_path, ["l"], PLENTY)
    assert "leads outside" in caught.value.why


def test_more_names_than_are_looked_at_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the program's doing, the same on every node: the result is empty, and the log says why."""
    for name in "abc":
        put(tmp_path, name)
    monkeypatch.setattr(collect, "MAX_VISITED", 2)
    found = collect.collect(tmp_path, ["**"], PLENTY)
    assert (found.files, found.missing) == ((), ("**",))
    assert "more than 2" in list(collect.words(found))[-1]


@pytest.mark.slow
def test_twenty_thousand_files(tmp_path: Path) -> None:
    """They travel as one archive of the announced length, the same bytes whoever made the files and when."""
    for number in range(20_000):
        os.close(os.open(f"{tmp_path}/{number:06}", os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "000007").write_bytes(b"seven")
    (tmp_path / ("ü" * 100)).write_bytes(b"long")
    found = collect.collect(tmp_path, ["**"], PLENTY)
    assert found.is_archived
    packed = b"".join(collect.archive(found.files))
    assert len(packed) == collect.archive_bytes(found.files)
    os.utime(tmp_path / "000007", (1, 1))
    assert b"".join(collect.archive(collect.collect(tmp_path, ["**"], PLENTY).files)) == packed
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(path.name for path in tmp_path.iterdir())
        assert archive.extractfile("000007").read() == b"seven"  # type: ignore[union-attr]


def test_an_archive_keeps_to_the_disk(tmp_path: Path) -> None:
    """What does not fit is left out, so that the archive is never more than `resources.disk`."""
    for number in range(2_000):
        (tmp_path / f"{number:04}").write_bytes(b"x" * 100)
    found = collect.collect(tmp_path, ["**"], 1_900 * 1024)
    assert found.is_archived
    assert collect.archive_bytes(found.files) <= 1_900 * 1024
    assert len(found.refusals) > 0
    assert len(list(collect.words(found))) == collect.MAX_NAMED_REFUSALS + 1
