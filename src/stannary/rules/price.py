"""What a task costs, and a job at most, in whole micro-dollars (docs/receipt.md R14.2).

    price = ceil(num_steps x step_ms x ask per hour / 3,600,000)

The ask is that of the node's credential. The step time is agreed in the signed spec, so that a price is known before
the work and does not grow with a slow node. Always rounded up: a task is never free, and the buyer's worst case is a
sum of the same numbers that are paid. The market holds and pays by it, the verifier settles again by it.
"""

from __future__ import annotations

from stannary.errors import FormatError
from stannary.formats.lean import dataclass
from stannary.formats.quantity import PPM
from stannary.rules.shape import Shape

MS_PER_HOUR = 3_600_000
AUDITS_IN_ESCROW = 2  # a first auditor, and a second one when they disagree


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What a job can cost at most: everything at the dearest eligible ask, every task audited twice."""

    work_usd_micros: int
    audit_usd_micros: int

    @property
    def escrow_usd_micros(self) -> int:
        """Return what is held on submit."""
        return self.work_usd_micros + self.audit_usd_micros


def price_of(num_steps: int, step_ms: int, ask_usd_micros_per_hour: int) -> int:
    """Return the price of one task at one node's ask, in micro-dollars.

    Raises:
        FormatError: negative figures.
    """
    if min(num_steps, step_ms, ask_usd_micros_per_hour) < 0:
        raise FormatError("price of a negative amount", why=f"{num_steps} x {step_ms} ms x {ask_usd_micros_per_hour}")
    return -(-num_steps * step_ms * ask_usd_micros_per_hour // MS_PER_HOUR)


def expected_audits(shape: Shape, audit_ppm: int, num_operators: int, ask_usd_micros_per_hour: int) -> int:
    """Return what audits cost where everybody agrees, in micro-dollars, rounded up.

    So many units in a million are audited, and at least one of each operator and the last merge.
    """
    work = sum(price_of(steps, shape.step_ms, ask_usd_micros_per_hour) for steps in shape.all_steps())
    least = min(num_operators + (1 if shape.kind.merge is not None else 0), shape.num_tasks)
    return -(-work * max(audit_ppm, least * PPM // shape.num_tasks) // PPM)


def worst_case(shape: Shape, highest_ask_usd_micros_per_hour: int, *, verified: bool = True) -> WorstCase:
    """Return the most that a job can cost; no audits where the spec agreed to none."""
    work = sum(price_of(steps, shape.step_ms, highest_ask_usd_micros_per_hour) for steps in shape.all_steps())
    return WorstCase(work, work * AUDITS_IN_ESCROW if verified else 0)
