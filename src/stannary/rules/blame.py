"""Whom a recomputation may blame (docs/receipt.md R10.7, R10.8; docs/audits.md).

Rules:
1. Only in code of ours can a result that two others contradict be nobody's doing but its node's: there it is refuted,
   and the node convicted (rules/verdict.py). Jobs of rules 2 were judged so whatever their code was. A buyer who
   narrows who may audit (rules/masks.py) chooses who judges: in his job nobody can be convicted, whatever the code is.
2. In the buyer's own code whom two others contradict gets a *strike*: what it found is unpaid, what it did is done
   again, and its pay for what it did around that (rules/stake.py) goes to insurance: never to the buyer, a judge or the
   market. It does no more of that job. Its bond stays whole, and other jobs are not touched.
3. A conviction disputes a bond and takes none of it: from rules 3 on the receipt moves no bond, and what is lost is
   lost by a ruling behind an appeal (rules/appeal.py), at most `CAP_PRICES` prices of the dearest unit the node did in
   that job. Who judged it is paid by the buyer, as he agreed to, but for that unit no more than it would have cost.
"""

from __future__ import annotations

from stannary.formats.jobspec import JobSpec
from stannary.rules import edition, verdict
from stannary.rules.verdict import Decision

CAP_PRICES = 100  # a cheat saves one price at most: from an audit rate of 1 % on it loses by cheating (docs/audits.md)


def convicts(spec: JobSpec) -> bool:
    """Return whether a recomputation may convict in a job (R10.7)."""
    return edition.of(spec).convicts_in_own_code or (bool(spec.builtin) and spec.trust.auditors is None)


def at_stake(spec: JobSpec, bond_usd_micros: int, dearest_usd_micros: int) -> int:
    """Return what of a node's bond a recomputation can take in a job that convicts, in micro-dollars (R15.1).

    Args:
        spec: the job's.
        bond_usd_micros: the node's bond.
        dearest_usd_micros: the price of the dearest unit it did in the job.
    """
    disputes = edition.of(spec).disputes_bonds
    return min(bond_usd_micros, CAP_PRICES * dearest_usd_micros) if disputes else bond_usd_micros


def paid_for_judging(spec: JobSpec, own_usd_micros: int, agreed_usd_micros: int | None) -> int:
    """Return an auditor's price for a unit; `agreed_usd_micros`, the unit's, bounds it after a conviction (R14.5)."""
    if agreed_usd_micros is None or not edition.of(spec).disputes_bonds:
        return own_usd_micros
    return min(own_usd_micros, agreed_usd_micros)


def decided(spec: JobSpec, made: Decision) -> Decision:
    """Return what a judgement of a drawn task comes to in a job: convictions, or strikes in their place (R10.8)."""
    return made if convicts(spec) else verdict.without_blame(made)
