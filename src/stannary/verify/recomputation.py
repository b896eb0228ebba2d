"""Recomputing a receipt's work: which units are computed again, from which blobs, and what was found.

Rules:
1. A unit is one task whose contribution is in the result. Replayed by default: every drawn one and every merge,
   since merges decide the result and bring together what was not drawn.
2. What a unit is computed from stands in logged statements alone: the signed spec, the assignment, and the outputs of
   the contributions it names, each by digest and size. Whoever keeps the blobs is not believed.
3. Inside one engine class results are the same bits or they are not. Between classes only what a measured tolerance
   separates is judged; all else is `unchecked`, which is never a pass.
4. A drawn unit must also give the logged answer for the drawn inner step.

`Plan` and `Found` are what the two processes say to one another: the one that asks (sdk) and the one that computes,
with torch and a sandbox (`python -m stannary.replay`). This module needs neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Assignment, Contribution, Output, Role, Verdict
from stannary.rules.draw import Selection
from stannary.rules.kinds import TASKS
from stannary.verify import conclusion, lineage
from stannary.verify.case import Case
from stannary.verify.report import Finding, Severity


class Outcome(StrEnum):
    """What computing a unit again showed."""

    SAME = "same"  # bit for bit
    WITHIN = "within-tolerance"  # another engine class, inside a measured tolerance
    DIFFERENT = "different"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class DrawnStep:
    """The drawn inner step of a unit, its salt, and the answer both sides gave."""

    step: int
    salt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit to compute again, and what it must give."""

    assignment: Assignment
    root: Digest
    outputs: tuple[Output, ...]
    engine_class: str
    blobs: tuple[Output, ...]  # what it is computed from: theta, outer, and each admitted contribution
    drawn: bool
    question: DrawnStep | None = None  # where a drawn unit was verified by its own node's answer

    @property
    def task(self) -> TaskId:
        """Its name."""
        return self.assignment.task


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What the computing process is asked."""

    spec: dict[str, Json]
    submitted_s: int  # of the job statement, POSIX seconds
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What the computing process says of one unit."""

    task: TaskId
    outcome: Outcome
    engine_class: str  # of the machine that computed again
    detail: str = ""


def units(case: Case) -> tuple[Unit, ...]:
    """Return every unit in the result, in log order; none where the buyer asked for no verification.

    A command nobody promised to be repeatable proves nothing when it gives other bytes.
    """
    if case.spec.trust.verify is Verification.NONE:
        return ()
    selections = conclusion.selections_of(case)
    made = _made(case)
    listed = [case.contributions[task] for task in lineage.trace(case).tasks if task in case.contributions]
    listed.sort(key=lambda item: item.index)
    return tuple(_unit(case, item.predicate, made, selections.get(item.predicate.task)) for item in listed)


def unit_of(case: Case, task: TaskId) -> Unit:
    """Return one contributed unit, in the result or not."""
    selected = conclusion.selections_of(case).get(task)
    return _unit(case, case.contributions[task].predicate, _made(case), selected)


def by_default(listed: Iterable[Unit]) -> tuple[Unit, ...]:
    """Return the units replayed unless others are asked for (rule 1)."""
    return tuple(item for item in listed if item.drawn or TASKS[item.assignment.kind].is_merge)


def job_blobs(case: Case) -> tuple[Output, ...]:
    """Return what every unit is computed from: the work directory and the inputs of the signed spec."""
    files = [Output(entry.path, entry.digest, entry.size_bytes) for entry in case.spec.workdir]
    inputs = [Output(name, item.digest, item.size_bytes) for name, item in case.spec.inputs.items()]
    return (*files, *inputs)


def findings(found: Iterable[Found], asked: Iterable[Unit]) -> tuple[Finding, ...]:
    """Return what the replay adds to a report; a unit nobody answered for is unchecked."""
    by_task = {item.task: item for item in found}
    added: list[Finding] = []
    for unit in asked:
        said = by_task.get(unit.task) or Found(unit.task, Outcome.UNCHECKED, "", "the replay ended before it")
        if said.outcome is Outcome.DIFFERENT:
            remedy = "keep the receipt and the blobs: whoever has them can show the same"
            added.append(Finding("replay.root", Severity.REFUTED, unit.task, said.detail, f"root {unit.root}", remedy))
        elif said.outcome is Outcome.UNCHECKED:
            remedy = f"replay it on a machine of engine class {unit.engine_class}"
            added.append(
                Finding("replay.unchecked", Severity.POLICY, unit.task, f"could not check: {said.detail}", "", remedy)
            )
        elif said.outcome is Outcome.WITHIN:
            added.append(Finding("replay.tolerance", Severity.NOTICE, unit.task, said.detail))
    return tuple(added)


def _unit(case: Case, contribution: Contribution, made: dict[Digest, Output], selection: Selection | None) -> Unit:
    assignment = case.assignments[contribution.task].predicate
    blobs = [made[name] for name in (assignment.theta, assignment.outer) if name is not None and name in made]
    for item in assignment.admitted or ():
        blobs += case.contributions[item.task].predicate.outputs
    return Unit(
        assignment=assignment,
        root=contribution.root,
        outputs=contribution.outputs,
        engine_class=contribution.engine_class,
        blobs=tuple(blobs),
        drawn=selection is not None and selection.drawn,
        question=_question(case, contribution, selection),
    )


def _question(case: Case, contribution: Contribution, selection: Selection | None) -> DrawnStep | None:
    if selection is None or not selection.drawn:
        return None
    if conclusion.decide(case, contribution.task, selection).verdict is not Verdict.VERIFIED:
        return None
    for item in case.answers_of.get(contribution.task, ()):
        answer = item.predicate
        if answer.role is Role.PROVER and answer.node == contribution.node:
            return DrawnStep(selection.step, selection.salt.hex(), answer.answer)
    return None


def _made(case: Case) -> dict[Digest, Output]:
    """Return every contributed output by its digest: a digest alone says no size to bound a download by."""
    return {item.digest: item for held in case.contributions.values() for item in held.predicate.outputs}
