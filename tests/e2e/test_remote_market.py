"""Walk 3: a buyer, two operators and a market on machines of their own, with nothing but what the operator printed."""

from __future__ import annotations

import json
import os
import signal

import pytest
from tests.e2e.realm import CAN_RUN, NEEDS_ROOT, pids_in
from tests.patience import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CAN_RUN, reason=NEEDS_ROOT),
]


@pytest.fixture(scope="module")
def rae(town):
    return town.market.buyer("rae")


def test_a_second_buyer_gets_a_verified_result(rae):
    """`market add` and `run` on a market that is not embedded: a broker is started and named, the receipt verifies."""
    done = rae.stannary("run", rae.job())
    assert done.returncode == 0, done.stderr
    assert "answers beacon requests until the job ends: stay online" in done.stderr
    (receipt,) = rae.cwd.glob("*.receipt.json")
    report = json.loads(rae.stannary("verify", receipt.name, "--json").stdout)
    assert report["verdict"] == "verified"
    (broker,) = rae.json("broker", "status")["brokers"]
    assert broker["profile"] == "default" and broker["pid"] in set(pids_in(done.stderr))


def test_a_killed_broker_is_noticed_in_mid_run(rae):
    """kill -9 of the broker while a job runs: the following client says so, starts another, and the job verifies."""
    running = rae.start("run", rae.job(sleep_s=12), log="killed.log")
    log = rae.cwd / "killed.log"
    wait_for(lambda: "running" in log.read_text() or "broker " in log.read_text(), "the job's start")
    (broker,) = rae.json("broker", "status")["brokers"]
    os.kill(broker["pid"], signal.SIGKILL)
    wait_for(lambda: f"pid {broker['pid']} was gone" in log.read_text(), "word of the killed broker")
    assert running.wait(240) == 0, log.read_text()
    assert "Verified" in log.read_text()


def test_a_detached_job_is_answered_for(rae):
    """`run --detach` leaves a broker behind; killed, the next command that looks at jobs starts it again."""
    job = rae.json("run", rae.job(sleep_s=8), "--detach")["job"]
    (broker,) = rae.json("broker", "status")["brokers"]
    assert job in broker["open_jobs"]
    os.kill(broker["pid"], signal.SIGKILL)
    listed = rae.stannary("ls")
    assert listed.returncode == 0 and "broker started" in listed.stderr
    assert rae.stannary("wait", job).returncode == 0


def test_an_always_on_machine_serves(rae):
    """`broker serve` takes the place of one started by a command, is left alone by commands, and stops on request."""
    served = rae.start("broker", "serve", log="serve.log")

    def is_serving():
        return any(item["state"] == "serving" for item in rae.json("broker", "status")["brokers"])

    wait_for(is_serving, "the serving broker")  # there is none for a moment: one takes the other's place
    second = rae.stannary("broker", "serve")
    assert second.returncode == 1 and "stannary broker stop" in second.stderr
    assert rae.stannary("run", rae.job()).returncode == 0
    assert is_serving() and served.poll() is None
    assert rae.json("broker", "stop")["stopped"] is not None
    assert served.wait(30) == 0
