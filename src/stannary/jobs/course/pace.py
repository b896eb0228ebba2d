"""How long a task of a job should take, with start and link."""

from __future__ import annotations

from stannary.jobs.course.state import JobOrder, World
from stannary.rules import pace


def expected_s(order: JobOrder, world: World, num_steps: int) -> float:
    """Return the time to expect of a task of so many steps: at the agreed step time, or as was measured since."""
    return pace.expected_s(num_steps, order.shape.step_s(world.step_s), world.timing.start_link_s)
