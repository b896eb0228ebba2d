"""A private market survives what happens to it on a machine: stops, kills, stolen ports, convictions, lost data."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
from contextlib import closing

import pytest
from tests.integration.local.conftest import NODES, document

from stannary.errors import EnvironmentProblem
from stannary.formats import canonical
from stannary.sdk import brokers, local, profile, trustfile
from stannary.sdk.client import Client
from stannary.sdk.local import NODE_FILE, LocalMarket

pytestmark = pytest.mark.timeout(300)


def heard(used):
    """Return the nodes the market hears of."""
    with Client.open(used) as client:
        return {offer.node for offer in client.offers().offers if offer.state in {"idle", "busy"}}


def node_of(market, name):
    return str(canonical.decode_object((market.directory / "nodes" / name / "node.json").read_bytes())["node"])


def test_a_market_without_a_profile_leaves_none(home):
    """As the demo starts it: no profile, no token and no default outside its own directory; its key is pinned."""
    market = LocalMarket(home / "data" / "aside", name="aside.market")
    used = market.ensure((), profile="")
    assert heard(used) == set()
    assert profile.load(profile.config_path()) == profile.Config()
    assert not (home / "config" / "tokens").exists()
    assert [item.name for item in trustfile.load().markets] == ["aside.market"]
    assert set(market.stop()) == {"market", "broker"}
    assert profile.resolve(None, {}).profile == profile.Profile("local")


def test_every_private_market_has_a_name_of_its_own(private, home):
    """Two markets of one user can both be pinned; a market keeps its name over a restart and cannot change it."""
    first = private.ensure(()).profile.vkey.partition("+")[0]
    private.stop()
    assert private.ensure(()).profile.vkey.partition("+")[0] == first
    other = LocalMarket(home / "data" / "other")
    assert other.ensure((), profile="").profile.vkey.partition("+")[0] != first
    other.stop()
    with pytest.raises(EnvironmentProblem, match=r"not renamed\.market"):
        LocalMarket(other.directory, name="renamed.market").ensure((), profile="")


def test_a_killed_market_is_started_by_the_next_run(private, stannary):
    """After kill -9 `ls` names a command that helps; it does, over the same data."""
    used = private.ensure(())
    private.register.kill(private.register.find("market"))
    down = stannary("ls")
    assert down.returncode == 1 and "next  stannary market start" in down.stderr
    assert document(stannary("market", "status", "--json"))["answers"] is False
    private.ensure(())
    assert profile.resolve(None, {}).profile == used.profile
    assert document(stannary("ls", "--json")) == {"jobs": []}


def test_the_broker_of_a_killed_market_is_stopped_too(private):
    """`market stop` after kill -9 of the market: nobody goes on asking an address where nobody answers."""
    private.ensure(())
    broker = brokers.find(brokers.home("local"))
    private.register.kill(private.register.find("market"))
    assert private.stop() == ["broker"] and not broker.is_alive


def test_a_stopped_market_says_what_starts_it(private, stannary):
    """Every command that meets a stopped market names one that starts it, and none that fails the same way."""
    private.ensure(())
    assert document(stannary("market", "status", "--json"))["blobs"]["ended_s"] == 30 * 86_400
    assert "those of a job are kept for 30 d after its end" in stannary("market", "status").stdout
    assert "market" in document(stannary("market", "stop", "--json"))["stopped"]
    for command in (["ls"], ["offers"], ["cost", "j-000000000000"]):
        refused = stannary(*command)
        assert refused.returncode == 1 and "next  stannary market start" in refused.stderr, command
    assert "start it: stannary market start" in stannary("market", "status").stdout
    refused = stannary("market", "token")
    assert refused.returncode == 1 and "next  stannary market start" in refused.stderr


def test_a_backup_is_told_in_words_or_in_one_document(private, stannary, home):
    """Without --json nothing is printed as JSON; with it an error is one document too."""
    private.ensure(())
    made = stannary("market", "backup", "--to", str(home / "copy"))
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(rf"{home}/copy holds \d+ log entries and \d+ blobs, and .* keys\n", made.stdout)
    again = stannary("market", "backup", "--to", str(home / "copy"), "--json")
    assert json.loads(again.stdout)["error"]["code"] == "E-CONFLICT", again.stdout
    back = stannary("market", "restore", "--from", str(home / "copy"), "--dir", str(home / "new"))
    assert f" is restored in {home}/new, with " in back.stdout, back.stderr


def test_a_stolen_port_is_left_and_the_nodes_follow(private):
    """Somebody else listens on the market's port: it takes another, and its nodes and every profile learn it."""
    used = private.ensure(NODES)
    profile.store(profile.Profile("mine", used.profile.url, used.profile.vkey), used.token, make_default=False)
    nodes = heard(used)
    port = int(used.profile.url.rpartition(":")[2])
    private.register.stop(private.register.find("market"), patience_s=15)  # its nodes go on asking
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        moved = private.ensure(NODES)
    assert moved.profile.url != used.profile.url and moved.profile.vkey == used.profile.vkey
    assert heard(moved) == nodes
    assert any(f"port {port}" in line for line in private.told)
    assert profile.resolve("mine", {}).profile.url == moved.profile.url


def test_a_convicted_node_is_replaced(private):
    """Of two nodes one is convicted and one revoked: two fresh ones take their places, the old ones are put aside."""
    used = private.ensure(NODES)
    old = {name: node_of(private, name) for name in ("one", "two")}
    with private.operator(private.card) as operator:
        operator.revoke(old["two"])
    private.stop()
    with closing(sqlite3.connect(private.directory / "market.db")) as database:
        database.execute("UPDATE nodes SET convicted_at_ms = 1 WHERE node = ?", (old["one"],))
        database.commit()
    again = private.ensure(NODES)
    assert heard(again) == {node_of(private, "one"), node_of(private, "two")}
    assert heard(again).isdisjoint(old.values())
    assert {path.name for path in (private.directory / "nodes").iterdir()} == {"one", "two", "one.gone-1", "two.gone-1"}
    assert [line.split(":")[0] for line in private.told] == ["one was convicted", "two was revoked"]
    assert used.profile == again.profile


def test_a_node_of_another_system_is_replaced(private):
    """Packages were installed since a node joined: a fresh node, of what jobs see now, takes its place."""
    private.ensure(NODES)
    old = {name: node_of(private, name) for name in ("one", "two")}
    private.stop()
    path = private.directory / "nodes/one" / NODE_FILE
    members = canonical.decode_object(path.read_bytes())
    assert members["engine_class"] == "cpu-toy"  # declared, so it names no system
    said = "cpu-fp32-torch2.13.0-t16.0123456789ab.ffffffffffff"
    path.write_bytes(canonical.encode({**members, "engine_class": said}))
    again = private.ensure(NODES)
    assert heard(again) == {node_of(private, "one"), old["two"]}
    assert node_of(private, "one") != old["one"]
    assert [line.split(":")[0] for line in private.told] == ["one has another system than this machine now"]


def test_a_market_whose_data_is_gone_is_a_new_one(private, stannary):
    """The data directory was deleted: a new market with a name and key of its own is made, and the profile follows."""
    used = private.ensure(())
    private.stop()
    shutil.rmtree(local.root())
    assert "next  stannary market start" in stannary("ls").stderr
    again = private.ensure(())
    assert again.profile.vkey != used.profile.vkey
    assert document(stannary("ls", "--json")) == {"jobs": []}
    assert len(trustfile.load().markets) == 2


def test_why_a_market_does_not_start_is_said(private):
    """The reason the process gave, not the last line of its log, is the reason of the error."""
    private.ensure(())
    private.stop()
    (private.directory / "key").chmod(0o000)
    (private.directory / "key").write_text("nonsense")
    with pytest.raises(EnvironmentProblem) as caught:
        private.ensure(())
    assert caught.value.why and "cat" in caught.value.hint


def test_a_read_only_configuration_is_no_obstacle(private, stannary, home):
    """A profile that says already what it should is not written again."""
    private.ensure(())
    before = {path: path.stat().st_mtime_ns for path in (home / "config").rglob("*") if path.is_file()}
    private.stop()
    private.ensure(())
    assert {path: path.stat().st_mtime_ns for path in (home / "config").rglob("*") if path.is_file()} == before


def test_the_broker_of_a_stopped_market_is_stopped_with_it(private):
    """`market stop` leaves no process of its buyers behind."""
    private.ensure(())
    running = brokers.find(brokers.home("local"))
    assert running is not None and "broker" in private.stop()
    assert not running.is_alive
