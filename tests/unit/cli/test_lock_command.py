"""`stannary lock`."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from stannary.cli.commands.lock import lock
from stannary.errors import SpecError, UsageError
from stannary.formats import requirements


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel that pip's and uv's settings name."""
    with zipfile.ZipFile(tmp_path / "tin-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tin-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tin\nVersion: 1.0\n")
        archive.writestr("tin-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tin-1.0.dist-info/RECORD", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(lock, arguments, obj={}, catch_exceptions=True, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_list_is_locked_into_a_file_of_its_own(place: Path) -> None:
    """requirements.txt becomes requirements.lock with hashes; the output says what to write into the job file."""
    (place / "requirements.txt").write_text("tin\n")
    assert "setup: requirements.lock" in call()
    digest = hashlib.sha256((place / "tin-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert requirements.locked((place / "requirements.lock").read_bytes()) == [f"tin==1.0 --hash=sha256:{digest}"]
    assert (place / "requirements.txt").read_text() == "tin\n"
    call("requirements.lock", "-o", "again.lock")
    assert (place / "again.lock").read_bytes() == (place / "requirements.lock").read_bytes()


def test_what_cannot_be_read_or_written_is_told(place: Path) -> None:
    """A missing list, a folder, a bad line and a place that cannot be written each have their error."""
    with pytest.raises(UsageError, match="not there"):
        call("nowhere.txt")
    with pytest.raises(UsageError):
        call(".")
    (place / "bad.txt").write_text("tin\n-e .\n")
    with pytest.raises(SpecError, match="line 2 names an editable install"):
        call("bad.txt")
    (place / "good.txt").write_text("tin\n")
    with pytest.raises(UsageError, match="cannot write"):
        call("good.txt", "-o", "no/such/folder.lock")
    assert not (place / "requirements.lock").exists()
