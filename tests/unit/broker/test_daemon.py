"""The broker process serves orders of its own market, and survives what the market does."""

from __future__ import annotations

import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import buyer
from stannary.broker import daemon
from stannary.errors import FormatError, MarketUnreachable, NotFound, Refuted
from stannary.formats import beacon, dsse, instants, note, statement
from stannary.formats.predicates import Job
from stannary.wire.buyer import BeaconRequest

MARKET_KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(MARKET_KEY))
SEED = b"s" * 32


def signed_order(directory, submitted_at="2026-11-22T00:00:00Z"):
    key = buyer.load_key(directory)
    job = Job(
        spec={},
        market=dsse.key_id(dsse.public_bytes(MARKET_KEY)),
        buyer=dsse.encode_base64(dsse.public_bytes(key)),
        beacon_tip=beacon.tip(SEED, 8),
        beacon_length=8,
        nonce="00",
        submitted_at=submitted_at,
    )
    return statement.sign("job", job, (), key)


def test_the_seed_is_private_and_matches_the_signed_tip(tmp_path):
    """The seed file is 0600, and another seed than the signed one is refused."""
    order = buyer.store_order(tmp_path, signed_order(tmp_path), SEED, VKEY)
    assert (order.directory / buyer.SEED_FILE).stat().st_mode & 0o777 == 0o600
    assert order.seed() == SEED
    (order.directory / buyer.SEED_FILE).write_bytes(b"00" * 32)
    with pytest.raises(FormatError, match="seed"):
        order.seed()


def test_an_order_stored_twice_is_one_order(tmp_path):
    """Sending again after a crash finds the same files."""
    envelope = signed_order(tmp_path)
    assert buyer.store_order(tmp_path, envelope, SEED, VKEY) == buyer.store_order(tmp_path, envelope, SEED, VKEY)
    assert len(buyer.list_orders(tmp_path)) == 1


class ScriptedMarket:
    """Answers polls from a list: a request, None, or an error to raise."""

    def __init__(self, script, stop):
        self.script, self.stop, self.posted = list(script), stop, []

    def poll(self, path, cls, *, wait_s):
        if not self.script:
            self.stop.set()
            return None
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def get(self, path, cls):
        raise MarketUnreachable("down")

    def post(self, path, body, cls, *, is_repeatable):
        self.posted.append(body)


class ScriptedRevealer:
    def __init__(self, key):
        self.key = key

    def answer(self, request):
        if request.index > 0:
            raise Refuted("not this one")
        return dsse.sign(b"{}", self.key)


@pytest.mark.parametrize("trouble", [MarketUnreachable("down"), FormatError("nonsense"), None])
def test_trouble_is_waited_out(tmp_path, monkeypatch, trouble):
    """A market that is down, silent or talks nonsense does not end the service of a job."""
    monkeypatch.setattr(daemon, "DOWN_DELAY_S", 0.0)
    monkeypatch.setattr(daemon, "REFUSED_DELAY_S", 0.0)
    order = buyer.store_order(tmp_path, signed_order(tmp_path), SEED, VKEY)
    stop = threading.Event()
    leaf = "sha256:" + "00" * 32
    requests = [
        BeaconRequest(
            index=index,
            checkpoint="",
            old_size=0,
            consistency=[],
            candidates=leaf,
            candidates_index=0,
            inclusion=[],
        )
        for index in (1, 0)
    ]
    market = ScriptedMarket([trouble, *requests], stop)
    daemon.serve_order(order, ScriptedRevealer(MARKET_KEY), market, stop)
    assert len(market.posted) == 1, "the refused request is not answered, the good one is"


@pytest.mark.parametrize(("age_s", "is_given_up"), [(0, False), (3600, True)])
def test_an_order_the_market_never_got(tmp_path, age_s, is_given_up):
    """A market that does not know an order is asked again while it could still accept it, and not for ever after."""
    envelope = signed_order(tmp_path, submitted_at=instants.spell(time.time() - age_s))
    order = buyer.store_order(tmp_path, envelope, SEED, VKEY, "work")
    stop = threading.Event()
    daemon.serve_order(order, ScriptedRevealer(MARKET_KEY), ScriptedMarket([NotFound("no such job")] * 2, stop), stop)
    assert (buyer.open_orders(tmp_path, VKEY, "work") == []) is is_given_up
    assert not order.has_ended and stop.is_set() is not is_given_up


@pytest.mark.parametrize(("passed_s", "is_given_up"), [(60.0, False), (1000.0, True)])
def test_an_order_is_not_given_up_for_a_clock_that_is_set(tmp_path, monkeypatch, passed_s, is_given_up):
    """A clock set a day forth between signing and sending makes no order old; the time that passed does."""
    order = buyer.store_order(tmp_path, signed_order(tmp_path, instants.spell(time.time())), SEED, VKEY, "work")
    stop, wall_s, steady_s = threading.Event(), [time.time()], [0.0]
    monkeypatch.setattr(daemon.time, "time", lambda: wall_s[0])

    class Set(ScriptedMarket):
        def poll(self, path, cls, *, wait_s):
            wall_s[0] += 86_400.0
            steady_s[0] += passed_s
            return super().poll(path, cls, wait_s=wait_s)

    market = Set([NotFound("no such job")], stop)
    daemon.serve_order(order, ScriptedRevealer(MARKET_KEY), market, stop, lambda: steady_s[0])
    assert (buyer.open_orders(tmp_path, VKEY, "work") == []) is is_given_up


def test_no_beacon_value_or_token_reaches_the_log(capsys):
    """The broker's log names job and event only."""
    daemon.report("revealed", "j-000000000000", "value 1 for checkpoint 5")
    assert SEED.hex() not in capsys.readouterr().err


def test_a_market_that_stays_away_fills_no_log(capsys):
    """The same thing is said at intervals that double up to an hour, something new at once."""
    now = [0.0]
    waiting = daemon.Waiting("j-1", lambda: now[0])
    while now[0] < 86_400:
        waiting.say("cannot reach the market")
        now[0] += daemon.DOWN_DELAY_S
    said = capsys.readouterr().err.splitlines()
    assert 24 <= len(said) <= 40
    waiting.say("another certificate")
    assert "another certificate" in capsys.readouterr().err
