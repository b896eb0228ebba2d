"""`stannary broker status|stop`: also for a broker whose profile is gone."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.cli import main as edge
from stannary.errors import EnvironmentProblem
from stannary.formats import dsse, note
from stannary.sdk import brokers, profile
from stannary.sdk import submit as submission
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


def test_no_order_is_sent_for_which_no_broker_starts(running, tmp_path, monkeypatch, capsys):
    """`run` fails before money is held when the broker cannot be started; nothing was submitted."""
    brokers.stop(brokers.home("work"))
    sent = []
    monkeypatch.setattr(submission, "submit", lambda *given: sent.append(given))
    monkeypatch.setattr(submission, "upload", lambda *_: 0)

    def refuse(*_):
        raise EnvironmentProblem("cannot start broker", why="No space left on device", hint="free disk space")

    monkeypatch.setattr(brokers, "ensure", refuse)
    (tmp_path / "work.py").write_text("print(1)\n")
    job = tmp_path / "job.yaml"
    job.write_text("name: a\nkind: command\nrun: python work.py\noutputs: [out.txt]\nbudget: 1.00\n")
    assert edge.run(["run", str(job), "--yes"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sent == []
