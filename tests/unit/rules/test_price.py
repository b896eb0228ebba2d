"""Prices: whole micro-dollars, rounded up, never beyond the escrow."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, UsageError
from stannary.rules.price import MS_PER_HOUR, Work, lane_works, price_of, worst_case

WORKS = st.builds(Work, st.integers(0, 10**6), st.integers(0, 10**6))
ASKS = st.integers(0, 10**9)


@given(WORKS, ASKS)
def test_a_price_is_the_exact_product_rounded_up(work: Work, ask: int) -> None:
    """The price is the least whole number not below steps x time x ask."""
    exact = Fraction(work.num_steps * work.step_ms * ask, MS_PER_HOUR)
    assert exact <= price_of(work.num_steps, work.step_ms, ask) < exact + 1


@pytest.mark.parametrize(
    ("steps", "step_ms", "ask", "price"),
    [(1, 1, 1, 1), (6, 40, 360_000, 24), (90, 40_000, 1_000_000, 1_000_000), (0, 40, 9, 0)],
)
def test_prices_are_rounded_up(steps: int, step_ms: int, ask: int, price: int) -> None:
    """A price is steps by time by ask, rounded up to a whole micro-dollar."""
    assert price_of(steps, step_ms, ask) == price


@given(st.lists(WORKS, max_size=20), st.lists(ASKS, min_size=1, max_size=5))
def test_escrow_covers_any_assignment_and_two_audits(works: list[Work], asks: list[int]) -> None:
    """Whoever does each task and whoever audits it twice, the escrow reaches."""
    held = worst_case(works, max(asks)).escrow_usd_micros
    asked = [asks[index % len(asks)] for index in range(len(works))]
    assert sum(3 * price_of(work.num_steps, work.step_ms, ask) for work, ask in zip(works, asked, strict=True)) <= held


def test_unverified_work_holds_no_audits() -> None:
    """Where the spec agreed to no check, none is charged for."""
    assert worst_case([Work(1, 3_600_000)], 7, verified=False).escrow_usd_micros == 7
    assert worst_case([Work(1, 3_600_000)], 7).escrow_usd_micros == 21


def test_a_training_job_prices_every_lane_and_merge() -> None:
    """The last inner step count repeats, and each round ends with a merge of one step a lane."""
    works = lane_works(inner_steps=[3, 6], num_rounds=3, num_lanes=2, step_ms=40)
    assert [work.num_steps for work in works] == [3, 3, 2, 6, 6, 2, 6, 6, 2]


def test_negative_figures_are_refused() -> None:
    """A negative ask would let a buyer be paid."""
    for figures in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        with pytest.raises(FormatError):
            price_of(*figures)
    with pytest.raises(UsageError):
        lane_works(inner_steps=[], num_rounds=1, num_lanes=1, step_ms=1)
