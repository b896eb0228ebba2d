"""What a unit took is what it is paid by, and the lower of two readings counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import Resources
from stannary.formats.predicates import Used
from stannary.rules import use
from stannary.rules.use import DrawnUse, Sides, StepRates

HOUR_MS = 3_600_000
SECOND = 1_000_000
ASKED = Resources(cpus=2, memory_bytes=1, disk_bytes=1, wall_s=3600)
WORK = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("used", "reading_ms"),
    [
        (Used(10_000, 0, 3_000), 20_000),  # it held two processors, whether it used them or slept
        (Used(10_000, 4_000, 3_000), 16_000),  # what it waited for a processor was not given to it
        (Used(10_000, 19_000, 3_000), 3_000),  # more threads than processors: what it ran it ran
        (Used(10_000, 10**15, 0), 0),
        (Used(10_000, 0, 10**9), 20_000),  # more processor time than it was promised is a false meter
        (Used(2 * HOUR_MS, 0, 0), 2 * HOUR_MS),  # not beyond wall_s
        (Used(-5, -5, -5), 0),
    ],
)
def test_a_reading_is_what_was_held_less_what_was_waited(used: Used, reading_ms: int) -> None:
    """Wall time x processors less waits, at least the processor time, at most what the job allows."""
    assert use.reading_ms(used, ASKED) == reading_ms


def test_a_slow_machine_reads_more_and_is_worth_less() -> None:
    """Half the grade and twice the time is the same work; an hour at grade 1 costs the ask."""
    fast, slow = Used(1000, 0, 2000), Used(2000, 0, 4000)
    assert use.work_us(fast, ASKED) == use.work_us(slow, ASKED, 500_000) == 2_000_000
    assert use.price_of(use.work_us(Used(HOUR_MS, 0, 0), Resources(1, 1, 1, 3600)), 120_000) == 120_000
    assert (use.price_of(1, 1), use.price_of(0, 10**9)) == (1, 0)


@given(honest=WORK, percent=st.integers(100, 10_000), num_steps=st.integers(1, 1000), others=st.lists(WORK))
def test_no_meter_is_worth_inflating(honest: int, percent: int, num_steps: int, others: list[int]) -> None:
    """Beside one honest reading nobody who inflates is paid for more, prover or auditor, recomputed or not."""
    inflated = honest * percent // 100
    assert use.paid_us(Sides(inflated, (honest,), num_steps), None) == honest
    assert use.paid_us(Sides(honest, (inflated, *others), num_steps), None) <= honest
    median = use.median_us([(honest, num_steps)])
    assert use.paid_us(Sides(inflated, (), num_steps), median) <= honest


def test_what_nobody_recomputed_is_paid_up_to_the_median() -> None:
    """The lower median of work a step, for so many steps; without any recomputed unit its own reading."""
    median = use.median_us([(100, 10), (400, 10), (900, 10)])
    assert median == 40
    assert use.paid_us(Sides(500, (), 10), median) == 400
    assert use.paid_us(Sides(300, (), 10), median) == 300
    assert use.paid_us(Sides(500, (), 10), None) == 500
    assert use.median_us([(100, 10), (400, 10)]) == 10


def test_readings_far_apart_are_told() -> None:
    """Beyond 1.25 x and a second, not at it; whoever stands out among the units of a kind is to be recomputed."""
    low, at, beyond = 100 * SECOND, 125 * SECOND, 126 * SECOND
    assert not Sides(at, (low,), 1).is_apart
    assert Sides(beyond, (low,), 1).is_apart
    assert Sides(low, (beyond,), 1).is_apart
    assert not Sides(beyond, (), 1).is_apart
    assert not Sides(SECOND, (1,), 1).is_apart
    assert Sides(SECOND + 2, (1,), 1).is_apart
    took_s = [(100, 1), (1250, 10), (126, 1), (1, 1), (100, 1)]
    units = [DrawnUse(TaskKind.COMMAND, steps, Used(0, 0, 1000 * s)) for s, steps in took_s]
    units = [replace(item, used=replace(item.used, wall_ms=item.used.cpu_ms)) for item in units if item.used]
    far = (False, False, True, False, False)
    assert use.far_out(units, StepRates(), replace(ASKED, cpus=1)) == far
    merge = DrawnUse(TaskKind.MERGE, 1, Used(10**6, 0, 10**6))  # of a kind of its own: beside nothing
    more = [*units, merge, replace(merge, used=None)]
    assert use.far_out(more, StepRates(), replace(ASKED, cpus=1)) == (*far, True, False)


def test_units_dearer_than_all_before_are_told() -> None:
    """However alike those of one draw are; the first unit says so too, as long as nothing else does."""
    dear = [DrawnUse(TaskKind.ROUND, 10, Used(100_000, 0, 100_000))] * 2
    before = StepRates()
    before.add(TaskKind.MERGE, 1, 10, is_first=False)  # of another kind
    assert use.far_out(dear, before, replace(ASKED, cpus=1)) == (False, False)
    before.add(TaskKind.ROUND, 20 * SECOND, 10, is_first=True)
    assert use.far_out(dear, before, replace(ASKED, cpus=1)) == (True, True)
    assert before.median_us(TaskKind.ROUND) == 2 * SECOND
    for took_s in (90, 100):
        before.add(TaskKind.ROUND, took_s * SECOND, 10, is_first=False)
    assert use.far_out(dear, before, replace(ASKED, cpus=1)) == (False, False)
    assert before.median_us(TaskKind.ROUND) == 9 * SECOND
    assert before.median_us(TaskKind.COMMAND) is None


@pytest.mark.parametrize(
    ("read_ms", "stopped_s", "passed_s", "paid_ms"),
    [
        (55_000, 4, 59, 60_000),  # read at 55, stopped between 59 and 60: no more than what passed
        (20_000, 4, 59, 25_000),  # half of the time it waited for something else
        (20_000, 3600, 3700, 27_000),  # an old reading is worth no hour
        (20_000, -5, 59, 21_000),  # read after the stop, by its own clock
        (90_000, 4, 59, 60_000),  # an inflated meter
        (0, 4, 59, 0),  # nothing had begun
        (5_000, 4, -30, 0),  # times that run backwards
    ],
)
def test_work_in_hand_is_paid_to_the_second_it_was_stopped(read_ms, stopped_s, passed_s, paid_ms):
    """By the last reading and the seconds since, which are few, and never by more than there were."""
    assert use.stopped_ms(read_ms, stopped_s=stopped_s, passed_s=passed_s) == paid_ms
