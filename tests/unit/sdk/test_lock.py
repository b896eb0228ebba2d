"""Locking a list of packages from a local folder of wheels, by uv and by pip."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from stannary.errors import EnvironmentProblem, SpecError
from stannary.formats import requirements
from stannary.run.environment import Environments, WheelSource
from stannary.sdk import lock, submit
from stannary.sdk.submit import Overrides

pytestmark = pytest.mark.slow


def wheel(folder: Path, name: str, version: str, *, tag: str = "py3-none-any", needs: str = "") -> str:
    """Make a wheel of one module and return its digest."""
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        archive.writestr(f"{info}/METADATA", meta)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(folder: Path, name: str, version: str) -> None:
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for file, text in (
            ("PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
            ("setup.py", ""),
        ):
            member = tarfile.TarInfo(f"{name}-{version}/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip's own settings name, and nothing else to look at."""
    place = tmp_path / "wheels"
    place.mkdir()
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return place


@pytest.fixture(params=["uv", "pip"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "uv" and lock._uv() is None:
        pytest.skip("there is no uv here")
    if request.param == "pip":
        monkeypatch.setattr(lock, "_uv", lambda: None)
    return str(request.param)


def test_versions_hashes_and_dependencies(wheels: Path, resolver: str) -> None:
    """An open list becomes exact versions with the hashes of wheels that fit, dependencies included, and no address."""
    alpha = wheel(wheels, "alpha", "1.0", needs="beta>=1")
    wheel(wheels, "beta", "0.9")
    beta = wheel(wheels, "beta", "1.2")
    foreign = wheel(wheels, "multi", "1.0", tag="cp311-cp311-macosx_11_0_arm64")
    multi = wheel(wheels, "multi", "1.0", tag="py3-none-manylinux_2_17_x86_64")
    pinned = lock.lock(b"alpha\nmulti>=1\n")
    assert pinned is not None
    lines = {line.name: line for line in requirements.read(pinned)}
    assert {name: line.requirement for name, line in lines.items()} == {
        "alpha": "alpha==1.0", "beta": "beta==1.2", "multi": "multi==1.0",
    }  # fmt: skip
    assert f"--hash=sha256:{alpha}" in lines["alpha"].hashes
    assert f"--hash=sha256:{beta}" in lines["beta"].hashes
    assert f"--hash=sha256:{multi}" in lines["multi"].hashes
    assert f"--hash=sha256:{foreign}" not in lines["multi"].hashes
    assert str(wheels).encode() not in pinned


def test_a_node_installs_what_was_locked(wheels: Path, resolver: str, tmp_path: Path) -> None:
    """What the client locks, a node's installer takes."""
    wheel(wheels, "alpha", "1.0", needs="beta>=1")
    wheel(wheels, "beta", "1.2")
    pinned = lock.lock(b"alpha\n")
    assert pinned is not None
    node = Environments(tmp_path / "environments", WheelSource(find_links=str(wheels), no_index=True))
    place = node.prepare(pinned, lambda _: None)
    assert (place / "beta.py").read_text() == "VERSION = '1.2'\n"


def test_a_locked_list_is_left_alone(wheels: Path, resolver: str) -> None:
    """A list that a node would install stays as it is, also where this machine's index does not know it."""
    known = wheel(wheels, "alpha", "1.0")
    for name, digest in (("alpha", known), ("alpha", "0" * 64), ("nowhere", "0" * 64)):
        assert lock.lock(f"{name}==1.0 --hash=sha256:{digest}\n".encode()) is None


def test_a_list_locked_for_another_system(wheels: Path) -> None:
    """Hashes of a wheel for macOS are told before the job is paid for, also where there is one for Linux beside it."""
    if lock._uv() is None:
        pytest.skip("there is no uv here")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    foreign = wheel(wheels, "multi", "1.0", tag=f"{python}-{python}-macosx_11_0_arm64")
    fitting = wheel(wheels, "multi", "1.0", tag="py3-none-manylinux_2_17_x86_64")
    gamma = wheel(wheels, "gamma", "1.0", tag=f"{python}-{python}-macosx_11_0_arm64")
    assert lock.lock(f"multi==1.0 --hash=sha256:{foreign} --hash=sha256:{fitting}\n".encode()) is None
    with pytest.raises(SpecError, match=r"line 2: multi==1\.0 has no wheel for Linux") as caught:
        lock.lock(f"\nmulti==1.0 --hash=sha256:{foreign}\n".encode())
    assert "macOS" in caught.value.why
    with pytest.raises(SpecError, match=r"line 1: gamma==1\.0 has no wheel for Linux"):
        lock.lock(f"gamma==1.0 --hash=sha256:{gamma}\n".encode())


@pytest.mark.parametrize(
    ("text", "uv_says", "pip_says"),
    [
        ("beta\ngamma\n", "line 2: gamma has no wheel for Linux", "line 2: gamma is not in the index, or has no"),
        (
            "beta\nsourced\n",
            "line 2: sourced is published as source only",
            "line 2: sourced is not in the index, or has",
        ),
        ("\n\nnowhere\n", "line 3: nowhere", "line 3: nowhere"),
        ("beta==9\n", "line 1: beta==9", "line 1: beta==9"),
        ("alpha\ndelta\n", "contradicts another requirement", "contradicts another requirement"),
    ],
)
def test_what_cannot_be_met(wheels: Path, resolver: str, text: str, uv_says: str, pip_says: str) -> None:
    """Foreign platforms, source only, unknown names and contradictions: the line, what is wrong, what to do."""
    wheel(wheels, "alpha", "1.0", needs="beta>=1")
    wheel(wheels, "beta", "1.2")
    wheel(wheels, "delta", "1.0", needs="beta<1")
    wheel(wheels, "gamma", "1.0", tag="cp311-cp311-macosx_11_0_arm64")
    source(wheels, "sourced", "1.0")
    with pytest.raises(SpecError) as caught:
        lock.lock(text.encode())
    assert (uv_says if resolver == "uv" else pip_says) in caught.value.what
    assert caught.value.hint


def test_no_index_to_reach(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that does not answer is told as such, without its address."""
    if lock._uv() is None:
        pytest.skip("there is no uv here")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setattr(lock, "_pip_settings", dict)
    monkeypatch.setenv("UV_INDEX_URL", "http://me:pw@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentProblem, match="cannot reach") as caught:
        lock.lock(b"alpha\n")
    assert "127.0.0.1" not in caught.value.why


def test_a_job_s_own_modules_are_none_of_pip_s(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip.py beside the job file is a program of the job's: asking pip for its settings does not run it."""
    (tmp_path / "pip.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    assert lock._pip_settings.__wrapped__()["PIP_FIND_LINKS"] == str(wheels)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_told(wheels: Path, resolver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the resolver has no room to write, the error says so."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "_write", full)
    with pytest.raises(EnvironmentProblem, match="cannot lock") as caught:
        lock.lock(b"alpha\n")
    assert "No space left" in caught.value.why


def test_an_open_list_travels_locked(wheels: Path, tmp_path: Path) -> None:
    """`setup: requirements.txt` with open lines: the listing names the locked form, the file stays as it is."""
    wheel(wheels, "alpha", "1.0")
    place = tmp_path / "job"
    place.mkdir()
    (place / "requirements.txt").write_text("alpha\n")
    (place / "job.yaml").write_text("run: python -c 'import alpha'\nsetup: requirements.txt\n")
    prepared = submit.prepare(place / "job.yaml", Overrides())
    (entry,) = [entry for entry in prepared.spec.workdir if entry.path == "requirements.txt"]
    (blob,) = [blob for blob in prepared.blobs if blob.digest == entry.digest]
    assert requirements.locked(blob.open().read())[0].startswith("alpha==1.0 --hash=")
    assert prepared.is_locked_here
    assert (place / "requirements.txt").read_text() == "alpha\n"


def test_a_bad_list_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """The member, the file and the line stand in the first line of the error."""
    (tmp_path / "requirements.txt").write_text("alpha\n-r more.txt\n")
    (tmp_path / "job.yaml").write_text("run: a\nsetup: requirements.txt\n")
    with pytest.raises(SpecError, match=r"setup: requirements\.txt: line 2 names another list"):
        submit.prepare(tmp_path / "job.yaml", Overrides())


@pytest.mark.parametrize("setup", ["pip install numpy", "|\n  pip install a\n  pip install b\n"])
def test_setup_is_no_command(tmp_path: Path, setup: str) -> None:
    """Whoever writes a command there is told what setup names."""
    (tmp_path / "job.yaml").write_text(f"run: a\nsetup: {setup}\n")
    with pytest.raises(SpecError, match="setup is a command") as caught:
        submit.prepare(tmp_path / "job.yaml", Overrides())
    assert "requirements.txt" in caught.value.hint
