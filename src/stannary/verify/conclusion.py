"""The conclusion: everything a receipt states, computed from the case alone (docs/receipt.md R13 to R16).

The market composes its receipts with `conclude`, the verifier computes the same again and compares: what
is stated and what follows from the evidence cannot drift apart.

    draws       -> selections: what the beacon selected for each commitment (draw.py)
    answers     -> decisions: the verdict on each contribution (verdict.py)
    merges      -> lineage: which contributions are in the result (lineage.py)
    verdicts    -> settlement, soundness, time split (settlement.py, worth.py)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stannary.errors import Refuted
from stannary.formats import bounds, ended, ids
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.jobspec import Verification
from stannary.formats.lean import dataclass
from stannary.formats.predicates import (
    Answer,
    Attestation,
    Contribution,
    Receipt,
    Role,
    Soundness,
    Stopped,
    TaskVerdict,
    TimeSplit,
    Verdict,
)
from stannary.rules import blame, draw, first, question, stake, verdict
from stannary.rules.draw import Selection
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason
from stannary.rules.stake import Paid
from stannary.rules.verdict import Decision
from stannary.verify import lineage, settlement, watching, worth
from stannary.verify.case import Case, Logged
from stannary.verify.lineage import Lineage
from stannary.verify.prices import Prices
from stannary.verify.report import SUCCEEDED
from stannary.verify.settlement import AuditWork, Bond, PayableWork, Settled

NOT_ATTESTED = "NOT hardware-attested"
_LOST = frozenset({Verdict.REFUTED, Verdict.UNVERIFIED})


@dataclass(frozen=True, slots=True)
class Conclusion:
    """All that follows from a case."""

    selections: dict[TaskId, Selection]
    decisions: dict[TaskId, Decision]
    lineage: Lineage
    settlement: Settled
    soundness: Soundness
    time_split: TimeSplit
    verdict: Verdict
    costs: Prices
    engine_classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """What the market adds to the conclusion: how and when the job ended, and who witnessed it."""

    status: str
    reason: str
    witness: str
    started_at: str
    finished_at: str


def conclude(case: Case, *, status: str, reason: str) -> Conclusion:
    """Compute everything a receipt of this case states.

    Args:
        case: the job's statements; signatures are taken as checked.
        status, reason: how the job ended; `buyer-silent` pays committed work that was never drawn.

    Raises:
        Refuted: a node without a credential, a draw without its reveal, more than one placement.
    """
    selections = selections_of(case)
    decisions = {task: decide(case, task, selections.get(task)) for task in case.contributions}
    is_irreproducible = question.is_irreproducible(decisions.values())
    if is_irreproducible:
        decisions = {task: question.taken_back(made) for task, made in decisions.items()}
    result = lineage.trace(case)
    buyer_silent = reason == Reason.BUYER_SILENT and not is_irreproducible
    costs = Prices(case, decisions, buyer_silent=buyer_silent)
    figures = worth.figures(case, selections, decisions, result, costs)
    return Conclusion(
        selections=selections,
        decisions=decisions,
        lineage=result,
        settlement=_settle(case, selections, decisions, costs),
        soundness=figures,
        time_split=_split(case, decisions, result),
        verdict=_verdict(case, decisions, result, figures, status=status),
        costs=costs,
        engine_classes=tuple(sorted({item.predicate.engine_class for item in case.contributions.values()})),
    )


def left_out(case: Case) -> tuple[TaskVerdict, ...]:
    """Return the verdicts on units of the figures (R15.3) that did not hold and are not in the result."""
    judged = [item.predicate for item in case.verdicts if item.predicate.task in case.contributions]
    lost = [item for item in judged if item.verdict in _LOST]
    made = lineage.trace(case).tasks if lost else frozenset()
    whole = not case.edition.says_assurance
    return tuple(item for item in lost if item.task not in made and (whole or not case.is_superseded(item.task)))


def compose(case: Case, conclusion: Conclusion, ending: Ending, evidence: Sequence[Digest]) -> Receipt:
    """Return the receipt predicate of a concluded case; `evidence` are the leaves of the file, in log order (R16.1)."""
    settled = conclusion.settlement
    return Receipt(
        job=case.job_id,
        job_digest=case.job_digest,
        status=ending.status,
        reason=ending.reason,
        verdict=conclusion.verdict,
        verification=case.spec.trust.verify.value,
        evidence=tuple(evidence),
        settlement=settled.lines,
        escrow_usd_micros=escrow_of(case),
        paid_usd_micros=settled.paid_usd_micros,
        refunded_usd_micros=settled.refunded_usd_micros,
        soundness=conclusion.soundness,
        time_split=conclusion.time_split,
        engine_classes=conclusion.engine_classes,
        witness=ending.witness,
        attestation=attestation_of(case),
        started_at=ending.started_at,
        finished_at=ending.finished_at,
    )


def escrow_of(case: Case) -> int:
    """Return what the buyer paid in; nothing where no node was ever found (R14.1)."""
    if len(case.placements) > 1:
        raise Refuted("a job is placed once", why=f"{len(case.placements)} placements")
    return case.placements[0].predicate.escrow_usd_micros if case.placements else 0


def attestation_of(case: Case) -> str:
    """Return what stands behind the credentials, the weakest of them (R16.1)."""
    kinds = {held[-1].predicate.attestation for held in case.credentials.values()}
    return NOT_ATTESTED if not kinds or Attestation.SOFTWARE in kinds else ", ".join(sorted(kinds))


def selections_of(case: Case) -> dict[TaskId, Selection]:
    """Return what the beacons selected, for every contribution a draw covers (R8.8 to R8.10).

    Raises:
        Refuted: a draw whose reveal or candidates are not in evidence.
    """
    reveals = {item.leaf: item.predicate for item in case.reveals}
    selected: dict[TaskId, Selection] = {}
    taking = draw.Draws(case.spec, case.broken_off)
    for item in case.draws:
        reveal = reveals.get(item.predicate.reveal)
        if reveal is None:
            raise Refuted("a draw without its reveal", why=f"draw {item.predicate.index}")
        listed = case.candidates.get(item.predicate.candidates)
        if listed is None:
            raise Refuted("a draw without its candidates", why=f"draw {item.predicate.index}")
        randomness = draw.beacon(reveal.value, item.predicate.checkpoint_root)
        own, late = taking.take(item.predicate, listed.predicate.candidates, randomness)
        # a commitment that was never opened (its node died) leaves the task to its successor
        for taken in own:
            if case.is_taken(taken.entry):
                selected.setdefault(taken.entry.task, taken.selection)
        selected.update((taken.entry.task, taken.selection) for taken in late if case.is_taken(taken.entry))
    return selected


def decide(case: Case, task: TaskId, selection: Selection | None, *, before: int | None = None) -> Decision:
    """Judge one contribution from what was logged (`before` a log index, if given; R10.4)."""
    contribution = case.contributions[task].predicate
    if case.spec.trust.verify is Verification.NONE:
        return Decision(Verdict.UNVERIFIED, Reason.NOT_ASKED)
    if selection is None:
        return Decision(Verdict.UNVERIFIED, Reason.AWAITED)
    if not selection.drawn:
        return verdict.undrawn()
    heard = [item for item in case.answers_of.get(task, ()) if before is None or item.index < before]
    prover = _prover_answer(heard, contribution)
    told_by = [item.predicate for item in heard if item.predicate.role is Role.AUDITOR]
    runs = [answer for answer in told_by if is_run(selection, answer)]
    auditors = [answer for answer in told_by if not is_run(selection, answer)]
    is_untaken, spare = case.is_untaken(task, before), spare_of(case, selection, before)
    late = selection.is_late
    told = question.Hearing(contribution, prover, auditors, runs, case.operators, late, is_untaken, spare)
    return question.judge(case.spec, told, past_of(case, task, before), exhausted=True)


def past_of(case: Case, task: TaskId, before: int | None = None) -> question.Past:
    """Return what was said before a verdict on a task: at `before`, else at its last one (R10.10)."""
    own = case.verdicts_of.get(task)
    if before is None and own:
        before = own[-1].index
    earlier = [item.predicate for item in case.verdicts if before is None or item.index < before]
    return question.past([(said.reason, said.odd or ()) for said in earlier], case.operators)


def spare_of(case: Case, selection: Selection, before: int | None = None) -> Mapping[str, int]:
    """Return how many outsiders could be asked behind each in rank about a first unit, nothing of another (R10.14)."""
    if not first.is_first(case.spec, case.job_id, selection.task):
        return {}
    own = case.verdicts_of.get(selection.task)
    if before is None and own:
        before = own[-1].index
    said = [item.predicate for item in case.verdicts if before is None or item.index < before]
    out = {node for item in said for node in (*item.refuted, *(item.odd or ()))}
    placed = {case.operators[node] for item in case.placements for node in item.predicate.chosen}
    return first.spare([(item.node, item.operator) for item in selection.auditors], placed, out)


def is_run(selection: Selection, answer: Answer) -> bool:
    """Tell whether an answer is an outsider's run, by the name of its audit (R10.11)."""
    return any(answer.audit in runs for runs in selection.runs)


def _prover_answer(heard: Sequence[Logged[Answer]], contribution: Contribution) -> Answer | None:
    for item in heard:
        if item.predicate.role is Role.PROVER and item.predicate.node == contribution.node:
            return item.predicate
    return None


def _verdict(
    case: Case, decisions: dict[TaskId, Decision], result: Lineage, figures: Soundness, *, status: str
) -> Verdict:  # R16.2
    if question.is_irreproducible(decisions.values()):
        return Verdict.NOT_REPRODUCIBLE
    if status != SUCCEEDED:
        return Verdict.UNVERIFIED
    if case.spec.trust.verify is Verification.NONE or not result.complete:
        return Verdict.UNVERIFIED
    if any(decisions[task].verdict is Verdict.REFUTED for task in result.tasks):
        return Verdict.REFUTED
    # a verdict must also have been logged: one that only could be given is not yet anybody's word
    closed = all(not is_drawn(decisions[task]) or task in case.verdicts_of for task in result.tasks)
    cut = {task for task in result.tasks if ended.is_cut(case.contributions[task].predicate.ended)}
    stands = all(
        decisions[task].verdict is Verdict.VERIFIED or (task in cut and decisions[task].reason is Reason.CUT)
        for task in result.tasks
    )
    if not closed or not stands:
        return Verdict.UNVERIFIED
    word = worth.word(case, figures)
    return Verdict.SAMPLED if cut and word is Verdict.VERIFIED else word


def is_drawn(decision: Decision) -> bool:
    """Return whether a decision rests on answers rather than on the beacon passing over the task."""
    return decision.reason is not Reason.NOT_DRAWN


def _settle(
    case: Case, selections: Mapping[TaskId, Selection], decisions: dict[TaskId, Decision], costs: Prices
) -> Settled:  # R14.5
    ordered = sorted(case.contributions.items(), key=lambda item: item[1].index)
    work = [_work(case, decisions, task, costs) for task, _ in ordered]
    audits = [
        _audit_work(case, decisions, item, costs)
        for item in sorted(case.answers.values(), key=lambda item: item.index)
        if item.predicate.role is Role.AUDITOR and item.predicate.task in decisions
    ]
    void, extra = _void(case, decisions, work, audits), watching.extra_audits(case, selections)
    stopped = [_stopped_work(case, item, costs) for item in case.stopped]
    return settlement.settle(
        escrow_of(case),
        [*(replace(item, is_void=item.task in void) for item in work), *stopped],
        [replace(item, is_void=item.audit in void, is_extra=ids.task_of(item.audit) in extra.tasks) for item in audits],
        _bonds(case, decisions),
        extra.usd_micros,
    )


def _void(
    case: Case, decisions: dict[TaskId, Decision], work: Sequence[PayableWork], audits: Sequence[AuditWork]
) -> frozenset[str]:
    """Return the tasks and audits whose pay the strikes of a job take (R14.8)."""
    at: dict[str, int] = {item.predicate.audit: item.index for item in case.answers.values()}
    owed: dict[NodeId, list[Paid]] = {}
    for audit in audits:
        if not audit.refuted:
            owed.setdefault(audit.node, []).append(Paid(at[audit.audit], audit.audit, is_audit=True))
    for item in work:
        if item.is_payable:
            owed.setdefault(item.node, []).append(Paid(case.contributions[item.task].index, item.task))
    found: set[str] = set()
    for task, decision in decisions.items():
        for node in decision.odd:
            taken = stake.voided(owed.get(node, ()), _odd_at(case, task, node))
            found.update(item.name for item in taken)
    return frozenset(found)


def _odd_at(case: Case, task: TaskId, node: NodeId) -> int:
    """Return the log index of what a node was found odd in: its contribution, or its answer as an auditor."""
    made = case.contributions[task]
    if made.predicate.node == node:
        return made.index
    answers = case.answers_of[task]
    return next(item.index for item in answers if item.predicate.node == node and item.predicate.role is Role.AUDITOR)


def _work(case: Case, decisions: dict[TaskId, Decision], task: TaskId, costs: Prices) -> PayableWork:  # R14.3
    item, assignment = case.contributions[task], case.assignments[task].predicate
    contribution, decision = item.predicate, decisions[task]
    redone = case.is_superseded(task)
    return PayableWork(
        task=task,
        node=contribution.node,
        operator=case.credential(contribution.node).operator,
        price_usd_micros=costs.of_work(item),
        verdict=Verdict.UNVERIFIED if costs.is_held(task) else decision.verdict,
        merge=TASKS[assignment.kind].is_merge,
        on_completion=costs.is_on_completion(task),
        redone=redone,
        caused_by=cause_of(case, decisions, task) if redone else None,
    )


def _stopped_work(case: Case, item: Logged[Stopped], costs: Prices) -> PayableWork:  # R14.12
    said = item.predicate
    operator = case.credential(said.node).operator
    price = costs.of_stopped(item)
    return PayableWork(said.task, said.node, operator, price, Verdict.UNVERIFIED, stopped=True, on_completion=True)


def _audit_work(
    case: Case, decisions: dict[TaskId, Decision], item: Logged[Answer], costs: Prices
) -> AuditWork:  # R14.5
    answer = item.predicate
    decision = decisions[answer.task]
    others = [node for node in decision.refuted if node != answer.node]
    agreed = costs.of_audit(item, by=case.contributions[answer.task]) if decision.refuted else None
    return AuditWork(
        audit=answer.audit,
        node=answer.node,
        operator=case.credential(answer.node).operator,
        price_usd_micros=blame.paid_for_judging(case.spec, costs.of_audit(item), agreed),
        refuted=answer.node in (*decision.refuted, *decision.odd),
        caused_by=others[0] if others else None,
    )


def _bonds(case: Case, decisions: dict[TaskId, Decision]) -> list[Bond]:  # R14.4
    if case.edition.disputes_bonds:
        return []
    convicted: dict[NodeId, Bond] = {}
    for decision in decisions.values():
        for node in decision.refuted:
            convicted.setdefault(node, Bond(node, case.credential(node).operator, case.bond(node)))
    return [convicted[node] for node in sorted(convicted)]


def cause_of(case: Case, decisions: dict[TaskId, Decision], task: TaskId) -> NodeId | None:
    """Return the node at fault upstream of a superseded task: walk back merge by merge until one is found (R14.6)."""
    current: TaskId | None = task
    while current is not None:
        assignment = case.assignments[current].predicate
        for item in assignment.admitted or ():
            if item.task in decisions and (node := _at_fault(case, decisions, item.task)) is not None:
                return node
        current = lineage.merge_behind(case, assignment.round - 1, assignment.theta) if assignment.round else None
        if current is not None and (node := _at_fault(case, decisions, current)) is not None:
            return node
    return None


def _at_fault(case: Case, decisions: dict[TaskId, Decision], task: TaskId) -> NodeId | None:
    """Return who contributed a task whose decision convicts it, or finds it odd."""
    node, decision = case.contributions[task].predicate.node, decisions[task]
    return node if decision.verdict is Verdict.REFUTED or node in decision.odd else None


def _split(case: Case, decisions: dict[TaskId, Decision], result: Lineage) -> TimeSplit:  # R15.5
    useful: Counter[NodeId] = Counter()
    for task in result.tasks:
        contribution = case.contributions.get(task)
        if contribution is not None and decisions[task].verdict is not Verdict.REFUTED:
            useful[contribution.predicate.node] += bounds.MS.clamp(contribution.predicate.spent.compute_ms)
    return settlement.time_split(useful, (item.predicate for item in case.readings))
