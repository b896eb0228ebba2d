"""What a task costs, and a job at most, in whole micro-dollars.

    price = ceil(num_steps x step_ms x ask per hour / 3,600,000)

The ask is that of the node's credential. The step time is agreed in the signed spec, so that a price is known before
the work and does not grow with a slow node. Always rounded up: a task is never free, and the buyer's worst case is a
sum of the same numbers that are paid. The market holds and pays by it, the verifier settles again by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stannary.errors import FormatError, UsageError

MS_PER_HOUR = 3_600_000
AUDITS_IN_ESCROW = 2  # a first auditor, and a second one when they disagree


@dataclass(frozen=True, slots=True)
class Work:
    """One task as it is priced: steps it computes, and the agreed time of one."""

    num_steps: int
    step_ms: int


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


def worst_case(works: Iterable[Work], highest_ask_usd_micros_per_hour: int, *, verified: bool = True) -> WorstCase:
    """Return the most that `works` can cost; no audits where the spec agreed to none."""
    work = sum(price_of(item.num_steps, item.step_ms, highest_ask_usd_micros_per_hour) for item in works)
    return WorstCase(work, work * AUDITS_IN_ESCROW if verified else 0)


def lane_works(*, inner_steps: Iterable[int], num_rounds: int, num_lanes: int, step_ms: int) -> list[Work]:
    """List the priced tasks of a training job: each lane of each round, and each merge.

    Args:
        inner_steps: steps of the first rounds; the last value repeats.
        num_rounds: how many rounds.
        num_lanes: how many lanes; a merge has one step for each.
        step_ms: agreed time of one step.
    """
    steps = list(inner_steps)
    if not steps:
        raise UsageError("a training job needs inner steps", why="the list is empty")
    works: list[Work] = []
    for index in range(num_rounds):
        works.extend([Work(steps[min(index, len(steps) - 1)], step_ms)] * num_lanes)
        works.append(Work(num_lanes, step_ms))
    return works
