"""Assurance: what the check of a job must be worth, how much of it must be recomputed for that, and what was reached.

    sampled    the rate at which cheating is a loss at the stake, p > g / (d·(S + 1)), and no more
    verified   a tenth of the units, faked, is never found with a probability of 0.01 at most
    full       every unit is recomputed

Rules (docs/receipt.md R7.9, R15):
1. The rate is signed beside the word. A buyer may raise it, never lower it below what the word needs: client, market
   and verifier refuse it with one function.
2. A tenth of n units are floor(n / 10) of them where the rate is solved, at least one, and ceil(n / 10) where the
   figure is computed: a lane that comes too late does not take a job its word.
3. Units are drawn at random and independently: m faked ones are never found with (1 - q·d)^m, q the smaller of the
   signed rate and the share that was really checked. All is decided in whole numbers.
4. What was reached is called by the lower word, never by a higher one than its figures bear.
"""

from __future__ import annotations

from collections.abc import Callable

from stannary.errors import SpecError
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Assurance, Verdict
from stannary.formats.quantity import PPM
from stannary.rules.shape import shape_of

TENTH = 10  # one unit in ten is faked
ESCAPES_ONE_IN = 100  # and all of that escapes at most once in a hundred times


def least_ppm(assurance: Assurance, num_units: int, detection_ppm: int) -> int:
    """Return the least audit rate of a word, in ppm, of a job of so many units.

    Of `sampled` it is 1: what it needs depends on the stake (verify/soundness.py, required_ppm).
    """
    if assurance is Assurance.SAMPLED:
        return 1
    if assurance is Assurance.FULL:
        return PPM
    return _least(PPM, lambda ppm: is_found(ppm, detection_ppm, max(num_units // TENTH, 1)))


def needed(assurance: Assurance, num_units: int, detection_ppm: int) -> int:
    """Return how many of so many units must be drawn for a word; what the rate falls short of, the last draw adds."""
    if assurance is Assurance.SAMPLED or num_units == 0:
        return 0
    if assurance is Assurance.FULL:
        return num_units
    return _least(num_units, lambda drawn: is_found(drawn * PPM // num_units, detection_ppm, tenth(num_units)))


def tenth(num_units: int) -> int:
    """Return how many units a tenth of them are, rounded up."""
    return -(-num_units // TENTH)


def is_found(audit_ppm: int, detection_ppm: int, num_faked: int) -> bool:
    """Return whether so many faked units all escape with a probability of 0.01 at most."""
    escapes = PPM * PPM - audit_ppm * detection_ppm
    return ESCAPES_ONE_IN * int(escapes**num_faked) <= int((PPM * PPM) ** num_faked)


def check_rate(spec: JobSpec) -> None:
    """Refuse a spec whose audit rate is below its word, whatever the stake.

    Raises:
        SpecError: naming the rate and what the word needs.
    """
    trust = spec.trust
    if trust.assurance is None or trust.verify is Verification.NONE:
        return
    least = least_ppm(trust.assurance, shape_of(spec).num_tasks, trust.detection_ppm)
    if trust.audit_ppm < least:
        raise too_low(trust.audit_ppm, trust.assurance, least)


def too_low(audit_ppm: int, assurance: Assurance, least_ppm: int) -> SpecError:
    """Return the refusal of an audit rate below its word."""
    return SpecError(
        f"trust.audit is below what assurance: {assurance} needs",
        why=f"{audit_ppm / 10_000:.4f} % of units, {least_ppm / 10_000:.4f} % are needed",
        hint="leave trust.audit out, and the rate is solved; or ask for a lower assurance",
    )


def reached(
    audit_ppm: int, required_ppm: int, detection_ppm: int, *, units: int, checked: int, unheard: int
) -> Verdict:
    """Return the word that the figures of a job bear whose every decision is `verified` (R15.8).

    Args:
        audit_ppm, required_ppm: the signed rate, and the one below which cheating pays.
        detection_ppm: how often an audit of a cheat finds it.
        units, checked: the units of the job, and how many of them were drawn and checked.
        unheard: how many were drawn and not audited. They may be unheard because they were faked: a tenth of the units
            must be found without them, and of a rate that makes cheating a loss there is none.
    """
    share = min(audit_ppm, checked * PPM // units) if units else 0
    if units and (checked == units or is_found(share, detection_ppm, max(tenth(units) - unheard, 0))):
        return Verdict.VERIFIED
    return Verdict.SAMPLED if audit_ppm >= required_ppm and not unheard else Verdict.UNVERIFIED


def falls_short(asked: Assurance, word: Verdict, *, is_full: bool) -> bool:
    """Tell whether a job's word is below what its buyer asked for; `is_full`: every unit was checked."""
    if asked is Assurance.FULL:
        return not (word is Verdict.VERIFIED and is_full)
    enough = {Verdict.VERIFIED, Verdict.ATTESTED} | ({Verdict.SAMPLED} if asked is Assurance.SAMPLED else set())
    return word not in enough


def _least(high: int, holds: Callable[[int], bool]) -> int:
    """Return the least whole number from 1 to `high` that a rising condition holds for, `high` where it never does."""
    low = 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
