"""Whether what a market calls stopped was in hand when its buyer stopped the job (docs/receipt.md R12.18).

Rules:
1. Only a job that its buyer cancelled has any, and only where the rules pay for it.
2. A task is stopped once, behind its assignment, and nothing was handed in for it; its node could have worked on it.
3. The reading is the node's own, logged before: what it says it measured afterwards counts for nothing.
4. Times are held between the witness times of the checkpoints around them.
"""

from __future__ import annotations

from stannary.formats import instants
from stannary.formats.predicates import Stopped
from stannary.rules.clocks import CLOCK_SKEW_S
from stannary.rules.reasons import Reason
from stannary.verify.case import Case, Logged
from stannary.verify.course import Witnessed
from stannary.verify.report import Findings


def check(case: Case, reason: str, witnessed: Witnessed, findings: Findings) -> None:
    """Add a finding for every stop that breaks a rule."""
    seen: set[str] = set()
    for item in case.stopped:
        said = item.predicate
        if reason != Reason.CANCELLED or not case.edition.pays_at_stop:
            findings.refute("stopped.reason", said.task, reason, "a job that its buyer cancelled")
        assigned = case.assignments[said.task].index
        in_hand = assigned < item.index and said.task not in case.contributions and said.task not in seen
        findings.expect("stopped.task", said.task, in_hand, True)
        seen.add(said.task)
        unfit = case.why_unfit(said.node, assigned, item.index)
        if unfit:
            findings.refute("stopped.task", said.task, f"{said.node}: {unfit}", "a node the spec allows")
        readings = [found for found in case.readings if found.leaf == said.reading and found.index < item.index]
        findings.expect("stopped.reading", said.task, [found.predicate.node for found in readings], [said.node])
        submitted = instants.parse(case.job.predicate.submitted_at)  # no checkpoint need be older than the task
        earliest = max(submitted, witnessed.after(assigned) or submitted)
        _check_times(item, earliest, witnessed.before(item.index), findings)


def _check_times(item: Logged[Stopped], unseen: int, seen: int | None, findings: Findings) -> None:
    said = item.predicate
    since, until = instants.parse(said.since), instants.parse(said.stopped_at)
    fits = since <= until and since >= unseen - CLOCK_SKEW_S and (seen is None or until <= seen + CLOCK_SKEW_S)
    findings.expect("stopped.time", said.task, fits, True)
