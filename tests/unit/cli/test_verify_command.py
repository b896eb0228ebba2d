"""`stannary verify` at the terminal: what it says, what --json gives, and --result."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from tests.unit.verify.world import World

from stannary.cli.main import run
from stannary.formats import digest
from stannary.formats.jobspec import JobKind, Verification
from stannary.verify import trust

FILES = {"l0/out.txt": b"zero", "l1/out.txt": b"one", "l2/out.txt": b"two"}


class Filed(World):
    """A command job whose outputs are files this test can write."""

    def outputs(self, assignment, lie=""):
        from stannary.formats import predicates

        data = FILES[f"l{assignment.lane}/out.txt"] + lie.encode()
        return (predicates.Output("out.txt", digest.digest(data), len(data)),)


def keep(home, world, **ending):
    (home / "job.receipt.json").write_bytes(world.receipt(**ending))
    (home / "trust.toml").write_text(trust.serialise(world.trust()))


def verify(*arguments):
    return run(["verify", "job.receipt.json", "--trust-file", "trust.toml", *map(str, arguments)])


@pytest.fixture
def place(home, monkeypatch):
    monkeypatch.chdir(home)
    keep(home, Filed(kind=JobKind.COMMAND).play())
    for name, data in FILES.items():
        (home / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "out" / name).write_bytes(data)
    return home


def test_json_says_what_the_receipt_is_about(place, capsys):
    """Result, buyer, market, times in UTC, code, data, and who computed how much again."""
    assert verify("--json") == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert {item["name"]: item["digest"] for item in claims["results"]} == {
        name: "sha256:" + hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }
    assert claims["market"] == "local.market"
    assert len(claims["buyer"]) == 44
    assert claims["started_at"] < claims["finished_at"] < claims["witnessed_at"]
    assert claims["finished_at"].endswith("Z")
    assert claims["code"]["digest"].startswith("sha256:")
    assert [item["path"] for item in claims["code"]["files"]] == ["recipe.py"]
    assert claims["data"] == []
    assert claims["recomputed"]["audited"] == claims["recomputed"]["units"] == 3
    assert "computed again by" in claims["recomputed"]["sentence"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_says_it_within_its_width(place, capsys, monkeypatch, width):
    """Every digest stands whole on its line, and no line wraps."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert verify() == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    for data in FILES.values():
        assert any(line.endswith("sha256:" + hashlib.sha256(data).hexdigest()) for line in lines)
    assert any(line.startswith("time") and " UTC to " in line for line in lines)


def test_the_folder_is_the_result(place, capsys):
    """The folder as `get` fills it is the result, and any one file of it too, whatever it is called."""
    assert verify("--result", "out") == 0
    assert capsys.readouterr().out.startswith("THIS IS THE RESULT: out (3 files)")
    (place / "out/l1/out.txt").rename("renamed.bin")
    assert verify("--result", "renamed.bin") == 0
    assert "l1/out.txt" in capsys.readouterr().out.splitlines()[0]


def test_the_receipt_may_lie_beside_its_result(place, capsys):
    """The very receipt that is verified is no extra file of the folder."""
    (place / "job.receipt.json").rename("out/job.receipt.json")
    assert run(["verify", "out/job.receipt.json", "--trust-file", "trust.toml", "--result", "out"]) == 0
    assert "THIS IS THE RESULT" in capsys.readouterr().out


def test_which_file_is_not_the_result(place, capsys):
    """A file that differs, lacks or is too much is named, with both digests where there are two."""
    (place / "out/l0/out.txt").write_bytes(b"zerO")
    (place / "out/l1/out.txt").unlink()
    (place / "out/notes\x1b[2J").write_bytes(b"x")
    assert verify("--result", "out", "--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "verified"
    assert not answer["result"]["is_result"]
    matches = {item["name"]: item["match"] for item in answer["result"]["files"]}
    extra = "notes\x1b[2J"
    assert matches == {"l0/out.txt": "differs", "l1/out.txt": "missing", "l2/out.txt": "same", extra: "extra"}
    assert verify("--result", "out") == 3
    printed = capsys.readouterr().out
    assert printed.startswith("NOT THE RESULT: out, 1 of 4 files")
    assert "\x1b" not in printed
    assert "Verified. job" in printed  # the receipt itself holds


def test_a_tampered_model_is_not_the_result(place, capsys):
    """One byte more and the single file is not it; nothing, a pipe and a missing path are our errors."""
    (place / "model").write_bytes(FILES["l0/out.txt"] + b"!")
    assert verify("--result", "model") in (3, 4)
    assert capsys.readouterr().out.startswith("NOT THE RESULT: model")
    os.mkfifo("pipe")
    for path in ("nowhere", "pipe"):
        assert verify("--result", path) == 2
        assert "E-USAGE" in capsys.readouterr().err


def test_a_job_that_failed_has_no_result(place, capsys):
    """A failed job names no result and prints no probability of anything."""
    world = Filed(kind=JobKind.COMMAND, verify=Verification.RERUN_COMPARE)
    world.open()
    keep(place, world, status="failed", reason="exit-code")
    assert verify("--result", "out") == 4
    printed = capsys.readouterr().out
    assert printed.startswith("NOT THE RESULT")
    assert "probability" not in printed


def test_a_missing_witness_key_is_said_once(place, capsys):
    """With the market's key alone one finding names the witness, and the command that pins it."""
    world = World().play()
    (place / "job.receipt.json").write_bytes(world.receipt())
    (place / "trust.toml").write_text(trust.serialise(trust.TrustStore().with_market(trust.pin(world.vkey))))
    assert verify("--json") == 4
    (found,) = [item for item in json.loads(capsys.readouterr().out)["findings"] if item["id"] == "witness.unknown"]
    assert found["subject"] == "local.witness"
    assert f"stannary trust add {world.vkey} --witness KEY" in found["remedy"]


def test_a_slow_clock_is_said_as_such(place, capsys):
    """A receipt from the future tells by how much the reader's clock is behind, and refutes nothing."""
    assert verify("--now", "2026-01-01T00:00:00Z") == 4
    assert "your clock is 263 d" in " ".join(capsys.readouterr().out.split())
