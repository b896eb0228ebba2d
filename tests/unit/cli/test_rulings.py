"""`stannary rulings`: what a job disputes, and the files of what was ruled."""

from __future__ import annotations

import json

import pytest

from stannary.cli.commands import rulings
from stannary.cli.output import Output
from stannary.errors import UsageError
from stannary.wire.buyer import DisputeList, DisputeView

JOB = "j-0123456789ab"
OPEN, RULED = "n-000000000001", "n-000000000002"


class Market:
    """A market with one bond in a hearing, and one that is ruled on."""

    def disputes(self, job):
        both = ((OPEN, "hearing", "2026-12-01T00:00:00Z"), (RULED, "forfeited", None))
        listed = [
            DisputeView(
                node=node, operator="oak", task=f"{JOB}/r0/l0/a0", stage=stage, bond_usd_micros=10_000_000,
                opened_at="2026-11-30T00:00:00Z", until=until, is_ruled=until is None,
            )
            for node, stage, until in both
        ]  # fmt: skip
        return DisputeList(disputes=listed)

    def ruling(self, job, node):
        assert (job, node) == (JOB, RULED)
        return b"its bytes"


def test_it_lists_without_writing(tmp_path, monkeypatch, capsys):
    """Stage, until when, and that a file can be had."""
    monkeypatch.chdir(tmp_path)
    rulings.show(Output(), Market(), JOB, None)
    printed = capsys.readouterr().out
    assert all(word in printed for word in (OPEN, RULED, "$10", "hearing", "forfeited", "2026-12-01T00:00:00Z"))
    assert list(tmp_path.iterdir()) == []


def test_it_writes_what_is_ruled_and_nothing_else(tmp_path, capsys):
    """One file a ruling, named after job and node; --json says where."""
    rulings.show(Output(as_json=True), Market(), JOB, tmp_path / "out")
    path = tmp_path / "out" / f"{JOB}.{RULED}.ruling.json"
    assert path.read_bytes() == b"its bytes"
    assert list(path.parent.iterdir()) == [path]
    value = json.loads(capsys.readouterr().out)
    assert {item["node"]: item["file"] for item in value["disputes"]} == {OPEN: None, RULED: str(path)}


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        rulings.show(Output(), Market(), JOB, tmp_path / "out")
