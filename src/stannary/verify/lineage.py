"""The lineage: which contributions are in the result (docs/receipt.md R13).

For a train job the result is the weights of the last round's last merge. Each merge names the weights it started
from and the contributions it admitted; walking back through the weights' digests gives every task whose work is in
the result, and nothing else is. For a command job it is each lane's last attempt.

A task outside the lineage was convicted, late, or superseded: a conviction upstream made its base weights worthless.
"""

from __future__ import annotations

from stannary.formats import ids
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId
from stannary.formats.lean import dataclass
from stannary.formats.statement import Subject
from stannary.rules.kinds import MODEL, THETA
from stannary.verify.case import Case, output


@dataclass(frozen=True, slots=True)
class Lineage:
    """The tasks in the result, and whether they make a whole result."""

    tasks: frozenset[TaskId]
    complete: bool
    subjects: tuple[Subject, ...]


def trace(case: Case) -> Lineage:
    """Return the lineage of a job's result, as far as it goes."""
    return _trace_lanes(case) if case.shape.kind.merge is None else _trace_merges(case)


def merge_behind(case: Case, round_index: int, theta: Digest | None) -> TaskId | None:
    """Return the newest contributed merge of `round_index` whose output weights are `theta` (R12.8).

    A merge whose node fell silent is made again by another node, with the same bytes: the newest is the one that
    stands in the result.
    """
    for task in reversed(case.attempts.get(ids.merge_task(case.job_id, round_index), [])):
        made = merge_output(case, task, THETA)
        if made is not None and made == theta:
            return task
    return None


def merge_output(case: Case, task: TaskId, name: str) -> Digest | None:
    """Return the digest of one output of a contributed merge."""
    contribution = case.contributions.get(task)
    found = output(contribution.predicate, name) if contribution is not None else None
    return found.digest if found is not None else None


def _trace_merges(case: Case) -> Lineage:  # R13.2
    rounds = case.shape.num_rounds
    merges = case.attempts.get(ids.merge_task(case.job_id, rounds - 1), [])
    last = merges[-1] if merges else None
    theta = merge_output(case, last, THETA) if last is not None else None
    if last is None or theta is None:
        return Lineage(frozenset(), complete=False, subjects=())
    tasks: set[TaskId] = set()
    merge: TaskId | None = last
    for round_index in range(rounds - 1, -1, -1):
        if merge is None or merge not in case.contributions:
            return Lineage(frozenset(tasks), complete=False, subjects=())
        tasks.add(merge)
        assignment = case.assignments[merge].predicate
        tasks.update(item.task for item in assignment.admitted or ())
        if round_index:
            merge = merge_behind(case, round_index - 1, assignment.theta)
    whole = all(task in case.contributions for task in tasks)
    return Lineage(frozenset(tasks), complete=whole, subjects=(Subject(MODEL, theta),))


def _trace_lanes(case: Case) -> Lineage:  # R13.1
    tasks: set[TaskId] = set()
    subjects: list[Subject] = []
    lanes = case.shape.num_lanes
    for lane in range(lanes):
        attempts = case.attempts.get(ids.task_id(case.shape.kind.lane, case.job_id, 0, lane), [])
        contribution = case.contributions.get(attempts[-1]) if attempts else None
        if contribution is None:
            continue
        tasks.add(attempts[-1])
        prefix = f"l{lane}/" if lanes > 1 else ""
        outputs = sorted(contribution.predicate.outputs, key=lambda item: item.name)
        subjects.extend(Subject(prefix + item.name, item.digest) for item in outputs)
    complete = len(tasks) == lanes
    return Lineage(frozenset(tasks), complete, tuple(subjects) if complete else ())
