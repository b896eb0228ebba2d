"""Lease times from measured steps: who works slowly is waited for, who claims to is not for ever."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from stannary.formats.ids import JobId, TaskKind
from stannary.rules.pace import (
    GRACE_FACTOR,
    SLACK,
    START_S,
    UNMEASURED_S,
    Pace,
    Progress,
    answer_s,
    deadline_s,
    is_closed,
    limit_s,
    median_step_s,
)

JOB = JobId("j-0123456789ab")
ARRIVALS = st.lists(st.floats(0.1, 1e4), max_size=12)


def lease(*reports: tuple[str, int, float], kind: TaskKind = TaskKind.ROUND) -> Progress:
    made = Progress(kind, reports[0][2], reports[0][2])
    for phase, step, at_s in reports:
        made.hear(phase, step, at_s)
    return made


def test_before_the_first_step_a_start_may_take_its_time() -> None:
    """A long install or load is no silence, up to UNMEASURED_S after the last sign."""
    starting = lease(("environment", 0, 10.0), ("fetch", 0, 100.0))
    assert starting.step_s is None
    assert starting.allowed_until_s(3) == 100.0 + UNMEASURED_S
    assert not starting.is_silent(99.0 + UNMEASURED_S, 20.0, 3)
    assert starting.is_silent(100.0 + UNMEASURED_S, 20.0, 3)


def test_the_first_step_sets_the_pace_and_the_next_ones_mend_it() -> None:
    """The first counts from the end of fetching; later ones leave out what the first had to do besides."""
    one = lease(("fetch", 0, 100.0), ("compute", 1, 160.0))
    assert one.step_s == 60.0
    assert one.allowed_until_s(4) == 160.0 + SLACK * 60.0 * 3
    assert not one.is_silent(160.0 + 179.0, 20.0, 3)
    three = lease(("fetch", 0, 100.0), ("compute", 1, 160.0), ("compute", 3, 240.0))
    assert three.step_s == 40.0
    assert three.allowed_until_s(4) == 240.0 + SLACK * 40.0


def test_handing_in_is_not_measured_in_steps() -> None:
    """Steps of a second say nothing of how long half a gigabyte takes to be written, hashed and sent."""
    done = lease(("fetch", 0, 0.0), ("compute", 1, 1.0), ("compute", 3, 3.0))
    assert done.allowed_until_s(3) == 3.0 + UNMEASURED_S
    assert not done.is_silent(2.0 + UNMEASURED_S, 20.0, 3)
    assert done.is_silent(3.0 + UNMEASURED_S, 20.0, 3)
    slow = lease(("fetch", 0, 0.0), ("compute", 1, 900.0))
    assert slow.allowed_until_s(1) == 900.0 + SLACK * 900.0


def test_bytes_that_move_are_a_sign_of_life() -> None:
    """A transfer of hours keeps its lease while it is heard of, also if the report of the last step was lost."""
    quick = [("fetch", 0, 0.0), ("compute", 1, 1.0), ("compute", 2, 2.0)]
    stored = lease(*quick, *(("store", 0, 100.0 * part) for part in range(1, 73)))
    assert stored.allowed_until_s(3) == 7200.0 + UNMEASURED_S
    assert not stored.is_silent(7199.0 + UNMEASURED_S, 20.0, 3)
    assert stored.is_silent(7200.0 + UNMEASURED_S, 20.0, 3)
    fetched = lease(*(("fetch", 0, 100.0 * part) for part in range(73)))
    assert fetched.allowed_until_s(3) == 7200.0 + UNMEASURED_S
    fetched.hear("compute", 1, 7210.0)
    assert fetched.step_s == 10.0  # what was waited for before is no step


def test_a_lease_with_much_to_move_may_last_longer() -> None:
    """Ten gigabytes add what they take at 8 Mbit/s; who has nothing to move gains nothing by saying so."""
    assert limit_s(600.0, 0) == START_S + 600.0
    assert limit_s(600.0, 10**10) == START_S + 600.0 + 10_000.0


def test_a_quick_step_is_not_taken_for_silence_at_once() -> None:
    """Steps of milliseconds leave the market's own patience as it is."""
    quick = lease(("fetch", 0, 0.0), ("compute", 100, 1.0), ("compute", 200, 2.0))
    assert not quick.is_silent(21.0, 20.0, 1000)
    assert quick.is_silent(22.0, 20.0, 1000)


@given(st.lists(st.tuples(st.sampled_from(["environment", "fetch", "compute", "store", "x"]), st.integers(0, 2**53),
                          st.floats(0, 1e6)), min_size=1, max_size=30), st.integers(1, 100_000))  # fmt: skip
def test_no_reports_break_the_rule(reports: list[tuple[str, int, float]], num_steps: int) -> None:
    """Whatever a node claims: steps never go back, time is never negative, and standing still earns no more time."""
    ordered = sorted(reports, key=lambda report: report[2])
    made = lease(*ordered)
    assert made.step == max([0, *(step for phase, step, _ in ordered if phase == "compute")])
    assert made.step_s is None or made.step_s >= 0.0
    assert made.allowed_until_s(num_steps) >= made.at_s
    before = made.step_s
    made.hear("compute", made.step, made.at_s + 1e6)
    assert made.step_s == before


def test_a_job_has_the_pace_of_the_middle_lane() -> None:
    """One lane that claims an hour a step does not slow the rest; a merge's steps are none."""
    steady = [lease(("fetch", 0, 0.0), ("compute", 1, 10.0 + lane)) for lane in range(3)]
    liar = lease(("fetch", 0, 0.0), ("compute", 1, 3600.0))
    merge = lease(("fetch", 0, 0.0), ("compute", 1, 9000.0), kind=TaskKind.MERGE)
    assert median_step_s([*steady, liar, merge]) == 11.5
    assert median_step_s([lease(("fetch", 0, 0.0)), merge]) == 0.0
    assert median_step_s([]) == 0.0


def test_a_complete_round_closes_at_once() -> None:
    """When every lane has contributed nobody waits for a clock."""
    assert is_closed([1.0, 2.0, 900.0], Pace(3, 10.0), 0.0)


@given(st.integers(1, 12), st.floats(0.1, 100), st.floats(0, 1e6), ARRIVALS)
def test_no_round_closes_below_quorum(num_lanes: int, expected: float, elapsed: float, arrivals: list[float]) -> None:
    """However late it is, fewer than two thirds of the lanes make no round."""
    pace = Pace(num_lanes, expected)
    assert not is_closed(arrivals[: pace.quorum - 1], pace, elapsed)


@given(st.integers(2, 12), st.floats(0.1, 100), ARRIVALS.filter(bool))
def test_a_round_with_quorum_closes_at_one_moment(num_lanes: int, expected: float, arrivals: list[float]) -> None:
    """That is the later of its deadline and the grace behind its quorum; before it is open, from then on closed."""
    pace, come = Pace(num_lanes, expected), arrivals[: num_lanes - 1]
    assume(len(come) >= pace.quorum)
    end_s = max(deadline_s(come, pace), sorted(come)[pace.quorum - 1] + GRACE_FACTOR * expected)
    assert is_closed(come, pace, end_s)
    assert is_closed(come, pace, 2 * end_s)
    assert not is_closed(come, pace, end_s - 1e-3)


@given(ARRIVALS, st.floats(0.1, 1e3))
def test_deadlines_lie_between_floor_and_ceiling(arrivals: list[float], expected: float) -> None:
    """Neither hurry nor delay of any node moves the deadline out of its band."""
    pace = Pace(4, expected)
    assert max(5.0, 1.5 * expected) <= deadline_s(arrivals, pace) <= max(5.0, 6.0 * expected)


def test_one_slow_node_does_not_move_the_deadline() -> None:
    """Median and MAD ignore a single outlier, however far out."""
    pace = Pace(5, 10.0)
    near, far = ([30.0, 31.0, 32.0, 33.0, late] for late in (40.0, 4e6))
    assert deadline_s(near, pace) == deadline_s(far, pace)


@given(*[st.floats(0, 1e6)] * 4)
def test_nobody_is_called_silent_before_the_agreed_time(
    expected: float, agreed: float, floor: float, more: float
) -> None:
    """However hurried a market is set, a question stays open as long as the spec agrees for its task."""
    given_s = answer_s(expected, agreed, floor_s=floor, factor=more)
    assert given_s >= agreed
    assert given_s >= floor + more * expected


def test_a_hurried_market_gives_the_agreed_time() -> None:
    """A tenth of the expected time would be refuted by every verifier (`silence.hasty`)."""
    assert answer_s(62.0, 60.0, floor_s=0.0, factor=0.1) == 60.0
    assert answer_s(62.0, 60.0, floor_s=60.0, factor=4.0) == 308.0
