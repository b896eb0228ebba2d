"""Walk 2: a provider brings a machine to a market, sells its time, is killed, drains and leaves."""

from __future__ import annotations

import os
import signal

import pytest
from tests.e2e.realm import pids_in
from tests.patience import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def carol(town):
    return town.market.buyer("carol")


@pytest.fixture(scope="module")
def shale(town):
    """A third operator's machine with a join token in hand."""
    host = town.realm.host("shale-box")
    token = town.market.join_token("shale")
    joined = host.stannary("node", "join", "-", "--name", "attic", "--accept-terms", stdin=token + "\n")
    assert joined.returncode == 0, joined.stderr
    host.joined_words = joined.stdout + joined.stderr
    return host


def test_the_terms_are_shown_before_they_are_signed(shale):
    """Joining shows the terms whole, names the bond and what the node is, and no token stands in `ps`."""
    assert "Terms of a stannary market" in shale.joined_words
    assert "$10" in shale.joined_words
    assert "NOT hardware-attested" in shale.joined_words


def test_a_node_sells_survives_a_kill_and_drains(shale, carol):
    """The node is offered under its name, works again after kill -9, and a drain ends it without an open lease."""
    shale.start("node", "run", "--name", "attic", log="node.log")
    wait_for(lambda: any(item["name"] == "attic" for item in carol.json("offers")["offers"]), "the third offer")
    assert "attic" in carol.stannary("offers").stdout
    status = shale.stannary("node", "status", "--name", "attic")
    (pid,) = set(pids_in(status.stdout + status.stderr))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "stopped" in shale.stannary("node", "status", "--name", "attic").stdout, "the dead node")
    shale.start("node", "run", "--name", "attic", log="node.log")
    done = carol.stannary("run", carol.job())
    assert done.returncode == 0, done.stderr
    drained = shale.stannary("node", "drain", "--name", "attic")
    assert drained.returncode == 0, drained.stderr


def test_a_node_that_left_is_gone(shale, carol):
    """`leave` removes the key; the market shows the node as left and a job runs without it."""
    left = shale.stannary("node", "leave", "--name", "attic", "--yes")
    assert left.returncode == 0, left.stderr
    states = {item["operator"]: item["state"] for item in carol.json("offers")["offers"]}
    assert states.get("shale", "left") == "left", states
    assert carol.stannary("run", carol.job()).returncode == 0
    assert not list(shale.data.glob("node/attic/key*"))
