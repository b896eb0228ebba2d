"""Standing: what strikes in the jobs of many buyers come to for one node. Pure.

A strike says that a node stood alone in a program of its buyer's, who can make any node stand alone. So one buyer's
strikes prove nothing, however many, and those of many prove no more than that it is worth a look in code of ours.

Rules:
1. Each buyer counts once, however many jobs struck the node, by what he spent at *other* operators: a share of at most
   `SHARE_USD_MICROS` at each, `OTHERS` of them make a whole voice. Money paid to the node's own operator, or to one
   friend, is worth little. Strikes older than `WINDOW_MS`, taken back, or of before the last restoration are forgotten.
2. From `THRESHOLD_PPM` on the node is suspended: no new work in buyers' own code, and no penalty; what it holds it
   finishes, what it did is paid. Work in code of ours it still gets, where a bond is at stake.
3. The market at once orders a canary of it (jobs/canary.py), and passing that restores it, as does any recomputation
   in code of ours in which it agreed with another operator, as prover or as auditor. Where nobody could look, nothing
   was found: time restores it, `HOLD_MS` of its connection after it was suspended. One that failed a canary, or left it
   unanswered, stays suspended until it passes one. Whom two contradict in a buyer's job in code of ours is convicted,
   and works for nobody any more.
4. Restored, it is not suspended again for `GRACE_MS`: no number of accounts takes more of its day than one suspension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from stannary.formats.quantity import PPM

SHARE_USD_MICROS = 1_000_000  # at one other operator; more of it is worth no more
OTHERS = 3  # operators with whom such shares make a whole voice
THRESHOLD_PPM = 3 * PPM  # whole voices
HOLD_MS = 600_000
GRACE_MS = 86_400_000
WINDOW_MS = 30 * 86_400_000

WeightOf = Callable[[str], int]


class StandingChange(StrEnum):
    """What is to be done about a node."""

    SUSPEND = "suspend"
    RESTORE_PASSED = "passed"  # others found the same in code of ours, or the market did
    RESTORE_UNSEEN = "unseen"  # nobody could look


@dataclass(frozen=True, slots=True)
class StruckBy:
    """A node stood alone in a job of this buyer's."""

    job: str
    buyer: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """What is held against a node, and what came of it."""

    strikes: tuple[StruckBy, ...] = ()  # those taken back are not here
    suspended_at_ms: int | None = None  # None while it is not
    restored_at_ms: int | None = None  # the last time
    passed_at_ms: int | None = None  # when others found the same of it in code of ours, the last time
    is_over: bool = False  # nobody could look, in all the time that is waited for (jobs/canary.py)


def weight_ppm(spent: Mapping[str, int], operator: str) -> int:
    """Return the voice of a buyer about a node of `operator`, in ppm (rule 1).

    Args:
        spent: what he paid to each operator, in micro-dollars.
        operator: the node's own, which does not count.
    """
    shares = (min(max(paid, 0), SHARE_USD_MICROS) for name, paid in spent.items() if name != operator)
    return min(sum(shares) * PPM // (OTHERS * SHARE_USD_MICROS), PPM)


def counted(standing: NodeStanding, now_ms: int) -> frozenset[str]:
    """Return the buyers whose strikes count now."""
    since_ms = max(now_ms - WINDOW_MS, -1 if standing.restored_at_ms is None else standing.restored_at_ms)
    return frozenset(item.buyer for item in standing.strikes if item.at_ms > since_ms)


def score_ppm(standing: NodeStanding, weight_of: WeightOf, now_ms: int) -> int:
    """Return how many voices count against a node now, in ppm of one."""
    return sum(map(weight_of, counted(standing, now_ms)))


def decide(standing: NodeStanding, weight_of: WeightOf, now_ms: int) -> StandingChange | None:
    """Return what is to be done about a node now, None where nothing is."""
    if standing.suspended_at_ms is not None:
        if standing.passed_at_ms is not None and standing.passed_at_ms >= standing.suspended_at_ms:
            return StandingChange.RESTORE_PASSED
        return StandingChange.RESTORE_UNSEEN if standing.is_over else None
    if standing.restored_at_ms is not None and now_ms < standing.restored_at_ms + GRACE_MS:
        return None
    return StandingChange.SUSPEND if score_ppm(standing, weight_of, now_ms) >= THRESHOLD_PPM else None
