"""Prices: whole micro-dollars, rounded up, never beyond the escrow."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import cast

from stannary.errors import FormatError
from stannary.rules.price import MS_PER_HOUR, WorstCase, dearest_unit, price_of, worst_case
from stannary.rules.shape import shape_of

ASKS = st.integers(0, 10**9)
COUNTS = st.integers(0, 10**6)


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


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 10**6), st.lists(st.integers(1, 10**9), min_size=1, max_size=5)
)
def test_escrow_covers_any_assignment_and_two_audits(rounds: int, lanes: int, step_ms: int, asks: list[int]) -> None:
    """Under rules 2: whoever does each task and whoever audits it twice, the escrow reaches."""
    spec = cast.before(cast.train(rounds=rounds, lanes=lanes), step_ms)
    shape = shape_of(spec)
    held = worst_case(spec, max(asks)).escrow_usd_micros
    priced = [price_of(steps, shape.step_ms, asks[at % len(asks)]) for at, steps in enumerate(shape.all_steps())]
    assert 3 * sum(priced) <= held


def test_unverified_work_holds_no_audits() -> None:
    """Where the spec agreed to no check, none is charged for."""
    assert worst_case(cast.spec(wall_s=3_600, verify="none"), 7).escrow_usd_micros == 7
    assert worst_case(cast.before(cast.spec(wall_s=3_600)), 7).escrow_usd_micros == 21


def test_where_use_is_paid_ceilings_are_held() -> None:
    """Each task may take wall_s on all its processors, and be audited twice."""
    changes: dict[str, Any] = {"wall_s": 1_800, "cpus": 2}
    command = cast.spec(nodes=3, **changes)
    assert worst_case(command, 7) == WorstCase(21, 42 + 2 * 4 * 7)  # two audits of each, and four runs of two questions
    assert dearest_unit(command, 7) == 7
    train = cast.train(rounds=2, lanes=2, **changes)
    assert worst_case(train, 100_000).escrow_usd_micros == (3 * 6 + 8) * 100_000


def test_where_a_step_time_is_agreed_the_longest_unit_is_the_dearest() -> None:
    """Under rules 2 no unit is dearer than the one of most steps, and that one costs exactly so much."""
    spec = cast.before(cast.train(rounds=2, lanes=2), 4_500)
    priced = [price_of(steps, 4_500, 360_000) for steps in shape_of(spec).all_steps()]
    assert dearest_unit(spec, 360_000) == max(priced) > min(priced)


@pytest.mark.parametrize("figures", [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_negative_figures_are_refused(figures: tuple[int, int, int]) -> None:
    """A negative ask would let a buyer be paid."""
    with pytest.raises(FormatError):
        price_of(*figures)
