"""Environments from hash-pinned lists, offline."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import EnvironmentProblem, SpecError, StannaryError
from stannary.formats import digest, requirements
from stannary.run import environment
from stannary.run.environment import Environments, Source

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
    return Environments(tmp_path / "environments", Source(find_links=str(tmp_path / "wheels"), no_index=True))


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
