"""A machine sold as two nodes to a real market: by one token, with what was cut short gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from stannary.formats import dsse, statement
from stannary.formats.predicates import Credential
from stannary.run.sandbox import cgroup
from stannary.sdk.client import Client
from stannary.sdk.processes import wait_until

from .conftest import document

CLASS = ("--", "--engine-class", "cpu-toy")
CPUS = cgroup.usable_cpus()

pytestmark = pytest.mark.skipif(CPUS < 2, reason="two slots need two cores")


@pytest.fixture
def join(stannary):
    """Join two slots by a token with some uses."""

    def join(uses, *more):
        made = stannary("market", "join-token", "--operator", "basalt", "--bond", "3", "--uses", str(uses))
        words = ("node", "join", "-", "--name", "big", "--slots", "2", "--accept-terms", *more, *CLASS)
        return stannary(*words, stdin=made.stdout)

    return join


def claims(home):
    """Return what each kept node's credential says it sells."""
    paths = sorted((home / "data/node").glob("*/credential.json"))
    read = [statement.read(dsse.from_bytes(path.read_bytes()).payload, "credential", Credential) for path in paths]
    return [(item.predicate.node, item.predicate.cpus, item.predicate.memory_bytes) for item in read]


def test_two_slots_join_and_serve(home, private, stannary, join):
    """A token with one use too few says how to go on; then both slots sell their share, run, drain and leave as one."""
    used = private.ensure(())
    short = join(1)
    assert short.returncode == 6, short.stderr
    assert "1 of 2 slots have joined" in short.stderr
    assert "--uses 1" in short.stderr and "stannary node join - --name big --slots 2" in short.stderr
    assert "$3.00 for each of 2 nodes, $6.00 in sum" in short.stderr
    first = claims(home)

    rest = join(1, "--json")
    assert len(document(rest)["nodes"]) == 2
    both = claims(home)
    assert both[0] == first[0], "what has joined stays as it is"
    assert len({node for node, _, _ in both}) == 2
    assert [share for _, *share in both] == [[CPUS // 2, cgroup.usable_memory_bytes() // 2]] * 2
    assert "is here already" in join(2).stderr

    with subprocess.Popen(
        [sys.executable, "-P", "-m", "stannary", "node", "run"], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as running, Client.open(used) as client:  # fmt: skip

        def is_up():
            idle = {offer.node for offer in client.offers().offers if offer.state == "idle"}
            return {node for node, _, _ in both} <= idle

        try:
            assert wait_until(is_up, 60)
            shown = document(stannary("node", "status", "--json"))["nodes"]
            assert [item["state"].partition(",")[0] for item in shown] == ["running", "running"]
            assert [item["in_hand"] for item in shown] == ["nothing", "nothing"]
            assert stannary("node", "leave", "--name", "big", "--yes").returncode == 1
            assert stannary("node", "run").returncode == 1, "a family runs once"
        finally:
            running.send_signal(signal.SIGTERM)
            said = running.communicate(timeout=60)[1]
    assert running.returncode == 0, said
    for name in ("big-1", "big-2"):
        assert f"{name} | node " in said
        assert f"{name} has stopped" in said
    listed = json.loads(stannary("node", "ls", "--json").stdout)["nodes"]
    assert [(item["name"], item["state"]) for item in listed] == [("big-1", "stopped"), ("big-2", "stopped")]
    assert stannary("node", "leave", "--name", "big", "--yes").returncode == 0
    assert claims(home) == []


def test_selling_cores_twice_is_said(private, stannary, join):
    """Whoever joins another node on a machine that is sold already is warned before anything is signed."""
    private.ensure(())
    assert join(2).returncode == 0
    made = stannary("market", "join-token", "--operator", "basalt")
    words = ("node", "join", "-", "--name", "more", "--accept-terms", *CLASS)
    done = stannary(*words, stdin=made.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "more has joined; start it: stannary node run --name more\n"
    assert f"sell {2 * (CPUS // 2)} cores already" in done.stderr
    assert done.stderr.index("cores already") < done.stderr.index("Bond")
    assert "goes to the insurance account" in done.stderr, "terms are as wide as the screen"
    refused = stannary("node", "join", "-", "--name", "huge", "--slots", str(CPUS + 1), *CLASS, stdin=made.stdout)
    assert refused.returncode == 2
    assert "this machine has fewer cores" in refused.stderr
