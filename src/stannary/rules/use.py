"""Measured use: what a unit took, and by how much of it who is paid (docs/receipt.md R9.10).

    reading   wall time x processors promised, less what its threads waited for a processor; at least the processor
              time, at most the job's wall_s x processors
    work      reading x grade of the node (rules/grade.py), in microseconds of a processor of grade 1: of a SCU

Rules, of jobs that name an edition which pays by use (rules/edition.py):
1. Both sides of a recomputation are paid by the lowest work among them. Whoever inflates a meter gains nothing, as
   prover or as auditor, unless everybody who recomputes inflates with him.
2. A unit that was not recomputed is paid by its own work, but by no more than the job's audited median allows: work a
   step of the recomputed units of its kind. A command is one step: all lanes of a job have the same inputs, so the
   bytes of input are the same too. The first unit (rules/first.py) says nothing about others where any other of its
   kind was recomputed: its buyer knows that it is drawn, and may have made it cheap.
3. Work far beyond (by 1.25 x and a second) the median of the units of its kind that a draw lists, or of those handed in
   before, by their own words, is always drawn. So whose unit is heavier than others' is paid for it, and that one
   round is dearer than all before does not hide it. Two readings further apart are a finding.
4. Where the buyer asked for no verification there is no second side: the node's own reading is paid, up to `wall_s`.
5. A meter of nothing is worth nothing; a price is rounded up all the same.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

from stannary.formats import bounds
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import Resources
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Used
from stannary.rules.grade import UNGRADED_PPM

US_PER_MS = 1000
US_PER_HOUR = 3_600_000_000
FAR_NUMERATOR, FAR_DENOMINATOR = 5, 4  # beyond 1.25 x
FAR_US = 1_000_000  # and by so much: starting a program varies by some tenths of a second
UNREAD_S = 6  # a node reads its meter every 5 s, and a reading is on its way for a while


@dataclass(frozen=True, slots=True)
class Sides:
    """The work of one unit, in microseconds: of who did it, and of those who recomputed it and are paid for that."""

    own_us: int
    recomputed_us: tuple[int, ...]
    num_steps: int

    @property
    def lowest_us(self) -> int:
        """What both sides of a recomputation are paid by (rule 1)."""
        return min(self.own_us, *self.recomputed_us) if self.recomputed_us else self.own_us

    @property
    def is_apart(self) -> bool:
        """Whether two of the readings are further apart than readings of the same work are (rule 3)."""
        return bool(self.recomputed_us) and is_far(max(self.own_us, *self.recomputed_us), self.lowest_us)


def reading_ms(used: Used, asked: Resources) -> int:
    """Return the processor milliseconds of one execution; members outside their bounds count as the nearest end."""
    wall_ms, waited_ms, cpu_ms = (bounds.MS.clamp(item) for item in (used.wall_ms, used.waited_ms, used.cpu_ms))
    held_ms = min(wall_ms, asked.wall_s * 1000) * asked.cpus
    return min(max(held_ms - waited_ms, cpu_ms), held_ms)


def work_us(used: Used, asked: Resources, grade_ppm: int = UNGRADED_PPM) -> int:
    """Return the grade-adjusted reading of one execution, in microseconds."""
    return reading_ms(used, asked) * grade_ppm // US_PER_MS


def stopped_ms(read_ms: int, *, stopped_s: int, passed_s: int) -> int:
    """Return the milliseconds of work in hand when its buyer stopped it (R14.12): with what came since it was read.

    Times in the log are whole seconds, rounded down: one more is allowed for, in favour of who worked.

    Args:
        read_ms: what the last reading before the stop has of this work; of 0 nothing had begun.
        stopped_s: seconds from that reading to the stop.
        passed_s: seconds from the lease to the stop: the most that can have been worked.
    """
    if read_ms <= 0:
        return 0
    unread_s = min(max(stopped_s, 0), UNREAD_S) + 1
    return max(min(read_ms + 1000 * unread_s, 1000 * (passed_s + 1)), 0)


def price_of(amount_us: int, ask_usd_micros_per_hour: int) -> int:
    """Return what work costs at an ask in dollars per SCU-hour, in micro-dollars, rounded up."""
    return -(-amount_us * ask_usd_micros_per_hour // US_PER_HOUR)


def ceiling_us(asked: Resources, grade_ppm: int = UNGRADED_PPM) -> int:
    """Return the most work that one unit can be paid by."""
    return asked.wall_s * 1000 * asked.cpus * grade_ppm // US_PER_MS


def median_us(units: Iterable[tuple[int, int]]) -> int | None:
    """Return the median work a step of (work, steps), the lower one of two; None of no units."""
    rates = sorted(amount_us // max(num_steps, 1) for amount_us, num_steps in units)
    return _middle(rates) if rates else None


class StepRates:
    """Work a step of units, by kind: those of the first unit count where there are no others (rule 2)."""

    def __init__(self) -> None:
        self._rates: dict[tuple[TaskKind, bool], list[int]] = {}

    def add(self, kind: TaskKind, amount_us: int, num_steps: int, *, is_first: bool) -> None:
        """Count one more."""
        insort(self._rates.setdefault((kind, is_first), []), amount_us // max(num_steps, 1))

    def median_us(self, kind: TaskKind) -> int | None:
        """Return the median of a kind, the lower one of two; None where there is none of it."""
        rates = self._rates.get((kind, False)) or self._rates.get((kind, True))
        return _middle(rates) if rates else None


def _middle(rates: Sequence[int]) -> int:
    return rates[(len(rates) - 1) // 2]


def paid_us(sides: Sides, audited_median_us: int | None) -> int:
    """Return the work that a unit is paid by (rules 1 and 2).

    Args:
        sides: its readings.
        audited_median_us: work a step of the recomputed units of its kind; None where there are none.
    """
    if sides.recomputed_us or audited_median_us is None:
        return sides.lowest_us
    return min(sides.own_us, audited_median_us * sides.num_steps)


def is_far(amount_us: int, from_us: int) -> bool:
    """Return whether work is far beyond another: not what two honest readings of the same differ by (R14.11)."""
    return amount_us * FAR_DENOMINATOR > from_us * FAR_NUMERATOR and amount_us - from_us > FAR_US


@dataclass(frozen=True, slots=True)
class DrawnUse:
    """A unit that a draw lists: what it is, and what its node says that it took."""

    kind: TaskKind
    num_steps: int
    used: Used | None
    grade_ppm: int = UNGRADED_PPM

    def work_us(self, asked: Resources) -> int:
        """Return its work, 0 where nobody said what it took."""
        return work_us(self.used, asked, self.grade_ppm) if self.used is not None else 0


def far_out(units: Sequence[DrawnUse], before: StepRates, asked: Resources) -> tuple[bool, ...]:
    """Return whether each unit of a draw is far beyond a median of those of its kind (rule 3, R8.13).

    Args:
        units: those the draw lists.
        before: of those that were handed in before the first of them was committed to.
        asked: of their job.
    """
    medians: dict[TaskKind, int] = {}
    for kind in {item.kind for item in units}:
        listed = median_us((item.work_us(asked), item.num_steps) for item in units if item.kind is kind)
        medians[kind] = min(median for median in (listed, before.median_us(kind)) if median is not None)
    return tuple(
        item.used is not None and is_far(item.work_us(asked), medians[item.kind] * max(item.num_steps, 1))
        for item in units
    )
