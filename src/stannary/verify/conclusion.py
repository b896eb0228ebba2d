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
from collections.abc import Sequence
from dataclasses import replace

from stannary.errors import Refuted
from stannary.formats import bounds
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
    TimeSplit,
    Verdict,
)
from stannary.rules import blame, draw, verdict
from stannary.rules.draw import Selection
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Decision
from stannary.verify import lineage, settlement, worth
from stannary.verify.case import Case, Logged
from stannary.verify.lineage import Lineage
from stannary.verify.report import SUCCEEDED
from stannary.verify.settlement import AuditWork, Bond, PayableWork, Settled

NOT_ATTESTED = "NOT hardware-attested"


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
    result = lineage.trace(case)
    figures = worth.figures(case, selections, decisions, result)
    return Conclusion(
        selections=selections,
        decisions=decisions,
        lineage=result,
        settlement=_settle(case, decisions, buyer_silent=reason == Reason.BUYER_SILENT),
        soundness=figures,
        time_split=_split(case, decisions, result),
        verdict=_verdict(case, decisions, result, figures) if status == SUCCEEDED else Verdict.UNVERIFIED,
        engine_classes=tuple(sorted({item.predicate.engine_class for item in case.contributions.values()})),
    )


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
    taking = draw.Draws(case.spec)
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
    auditors = [item.predicate for item in heard if item.predicate.role is Role.AUDITOR]
    late = selection.is_late
    made = verdict.judge(contribution, prover, auditors, case.operators, exhausted=True, late=late)
    return blame.decided(case.spec, made)


def _prover_answer(heard: Sequence[Logged[Answer]], contribution: Contribution) -> Answer | None:
    for item in heard:
        if item.predicate.role is Role.PROVER and item.predicate.node == contribution.node:
            return item.predicate
    return None


def _verdict(case: Case, decisions: dict[TaskId, Decision], result: Lineage, figures: Soundness) -> Verdict:  # R16.2
    if case.spec.trust.verify is Verification.NONE or not result.complete:
        return Verdict.UNVERIFIED
    if any(decisions[task].verdict is Verdict.REFUTED for task in result.tasks):
        return Verdict.REFUTED
    # a verdict must also have been logged: one that only could be given is not yet anybody's word
    closed = all(not is_drawn(decisions[task]) or task in case.verdicts_of for task in result.tasks)
    verified = all(decisions[task].verdict is Verdict.VERIFIED for task in result.tasks)
    return worth.word(case, figures) if closed and verified else Verdict.UNVERIFIED


def is_drawn(decision: Decision) -> bool:
    """Return whether a decision rests on answers rather than on the beacon passing over the task."""
    return decision.reason is not Reason.NOT_DRAWN


def _settle(case: Case, decisions: dict[TaskId, Decision], *, buyer_silent: bool) -> Settled:  # R14.5
    ordered = sorted(case.contributions.items(), key=lambda item: item[1].index)
    work = [_work(case, decisions, task, buyer_silent=buyer_silent) for task, _ in ordered]
    audits = [
        _audit_work(case, decisions, item)
        for item in sorted(case.answers.values(), key=lambda item: item.index)
        if item.predicate.role is Role.AUDITOR and item.predicate.task in decisions
    ]
    void = _void(case, decisions, work, audits)
    return settlement.settle(
        escrow_of(case),
        [replace(item, is_void=item.task in void) for item in work],
        [replace(item, is_void=item.audit in void) for item in audits],
        _bonds(case, decisions),
    )


def _void(
    case: Case, decisions: dict[TaskId, Decision], work: Sequence[PayableWork], audits: Sequence[AuditWork]
) -> frozenset[str]:
    """Return the tasks and audits whose pay the strikes of a job take (R14.8)."""
    struck = {node for decision in decisions.values() for node in decision.odd}
    at: dict[str, int] = {item.predicate.audit: item.index for item in case.answers.values()}
    paid: list[tuple[int, NodeId, str]] = [
        (at[item.audit], item.node, item.audit) for item in audits if not item.refuted
    ]
    paid += [(case.contributions[item.task].index, item.node, item.task) for item in work if item.is_payable]
    found: set[str] = set()
    for node in struck:
        found.update(blame.voided([name for _, whose, name in sorted(paid) if whose == node]))
    return frozenset(found)


def _work(case: Case, decisions: dict[TaskId, Decision], task: TaskId, *, buyer_silent: bool) -> PayableWork:  # R14.3
    contribution, assignment = case.contributions[task].predicate, case.assignments[task].predicate
    decision = decisions[task]
    redone = case.is_superseded(task)
    unasked = decision.reason is Reason.NOT_ASKED or (buyer_silent and decision.reason is Reason.AWAITED)
    return PayableWork(
        task=task,
        node=contribution.node,
        operator=case.credential(contribution.node).operator,
        price_usd_micros=case.price(task, contribution.node),
        verdict=decision.verdict,
        merge=TASKS[assignment.kind].is_merge,
        on_completion=unasked,
        redone=redone,
        caused_by=_cause(case, decisions, task) if redone else None,
    )


def _audit_work(case: Case, decisions: dict[TaskId, Decision], item: Logged[Answer]) -> AuditWork:  # R14.5
    answer = item.predicate
    decision = decisions[answer.task]
    others = [node for node in decision.refuted if node != answer.node]
    return AuditWork(
        audit=answer.audit,
        node=answer.node,
        operator=case.credential(answer.node).operator,
        price_usd_micros=case.price(answer.task, answer.node),
        refuted=answer.node in (*decision.refuted, *decision.odd),
        caused_by=others[0] if others else None,
    )


def _bonds(case: Case, decisions: dict[TaskId, Decision]) -> list[Bond]:  # R14.4
    convicted: dict[NodeId, Bond] = {}
    for decision in decisions.values():
        for node in decision.refuted:
            held = case.credential(node)
            convicted.setdefault(node, Bond(node, held.operator, held.bond_usd_micros))
    return [convicted[node] for node in sorted(convicted)]


def _cause(case: Case, decisions: dict[TaskId, Decision], task: TaskId) -> NodeId | None:
    """Return the convicted node upstream of a superseded task: walk back merge by merge until one is found (R14.6)."""
    current: TaskId | None = task
    while current is not None:
        assignment = case.assignments[current].predicate
        for item in assignment.admitted or ():
            if item.task in decisions and decisions[item.task].verdict is Verdict.REFUTED:
                return case.contributions[item.task].predicate.node
        current = lineage.merge_behind(case, assignment.round - 1, assignment.theta) if assignment.round else None
        if current is not None and decisions[current].verdict is Verdict.REFUTED:
            return case.contributions[current].predicate.node
    return None


def _split(case: Case, decisions: dict[TaskId, Decision], result: Lineage) -> TimeSplit:  # R15.5
    useful: Counter[NodeId] = Counter()
    for task in result.tasks:
        contribution = case.contributions.get(task)
        if contribution is not None and decisions[task].verdict is not Verdict.REFUTED:
            useful[contribution.predicate.node] += bounds.MS.clamp(contribution.predicate.spent.compute_ms)
    return settlement.time_split(useful, (item.predicate for item in case.readings))
