"""Environments from hash-pinned lists, offline."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.run.wheels import make_wheel

from stannary.errors import EnvironmentProblem, FormatError, SpecError, StannaryError
from stannary.formats import digest, requirements
from stannary.run import environment
from stannary.run.environment import Environments, WheelSource
from stannary.sdk.processes import wait_until

pytestmark = pytest.mark.slow

HASH = "--hash=sha256:" + "0" * 64


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel made here: one module, no dependencies."""
    files = {
        "tin.py": b"ORE = 'cassiterite'\n",
        "tin-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tin\nVersion: 1.0\n",
        "tin-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, data in files.items():
        spelled = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={spelled},{len(data)}")
    files["tin-1.0.dist-info/RECORD"] = "\n".join([*rows, "tin-1.0.dist-info/RECORD,,", ""]).encode()
    (tmp_path / "wheels").mkdir()
    path = tmp_path / "wheels/tin-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "environments", WheelSource(find_links=str(tmp_path / "wheels"), no_index=True))


def listing(wheel: Path) -> bytes:
    return f"tin==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n".encode()


def test_installed_once(tmp_path: Path, wheel: Path) -> None:
    """A list is installed from the operator's directory, its lines are told, and the second job finds it there."""
    told: list[str] = []
    place = environments(tmp_path).prepare(listing(wheel), told.append)
    assert (place / "tin.py").read_text() == "ORE = 'cassiterite'\n"
    assert any("tin" in line for line in told)
    pinned = listing(wheel)
    wheel.unlink()
    assert environments(tmp_path).prepare(pinned, told.append) == place
    assert "here already" in told[-1]


def test_wrong_hash(tmp_path: Path, wheel: Path) -> None:
    """A wheel with other bytes than the list pins is refused, and nothing half installed stays."""
    with pytest.raises(EnvironmentProblem, match="cannot be installed"):
        environments(tmp_path).prepare(f"tin==1.0 {HASH}\n".encode(), lambda _: None)
    assert list((tmp_path / "environments").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "tin==1.0",
        f"tin>=1.0 {HASH}",
        f"-e . {HASH}",
        f"--index-url https://evil.example {HASH}",
        f"tin @ https://evil.example/tin.whl {HASH}",
        f"./tin.whl {HASH}",
        f"tin==1.0 {HASH} --config-settings=x",
        "tin==1.0 --hash=md5:" + "0" * 32,
        "-r other.txt",
        f"tin==1.0 {HASH} --trusted-host evil.example",
    ],
)
def test_only_pinned_names_with_hashes(line: str) -> None:
    """Options, addresses, files and unpinned or unhashed names are refused, naming the line."""
    with pytest.raises(SpecError):
        requirements.locked(line.encode())


def test_what_pip_compile_writes() -> None:
    """Continued lines, several hashes, extras, markers and comments are understood."""
    text = (
        "# made by pip-compile\n"
        f'tin[alloy]==1.0 ; python_version >= "3.11" \\\n    {HASH} \\\n    {HASH}\n    # via bronze\n\n'
    )
    assert requirements.locked(text.encode()) == [f'tin[alloy]==1.0 ; python_version >= "3.11" {HASH} {HASH}']


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Any list is read or refused by our errors."""
    try:
        lines = requirements.locked(data)
    except StannaryError:
        return
    assert all("--hash=sha256:" in line for line in lines)


def test_digest_covers_everything() -> None:
    """Requirements and sandbox each change the environment's digest."""
    pinned = digest.digest(b"list")
    seen = {
        environment.environment_digest(requirements, sandbox)
        for requirements in (None, pinned)
        for sandbox in ("bubblewrap-0.8.0+seccomp+cgroup1", "unshare+seccomp+rlimits")
    }
    assert len(seen) == 4


def test_scripts_and_data(tmp_path: Path) -> None:
    """Console entry points and scripts come to `bin` and name the interpreter of the sandbox; data to its place."""
    pinned = make_wheel(
        tmp_path / "wheels",
        "lead",
        {
            "lead/__init__.py": b"def main(): return 0\n",
            "lead-1.0.data/scripts/cast": b"#!python\nprint(1)\n",
            "lead-1.0.data/scripts/raw": b"#!/bin/sh\ntrue\n",
            "lead-1.0.data/data/share/lead/table": b"82",
            "lead-1.0.data/headers/lead.h": b"x",
            "lead-1.0.dist-info/entry_points.txt": b"[console_scripts]\nmelt = lead:main\n../evil = lead:main\n",
        },
    )
    place = environments(tmp_path).prepare(pinned, lambda _: None)
    assert {path.name for path in (place / "bin").iterdir()} == {"cast", "raw", "melt"}
    assert (place / "bin/cast").read_text() == "#!/python/bin/python\nprint(1)\n"
    assert (place / "bin/melt").read_text().startswith("#!/python/bin/python\nimport sys\nfrom lead import main\n")
    assert (place / "bin/raw").read_text() == "#!/bin/sh\ntrue\n"
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in (place / "bin").iterdir())
    assert (place / "share/lead/table").read_bytes() == b"82"
    assert not list(place.rglob("lead.h"))
    assert not list(tmp_path.rglob("evil"))


def test_a_bomb_stays_small(tmp_path: Path) -> None:
    """400 KiB that would be 400 MiB end at the job's disk, nothing stays, and what to ask for is said."""
    pinned = make_wheel(tmp_path / "wheels", "boom", {"boom/zeros": bytes(400 * 1024**2)})
    written: list[int] = []

    def watch(_: str) -> None:
        written.append(0)
        for parent, _, names in os.walk(tmp_path / "environments"):  # a directory gone meanwhile is passed over
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # the installer's own, gone meanwhile
                    written[-1] += (Path(parent) / name).lstat().st_size

    with pytest.raises(EnvironmentProblem) as caught:
        environments(tmp_path).prepare(pinned, watch, 64 * 1024**2)
    assert "resources.disk" in caught.value.hint
    assert max(written) < 64 * 1024**2
    assert list((tmp_path / "environments").iterdir()) == []


def test_many_parts_of_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are small one by one are counted together, their number too."""
    pinned = make_wheel(tmp_path / "wheels", "grit", {f"grit/{number}": bytes(1024) for number in range(300)})
    with pytest.raises(EnvironmentProblem, match="cannot be unpacked"):
        environments(tmp_path).prepare(pinned, lambda _: None, 200 * 1024)
    monkeypatch.setattr(environment, "MAX_FILES", 100)
    with pytest.raises(EnvironmentProblem) as caught:
        environments(tmp_path).prepare(pinned, lambda _: None)
    assert "too many files" in caught.value.why


def test_directories_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files in trees of their own end like a crowd of files: a directory takes as much of a disk."""
    monkeypatch.setattr(environment, "MAX_FILES", 500)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # so that what was written can be counted
    files = {"/".join(f"d{number}" for _ in range(30)) + "/f": b"" for number in range(60)}
    with pytest.raises(EnvironmentProblem) as caught:
        environments(tmp_path).prepare(make_wheel(tmp_path / "wheels", "root", files), lambda _: None)
    assert "too many files" in caught.value.why
    assert 500 < len(list((tmp_path / "environments").rglob("d*"))) < 600


def test_wheels_larger_than_the_disk(tmp_path: Path) -> None:
    """What cannot even be fetched within the job's disk is not kept."""
    pinned = make_wheel(tmp_path / "wheels", "heavy", {"heavy/noise": os.urandom(2 * 1024**2)})
    with pytest.raises(EnvironmentProblem, match="larger than the job's disk"):
        environments(tmp_path).prepare(pinned, lambda _: None, 1024**2)
    assert list((tmp_path / "environments").iterdir()) == []


def test_an_environment_that_is_here_is_no_way_round(tmp_path: Path) -> None:
    """A job with less disk is refused the same environment, whoever installed it before."""
    pinned = make_wheel(tmp_path / "wheels", "zinc", {"zinc.py": bytes(1024**2)})
    environments(tmp_path).prepare(pinned, lambda _: None, 2 * 1024**2)
    with pytest.raises(EnvironmentProblem, match="larger than the job's disk"):
        environments(tmp_path).prepare(pinned, lambda _: None, 1024**2)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a//b", "a/./b", "x" * 300, "a\\b", "a\0b", ""])
def test_names_that_lead_out(name: str) -> None:
    """The agent takes no path from an unpacker that leads out of the environment."""
    with pytest.raises(FormatError):
        environment.file_of({"file": name, "mode": 0o644})


@pytest.mark.parametrize("mode", [0o4755, 0o777, "420", None, True])
def test_modes(mode: str | int | None) -> None:
    """No set-user-id file comes out of a wheel."""
    with pytest.raises(FormatError):
        environment.file_of({"file": "a", "mode": mode})


def test_a_torn_wheel(tmp_path: Path) -> None:
    """A wheel that is no archive, or lies about its sizes, is our error with the wheel's name."""
    pinned = make_wheel(tmp_path / "wheels", "torn", {"torn.py": b"x" * 1000})
    path = tmp_path / "wheels/torn-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"torn.py") - 46 + 24  # the central directory's uncompressed size
    data[at : at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    pinned = f"torn==1.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n".encode()
    with pytest.raises(EnvironmentProblem):
        environments(tmp_path).prepare(pinned, lambda _: None)
    assert list((tmp_path / "environments").iterdir()) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflate", "bzip2"])
@pytest.mark.parametrize("size", [10, 3 * 1024**2], ids=["small", "large"])
def test_a_wheel_that_breaks_in_the_middle(tmp_path: Path, size: int, compression: int) -> None:
    """The reason is the wheel's, not that of a pipe in which a refusal was read as the rest of a file."""
    noise = random.Random(1).randbytes(size // 2).hex().encode()
    make_wheel(tmp_path / "wheels", "bent", {"bent.py": noise}, compression)
    path = tmp_path / "wheels/bent-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    begin = data.index(b"bent.py") + len("bent.py")
    middle = begin + (size // 4 if size > 100 else 3)
    data[middle : middle + 4] = bytes(byte ^ 0xFF for byte in data[middle : middle + 4])
    path.write_bytes(data)
    pinned = f"bent==1.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n".encode()
    with pytest.raises(EnvironmentProblem) as caught:
        environments(tmp_path).prepare(pinned, lambda _: None)
    assert caught.value.why.startswith("a wheel cannot be read: bent-1.0-py3-none-any.whl: ")
    assert "another version" in caught.value.hint


def test_an_environment_without_a_size_is_made_again(tmp_path: Path) -> None:
    """What a power cut left of an installation is not believed, and does not end the agent."""
    pinned = make_wheel(tmp_path / "wheels", "tin", {"tin.py": b"x"})
    place = environments(tmp_path).prepare(pinned, lambda _: None)
    (place / environment.COMPLETE).write_text("")
    (place / "tin.py").write_text("")
    assert environments(tmp_path).prepare(pinned, lambda _: None) == place
    assert (place / "tin.py").read_bytes() == b"x"


def test_what_nobody_uses_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap the longest unused go, never one in use; what a killed installation left goes too."""
    held = environments(tmp_path)
    places = []
    for at_s, name in enumerate(("iron", "gold", "jade"), start=1):
        place = held.prepare(make_wheel(tmp_path / "wheels", name, {f"{name}.py": bytes(1024**2)}), lambda _: None)
        os.utime(place / environment.COMPLETE, (at_s, at_s))
        places.append(place)
    (held.root / ".installing-x").mkdir()
    (held.root / "older").mkdir()
    (held.root / "older" / environment.COMPLETE).write_text(digest.digest(b"list") + "\n")
    os.utime(held.root / "older" / environment.COMPLETE, (0, 0))
    monkeypatch.setattr(environment, "KEPT_BYTES", 1024**2 + 100_000)
    held.prune([places[0]])
    assert [place.exists() for place in places] == [True, False, True]
    assert {path.name for path in held.root.iterdir()} == {places[0].name, places[2].name}


def test_an_installer_ends_with_its_agent(tmp_path: Path) -> None:
    """An agent that is killed while an index does not answer leaves no process that waits for it."""
    program = "import sys; from tests.unit.run import test_environment as t; t.install_from(*sys.argv[1:])"
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(120)
        port, root = index.getsockname()[1], Path(__file__).resolve().parents[3]
        bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
        agent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(port)], cwd=root, env=bare)
        asked, _ = index.accept()
        with asked:
            (installer,) = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
            agent.kill()
            agent.wait()
            assert wait_until(lambda: not Path(f"/proc/{installer}").exists(), 60)


def install_from(place: str, port: str) -> None:
    """Be that agent."""
    Environments(Path(place), WheelSource(index_url=f"http://127.0.0.1:{port}/simple")).prepare(
        f"tin==1.0 {HASH}\n".encode(), lambda _: None
    )
