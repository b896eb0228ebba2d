"""Whoever takes part in a job, and however: it ends, nobody honest loses anything, and no money is made or lost."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.simulator.day import Day, log_bytes
from tests.simulator.toys import MANNERS, Toy, recipe
from tests.unit.jobs.course import days

from stannary.formats.jobspec import JobKind, Verification
from stannary.jobs.course.state import Timing

OPERATORS = ("oak", "elm", "ash", "fir", "yew", "box")
TIMING = Timing(reveal_s=600.0, placing_s=600.0, stall_s=3600.0)

manners = st.frozensets(st.sampled_from(MANNERS), max_size=2)
fleets = st.lists(manners, min_size=3, max_size=6)


def day(fleet: list[frozenset[str]], seed: int, **more: object) -> Day:
    """Return a day of toys, each of an operator of its own."""
    toys = [
        Toy(f"n{at}", OPERATORS[at], ask=100_000 + 7_000 * at, bond=10_000_000, manner=manner)
        for at, manner in enumerate(fleet)
    ]
    return Day(seed=seed, fleet=toys, settings=recipe(), timing=TIMING, **more)  # type: ignore[arg-type]


@given(fleets, st.integers(0, 10_000))
@settings(max_examples=settings.default.max_examples // 2, derandomize=True)
def test_a_training_keeps_every_promise(fleet: list[frozenset[str]], seed: int) -> None:
    """A training among whatever nodes ends, with a receipt that proves it, and keeps every promise of days.py."""
    days.live(day(fleet, seed))


@given(fleets, st.integers(0, 10_000), st.sampled_from([Verification.RERUN_COMPARE, Verification.NONE]))
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
def test_a_command_keeps_every_promise(fleet: list[frozenset[str]], seed: int, verify: Verification) -> None:
    """So does a command, and one that nobody verifies."""
    days.live(day(fleet, seed, kind=JobKind.COMMAND, verify=verify))


@given(fleets, st.integers(0, 10_000), st.integers(0, 3), st.none() | st.integers(2, 2000))
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
@example([frozenset()] * 3, 0, 0, None)
def test_a_buyer_who_leaves_keeps_nobody_waiting(
    fleet: list[frozenset[str]], seed: int, reveals: int, cancelled_at_s: int | None
) -> None:
    """A buyer who falls silent or cancels ends his job, and what was committed to is paid or judged."""
    made = day(fleet, seed)
    made.reveals_until, made.cancelled_at_s = reveals, cancelled_at_s
    days.live(made)


@given(fleets, st.integers(0, 10_000))
@settings(max_examples=settings.default.max_examples // 12, derandomize=True)
def test_one_seed_replays_a_day(fleet: list[frozenset[str]], seed: int) -> None:
    """One seed makes the same day, byte for byte."""
    first, again = (day(fleet, seed).live() for _ in range(2))
    assert log_bytes(first) == log_bytes(again)
    assert first.receipt() == again.receipt()
