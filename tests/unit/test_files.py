"""What a party keeps is closed to other accounts, also where an earlier version left it open."""

from __future__ import annotations

import os

import pytest

from stannary import files
from stannary.errors import EnvironmentProblem


def mode(path):
    return path.stat().st_mode & 0o7777


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_every_parent_made_on_the_way_is_private(tmp_path):
    """data, data/broker and data/broker/work are 0700, and what was there before is left alone."""
    before = mode(tmp_path)
    files.make_private_dir(tmp_path / "data" / "broker" / "work")
    files.replace(tmp_path / "other" / "place" / "file", b"x")
    for name in ("data", "data/broker", "data/broker/work", "other", "other/place"):
        assert mode(tmp_path / name) == 0o700, name
    assert mode(tmp_path) == before


@pytest.mark.parametrize("variable", ["STANNARY_CONFIG_DIR", "STANNARY_DATA_DIR"])
def test_a_directory_made_open_is_closed(tmp_path, monkeypatch, variable):
    """Folders of a version that left them 0755, or worse, are 0700 after the next command."""
    place = tmp_path / "ours"
    place.mkdir(mode=0o755)
    monkeypatch.setenv(variable, str(place))
    found = files.config_dir() if "CONFIG" in variable else files.data_dir()
    assert found == place and mode(place) == 0o700
    inner = place / "tokens"
    inner.mkdir()
    inner.chmod(0o777)
    assert mode(files.make_private_dir(inner)) == 0o700


def test_writing_a_file_closes_no_directory_of_somebody_else(tmp_path):
    """A receipt is written where the user stands: that directory is his."""
    (tmp_path / "cwd").mkdir(mode=0o755)
    files.replace(tmp_path / "cwd" / "j.receipt.json", b"{}", mode=0o644)
    assert mode(tmp_path / "cwd") == 0o755


def test_a_place_shared_on_purpose_is_refused_not_closed(tmp_path, monkeypatch):
    """Who names /tmp as his data directory would close it to everybody: refused, and left as it is."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("STANNARY_DATA_DIR", str(shared))
    with pytest.raises(EnvironmentProblem, match="shared directory"):
        files.data_dir()
    assert mode(shared) == 0o1777
