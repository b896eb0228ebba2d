"""A ruling file at the terminal: what `stannary verify` says of it, what --json gives, and --replay."""

from __future__ import annotations

import json

import pytest
from tests.unit.verify.test_appealed import honest
from tests.unit.verify.test_ruling import trial

from stannary.cli.main import run
from stannary.sdk import replay as replaying
from stannary.verify import trust
from stannary.verify.recomputation import Found, Outcome

FILE = "job.node.ruling.json"


@pytest.fixture
def place(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / FILE).write_bytes(honest())
    (home / "trust.toml").write_text(trust.serialise(trial("liar").day.trust()))
    (home / "blobs").mkdir()
    return home


def verify(*arguments):
    return run(["verify", FILE, "--trust-file", "trust.toml", "--now", "2100-01-01T00:00:00Z", *map(str, arguments)])


def test_it_says_who_loses_what_and_where_it_goes(place, capsys):
    """The outcome first, how it was found, and each account's part."""
    assert verify() == 0
    printed = capsys.readouterr().out
    node = trial("liar").dispute.node
    assert printed.startswith(f"Forfeited. {node} (")
    assert "had no part in the job computed the unit again" in printed
    assert all(word in printed for word in ("bond:", "insurance", "operator:xylem", "decided "))


def test_json_holds_the_ruling(place, capsys):
    """Members stay: exit code, findings, the statement."""
    assert verify("--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["exit_code"] == 0
    assert value["ruling"]["outcome"] == "forfeited"
    assert sum(line["usd_micros"] for line in value["ruling"]["lines"]) == 0


def test_a_changed_file_is_refuted(place, capsys):
    """One hash of a proof exchanged: exit code 3, and the finding is named."""
    value = json.loads(honest())
    value["evidence"][0]["path"] = value["evidence"][1]["path"]
    (place / FILE).write_text(json.dumps(value))
    assert verify() == 3
    printed = capsys.readouterr().out
    assert printed.startswith("Refuted.")
    assert "ruling.malformed" in printed


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.SAME, 3), (Outcome.DIFFERENT, 0), (Outcome.UNCHECKED, 4)])
def test_a_replay_refutes_a_wrong_ruling(place, capsys, monkeypatch, outcome, code):
    """The one disputed unit is computed again, as the accused claimed it, and nothing else."""
    asked = []

    def replay(plan, items, source, talk):
        asked.append((plan, {item.digest for item in items}, source))
        return (Found(plan.units[0].task, outcome, "here"),)

    monkeypatch.setattr(replaying, "replay", replay)
    assert verify("--replay", "--artifacts", "blobs") == code
    ((plan, blobs, _),) = asked
    assert plan.units == (trial("liar").dispute.to_replay(),)
    assert {item.digest for item in plan.units[0].outputs} <= blobs
    assert outcome.value in capsys.readouterr().out


def test_options_of_receipts_are_refused(place, capsys):
    """A policy is about a job's result, not about a bond."""
    assert verify("--policy", "local") == 2
    assert "for receipts" in capsys.readouterr().err
