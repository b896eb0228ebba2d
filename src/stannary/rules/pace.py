"""The pace of work: how long a task, an answer, a round and a job may take, and when who is silent counts as gone.

    expected     steps x time of a step, with a worker's start and the way of its bytes
    round        closes when complete; with a quorum, at its deadline or after a grace; never without
    lease        ends at its deadline, unless its node's reports of progress earn it more
    answer       as the market's operator sets it, and at least the time agreed for the task: less refutes a silence
    audit        waits for its node to have room, AUDIT_WAIT_FACTOR times what the job's longest task took so far
    job          of which nothing moved for LATEST_FACTOR times its longest task stands still

Rounds:
- Deadline = median + K x MAD of the arrivals, within a floor and a ceiling of the expected time, so that one node can
  neither hurry the others by coming early nor hold them by coming late.

Leases: a node's reports say what its lease takes, measured steps instead of agreed ones.

    environment, fetch   before the first step: no figure yet, UNMEASURED_S for the next sign of life
    compute, step k      seconds a step = time since the first report of a step / steps since then
    after the last step  results are made, measured and handed in: again no figure, UNMEASURED_S
    fetch, store         bytes move: said again as they do, so that a slow link is no silence

1. The market's clock measures, on the reports' arrival; a node only says how far it is.
2. A step takes what was measured, so a lease may go on for SLACK times what is left, and need not be heard of for
   SLACK steps. It ends at its limit all the same: the job's wall_s, START_S for the start, and what the bytes it was
   given and may hand in take on the slowest link (`limit_s`). Who only claims to be busy holds a task no longer.
3. Steps never go back: a report that says less than an earlier one is only a sign of life.
4. A job's step time is the median over its leases, so that one node alone neither hurries nor holds the others.

Where a step time is agreed (rules 2), it is what is paid by, and the least that is ever expected. Else the first step
is expected to take as long as `wall_s` allows, and later ones what was measured (rules/shape.py): a lease given before
that ends SLACK times what is left at its own pace after its last report, whatever it was given.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Used
from stannary.formats.quantity import PPM
from stannary.rules.kinds import TASKS

HEARTBEAT_INTERVAL_S = 10.0  # sent at +-20 %, so that a fleet does not beat in step
SUSPECT_AFTER_S = 35.0  # no new work: three beats missed
LOST_AFTER_S = 120.0  # leases go to another node, epoch + 1

QUORUM_PPM = 666_667  # two thirds of the lanes
MAD_FACTOR = 5.0  # of a normal spread, one honest arrival in a thousand lies behind
FLOOR_FACTOR = 1.5  # of the expected time: below this no deadline falls, however quick the first are
CEILING_FACTOR = 6.0  # nor above this, however slow: the latest deadline of a round, and of a lease
GRACE_FACTOR = 0.25  # of the expected time, after the quorum is there
LEAST_S = 5.0  # a deadline below a few heartbeats' pause would measure the link, not the work
PATIENCE_FACTOR = 3.0  # a late lane is given to another node before its round closes without it
LAST_RESORT_FACTOR = 10.0  # of start and link: a node that was silent about a task gets it again if nobody else came
AUDIT_WAIT_FACTOR = 3.0  # of the longest task's time: its node may have just begun such a one, and be slow
LATEST_FACTOR = 2 * CEILING_FACTOR  # of the longest task's time: two leases of it to their last deadline

REVEAL_S = 900.0  # a buyer's broker has so long for a beacon value, unless a market's operator says otherwise
UNMEASURED_S = 600.0  # a step of ten minutes, or an installation of that length
START_S = 1200.0  # loading and checking a recipe: running two of its steps three times
SLACK = 3.0  # a busy machine takes so many times what it took at first (measured: 2 cores, 8 tenants)
SLOWEST_BYTES_PER_S = 1_000_000  # 8 Mbit/s: over less, half a gigabyte takes more than ten minutes
COMPUTE = "compute"
STORE = "store"


def expected_s(num_steps: int, step_s: float, start_link_s: float) -> float:
    """Return how long a task should take, with start and link."""
    return num_steps * step_s + start_link_s


def least_s(agreed_s: float, used: Used | None, wall_s: int) -> float:
    """Return what a party of an audit is given at least for its answer: who is called silent before refutes (R11.3).

    Args:
        agreed_s: the time the signed spec agrees for the task, if it does.
        used: what who did the task measured and committed to, where that is paid by; nobody need be faster.
        wall_s: how long a task may take: whoever says that it took longer holds up nobody for longer.
    """
    return agreed_s if used is None else max(agreed_s, min(used.wall_ms / 1000, float(wall_s)))


def answer_s(expected_s: float, agreed_s: float, *, floor_s: float, factor: float) -> float:
    """Return how long a party of an audit has for its answer.

    Args:
        expected_s: how long the task should take, with start and link.
        agreed_s: what it has at least (`least_s`): who is called silent before refutes the receipt.
        floor_s, factor: what the market's operator adds and multiplies by.
    """
    return max(agreed_s, floor_s + factor * expected_s)


def audit_wait_s(took_s: float, agreed_s: float, *, floor_s: float) -> float:
    """Return how long an audit waits for its node to take it; then its task counts as not audited (R11.10).

    Args:
        took_s: how long the longest task of the job took that was handed in.
        agreed_s: what its answer is given at least (`least_s`): whoever waits less refutes the receipt.
        floor_s: what the market's operator lets it wait at least.
    """
    return max(AUDIT_WAIT_FACTOR * max(took_s, agreed_s), floor_s)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a round should take and how many lanes it has."""

    num_lanes: int
    expected_s: float  # assigned steps x agreed step time, with start and link

    @property
    def quorum(self) -> int:
        """Return the least number of contributions a round can close with."""
        return quorum(self.num_lanes)


def quorum(num_lanes: int) -> int:
    """Return the least number of lanes that must have handed in before a round closes without the others (R12.17)."""
    return max(1, -(-num_lanes * QUORUM_PPM // PPM))


def deadline_s(arrivals_s: Sequence[float], pace: Pace) -> float:
    """Return the time after the opening of a round at which late lanes are left out.

    Args:
        arrivals_s: when contributions came, counted from the opening.
        pace: what was expected.
    """
    floor_s = max(LEAST_S, FLOOR_FACTOR * pace.expected_s)
    ceiling_s = max(LEAST_S, CEILING_FACTOR * pace.expected_s)
    if not arrivals_s:
        return ceiling_s
    median_s = statistics.median(arrivals_s)
    mad_s = statistics.median(abs(arrival_s - median_s) for arrival_s in arrivals_s)
    return min(max(median_s + MAD_FACTOR * mad_s, floor_s), ceiling_s)


def is_closed(arrivals_s: Sequence[float], pace: Pace, elapsed_s: float) -> bool:
    """Tell whether a round that opened `elapsed_s` ago is closed."""
    if len(arrivals_s) >= pace.num_lanes:
        return True
    if len(arrivals_s) < pace.quorum:
        return False
    quorum_s = sorted(arrivals_s)[pace.quorum - 1]
    return elapsed_s >= max(deadline_s(arrivals_s, pace), quorum_s + GRACE_FACTOR * pace.expected_s)


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

    def has_pace(self, num_steps: int) -> bool:
        """Tell whether steps are measured and some are left: what comes before and behind them has no pace."""
        return self.step_s is not None and not self.is_computed and self.step < num_steps

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
    measured = [found.step_s for found in leases if TASKS[found.kind].trains]  # a merge counts contributions
    known = [step_s for step_s in measured if step_s is not None]
    return statistics.median(known) if known else 0.0
