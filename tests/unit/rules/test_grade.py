"""The grade of a node: what tests show, which of them counts for what, and that none can be invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats import digest
from stannary.formats.ids import NodeId
from stannary.formats.quantity import PPM
from stannary.formats.shown import ShownPower
from stannary.rules import grade
from stannary.rules.grade import GRADE_PPM, ROUND_MS

COUNTS = st.integers(-(2**53) + 1, 2**53 - 1)


def shown(rounds: int, took_ms: int, cpus: int = 1) -> ShownPower:
    """Return what a node did in a test."""
    return ShownPower(NodeId("n-0"), "00" * 32, cpus, rounds, digest.digest(b""), took_ms, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("rounds", "cpus", "node_ms", "market_ms", "ppm"),
    [
        (100, 1, 100 * ROUND_MS, 100 * ROUND_MS, PPM),
        (100, 1, 100 * ROUND_MS, 200 * ROUND_MS, PPM // 2),  # the link and the start count too
        (100, 1, 200 * ROUND_MS, 100 * ROUND_MS, PPM // 2),  # a node may claim less
        (100, 1, 1, 100 * ROUND_MS, PPM),  # and never more
        (400, 4, 100 * ROUND_MS, 100 * ROUND_MS, PPM),  # of each of four processors
        (100, 4, 100 * ROUND_MS, 100 * ROUND_MS, PPM // 4),  # four were promised, one was at work
        (0, 1, 1000, 1000, 1),
        (2**53 - 1, 1, 0, 0, GRADE_PPM.high),
    ],
)
def test_a_test_shows_rounds_a_second_of_each_processor(
    rounds: int, cpus: int, node_ms: int, market_ms: int, ppm: int
) -> None:
    """By the longer of both sides' clocks, the time between question and answer."""
    assert grade.of_test(shown(rounds, node_ms, cpus), market_ms) == ppm


def test_the_least_counts_for_price_and_the_greatest_for_time_limits() -> None:
    """Who throttles once has no more time for it and is paid less; who shines once is not paid for that."""
    tests = [(shown(rounds, 1000), 1000) for rounds in (60, 20, 40)]
    least, greatest = grade.of_tests(tests)
    assert (least, greatest) == (20 * ROUND_MS * 1000, 60 * ROUND_MS * 1000)
    assert grade.of_tests([]) == (grade.UNGRADED_PPM, grade.UNGRADED_PPM)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_any_figures_show_some_grade(rounds: int, cpus: int, node_ms: int, market_ms: int) -> None:
    """What was signed may be anything; the grade is a number within its limits."""
    assert GRADE_PPM.fits(grade.of_test(shown(rounds, node_ms, cpus), market_ms))
