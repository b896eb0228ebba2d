"""Building a root file system: the same bytes each time, nothing of the machine or the moment in it."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from tests import roots

from stannary.errors import EnvironmentProblem, FormatError, SpecError
from stannary.run.root import archive, build
from stannary.run.root.build import RootPlan

LATE_S = build.TIME_S + 1000
NEEDS_PROGRAM = f"{build.PROGRAM} is not installed (apt-get install {build.PROGRAM})"


def debian(*, is_later: bool = False) -> bytes:
    """Return what an installation leaves: once at one time on one machine, once later on another."""
    python = (roots.member("./usr/bin/python3", tarfile.SYMTYPE, link="python3.11"), b"")
    members = [
        (roots.member("./dev/null", tarfile.CHRTYPE), b""),
        (roots.member("./usr/bin/python3.11", mode=0o755), b"python"),
        python,
        (roots.member("./usr/bin/su", mode=0o4755), b"su"),
        (roots.member("./usr/bin/perl", tarfile.LNKTYPE, link="./usr/bin/su"), b""),
        (roots.member("./etc/machine-id"), b"two" if is_later else b"one"),
        (roots.member("./etc/os-release", tarfile.SYMTYPE, link="../usr/lib/os-release"), b""),
        (roots.member("./var/lib/dpkg/status"), b"later" if is_later else b"now"),
        (roots.member("./usr/lib/python3/__pycache__/a.pyc"), b"2" if is_later else b"1"),
        (roots.member("./usr/share/doc/bash/README"), b"words"),
        (roots.member("./usr/share/doc/bash/copyright"), b"GPL"),
        (roots.member("./usr/lib/written"), b"at installation"),
    ]
    members[-1][0].mtime = LATE_S + 500 if is_later else LATE_S
    if is_later:
        members = [members[0], *reversed([item for item in members[1:] if not item[0].islnk()]), members[4]]
    for header, _ in members:
        header.uname, header.uid = ("carol", 1001) if is_later else ("root", 0)
    return roots.tar_of(members, tarfile.GNU_FORMAT if is_later else tarfile.PAX_FORMAT)


def written(data: bytes, *trees: tuple[str, Path]) -> bytes:
    sink = io.BytesIO()
    build.write(io.BytesIO(data), trees, sink, build.TIME_S)
    return sink.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as made:
        return made.getnames()


def test_two_installations_give_the_same_bytes(tmp_path: Path) -> None:
    """Order, owners, late times, caches and the machine's own files are not in it; what jobs use is."""
    first = written(debian())
    assert first == written(debian(is_later=True))
    assert names(first) == sorted(names(first))
    assert {"usr/bin/python", "usr/bin/python3", "usr/bin/perl", "usr/share/doc/bash/copyright"} <= set(names(first))
    assert not [name for name in names(first) if "pycache" in name or name.startswith(("dev/", "var/lib/dpkg/"))]
    assert not {"etc/machine-id", "usr/share/doc/bash/README"} & set(names(first))
    with tarfile.open(fileobj=io.BytesIO(first), mode="r:") as made:
        assert all((item.uid, item.gid, item.mode & 0o7022) == (0, 0, 0) or item.issym() for item in made)
        assert max(item.mtime for item in made) == build.TIME_S
    place = tmp_path / "root"
    place.mkdir()
    assert archive.unpack(io.BytesIO(first), place).python == "3.11"
    assert (place / "usr/bin/perl").read_bytes() == b"su"


def test_wheels_go_where_the_interpreter_finds_them(tmp_path: Path) -> None:
    """A directory of packages lies below a name of the root; what Debian has already is not put over it."""
    packages = tmp_path / "packages"
    (packages / "tin/__pycache__").mkdir(parents=True)
    (packages / "tin/__init__.py").write_text("ORE = 1\n")
    (packages / "tin/__pycache__/x.pyc").write_bytes(b"1")
    (packages / "smelt").write_text("#!/usr/bin/python3\n")
    (packages / "smelt").chmod(0o755)
    made = written(debian(), (build.SITE, packages))
    found = [name for name in names(made) if name.startswith(build.SITE)]
    assert found == [f"{build.SITE}/{name}" for name in ("smelt", "tin", "tin/__init__.py")]
    with pytest.raises(SpecError, match="Debian has"):
        written(made, (build.SITE, packages))


def test_only_a_root_with_a_python_is_published() -> None:
    """A worker runs under the root's own interpreter: one that is missing or too old is said at once."""
    old = roots.tar_of([(roots.member("usr/bin/python3", tarfile.SYMTYPE, link="python3.9"), b"")])
    for data, error in ((roots.small(), SpecError), (old, SpecError), (b"no tar" * 200, FormatError)):
        with pytest.raises(error):
            build.checked(io.BytesIO(data))
    assert build.checked(io.BytesIO(written(debian()))).python == "3.11"


def test_a_machine_without_the_program_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next command stands in the error, and no file is left."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem) as told:
        build.build(RootPlan(), tmp_path / "root.tar", lambda _: None)
    assert told.value.hint == f"apt-get install {build.PROGRAM}"
    assert not list(tmp_path.iterdir())


def test_a_failed_installation_tells_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What mmdebstrap said last is the reason, and nothing is left in the file's place."""
    program = tmp_path / "bin" / build.PROGRAM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'I: downloading' >&2\necho 'E: no mirror answers' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    said: list[str] = []
    with pytest.raises(EnvironmentProblem, match="failed") as told:
        build.build(RootPlan(), tmp_path / "root.tar", said.append)
    assert "no mirror answers" in told.value.why
    assert said == ["downloading"]
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(build.PROGRAM) is None, reason=NEEDS_PROGRAM)
def test_debians_own_tool_makes_a_root(tmp_path: Path) -> None:
    """The real program's archive is taken as it is: devices, set-user-id files and hard links included."""
    try:
        build.bootstrap(RootPlan(variant="extract"), tmp_path / "debian.tar", lambda _: None)
    except EnvironmentProblem as err:
        pytest.skip(f"no Debian mirror answers here: {err.why[:200]}")
    with (tmp_path / "debian.tar").open("rb") as source, (tmp_path / "root.tar").open("wb") as sink:
        build.write(source, (), sink, build.TIME_S)
    with (tmp_path / "root.tar").open("rb") as made:
        contents = build.checked(made)
    assert contents.python.startswith("3.")
    assert contents.num_files > 1000
