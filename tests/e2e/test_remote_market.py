"""Walk 3: a buyer, two operators and a market on machines of their own, with nothing but what the operator printed."""

from __future__ import annotations

import json
import os
import signal

import pytest
from tests.e2e.realm import CAN_RUN, NEEDS_ROOT, Realm, pids_in, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CAN_RUN, reason=NEEDS_ROOT),
]


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    with Realm(tmp_path_factory.mktemp("realm")) as realm:
        yield realm


@pytest.fixture(scope="module")
def market(realm):
    market = realm.market()
    for operator, name in (("basalt", "n1"), ("granite", "n2")):
        market.node(operator, name)
    return market


@pytest.fixture(scope="module")
def ada(market):
    ada = market.buyer("ada")
    wait_for(lambda: len(ada.json("offers")["offers"]) == 2, "both nodes' offers")
    return ada


def test_a_second_buyer_gets_a_verified_result(ada):
    """`market add` and `run` on a market that is not embedded: a broker is started and named, the receipt verifies."""
    done = ada.stannary("run", ada.job())
    assert done.returncode == 0, done.stderr
    assert "answers beacon requests until the job ends: stay online" in done.stderr
    (receipt,) = ada.cwd.glob("*.receipt.json")
    report = json.loads(ada.stannary("verify", receipt.name, "--json").stdout)
    assert report["verdict"] == "verified"
    (broker,) = ada.json("broker", "status")["brokers"]
    assert broker["profile"] == "default" and broker["pid"] in set(pids_in(done.stderr))


def test_a_killed_broker_is_noticed_in_mid_run(ada):
    """kill -9 of the broker while a job runs: the following client says so, starts another, and the job verifies."""
    running = ada.start("run", ada.job(sleep_s=12), log="killed.log")
    log = ada.cwd / "killed.log"
    wait_for(lambda: "running" in log.read_text() or "broker " in log.read_text(), "the job's start")
    (broker,) = ada.json("broker", "status")["brokers"]
    os.kill(broker["pid"], signal.SIGKILL)
    wait_for(lambda: f"pid {broker['pid']} was gone" in log.read_text(), "word of the killed broker", 20)
    assert running.wait(240) == 0, log.read_text()
    assert "Verified" in log.read_text()


def test_a_detached_job_is_answered_for(ada):
    """`run --detach` leaves a broker behind; killed, the next command that looks at jobs starts it again."""
    job = ada.json("run", ada.job(sleep_s=8), "--detach")["job"]
    (broker,) = ada.json("broker", "status")["brokers"]
    assert broker["open_jobs"] == [job]
    os.kill(broker["pid"], signal.SIGKILL)
    listed = ada.stannary("ls")
    assert listed.returncode == 0 and "broker started" in listed.stderr
    assert ada.stannary("wait", job).returncode == 0


def test_an_always_on_machine_serves(ada):
    """`broker serve` takes the place of one started by a command, is left alone by commands, and stops on request."""
    served = ada.start("broker", "serve", log="serve.log")
    wait_for(lambda: ada.json("broker", "status")["brokers"][0]["state"] == "serving", "the serving broker")
    second = ada.stannary("broker", "serve")
    assert second.returncode == 1 and "stannary broker stop" in second.stderr
    assert ada.stannary("run", ada.job()).returncode == 0
    assert ada.json("broker", "status")["brokers"][0]["pid"] == served.pid or served.poll() is None
    assert ada.json("broker", "stop")["stopped"] is not None
    assert served.wait(30) == 0
