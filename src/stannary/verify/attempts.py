"""Attempts and admission: what began when and why, and which lanes a merge took (docs/receipt.md R12.16 to R12.21).

Rules:
1. A further attempt has a cause that stands in the log before it: nobody handed in the one before; it was judged, and
   not `verified` (or broke off, and nobody had room to look); it started from other weights; or what it stood on fell:
   of a merge something it admitted, of any task of a later round the merge behind it. So no unit is done twice for the
   fees.
2. A merge takes of each lane the attempt that stands when it is assigned: all that are handed in by then and not judged
   otherwise than `verified`, weighing the same. What it leaves out it names. An honest lane in time is never left out,
   a late one never let in: the log's order says which is which.
3. A round closes without a lane only with a quorum of the others. How long it was waited for beyond that is a market's
   word: no time is agreed for a unit that is paid by use.
4. No unit but the first is assigned before a verdict that ends its check: a buyer whose program is not reproducible
   pays for one unit, and not for all that a market had begun meanwhile.
"""

from __future__ import annotations

import itertools

from stannary.formats import ids
from stannary.formats.ids import TaskId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Assignment, Verdict
from stannary.rules import first, pace
from stannary.rules.kinds import TASKS, THETA, WEIGHT_PPM
from stannary.rules.reasons import Reason
from stannary.verify import lineage
from stannary.verify.case import Case, Logged, unit_of
from stannary.verify.report import Findings


def check(case: Case, findings: Findings) -> None:
    """Add a finding for every attempt without a cause, and every merge that took or left out what it must not."""
    _check_first(case, findings)
    if not case.edition.recomputes_admission:
        return
    for unit, tasks in case.attempts.items():
        for before, task in itertools.pairwise(tasks):
            if not _has_cause(case, case.assignments[before], case.assignments[task]):
                findings.refute("assignment.cause", task, f"{before} counts", f"something that undoes {unit} before")
        for task in tasks:
            if TASKS[case.assignments[task].predicate.kind].is_merge:
                _Merge(case, case.assignments[task], findings).check()


def _check_first(case: Case, findings: Findings) -> None:  # R12.21
    if not first.is_checked(case.spec):
        return
    said = [item for item in case.verdicts if first.is_first(case.spec, case.job_id, item.predicate.task)]
    ended_at = [item.index for item in said if first.ends(item.predicate.verdict, item.predicate.reason)]
    for task, item in case.assignments.items():
        is_other = not first.is_first(case.spec, case.job_id, task)
        if is_other and item.index < min(ended_at, default=item.index + 1):
            findings.refute("first.unchecked", task, f"assigned at log index {item.index}", "after the first check")


def _has_cause(case: Case, before: Logged[Assignment], item: Logged[Assignment]) -> bool:
    """Tell whether an attempt follows on another for a reason (rule 1)."""
    old, new = before.predicate, item.predicate
    if not _is_contributed(case, old.task, item.index) or _is_undone(case, old.task, item.index):
        return True
    if (old.theta, old.outer) != (new.theta, new.outer):
        return True
    return any(_has_fallen(case, task, item.index) for task in _beneath(case, old))


def _beneath(case: Case, assignment: Assignment) -> list[TaskId]:
    """Return what a task stands on: what it admitted, and every merge of the round before that made its weights."""
    merges: list[TaskId] = []
    if assignment.round and assignment.theta is not None:
        made = case.attempts.get(ids.merge_task(case.job_id, assignment.round - 1), [])
        merges = [task for task in made if lineage.merge_output(case, task, THETA) == assignment.theta]
    return [*(entry.task for entry in assignment.admitted or ()), *merges]


def _has_fallen(case: Case, task: TaskId, index: int) -> bool:
    """Tell whether a task was undone or done again before a log index."""
    assigned = case.assignments.get(task)
    if assigned is None:
        return False
    later = case.attempts[unit_of(assigned.predicate)]
    following = later[later.index(task) + 1 :]
    return _is_undone(case, task, index) or any(case.assignments[other].index < index for other in following)


def _is_contributed(case: Case, task: TaskId, index: int) -> bool:
    made = case.contributions.get(task)
    return made is not None and made.index < index


def _is_undone(case: Case, task: TaskId, index: int) -> bool:
    """Tell whether a verdict logged before an index says anything but `verified`; a command that was cut stands."""
    said = [item.predicate for item in case.verdicts_of.get(task, ()) if item.index < index]
    stands = {Reason.CUT} if case.shape.kind.merge is None else set()
    if task in case.broken_off and any(item.reason == Reason.NOT_AUDITED for item in said):
        return True
    return any(item.verdict is not Verdict.VERIFIED and item.reason not in stands for item in said)


@dataclass(frozen=True, slots=True)
class _Merge:
    """One merge, and what it should have taken."""

    case: Case
    item: Logged[Assignment]
    findings: Findings

    def check(self) -> None:
        """Check what it admits and leaves out (rules 2 and 3)."""
        said, index = self.item.predicate, self.item.index
        standing = [self._standing(lane) for lane in range(self.case.shape.num_lanes)]
        lanes = [item for item in standing if item is not None and item.predicate.theta == said.theta]
        in_time = [item for item in lanes if _is_contributed(self.case, item.predicate.task, index)]
        taken = {item.predicate.task for item in in_time if not _is_undone(self.case, item.predicate.task, index)}
        left_out = sorted({item.predicate.task for item in lanes} - taken)
        observed = (sorted(entry.task for entry in said.admitted or ()), list(said.excluded or ()), len(lanes))
        expected = (sorted(taken), left_out, self.case.shape.num_lanes)
        self.findings.expect("merge.admission", said.task, observed, expected)
        weights = {entry.weight_ppm for entry in said.admitted or ()}
        self.findings.expect("merge.weight", said.task, weights, {WEIGHT_PPM})
        if len(in_time) < len(lanes):
            quorum = pace.quorum(self.case.shape.num_lanes)
            if len(in_time) < quorum:
                self.findings.refute("merge.quorum", said.task, f"{len(in_time)} lanes handed in", f"at least {quorum}")

    def _standing(self, lane: int) -> Logged[Assignment] | None:
        """Return the newest attempt of a lane when the merge was assigned."""
        unit = ids.round_task(self.case.job_id, self.item.predicate.round, lane)
        tasks = self.case.attempts.get(unit, [])
        found = [self.case.assignments[task] for task in tasks]
        return next((item for item in reversed(found) if item.index < self.item.index), None)
