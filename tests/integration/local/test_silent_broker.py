"""A buyer whose broker is killed: what he sees of a detached job, how it ends, and what is his all the same."""

from __future__ import annotations

import json
import os
import signal

import pytest

from stannary.formats.instants import span
from stannary.sdk import brokers, local
from stannary.sdk.client import Client
from stannary.sdk.local import LocalMarket
from stannary.sdk.processes import wait_until

from .conftest import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOB = """\
name: small
kind: command
run: sleep 2; mkdir out; echo 42 > out/answer.txt
outputs: [out]
trust: {tier: T0, policy: local, privacy: open, verify: rerun-compare, assurance: full, max_price: 0.50}
resources: {cpus: 1, memory: 256MiB, disk: 256MiB, wall_s: 60}
budget: 1.00
"""


@pytest.fixture
def detached(home, stannary):
    """Send a job to a market whose brokers may be away so long, and kill its broker with -9."""
    markets = []

    def send(reveal_s):
        market = LocalMarket(local.root(), timing=(f"reveal_s={reveal_s}",))
        markets.append(market)
        used = market.ensure()
        (home / "job.yaml").write_text(JOB)
        plan = stannary("run", "job.yaml", "--dry-run", "--yes")
        assert f"away for {span(reveal_s)} when it is asked" in " ".join(plan.stdout.split()), plan.stdout + plan.stderr
        assert "yours to fetch for 30 d" in " ".join(plan.stdout.split())
        job = document(stannary("run", "job.yaml", "--detach", "--yes", "--json"))["job"]
        broker = brokers.find(brokers.home(used.account))
        os.kill(broker.pid, signal.SIGKILL)
        return used, job

    yield send
    for market in markets:
        market.stop()


def test_a_broker_that_stays_away_costs_the_word_and_not_the_result(detached, stannary, home):
    """The job ends `unverified` and says why; what was handed in is paid, and fetched."""
    used, job = detached(3)
    with Client.open(used) as client:  # no command: each would start the broker again
        assert wait_until(lambda: client.job(job).finished_at is not None, 120)
    (listed,) = document(stannary("ls", "--json"))["jobs"]
    assert (listed["status"], listed["verdict"], listed["reason"]) == ("failed", "unverified", "buyer-silent")
    assert listed["paid_usd_micros"] > 0
    shown = stannary("show", job).stdout
    assert "failed, buyer-silent" in shown and "has not revealed its beacon value in time" in shown
    got = stannary("get", job, "-o", "home", "--json")
    assert "nobody vouches for these" in got.stderr
    assert [item["partial"] for item in json.loads(got.stdout)["outputs"]] == [False]
    assert (home / "home" / "out" / "answer.txt").read_text() == "42\n"
    waited = stannary("wait", job)
    assert waited.returncode not in (0, 3), waited.stdout + waited.stderr
    assert "Verified" not in waited.stdout
    assert document(stannary("cost", job, "--json"))["paid_usd_micros"] == listed["paid_usd_micros"]


def test_a_broker_that_comes_back_in_time_costs_nothing(detached, stannary):
    """While it is away the job waits for it, and says so; the next command starts it, and the job ends verified."""
    used, job = detached(120)
    with Client.open(used) as client:
        assert wait_until(lambda: any("beacon" in item.waits_for for item in client.job(job).waits or ()), 60)
    listed = stannary("ls", "-v")
    assert "broker started" in listed.stderr
    assert f"{job}  for the beacon value of draw 0 until" in listed.stderr
    assert "else pay what is committed unseen" in listed.stderr
    waited = stannary("wait", job)
    assert waited.returncode == 0, waited.stdout + waited.stderr
    assert "Verified" in waited.stdout
