"""Walk 5: clocks that are wrong, at a buyer and at a node, and set while a job runs; the machine's own is never set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.e2e.realm import COMMAND_JOB, Host, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(600)]

HOUR_S = 3600
TWO_OPERATORS = COMMAND_JOB.replace("assurance: full,", "assurance: full, exclude_operators: [granite],")
# every Python of a host adds to the time what stands in a file at that moment
OFFSET = """\
import time

_true_s = time.time


def _shown_s():
    with open({path!r}, encoding="ascii") as file:
        return _true_s() + float(file.read())


time.time = _shown_s
"""


class Clock:
    """The clock on a host's wall, and a hand to set it."""

    def __init__(self, host: Host) -> None:
        self._file = host.cwd.parent / "clock-offset"
        self.set(0)
        place = host.cwd.parent / "clock"
        place.mkdir()
        (place / "sitecustomize.py").write_text(OFFSET.format(path=str(self._file)))
        host.environment["PYTHONPATH"] = str(place)

    def set(self, off_s: int) -> None:
        """Show the true time and so many seconds."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{off_s}")
        fresh.replace(self._file)


@pytest.fixture(scope="module")
def mona(town):
    """A buyer, and her clock."""
    host = town.market.buyer("mona")
    return host, Clock(host)


@pytest.fixture(scope="module")
def slate(town):
    """A node ten minutes slow, and its clock."""
    host = town.realm.host("slate-box")
    clock = Clock(host)
    token = town.market.join_token("slate")
    joined = host.stannary("node", "join", "-", "--name", "slow", "--accept-terms", stdin=token + "\n")
    assert joined.returncode == 0, joined.stderr
    clock.set(-HOUR_S // 6)
    host.start("node", "run", "--name", "slow", log="node.log")
    yield host, clock
    host.stannary("node", "drain", "--name", "slow")
    host.stannary("node", "leave", "--name", "slow", "--yes")


def receipt_of(host: Host, run_log: str) -> Path:
    """Return the receipt that a `run` left."""
    found = sorted(host.cwd.glob("j-*.receipt.json"), key=lambda path: path.stat().st_mtime_ns)
    assert found, (host.cwd / run_log).read_text()
    return found[-1]


def test_an_order_of_a_clock_that_is_ahead_is_refused_in_seconds(mona):
    """An hour ahead nothing is ordered: the sentence says how many seconds, whose clock, and what to do."""
    host, clock = mona
    clock.set(HOUR_S)
    done = host.stannary("run", host.job())
    clock.set(0)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "your clock is 3," in said, said
    assert "s ahead of the market's" in said, said
    assert "timedatectl" in said, said
    assert not list(host.cwd.glob("j-*.receipt.json"))


def test_clocks_that_are_set_in_mid_job_convict_nobody(town, mona, slate):
    """The buyer's goes an hour forth, the node's two hours back, while they work: verified, paid, nobody convicted."""
    host, clock = mona
    _, slow = slate
    wait_for(lambda: "slate" in {item["operator"] for item in host.json("offers")["offers"]}, "the slow node's offer")
    name = host.job(TWO_OPERATORS, sleep_s=3.0)
    running = host.start("run", name, log="run.log")
    wait_for(lambda: bool(host.json("ls")["jobs"]) or running.poll() is not None, "the job")
    clock.set(HOUR_S)
    slow.set(-2 * HOUR_S)
    assert running.wait(240) == 0, (host.cwd / "run.log").read_text()
    clock.set(0)
    receipt = receipt_of(host, "run.log")
    judged = host.stannary("verify", receipt.name, "--json")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    report = json.loads(judged.stdout)
    assert report["verdict"] == "verified", report
    states = {item["operator"]: item["state"] for item in host.json("offers")["offers"]}
    assert set(states) >= {"basalt", "granite", "slate"}, "who is convicted is offered no more"


def test_the_node_is_told_how_far_its_clock_is_off(slate):
    """`node status` and the node's log name the seconds."""
    host, _ = slate
    wait_for(lambda: "7," in host.stannary("node", "status", "--name", "slow").stdout, "the difference of two hours")
    assert "s behind the market's" in (host.cwd / "node.log").read_text()
