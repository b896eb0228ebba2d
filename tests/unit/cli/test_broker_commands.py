"""`stannary broker status|stop`: also for a broker whose profile is gone."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.cli import main as edge
from stannary.formats import dsse, note
from stannary.sdk import brokers, profile
from stannary.sdk.profile import Profile

KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(KEY))


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.setenv("STANNARY_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    for name in ("STANNARY_PROFILE", "STANNARY_URL", "STANNARY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    profile.store(Profile("work", "http://127.0.0.1:9", VKEY), files.Secret("stk_x"), make_default=True)
    started, _ = brokers.ensure(profile.resolve(None, {}))
    yield started
    brokers.stop(brokers.home("work"))


def test_a_broker_outlives_its_profile_and_is_stopped_by_name(running, capsys):
    """The profile was removed by hand: status still lists its broker, and stop ends it."""
    profile.remove("work")
    assert edge.run(["broker", "status", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["brokers"]
    assert (listed["profile"], listed["pid"], listed["state"]) == ("work", running.pid, "running")
    assert edge.run(["broker", "stop", "nobody"]) == 102
    capsys.readouterr()
    assert edge.run(["broker", "stop", "work", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] == running.pid
    assert not running.is_alive
