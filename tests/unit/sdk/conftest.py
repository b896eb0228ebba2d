"""A clean home for every test: nothing of the machine's own configuration is read or written."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STANNARY_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    for name in ("STANNARY_PROFILE", "STANNARY_URL", "STANNARY_TOKEN", "STANNARY_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
