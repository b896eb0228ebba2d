"""The course of a job: whether each task was what the signed spec asks for, done by whom it may be.

Rules (docs/receipt.md R12):
1. A task id names its job, kind, round, lane and attempt; steps follow from the spec's schedule.
2. A commitment is logged after the assignment, the contribution after its commitment; the contribution opens exactly
   that commitment (node, salt, root), answers exactly that assignment, and its root is that of its outputs.
3. A merge starts from the weights its contributions started from, admits contributions of its round in log order with
   the roots they were logged with, and nobody who was convicted before it was assigned. Round t's audits close
   before merge t + 1 is assigned (W = 1), so a conviction never comes too late to be undone; what the last draw adds
   is audited behind that, and what a conviction then makes void is done again before the job ends.
4. In the buyer's own code nobody does again what an auditor of his operator contradicted: a strike earns him no work.
5. A node worked only while a credential of it was valid, and was chosen and worked only where that credential passed
   the spec's masks (rules/masks.py). Times are the node's own, held between the witness times of the checkpoints around
   the statement.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence

from stannary.errors import StannaryError
from stannary.formats import commitments, dsse, ended, ids, instants, predicates
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Answer, Assignment, Contribution, Reading, Role, Verdict
from stannary.rules import blame, clocks, grade, papers
from stannary.rules.draw import Selection
from stannary.rules.kinds import OUTER, TASKS
from stannary.verify import lineage
from stannary.verify.case import Case, Logged, unit_of
from stannary.verify.report import Findings


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Checkpoint sizes and the time by which every pinned witness had seen each, both rising (R5.8)."""

    sizes: Sequence[int]
    times: Sequence[int]

    def before(self, index: int) -> int | None:
        """Return a time by which the statement at `index` was in the log, None if no checkpoint covers it."""
        position = bisect.bisect_right(self.sizes, index)
        return self.times[position] if position < len(self.times) else None

    def after(self, index: int) -> int | None:
        """Return a time at which the statement at `index` was not yet in the log, None if unknown."""
        position = bisect.bisect_right(self.sizes, index) - 1
        return self.times[position] if position >= 0 else None


def check(case: Case, selections: Mapping[TaskId, Selection], witnessed: Witnessed, findings: Findings) -> None:
    """Add a finding for everything in the course of the job that breaks a rule."""
    for late in case.void:
        findings.notice(
            "statement.void", f"{late.kind} at log index {late.index}", "another of it counts, or a silence"
        )
    _check_job(case, findings)
    for item in case.assignments.values():
        _check_assignment(case, item, findings)
    for task in case.contributions:
        _check_contribution(case, task, findings)
    for tasks in case.attempts.values():
        for task in tasks:
            if TASKS[case.assignments[task].predicate.kind].is_merge:
                _check_merge(case, task, findings)
    _check_order_of_merges(case, {task for task, item in selections.items() if item.is_late}, findings)
    _check_eligible(case, findings)
    _check_redone(case, findings)
    for node, credentials in case.credentials.items():
        for held in credentials:
            key = dsse.decode_base64(held.predicate.key, "credential key")
            findings.expect("credential.node", node, ids.node_id(key), node)
    _check_joins(case, findings)
    for said, since, time in _signed_times(case):
        _check_time(case, said, time, (witnessed.after(since), witnessed.before(said.index)), findings)


def _check_job(case: Case, findings: Findings) -> None:  # R12.1
    if len(case.placements) > 1:
        findings.refute("placement.twice", case.job_id, f"{len(case.placements)} placements", "one")
    for item in case.placements:
        placement = item.predicate
        findings.expect("placement.order", "placement", item.index > case.job.index, True)
        findings.expect("placement.lanes", "placement", len(placement.chosen), case.shape.num_lanes)
        total = placement.work_usd_micros + placement.audit_usd_micros
        findings.expect("placement.escrow", "placement", placement.escrow_usd_micros, total)
        if total > case.spec.budget_usd_micros:
            findings.refute("placement.budget", "placement", total, f"at most {case.spec.budget_usd_micros}")
        for node in placement.chosen:
            if node not in case.credentials:
                findings.refute("credential.missing", node, "chosen without a credential")


def _check_assignment(case: Case, item: Logged[Assignment], findings: Findings) -> None:  # R12.2 to R12.4
    assignment, shape = item.predicate, case.shape
    if not (0 <= assignment.round < shape.num_rounds and 0 <= assignment.lane < shape.num_lanes):
        place = f"round {assignment.round}, lane {assignment.lane}"
        findings.refute("assignment.range", assignment.task, place, "as the spec says")
        return
    attempt, kind = ids.attempt_of(assignment.task), assignment.kind
    findings.expect("assignment.task", assignment.task, assignment.task, unit_of(assignment, attempt))
    findings.expect("assignment.order", assignment.task, item.index > case.job.index, True)
    attempts = case.attempts[unit_of(assignment)]
    findings.expect("assignment.attempt", assignment.task, attempts.index(assignment.task), attempt)
    expected = (shape.kind.lane, shape.num_steps(kind, assignment.round))
    if kind is shape.kind.merge:
        expected = (kind, len(assignment.admitted or ()))
    elif shape.kind.merge is not None:
        first = shape.first_step(assignment.round)
        findings.expect("assignment.first-step", assignment.task, assignment.first_step, first)
    findings.expect("assignment.steps", assignment.task, (kind, assignment.num_steps), expected)


def _check_contribution(case: Case, task: TaskId, findings: Findings) -> None:  # R12.5, R12.6
    item, assigned = case.contributions[task], case.assignments[task]
    contribution, assignment = item.predicate, assigned.predicate
    named = predicates.assignment_digest(assignment)
    findings.expect("contribution.assignment", task, contribution.assignment, named)
    result = predicates.result_root(contribution.outputs, contribution.ended)
    findings.expect("contribution.root", task, contribution.root, result)
    findings.expect("contribution.ended", task, case.says_ending(contribution), True)
    findings.expect("contribution.steps", task, contribution.num_steps, assignment.num_steps)
    held = case.credential_at(contribution.node, case.committed_at(item))
    findings.expect("contribution.engine-class", task, contribution.engine_class, held.engine_class)
    party = (contribution.epoch, contribution.node)
    made_for = case.commitments_of.get(task, ())
    commitments = [made for made in made_for if (made.predicate.epoch, made.predicate.node) == party]
    if len(commitments) != 1:
        findings.refute("commitment.missing", task, f"{len(commitments)} commitments", "one before the contribution")
        return
    if not assigned.index < commitments[0].index < item.index:
        order = f"{assigned.index}, {commitments[0].index}, {item.index}"
        findings.refute("commitment.order", task, order, "assignment, commitment, contribution")
    findings.expect("commitment.opening", task, commitments[0].predicate.commitment, _opening(contribution))
    is_measured = commitments[0].predicate.used is not None
    findings.expect("commitment.used", task, is_measured, case.edition.pays_by_use)


def _opening(contribution: Contribution) -> str:
    try:
        return commitments.commitment_hash(contribution.node, contribution.salt, contribution.root)
    except StannaryError as err:  # a salt that is not hex
        return f"cannot be opened: {err}"


def _check_merge(case: Case, task: TaskId, findings: Findings) -> None:  # R12.7
    item = case.assignments[task]
    assignment = item.predicate
    admitted = assignment.admitted or ()
    indexes = [entry.log_index for entry in admitted]
    if not admitted or indexes != sorted(set(indexes)):
        findings.refute("merge.order", task, indexes, "admitted contributions in log order")
    lanes = [case.assignments[entry.task].predicate.lane for entry in admitted if entry.task in case.assignments]
    if len(set(lanes)) != len(lanes):
        findings.refute("merge.lane-twice", task, lanes, "each lane once")
    for entry in admitted:
        contribution, base = case.contributions.get(entry.task), case.assignments.get(entry.task)
        if contribution is None or base is None or not TASKS[base.predicate.kind].trains:
            findings.refute("merge.admitted", task, entry.task, "a contribution in evidence")
            continue
        if contribution.predicate.ended is not None:
            findings.refute("merge.admitted", task, entry.task, "a contribution that did not break off")
        observed = (entry.root, entry.log_index, base.predicate.round, base.predicate.theta)
        expected = (contribution.predicate.root, contribution.index, assignment.round, assignment.theta)
        findings.expect("merge.admitted", task, observed, expected)
        if contribution.index >= item.index or entry.weight_ppm <= 0:
            findings.refute("merge.admitted", task, entry.task, "logged before the merge, with a weight")
        if _convicted_before(case, entry.task, item.index):
            findings.refute("merge.convicted", task, entry.task, "no convicted contribution")
    _check_base(case, assignment, findings)


def _check_base(case: Case, assignment: Assignment, findings: Findings) -> None:
    """Check that a merge continues a merge of the round before: its weights and its outer state (R12.8)."""
    if assignment.round == 0:
        return
    before = lineage.merge_behind(case, assignment.round - 1, assignment.theta)
    if before is None:
        findings.refute("merge.base", assignment.task, assignment.theta, "the weights of a merge of the round before")
        return
    findings.expect("merge.outer", assignment.task, assignment.outer, lineage.merge_output(case, before, OUTER))


def _convicted_before(case: Case, task: TaskId, index: int) -> bool:
    said = [item.predicate for item in case.verdicts_of.get(task, ()) if item.index < index]
    return any(item.verdict is Verdict.REFUTED or item.node in (item.odd or ()) for item in said)


def _check_order_of_merges(case: Case, late: set[TaskId], findings: Findings) -> None:
    """Check rule 3's W = 1 on the merges that are in the result, but for what the last draw added (R12.9)."""
    assigned = [case.assignments[task].predicate for task in lineage.trace(case).tasks if task in case.assignments]
    for assignment in assigned:
        if not TASKS[assignment.kind].is_merge or assignment.round == 0:
            continue
        task = assignment.task
        before = lineage.merge_behind(case, assignment.round - 1, assignment.theta)
        if before is None:
            continue
        earlier = [before, *(entry.task for entry in case.assignments[before].predicate.admitted or ())]
        for name in earlier:
            verdicts = case.verdicts_of.get(name, ())
            if name not in late and verdicts and verdicts[0].index > case.assignments[task].index:
                findings.refute("merge.window", task, f"{name} was still being audited", "audits closed before (W = 1)")


def _check_eligible(case: Case, findings: Findings) -> None:
    """Check that whoever was chosen or worked passed the masks then; each node once (R12.10)."""
    held = [(node, item.index, item.index) for item in case.placements for node in item.predicate.chosen]
    for task, made in case.contributions.items():
        until = case.committed_at(made) if case.edition.holds_to_joins else made.index
        held.append((made.predicate.node, case.assignments[task].index, until))
    refused = {node: reason for node, since, until in held if (reason := case.why_unfit(node, since, until))}
    for node, reason in refused.items():
        findings.refute("placement.ineligible", node, reason, "a node the spec allows")


def _check_redone(case: Case, findings: Findings) -> None:
    """Check that nobody did again what his operator's auditor had contradicted, in the buyer's own code (R12.15)."""
    if blame.convicts(case.spec):
        return
    for tasks in case.attempts.values():
        accused: dict[str, int] = {}  # operator -> log index of its first contradiction
        for task in tasks:
            made = case.contributions.get(task)
            if made is None:
                continue
            operator, assigned_at = case.operators[made.predicate.node], case.assignments[task].index
            if accused.get(operator, assigned_at) < assigned_at:
                expected = "somebody whose operator did not contradict an earlier attempt"
                findings.refute("redo.accuser", task, f"{made.predicate.node} of {operator}", expected)
            for answer in _against(case, task):
                accused.setdefault(case.operators[answer.predicate.node], answer.index)


def _against(case: Case, task: TaskId) -> Iterator[Logged[Answer]]:
    """Yield the auditors' answers that are not what was handed in, in log order, unless its last verdict upholds it."""
    if task not in case.verdicts_of or case.verdicts_of[task][-1].predicate.verdict is Verdict.VERIFIED:
        return
    answers, made = case.answers_of.get(task, ()), case.contributions[task].predicate
    prover = next((item.predicate for item in answers if item.predicate.role is Role.PROVER), None)
    for item in answers:
        said = item.predicate
        if ended.is_cut(said.ended) and ended.is_cut(made.ended):  # what a clock ended is compared with nothing
            continue
        is_other = said.root != made.root or (prover is not None and said.answer != prover.answer)
        if said.role is Role.AUDITOR and is_other:
            yield item


def _check_joins(case: Case, findings: Findings) -> None:  # R12.11
    named = {item.predicate.join for held in case.credentials.values() for item in held}
    for join in case.joins:
        if join.leaf not in named:
            findings.refute("credential.join", join.predicate.node, join.leaf, "a join that a credential names")
    if case.edition.holds_to_joins:
        _check_signed(case, findings)


def _check_signed(case: Case, findings: Findings) -> None:
    """Check that every credential says what its node signed before, and that none takes the place of a later word."""
    joins = {join.leaf: join for join in case.joins}
    for node, held in case.credentials.items():
        kept = {tuple(getattr(item.predicate, name) for name in papers.KEPT) for item in held}
        if len(kept) > 1:
            findings.refute("credential.changed", node, f"{len(kept)} keys or operators", "one for ever")
        last = -1
        for item in held:
            join = joins.get(item.predicate.join)
            if join is None or not last <= join.index < item.index:
                findings.refute("credential.join", node, item.predicate.join, "its newest join, logged before it")
                continue
            last = join.index
            differing = papers.differences(item.predicate, join.predicate)
            if differing:
                findings.refute("credential.differs", node, ", ".join(differing), "what the node signed")
    _check_grades(case, findings)


def _check_grades(case: Case, findings: Findings) -> None:  # R12.20
    """Check that every grade follows from tests that the node signed."""
    powers = {item.leaf: (item.index, item.predicate) for item in case.powers}
    named: set[Digest] = set()
    for node, held in case.credentials.items():
        had_tests = False
        for item in held:
            wrong = grade.problem(item.predicate, powers, item.index, had_tests=had_tests)
            if wrong:
                findings.refute("credential.grade", node, wrong, "the grade that tests show which its node signed")
            had_tests = had_tests or bool(item.predicate.tests)
            named |= {test.power for test in item.predicate.tests or ()}
    for power in case.powers:
        if power.leaf not in named:
            findings.refute("credential.power", power.predicate.node, power.leaf, "a test that a credential names")


Timed = Logged[Contribution] | Logged[Answer] | Logged[Reading]


def _signed_times(case: Case) -> Iterator[tuple[Timed, int, str]]:
    """Yield each statement with a node's time, the log index that time may not lie far before, and the time (R12.12).

    A reading is kept by the market and logged when the job ends, however long after it was made.
    """
    for contribution in case.contributions.values():
        yield contribution, contribution.index, contribution.predicate.finished_at
    for answer in case.answers.values():
        yield answer, answer.index, answer.predicate.answered_at
    for reading in case.readings:
        yield reading, case.job.index, reading.predicate.read_at


def _check_time(case: Case, item: Timed, time: str, between: tuple[int | None, int | None], findings: Findings) -> None:
    at, name, (earliest, latest) = instants.parse(time), f"log index {item.index}", between
    off_s = clocks.off_s(at, earliest=earliest, latest=latest)
    if off_s > 0:
        findings.refute("time.future", name, time, f"not after its witness saw it, {latest}")
    elif off_s < 0:
        findings.refute("time.past", name, time, f"not a day before the log, {earliest}")
    if not case.has_good_credential(item.predicate.node, item.index, at):
        expected = "a credential valid at that time"
        findings.refute("credential.expired", item.predicate.node, f"worked at {time}", expected)
