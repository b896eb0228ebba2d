"""Prices: whole micro-dollars, rounded up, never beyond the escrow."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import cast

from stannary.errors import FormatError
from stannary.rules.kinds import KINDS
from stannary.rules.price import MS_PER_HOUR, price_of, worst_case
from stannary.rules.shape import Shape, shape_of

ASKS = st.integers(0, 10**9)
COUNTS = st.integers(0, 10**6)
SHAPES = st.builds(
    Shape,
    st.sampled_from(list(KINDS.values())),
    num_rounds=st.integers(1, 4),
    inner_steps=st.lists(st.integers(1, 1000), min_size=1, max_size=5).map(tuple),
    step_ms=st.integers(1, 10**6),
    num_lanes=st.integers(1, 5),
    wall_s=st.integers(1, 10**5),
)


@given(COUNTS, COUNTS, ASKS)
def test_a_price_is_the_exact_product_rounded_up(steps: int, step_ms: int, ask: int) -> None:
    """The price is the least whole number not below steps x time x ask."""
    exact = Fraction(steps * step_ms * ask, MS_PER_HOUR)
    assert exact <= price_of(steps, step_ms, ask) < exact + 1


@pytest.mark.parametrize(
    ("steps", "step_ms", "ask", "price"),
    [(1, 1, 1, 1), (6, 40, 360_000, 24), (90, 40_000, 1_000_000, 1_000_000), (0, 40, 9, 0)],
)
def test_prices_are_rounded_up(steps: int, step_ms: int, ask: int, price: int) -> None:
    """A price is steps by time by ask, rounded up to a whole micro-dollar."""
    assert price_of(steps, step_ms, ask) == price


@given(SHAPES, st.lists(ASKS, min_size=1, max_size=5))
def test_escrow_covers_any_assignment_and_two_audits(shape: Shape, asks: list[int]) -> None:
    """Whoever does each task and whoever audits it twice, the escrow reaches."""
    held = worst_case(shape, max(asks)).escrow_usd_micros
    priced = [price_of(steps, shape.step_ms, asks[at % len(asks)]) for at, steps in enumerate(shape.all_steps())]
    assert 3 * sum(priced) <= held


def test_unverified_work_holds_no_audits() -> None:
    """Where the spec agreed to no check, none is charged for."""
    command = shape_of(cast.spec(wall_s=3_600))
    assert worst_case(command, 7, verified=False).escrow_usd_micros == 7
    assert worst_case(command, 7).escrow_usd_micros == 21


@pytest.mark.parametrize("figures", [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_negative_figures_are_refused(figures: tuple[int, int, int]) -> None:
    """A negative ask would let a buyer be paid."""
    with pytest.raises(FormatError):
        price_of(*figures)
