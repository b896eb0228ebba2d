"""The first check: another operator recomputes a job's first unit before a second one begins (from rules 3 on).

Rules (docs/receipt.md R8.14, R10.14, R12.21; docs/audits.md):
1. The first unit is lane 0 of the first round. Each attempt at it is drawn, whatever the beacon says. A job of one
   unit has nothing to begin later, and one that is not to be verified nobody to ask.
2. No other unit is begun before a verdict on the first *ends* the check: it holds, or nobody had room to audit it in
   all the time an audit is waited for, or a clock or a limit cut it, or four runs agreed. Any other verdict has the
   unit done again, at most as often as any unit is: where nobody is there to compare with, the job ends by that.
3. Everybody knows that it is drawn. It vouches for nothing else its operator did (rules/draw.py rule 6).
4. Where the first answer differs, it is asked at once whether the program can be recomputed (rules/question.py), if
   two could be asked: so a buyer whose program looks at the clock loses a unit, and not his escrow. Where fewer
   could, another auditor is asked as for any other unit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from stannary.formats import ids
from stannary.formats.ids import JobId, NodeId, TaskId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Verdict
from stannary.rules import edition
from stannary.rules.reasons import Reason
from stannary.rules.shape import shape_of

_ENDING = frozenset({Reason.CUT, Reason.REPRODUCED})
"""Reasons of a verdict that say enough about the program, whatever becomes of the unit."""


def is_checked(spec: JobSpec) -> bool:
    """Tell whether a job's first unit is checked before the others begin."""
    is_asked = spec.trust.verify is not Verification.NONE
    return edition.of(spec).checks_first and is_asked and shape_of(spec).num_tasks > 1


def unit(spec: JobSpec, job: JobId) -> str:
    """Return the unit that is checked first, by name; empty where none is."""
    return ids.unit_of(ids.task_id(shape_of(spec).kind.lane, job, 0, 0)) if is_checked(spec) else ""


def is_first(spec: JobSpec, job: JobId, task: TaskId) -> bool:
    """Tell whether a task is an attempt at the unit that is checked first."""
    return ids.unit_of(task) == unit(spec, job)


def ends(verdict: Verdict, reason: str) -> bool:
    """Tell whether a verdict on the first unit ends the check (rule 2)."""
    return verdict is Verdict.VERIFIED or reason in _ENDING


def spare(ranked: Iterable[tuple[NodeId, str]], placed: Collection[str], out: Collection[NodeId]) -> Mapping[str, int]:
    """Return how many could be asked as outsiders behind each one in rank (rule 4, R10.14).

    Args:
        ranked: nodes in rank order, each with its operator.
        placed: operators the job was placed on.
        out: who was convicted or struck in the job.
    """
    behind: dict[str, int] = {}
    number = 0
    for node, operator in reversed(list(ranked)):
        behind[node] = number
        number += operator not in placed and node not in out
    return behind
