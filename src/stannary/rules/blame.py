"""Whom a recomputation may blame, and what a strike costs (docs/receipt.md R10.7, R10.8, R14.8; docs/audits.md).

Rules:
1. Only in code of ours can a result that two others contradict be nobody's doing but its node's: there it is refuted,
   and the node convicted (rules/verdict.py). Jobs of rules 2 were judged so whatever their code was.
2. In the buyer's own code whom two others contradict gets a *strike*: what it found is unpaid, what it did is done
   again, and its pay for its last `HELD_UNITS` other items of the job goes to insurance: never to the buyer, a judge or
   the market. It does no more of that job. Its bond stays whole, and other jobs are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from stannary.formats.jobspec import JobSpec
from stannary.rules import edition, verdict
from stannary.rules.verdict import Decision

HELD_UNITS = 20  # S: so much pay is at stake in the buyer's own code, beside the unit itself

T = TypeVar("T")


def convicts(spec: JobSpec) -> bool:
    """Return whether a recomputation may convict in a job (R10.7)."""
    return edition.of(spec).convicts_in_own_code or bool(spec.builtin)


def at_stake(spec: JobSpec, bond_usd_micros: int) -> int:
    """Return what of a node's bond a recomputation can take in a job, in micro-dollars (R15.1)."""
    return bond_usd_micros if convicts(spec) else 0


def decided(spec: JobSpec, made: Decision) -> Decision:
    """Return what a judgement of a drawn task comes to in a job: convictions, or strikes in their place (R10.8)."""
    return made if convicts(spec) else verdict.without_blame(made)


def voided(paid: Sequence[T]) -> Sequence[T]:
    """Return what a strike takes of the items a node is paid for, in log order (R14.8)."""
    return paid[-HELD_UNITS:]
