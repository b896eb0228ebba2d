"""Walk 4: an auditor with a receipt, the keys he was given, and no account anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "verify-with-openssl.sh"


@pytest.fixture(scope="module")
def eve(town):
    """An auditor's host: a receipt, the artifacts somebody handed over, no profile and no pinned key."""
    bob, eve = town.market.buyer("bob"), town.realm.host("eve")
    job = bob.json("run", bob.job(name="audited.yaml"), "--detach")["job"]
    assert bob.stannary("wait", job).returncode == 0
    for words in (("get", job, "-o", "result"), ("get", job, "--artifacts", "-o", "blobs")):
        assert bob.stannary(*words).returncode == 0
    shutil.copy(bob.cwd / f"{job}.receipt.json", eve.cwd / "job.receipt.json")
    for name in ("result", "blobs"):
        shutil.copytree(bob.cwd / name, eve.cwd / name)
    return eve


def test_without_keys_nothing_is_believed(eve):
    """An unknown log is exit code 4, and the way to a key is named."""
    answer = eve.stannary("verify", "job.receipt.json")
    assert answer.returncode == 4, answer.stdout + answer.stderr
    assert "stannary trust add" in answer.stdout + answer.stderr


def test_with_the_markets_key_alone_the_missing_one_is_named_once(eve, town):
    """With only the market's key, one line says that the witness's is missing and where to get it."""
    assert eve.stannary("trust", "add", town.market.card["vkey"]).returncode == 0
    answer = eve.stannary("verify", "job.receipt.json")
    told = answer.stdout + answer.stderr
    name = town.market.card["witness_vkeys"][0].split("+")[0]
    assert sum(name in line and "stannary trust add" in line for line in told.splitlines()) <= 1
    assert name in told, told


def test_with_both_keys_the_receipt_holds(eve, town):
    """Keys pinned: verified, with digests, parties, dates and who computed how much again."""
    market = town.market.card
    words = [word for key in market["witness_vkeys"] for word in ("--witness", key)]
    assert eve.stannary("trust", "add", market["vkey"], *words).returncode == 0
    answer = eve.stannary("verify", "job.receipt.json", "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    told = json.loads(answer.stdout)
    assert told["verdict"] == "verified"
    assert "sha256:" in json.dumps(told)
    screen = eve.stannary("verify", "job.receipt.json").stdout
    assert "UTC" in screen or "Z" in screen
    assert max(len(line) for line in screen.splitlines()) <= 80, screen


def test_the_result_is_the_one_or_it_is_not(eve):
    """`verify --result` knows the file again, and one byte more is exit code 3."""
    assert eve.stannary("verify", "job.receipt.json", "--result", "result").returncode == 0
    (changed,) = [path for path in (eve.cwd / "result").rglob("*") if path.is_file()]
    with changed.open("ab") as file:
        file.write(b"x")
    answer = eve.stannary("verify", "job.receipt.json", "--result", "result")
    assert answer.returncode == 3, answer.stdout + answer.stderr


def test_the_work_is_computed_again_here(eve):
    """`verify --replay --artifacts` needs no market: the same bytes come out on this machine."""
    answer = eve.stannary("verify", "job.receipt.json", "--replay", "--artifacts", "blobs")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.skipif(shutil.which("jq") is None, reason="docs/verify-with-openssl.sh needs jq")
def test_openssl_alone_checks_signatures_and_log(eve, town):
    """With sh, openssl and jq and no stannary, the same receipt holds and a bent one does not."""
    words = ["sh", str(SCRIPT), "job.receipt.json", town.market.card["vkey"], *town.market.card["witness_vkeys"]]
    good = subprocess.run(words, cwd=eve.cwd, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    text = (eve.cwd / "job.receipt.json").read_text()
    place = text.index('"payload":"') + 200
    (eve.cwd / "bent.json").write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    bent = subprocess.run([*words[:2], "bent.json", *words[3:]], cwd=eve.cwd, capture_output=True, check=False)
    assert bent.returncode != 0


def test_a_reader_whose_clock_is_slow_is_told_so(eve):
    """Judged as of last year the receipt is from the future: the clock is named, nobody is accused."""
    answer = eve.stannary("verify", "job.receipt.json", "--now", "2025-01-01T00:00:00Z")
    assert answer.returncode == 4, answer.stdout + answer.stderr
    assert "clock" in answer.stdout + answer.stderr
