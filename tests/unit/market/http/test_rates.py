"""Buckets and nonces: what one party asks for is bounded, and what strangers ask for leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from stannary.errors import AuthError, ServiceError
from stannary.market.http.rates import BURST_S, PARTY_RATE, Rates, body_units
from stannary.market.intake.challenges import Challenges
from stannary.wire import errors as wire_errors


def test_an_empty_bucket_refuses_until_it_has_filled() -> None:
    """A burst is served, more is told to come back, others are not touched; time fills it again."""
    now = [0.0]
    rates = Rates(lambda: now[0])
    for _ in range(int(10 * BURST_S)):
        rates.charge("buyer:eve", 1, 10)
    with pytest.raises(ServiceError) as refused:
        rates.charge("buyer:eve", 1, 10)
    assert wire_errors.status_of(refused.value) == 429
    rates.charge("buyer:ada", 1, 10)
    now[0] += 0.2
    rates.charge("buyer:eve", 1, 10)
    rates.charge("buyer:eve", 1, 10)
    with pytest.raises(ServiceError):
        rates.charge("buyer:eve", 1, 10)


def test_strangers_wait_their_turn() -> None:
    """Beyond the burst one after another is served, in order and none refused; who went away takes no turn."""
    now = [0.0]
    served: list[int] = []

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        await asyncio.sleep(0)

    async def ask(rates: Rates, number: int, gone: frozenset[int]) -> None:
        await rates.turn("address:a", 10, lambda: number not in gone)
        served.append(number)

    async def scenario() -> None:
        rates = Rates(lambda: now[0], sleep)
        gone = frozenset(range(200, 300))
        await asyncio.gather(*(ask(rates, number, gone) for number in range(310)))

    asyncio.run(scenario())
    assert served == list(range(310))
    assert now[0] == pytest.approx((210 - 10 * BURST_S) / 10, abs=0.2)


def test_large_bodies_are_soon_paid_for() -> None:
    """A dozen orders of 3 MB are a burst; small ones cost what any request does."""
    assert body_units(3_000) == 0
    assert 10 < PARTY_RATE * BURST_S / body_units(3_000_000) < 20


def test_a_nonce_is_known_again_without_being_kept() -> None:
    """A nonce holds for its node, its minute and its process; nothing made up or changed does."""
    ours = Challenges()
    nonce, expires_at_ms = ours.give("n-1", 1_000)
    assert ours.check(nonce, "n-1", expires_at_ms - 1) == expires_at_ms
    flipped = ("0" if nonce[0] != "0" else "1") + nonce[1:]
    for other, node, now_ms in (
        (nonce, "n-2", 1_000),
        (nonce, "n-1", expires_at_ms),
        (flipped, "n-1", 1_000),
        (nonce.upper(), "n-1", 1_000),
        (nonce[2:], "n-1", 1_000),
        ("", "n-1", 1_000),
        ("zz", "n-1", 1_000),
    ):
        with pytest.raises(AuthError):
            ours.check(other, node, now_ms)
    with pytest.raises(AuthError):
        Challenges().check(nonce, "n-1", 1_000)
