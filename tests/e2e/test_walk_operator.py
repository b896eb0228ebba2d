"""Walk 3, second half: a market's operator stops it in mid-job, backs it up, restores it elsewhere and watches it."""

from __future__ import annotations

import shutil

import pytest
from tests.patience import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def dan(town):
    return town.market.buyer("dan")


def test_the_card_is_a_line_a_buyer_can_paste(town):
    """`market card` prints one ready `stannary market add` line with key, witness and pin."""
    market = town.market
    line = market.stannary("market", "card", "--dir", str(market.directory)).stdout.strip()
    assert line.startswith("stannary market add https://")
    assert market.card["vkey"] in line and market.card["witness_vkeys"][0] in line
    assert market.card["tls_fingerprint"] in line


def test_status_tells_of_a_served_market_and_deletes_nothing(town):
    """status --dir of a market in the foreground: running, its pid, and the card stays where it is."""
    market = town.market
    told = market.json("market", "status", "--dir", str(market.directory))
    assert told["url"] == market.card["url"]
    assert {"market"} <= {item["name"] for item in told["processes"]}
    assert (market.directory / "market.json").exists()


def test_a_wrong_line_is_refused_and_nothing_is_kept(town):
    """`market add` with another key, another pin or an unknown token says which, and stores no profile."""
    market, stranger = town.market, town.realm.host("stranger")
    card = market.card
    good = ["market", "add", card["url"], "--key", card["vkey"], "--tls-pin", card["tls_fingerprint"]]
    wrong_key = [*good[:4], card["witness_vkeys"][0], *good[5:]]
    wrong_pin = [*good[:-1], "0" * 64]
    for words, token in ((wrong_key, market.token("x1")), (wrong_pin, market.token("x2")), (good, "sna_nonsense")):
        refused = stranger.stannary(*words, stdin=token + "\n")
        assert refused.returncode != 0, refused.stdout
        assert len(refused.stderr.strip().splitlines()) >= 3, refused.stderr
    listed = stranger.json("market", "ls")["markets"]
    assert [item["profile"] for item in listed] == ["local"]


def test_a_job_survives_a_restart_of_the_market(town, dan):
    """stop in mid-job, backup, restore into an empty directory, serve again: the following client says so and ends."""
    market = town.market
    running = dan.start("run", dan.job(sleep_s=10), log="restart.log")
    log = dan.cwd / "restart.log"
    wait_for(lambda: "running" in log.read_text(), "the job at work")
    assert market.stannary("market", "stop", "--dir", str(market.directory)).returncode == 0
    market.process.wait(60)
    saved = market.cwd / "backup"
    backed = market.stannary("market", "backup", "--to", str(saved), "--dir", str(market.directory))
    assert backed.returncode == 0, backed.stderr
    shutil.move(market.directory, market.directory.with_name("lost"))
    restored = market.stannary("market", "restore", "--from", str(saved), "--dir", str(market.directory))
    assert restored.returncode == 0, restored.stderr
    market.serve()
    assert running.wait(300) == 0, log.read_text()
    assert "stannary wait" in log.read_text() or "Verified" in log.read_text()
    assert "Verified" in log.read_text()
