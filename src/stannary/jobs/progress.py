"""What a node's reports say of the time its lease takes: measured steps instead of agreed ones.

    environment, fetch   before the first step: no figure yet, UNMEASURED_S for the next sign of life
    compute, step k      seconds a step = time since the first report of a step / steps since then
    after the last step  results are made, measured and handed in: again no figure, UNMEASURED_S
    fetch, store         bytes move: said again as they do, so that a slow link is no silence

Rules:
1. The market's clock measures, on the reports' arrival; a node only says how far it is.
2. A step takes what was measured, so a lease may go on for SLACK times what is left, and need not be heard of for
   SLACK steps. It ends at its limit all the same: the job's wall_s, START_S for the start, and what the bytes it was
   given and may hand in take on the slowest link (`limit_s`). Who only claims to be busy holds a task no longer.
3. Steps never go back: a report that says less than an earlier one is only a sign of life.
4. A job's step time is the median over its leases, so that one node alone neither hurries nor holds the others.

The agreed `step_ms` remains what is paid by, and the least that is ever expected.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from stannary.formats.ids import TaskKind

UNMEASURED_S = 600.0  # a step of ten minutes, or an installation of that length
START_S = 1200.0  # loading and checking a recipe: six steps (agent/holdings.py PREPARE_WALL_S)
SLACK = 3.0  # a busy machine takes so many times what it took at first (measured: 2 cores, 8 tenants)
SLOWEST_BYTES_PER_S = 1_000_000  # 8 Mbit/s: over less, half a gigabyte takes more than ten minutes
COMPUTE = "compute"
STORE = "store"


@dataclass(slots=True)
class Progress:
    """The reports of one lease."""

    kind: TaskKind
    at_s: float  # when the last came
    begun_s: float  # when the last came before the first step
    step: int = 0
    step_at_s: float = 0.0  # when that step was reported
    first_step: int = 0
    first_step_at_s: float = 0.0
    is_computed: bool = False

    def hear(self, phase: str, step: int, now_s: float) -> None:
        """Take a report."""
        self.at_s = now_s
        self.is_computed = self.is_computed or phase == STORE  # the report of the last step may have been overtaken
        if phase != COMPUTE or step <= self.step:
            self.begun_s = now_s if self.step == 0 else self.begun_s
            return
        if self.step == 0:
            self.first_step, self.first_step_at_s = step, now_s
        self.step, self.step_at_s = step, now_s

    @property
    def step_s(self) -> float | None:
        """Seconds a step takes, None before the first."""
        if self.step == 0:
            return None
        if self.step == self.first_step:
            return (self.first_step_at_s - self.begun_s) / self.step
        return (self.step_at_s - self.first_step_at_s) / (self.step - self.first_step)

    def is_silent(self, now_s: float, least_s: float, num_steps: int) -> bool:
        """Tell whether the next sign of life is overdue; it never is before `least_s`."""
        return now_s - self.at_s >= max(least_s, self._patience_s(1, num_steps))

    def allowed_until_s(self, num_steps: int) -> float:
        """Return until when the reports so far let the lease go on."""
        return self.at_s + self._patience_s(num_steps - self.step, num_steps)

    def _patience_s(self, steps: int, num_steps: int) -> float:
        """Return how long `steps` may take of a lease of `num_steps`."""
        step_s = self.step_s
        if step_s is None:
            return UNMEASURED_S
        # What is left then is no step: a model of gigabytes is written, hashed and sent.
        if self.is_computed or self.step >= num_steps:
            return max(UNMEASURED_S, SLACK * step_s)
        return SLACK * step_s * steps


def limit_s(wall_s: float, num_bytes: int) -> float:
    """Return how long a lease may last whatever is reported, `num_bytes` to be moved for it."""
    return START_S + wall_s + num_bytes / SLOWEST_BYTES_PER_S


def median_step_s(leases: Iterable[Progress]) -> float:
    """Return the time of an inner step over a job's leases, zero where none has reported one."""
    measured = [found.step_s for found in leases if found.kind is TaskKind.ROUND]  # a merge counts contributions
    known = [step_s for step_s in measured if step_s is not None]
    return statistics.median(known) if known else 0.0
