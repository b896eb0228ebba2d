"""The market's time: it rises over restarts, and says by how much another clock is off."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from stannary.errors import FormatError
from stannary.formats import instants
from stannary.market import clock
from stannary.market.clock import RisingClock
from stannary.tlog.rising import skipped_s

NOW = 1_800_000_000.0


class Hand:
    """A clock that is set by hand; whoever sleeps by it never wakes."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.steady_s = 0.0
        self.asleep = asyncio.Event()

    def now(self) -> float:
        return self.now_s

    def steady(self) -> float:
        return self.steady_s

    def pass_on(self, seconds: float) -> None:
        self.now_s += seconds
        self.steady_s += seconds

    async def sleep(self, _seconds: float) -> None:
        self.asleep.set()
        await asyncio.Event().wait()


async def kept(file: Path, now_s: float) -> None:
    """Run a clock until it has written its time down."""
    hand = Hand(now_s)
    keeping = asyncio.create_task(RisingClock(hand, file).keep())
    await hand.asleep.wait()
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


@pytest.mark.parametrize("step_s", [-3600.0, -86_400.0 * 365])
def test_a_restart_under_an_earlier_clock_goes_on(tmp_path: Path, step_s: float) -> None:
    """A market started again after its machine's clock was set back begins where it ended."""
    file = tmp_path / "clock"
    asyncio.run(kept(file, NOW))
    again = RisingClock(Hand(NOW + step_s), file)
    assert again.now() == pytest.approx(NOW, abs=0.001)


@pytest.mark.parametrize("content", [b"", b"nan\n", b"inf", b"-1e400", b"\xff", b"later"])
def test_a_damaged_file_is_no_floor(tmp_path: Path, content: bytes) -> None:
    """What is no time in the kept file sets no time."""
    file = tmp_path / "clock"
    file.write_bytes(content)
    assert RisingClock(Hand(NOW), file).now() == NOW


@pytest.mark.parametrize(
    ("off_s", "words"), [(-412, "412 s behind"), (-90_000, "90,000 s behind"), (301, "301 s ahead")]
)
def test_what_is_not_signed_now_names_the_seconds(off_s: int, words: str) -> None:
    """A join or an order signed by a wrong clock is refused with how far the two clocks are apart."""
    with pytest.raises(FormatError, match=f"your clock is {words}"):
        clock.check_signed_now(instants.spell(NOW + off_s), NOW)


@pytest.mark.parametrize("off_s", [-300, 0, 300])
def test_what_is_signed_about_now_is_taken(off_s: int) -> None:
    """Clocks within the skew a verifier grants are as good as equal."""
    clock.check_signed_now(instants.spell(NOW + off_s), NOW)
    clock.check_signed_since(instants.spell(NOW + off_s), NOW)


@pytest.mark.parametrize(
    ("signed_at", "words"),
    [
        (instants.spell(NOW + 301), "301 s ahead"),
        (instants.spell(NOW - 86_401), "86,401 s behind"),
        ("0001-01-01T00:00:00Z", "behind"),
        ("9999-12-31T23:59:59Z", "ahead"),
    ],
)
def test_work_of_another_time_is_refused_at_the_door(signed_at: str, words: str) -> None:
    """What a verifier would call of the future or the past is refused, with the seconds."""
    with pytest.raises(FormatError, match=words):
        clock.check_signed_since(signed_at, NOW)


def test_work_up_to_a_day_old_is_taken() -> None:
    """A node that was cut off for a day hands in late, not never."""
    clock.check_signed_since(instants.spell(NOW - 86_400), NOW)


def test_a_leap_of_the_clock_is_not_waited(tmp_path: Path) -> None:
    """A day's grace is a day that passed: the clock that is set a week forth in it brings nothing nearer."""
    hand = Hand(NOW)
    market = RisingClock(hand, tmp_path / "clock")
    hand.pass_on(3600.0)
    market.now()
    hand.now_s += 7 * 86_400.0
    assert market.now() == hand.now_s
    hand.pass_on(82_800.0)
    assert market.ago_ms(82_799.0) == int((hand.now_s - 82_799.0) * 1000)  # all of it after the leap
    assert market.ago_ms(86_400.0) == int(NOW * 1000)
    assert market.now() - NOW - skipped_s(market.leaps, NOW, market.now()) == 86_400.0


def test_a_meter_is_not_fast_where_the_market_is_slow(tmp_path: Path) -> None:
    """While the market's time catches up it tells less than passed; what a meter may say is the most that did."""
    hand = Hand(NOW)
    market = RisingClock(hand, tmp_path / "clock")
    since_ms = clock.now_ms(market)
    hand.now_s -= 3600.0
    hand.pass_on(1000.0)
    now_ms = clock.now_ms(market)
    assert now_ms - since_ms < 1_000_000
    assert clock.most_passed_ms(since_ms, now_ms) == pytest.approx(1_000_000, abs=2)
