"""A home of its own for each end-to-end test, and nothing left running after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.realm import CAN_RUN, NEEDS_ROOT, Host, Market, Realm
from tests.patience import wait_for

ROOT = Path(__file__).resolve().parents[2]


class Home:
    """Runs the command line as a user would, in its own directories."""

    def __init__(self, directory: Path) -> None:
        self.cwd = directory / "cwd"
        self.cwd.mkdir()
        self.environment = {
            **os.environ,
            "STANNARY_CONFIG_DIR": str(directory / "config"),
            "STANNARY_DATA_DIR": str(directory / "data"),
            "OMP_NUM_THREADS": "1",
        }

    def stannary(self, *arguments: str, timeout_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return self.python("-m", "stannary", *arguments, timeout_s=timeout_s)

    def market_url(self) -> str:
        """Return the address of the private market that runs in this home."""
        (card,) = Path(self.environment["STANNARY_DATA_DIR"]).glob("local/market.json")
        return str(json.loads(card.read_text())["url"])

    def python(self, *arguments: str, timeout_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run Python in this home."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("e2e"))
    yield home
    home.stannary("market", "stop")


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """A market on a host of its own, two operators' nodes, and Ada, a buyer; shared by the walks of one run."""
    if not CAN_RUN:
        pytest.skip(NEEDS_ROOT)
    with Realm(tmp_path_factory.mktemp("town")) as realm:
        market = realm.market()
        nodes = [market.node(operator, name) for operator, name in (("basalt", "n1"), ("granite", "n2"))]
        ada = market.buyer("ada")
        wait_for(lambda: len(ada.json("offers")["offers"]) == 2, "both nodes' offers")
        yield Town(realm, market, ada, nodes)


@dataclass
class Town:
    """Who lives in a realm."""

    realm: Realm
    market: Market
    ada: Host
    nodes: list[Host]
