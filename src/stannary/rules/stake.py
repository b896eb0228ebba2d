"""The stake in the buyer's own code: pay that a strike takes, and how often a unit is drawn for it (R8.12, R14.8).

Whoever fakes a unit saves the fraction g of its price, is drawn with probability q, and found with d when drawn. There
no bond can be lost, so all there is to lose is pay: of the unit, of what its node did around it, and of nothing else.

Rules:
1. A strike takes the pay of the `HELD_UNITS` units before the one found odd and of as many behind it, and of as many
   audits: where verdicts follow the work, nothing is behind but what was handed in while one was awaited. The cap is
   what a node risks by a program that is aimed at it.
2. Each unit is drawn at a rate of its own, the larger of the signed one and the least at which faking it is a loss: its
   own steps against those of what its node has handed in before it, the last `HELD_UNITS` units at most. So a node's
   first unit is drawn most often, whether it came first or was called in late: nothing is behind it.
3. A node whose operator was struck is *watched* until `CLEAN_RUN` of its units or canaries in a row were found the same
   by others: as many as a strike takes the pay of. A draw takes its units as if nothing stood behind them, as far as
   what insurance has put aside reaches. That is what strikes against its operator took and no more, in one job at a
   time: so nobody who strikes a friend gets back more than he paid (R8.15).
4. What stands behind a unit is a fact of the log: contributions that were logged before its commitment was.

docs/audits.md (What a strike takes) says why no way of cheating pays then; unit/rules/test_stake.py tries them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Watch
from stannary.formats.quantity import PPM
from stannary.rules import blame, use

CLEAN_RUN = 20  # units, or canaries, that others found the same since the last strike
HELD_UNITS = 20  # S: so many units' pay is at stake beside the unit itself, and so many more may be in flight


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A unit that a node handed in: where its contribution stands in the log, and how many steps are paid for it."""

    node: NodeId
    index: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Paid:
    """What a node is owed pay for: the log index of its contribution or answer, and its task or audit."""

    index: int
    name: str
    is_audit: bool = False


def least_ppm(gain_ppm: int, detection_ppm: int, unit: int, stake: int) -> int:
    """Return the least rate at which faking a unit is a loss, in ppm; above 10^6 where none is.

    Args:
        gain_ppm, detection_ppm: g and d.
        unit, stake: the unit's pay and what else is lost with it, in one measure: money, steps or units.
    """
    return gain_ppm * PPM * unit // (detection_ppm * (unit + stake)) + 1  # strictly greater


def unit_ppm(spec: JobSpec, num_steps: int, held_steps: int) -> int | None:
    """Return the rate a unit is drawn at (rule 2, R8.12), None where it is the signed one.

    Args:
        spec: of the job.
        num_steps: of the unit.
        held_steps: of what its node has handed in before it.
    """
    trust = spec.trust
    if blame.convicts(spec) or trust.verify is Verification.NONE:
        return None
    least = least_ppm(trust.gain_ppm, trust.detection_ppm, max(num_steps, 1), held_steps)
    return max(trust.audit_ppm, min(least, PPM))


def held_steps(done: Iterable[UnitDone], node: NodeId, before: int) -> int:
    """Return the steps of the last `HELD_UNITS` units a node handed in before a log index (rule 4)."""
    found = sorted((item.index, item.num_steps) for item in done if item.node == node and item.index < before)
    return sum(steps for _, steps in found[-HELD_UNITS:])


def watched(units: Sequence[tuple[NodeId, int]], watch: Watch | None, max_usd_micros_per_hour: int) -> dict[int, int]:
    """Return which units of a draw are watched, by their place in it, and what each costs at most (R8.15).

    Args:
        units: their nodes and their work, in microseconds, in the order of the draw.
        watch: of its list of candidates.
        max_usd_micros_per_hour: what the buyer pays anybody at most.
    """
    left = watch.usd_micros if watch is not None else 0
    found: dict[int, int] = {}
    for at, (node, work_us) in enumerate(units):
        price = use.price_of(work_us, max_usd_micros_per_hour)
        if watch is not None and node in watch.nodes and price <= left:
            found[at] = price
            left -= price
    return found


def voided(paid: Sequence[Paid], odd: int) -> list[Paid]:
    """Return what a strike takes of what a node is owed; `odd` is the log index of what was found odd (R14.8)."""
    taken: list[Paid] = []
    for is_audit in (False, True):
        kind = sorted((item for item in paid if item.is_audit is is_audit), key=lambda item: (item.index, item.name))
        taken += [item for item in kind if item.index < odd][-HELD_UNITS:]
        taken += [item for item in kind if item.index > odd][:HELD_UNITS]
    return taken


def mean_ppm(spec: JobSpec, num_units: int, audit_ppm: int, num_nodes: int) -> int:
    """Return the rate to expect of a job whose equal units so many nodes share evenly, in ppm, rounded up."""
    if blame.convicts(spec) or spec.trust.verify is Verification.NONE or not num_units:
        return audit_ppm
    trust, each, more = spec.trust, *divmod(num_units, num_nodes)
    total = 0
    for at in range(each + (1 if more else 0)):
        least = least_ppm(trust.gain_ppm, trust.detection_ppm, 1, min(at, HELD_UNITS))
        total += max(audit_ppm, min(least, PPM)) * (num_nodes if at < each else more)
    return -(-total // num_units)
