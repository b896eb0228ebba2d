"""Canaries of suspended nodes: what follows from an order, the answers to it and the nonce it came from (R19).

The market decides with these functions, and whoever holds a canary's papers decides again: the same outcome, and the
same lines to the micro-dollar. Whether the market computed the unit right is shown by computing it: all it is a
function of follows from the nonce. What insurance held is the market's to say, and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stannary.errors import StannaryError
from stannary.formats import digest, jobspec
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, NodeId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Answer, Assignment, Canary, CanaryOutcome, Credential, Job, Role
from stannary.rules import canary, grade, use
from stannary.rules.canary import CanaryDue, CanaryFinding
from stannary.rules.reasons import Reason

COMPUTED = frozenset({CanaryOutcome.PASSED, CanaryOutcome.FAILED})  # by the market alone: `replayed`


@dataclass(frozen=True, slots=True)
class HeardCanary:
    """An opened answer, its leaf, and the credentials its node had in force from the order to there."""

    answer: Answer
    leaf: Digest
    credentials: tuple[Credential, ...]

    @property
    def operator(self) -> str:
        """Who answers for its node."""
        return self.credentials[-1].operator

    @property
    def grade_ppm(self) -> int:
        """What a processor of its node counts as."""
        return grade.in_price(self.credentials[-1])

    @property
    def ask_usd_micros_per_hour(self) -> int:
        """The lowest it asked: an ask only falls while something is asked of a node."""
        return min(item.ask_usd_micros_per_hour for item in self.credentials)


@dataclass(frozen=True, slots=True)
class CanaryPapers:
    """What a canary rests on; signatures and proofs are taken as checked."""

    job: JobId
    order: Job
    assignment: Assignment
    heard: tuple[HeardCanary, ...]  # in log order


def heard_once(heard: Sequence[HeardCanary], node: str) -> list[HeardCanary]:
    """Return the answers that count: the node's, and of each other operator the first (R19.4)."""
    mine = next((item for item in heard if item.answer.node == node), None)
    operators = {mine.operator} if mine is not None else set[str]()
    counted = []
    for item in heard:
        if item is mine or item.operator not in operators:
            operators.add(item.operator)
            counted.append(item)
    return counted


def by_answers(heard: Sequence[HeardCanary], node: str) -> CanaryFinding | None:
    """Return what answers come to by themselves, None where they leave it open (R19.4)."""
    counted = heard_once(heard, node)
    others = [item.answer.node for item in counted if item.answer.node != node]
    return canary.finding(node, [item.answer for item in counted], others)


def due(heard: Sequence[HeardCanary], agreeing: Sequence[str], spec: JobSpec) -> list[CanaryDue]:
    """Return who is paid for a canary, in log order (R19.5)."""
    return [
        CanaryDue(item.operator, item.answer.audit, _work_us(item, spec), item.ask_usd_micros_per_hour)
        for item in heard
        if item.answer.node in agreeing
    ]


def agreeing(heard: Sequence[HeardCanary], node: str, outcome: CanaryOutcome, reason: str) -> tuple[NodeId, ...]:
    """Return whose answers are paid: those who found what counts, and all where nobody could tell (R19.5)."""
    found = by_answers(heard, node)
    if found is not None and (found.outcome, found.reason) == (outcome, reason):
        return found.agreeing
    if outcome is CanaryOutcome.UNCHECKED:
        return tuple(item.answer.node for item in heard_once(heard, node))
    return (NodeId(node),) if outcome is CanaryOutcome.PASSED else ()


def faults(papers: CanaryPapers, said: Canary) -> list[str]:
    """Return which rules of R19 a canary breaks, by finding; none where it holds."""
    found = set()
    try:
        spec = jobspec.from_canonical(papers.order.spec)
    except StannaryError:
        return ["canary.order"]
    if not canary.is_tip(said.nonce, papers.order.beacon_tip) or papers.order.beacon_length != canary.CHAIN_LENGTH:
        return ["canary.nonce"]
    nonce = digest.unhex(said.nonce)
    if not _is_of(nonce, spec, papers, said):
        found.add("canary.order")
    heard = papers.heard
    if said.heard != tuple(item.leaf for item in heard) or not all(_is_asked(item, nonce, papers) for item in heard):
        found.add("canary.heard")
    if len({item.answer.node for item in heard}) < len(heard):
        found.add("canary.heard")
    if not _follows(heard, said):
        found.add("canary.outcome")
    elif not _holds(heard, said, spec):
        found.add("canary.lines")
    return sorted(found)


def _is_of(nonce: bytes, spec: JobSpec, papers: CanaryPapers, said: Canary) -> bool:
    """Tell whether order and unit are those of a nonce (R19.2)."""
    code = jobspec.recipe_of(spec).code if spec.builtin else None
    if code is None or spec != canary.spec_of(nonce, code, spec.root):
        return False
    assigned = canary.assignment_of(papers.job, spec)
    return papers.assignment == assigned and (said.job, said.task) == (papers.job, assigned.task)


def _is_asked(item: HeardCanary, nonce: bytes, papers: CanaryPapers) -> bool:
    answer, task = item.answer, papers.assignment.task
    named = (answer.job, answer.task, answer.audit)
    return answer.role is Role.AUDITOR and named == (papers.job, task, canary.audit_of(nonce, task, answer.node))


def _follows(heard: Sequence[HeardCanary], said: Canary) -> bool:
    """Tell whether the outcome follows from the answers, or may be what the market computed (R19.4)."""
    is_heard = any(item.answer.node == said.node for item in heard)
    if said.outcome is CanaryOutcome.UNANSWERED:
        return not is_heard and said.reason != Reason.REPLAYED
    found = by_answers(heard, said.node)
    if found is not None:
        return (said.outcome, said.reason) == (found.outcome, found.reason)
    if not is_heard:
        return False
    if said.outcome is CanaryOutcome.UNCHECKED:
        return said.reason in (Reason.UNHEARD, Reason.NO_AGREEMENT)
    return said.outcome in COMPUTED and said.reason == Reason.REPLAYED and len(heard) == 1


def _holds(heard: Sequence[HeardCanary], said: Canary, spec: JobSpec) -> bool:
    """Tell whether the lines are those of the outcome, with what it says that insurance gave (R19.5)."""
    gave = -sum(line.usd_micros for line in said.lines if line.account == "insurance")
    owed = due(heard, agreeing(heard, said.node, said.outcome, said.reason), spec)
    return 0 <= gave <= sum(canary.prices(owed)) and canary.lines(owed, gave) == said.lines


def _work_us(item: HeardCanary, spec: JobSpec) -> int:
    used = item.answer.used
    return use.work_us(used, spec.resources, item.grade_ppm) if used is not None else 0
