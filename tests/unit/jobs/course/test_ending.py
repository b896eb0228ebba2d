"""When a job that nobody brings to its end is ended: it stands still, or nobody is there who could go on."""

from __future__ import annotations

from dataclasses import replace

from tests.integration.market.fake_buyer import before, train_spec
from tests.unit.market import moment

from stannary.jobs.course.ending import overdue
from stannary.jobs.course.state import Timing
from stannary.rules.pace import LATEST_FACTOR

TIMING = Timing(stall_s=100.0, lost_s=30.0)
ORDER = moment.order(before(train_spec()))  # whose steps have a time


def why(still_s: float, deserted_s: float | None = None, *, step_s: float = 0.0) -> str:
    """Return why a job is ended that stood still, and was deserted, for so long; empty if it goes on."""
    end = overdue(ORDER, moment.world(timing=TIMING, step_s=step_s), still_s, deserted_s)
    return end[0] if end is not None else ""


def test_a_job_stands_still_for_longer_than_its_longest_task_may_take() -> None:
    """Measured steps that are slower than agreed give it more time."""
    shape = ORDER.shape
    longest_s = TIMING.stall_s + LATEST_FACTOR * shape.longest_steps * shape.step_ms / 1000
    assert why(longest_s) == ""
    assert why(longest_s + 0.001) == "stalled"
    assert why(longest_s + 0.001, step_s=shape.step_ms / 1000 + 0.01) == ""


def test_a_job_nobody_could_work_for_ends_sooner() -> None:
    """But not before its nodes had the time after which a node counts as lost."""
    assert why(0.0, TIMING.lost_s) == ""
    assert why(0.0, TIMING.lost_s + 0.001) == "no-capacity"
    assert why(0.0, None) == ""
    assert why(1e9, TIMING.lost_s + 0.001) == "stalled", "what is told first is what holds for longest"


def test_how_long_it_stood_still_is_told() -> None:
    """In whole seconds."""
    end = overdue(ORDER, moment.world(timing=replace(TIMING, stall_s=0.0)), 86_401.4, None)
    assert end == ("stalled", "nothing of it was handed in or judged for 86,401 s")
