"""A home of its own for every test, and nothing left running after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stannary.sdk import brokers, local
from stannary.sdk.local import LocalMarket, NodePlan

# A class that is named is not measured: these nodes start without torch.
NODES = (
    NodePlan("one", "basalt", flags=("--engine-class", "cpu-toy")),
    NodePlan("two", "granite", flags=("--engine-class", "cpu-toy")),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STANNARY_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    for name in ("STANNARY_PROFILE", "STANNARY_URL", "STANNARY_TOKEN", "STANNARY_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for place in (tmp_path / "data").glob("*/"):
        if (place / "processes.json").exists():
            LocalMarket(place).stop()
    for account in brokers.accounts():
        brokers.stop(brokers.home(account))


@pytest.fixture
def private(home):
    """The private market of this home, and what it said."""
    told = []
    market = LocalMarket(local.root(), tell=told.append)
    market.told = told
    yield market
    market.stop()


@pytest.fixture
def stannary(home):
    """Run one command to its end, as a user would."""

    def run(*arguments, stdin="", timeout_s=120):
        return subprocess.run(
            [sys.executable, "-P", "-m", "stannary", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=home,
            env=dict(os.environ),
        )

    return run


def document(done):
    """Return what a command with --json printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
