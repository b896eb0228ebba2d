"""The first job as a user meets it: one command, a receipt, and everything one can ask afterwards."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def done(home):
    return home.stannary("run", "--example", "hello")


@pytest.fixture(scope="module")
def receipt(home, done):
    assert done.returncode == 0, done.stderr
    (path,) = home.cwd.glob("*.receipt.json")
    return path


def test_one_command_gives_a_verified_job(done, receipt):
    """Without market or account: a private market, two nodes, a verified result and a receipt here."""
    assert "No market configured" in done.stderr
    assert "NOT hardware-attested" in done.stderr
    assert done.stdout.startswith("Verified.")
    assert "useful " in done.stdout and "churn " in done.stdout
    assert f"stannary verify {receipt.name}" in done.stdout


def test_the_loss_falls_round_by_round(done, receipt):
    """Each closed round printed its held-out figure, and the last is lower than the first."""
    name = "heldout_bits_per_byte "  # as examples/hello/recipe.py calls it
    figures = [float(line.split(name)[1].split()[0]) for line in done.stderr.splitlines() if name in line]
    assert len(figures) >= 3
    assert figures[-1] < figures[0]


def test_the_receipt_verifies_offline(home, receipt):
    """The market may be stopped; the receipt stands by itself."""
    answer = home.stannary("verify", str(receipt), "--json")
    report = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert report["verdict"] == "verified"
    assert sum(report["claims"]["receipt"]["time_split"].values()) == 10_000


def test_an_unpinned_log_is_below_policy(home, receipt, tmp_path):
    """The same receipt in a home that pinned nothing is refused with exit code 4."""
    empty = tmp_path / "trust.toml"
    empty.write_text("")
    answer = home.stannary("verify", str(receipt), "--trust-file", str(empty))
    assert answer.returncode == 4
    assert "unknown log" in answer.stdout


def test_a_changed_receipt_is_not_verified(home, receipt, tmp_path):
    """One digit changed anywhere in what is signed: not verified."""
    text = receipt.read_text()
    place = text.index('"payload":"') + 200
    other = "A" if text[place] != "A" else "B"
    bent = tmp_path / "bent.receipt.json"
    bent.write_text(text[:place] + other + text[place + 1 :])
    assert home.stannary("verify", str(bent)).returncode in {1, 3}


def test_results_and_questions_afterwards(home, receipt):
    """ls, cost, get, offers and config answer for the finished job; the model has its digest."""
    job = receipt.name.split(".")[0]
    listed = json.loads(home.stannary("ls", "--json").stdout)["jobs"]
    assert [view["id"] for view in listed] == [job]
    cost = json.loads(home.stannary("cost", job, "--json").stdout)
    assert cost["escrow_usd_micros"] == cost["paid_usd_micros"] + cost["refunded_usd_micros"]
    fetched = json.loads(home.stannary("get", job, "-o", "out", "--json").stdout)["outputs"]
    assert any(item["path"].endswith(".safetensors") for item in fetched)
    assert json.loads(home.stannary("offers", "--json").stdout)["offers"]
    assert home.stannary("logs", job).returncode == 0


def test_a_plan_says_why_not(home, receipt):
    """--dry-run names chosen nodes and worst-case total, and starts nothing."""
    plan = json.loads(home.stannary("run", "--example", "hello", "--dry-run", "--json").stdout)
    assert len(plan["chosen"]) == 2
    assert plan["escrow_usd_micros"] > 0
    assert len(json.loads(home.stannary("ls", "--json").stdout)["jobs"]) == 1


def test_a_price_nobody_meets_is_no_capacity(home, receipt):
    """Asking below every node's price ends with exit code 5 and the way out."""
    answer = home.stannary("run", "--example", "hello", "--max-price", "0.000001")
    assert answer.returncode == 5, answer.stderr
    assert len(answer.stderr.strip().splitlines()) >= 3


def test_a_stopped_market_comes_back(home, receipt):
    """After `market stop` the next command finds the same jobs, at the address the nodes know."""
    address = home.market_url()
    assert home.stannary("market", "stop").returncode == 0
    down = home.stannary("ls")
    assert down.returncode == 1
    assert "E-MARKET-DOWN" in down.stderr
    assert home.stannary("run", "--example", "hello", "--dry-run").returncode == 0
    assert len(json.loads(home.stannary("ls", "--json").stdout)["jobs"]) == 1
    assert home.market_url() == address
