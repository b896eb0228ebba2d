"""Rulings on disputed bonds: what follows from a receipt's evidence and an appeal's answers (docs/receipt.md R18).

The market decides with `DisputedBond`, and whoever holds a ruling, the receipt it is about and the answers it names
decides again: the same sentence, and the same lines to the micro-dollar. What insurance added and what other jobs had
taken of a bond before is the market's to say, and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from stannary.errors import Refuted
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import (
    Answer,
    Appeal,
    Credential,
    Drawable,
    Receipt,
    Role,
    Ruling,
    RulingOutcome,
    SettlementLine,
)
from stannary.rules import appeal, blame, grade, use
from stannary.rules.appeal import Due, Sentence, TakenBond
from stannary.rules.reasons import Reason
from stannary.verify import conclusion, recomputation
from stannary.verify.case import Case, Logged
from stannary.verify.conclusion import Conclusion
from stannary.verify.recomputation import DrawnStep, Unit


@dataclass(frozen=True, slots=True)
class DisputedClaim:
    """What the accused says of the unit; an answer of its own where it gave one."""

    node: NodeId
    root: Digest
    answer: str | None
    ended: str | None = None  # of a program; a recipe has no end of its own


@dataclass(frozen=True)
class DisputedBond:
    """One bond in dispute, and the case it comes from."""

    case: Case  # of the receipt's evidence
    receipt: Receipt
    task: TaskId
    node: NodeId

    @cached_property
    def claim(self) -> DisputedClaim:
        """What is to be computed again.

        Raises:
            Refuted: the node said nothing of this unit.
        """
        made = self.case.contributions[self.task].predicate
        given = next((item for item in self._answers if item.node == self.node), None)
        if given is None and made.node != self.node:
            raise Refuted("a dispute about nothing", why=f"{self.node} and {self.task}")
        root = made.root if made.node == self.node else given.root if given is not None else made.root
        return DisputedClaim(self.node, root, given.answer if given is not None else None)

    @cached_property
    def is_by_stories(self) -> bool:
        """Whether the node contradicted itself about the task: then nothing else is asked (R18.8)."""
        return (self.task, self.node) in self.case.told_two

    @cached_property
    def accusers(self) -> tuple[NodeId, ...]:
        """Those who answered and whom the last verdict on the unit does not convict, in node order."""
        convicted = self.case.verdicts_of[self.task][-1].predicate.refuted
        return tuple(sorted({item.node for item in self._answers} - {*convicted, self.node}))

    @cached_property
    def unit(self) -> Drawable:
        """The unit as a draw lists it."""
        made, case = self.case.contributions[self.task].predicate, self.case
        steps = case.assignments[self.task].predicate.num_steps
        operator = case.credential(made.node).operator
        return Drawable(self.task, made.node, operator, made.engine_class, steps, case.contributions[self.task].index)

    @cached_property
    def involved(self) -> frozenset[str]:
        """Operators who had a part in the job: who was placed, worked, answered, or was asked and did not."""
        case = self.case
        nodes = {node for item in case.placements for node in item.predicate.chosen}
        nodes |= {item.predicate.node for item in case.commitments}
        nodes |= {node for _, node, _ in (*case.answers, *case.answer_commitments, *case.silences)}
        return frozenset(case.credential(node).operator for node in nodes)

    @property
    def question(self) -> DrawnStep:
        """The question the draw asked about the unit: hearers are asked the same."""
        selection = conclusion.selections_of(self.case)[self.task]
        return DrawnStep(selection.step, selection.salt.hex(), self.claim.answer or "")

    def to_replay(self) -> Unit:
        """Return the unit as it is computed again, and what the accused says that it gives."""
        found = recomputation.unit_of(self.case, self.task)
        outputs = found.outputs
        if self.unit.node != self.node:
            outputs = next(item.outputs for item in self._answers if item.node == self.node)
        question = self.question if self.claim.answer is not None else None
        return recomputation.Unit(
            found.assignment, self.claim.root, outputs, found.engine_class, found.blobs, found.drawn, question
        )

    def sentence(self, heard: Sequence[Answer]) -> Sentence | None:
        """Return what hearers' answers come to, and what two stories come to without any."""
        if self.is_by_stories:
            return Sentence(RulingOutcome.FORFEITED, (self.node,))
        return appeal.sentence(self.claim, self.accusers, heard, is_root_only=self.claim.answer is None)

    def most(self, node: NodeId) -> int:
        """Return the most this job can take of a loser's bond (R18.5)."""
        case, costs = self.case, self._concluded.costs
        prices = [costs.of_work(item) for item in case.contributions.values() if item.predicate.node == node]
        prices += [costs.of_audit(item) for item in case.answers.values() if item.predicate.node == node]
        return blame.at_stake(case.spec, case.bond(node), max(prices, default=0))

    def due(self, heard: Sequence[tuple[Answer, Credential]], made: Sentence) -> list[Due]:
        """Return what hearers and a cleared node are owed (R18.6)."""
        if self.is_by_stories:
            return []
        case, costs, contribution = self.case, self._concluded.costs, self.case.contributions[self.task]
        camp = [(answer, said) for answer, said in heard if answer.node in made.agreeing]
        least_us = min((self._us(answer, said) for answer, said in camp), default=None)
        agreed = case.ask(contribution)
        owed = [
            Due(
                said.operator,
                answer.audit,
                "appeal",
                use.price_of(least_us or 0, min(agreed, said.ask_usd_micros_per_hour)),
            )
            for answer, said in camp
        ]
        if made.outcome is RulingOutcome.RELEASED and made.losers:
            mine = next((item for item in case.answers.values() if self._is_its_audit(item)), None)
            own = costs.of_work(contribution) if mine is None else costs.of_audit(mine)
            ask = agreed if mine is None else case.ask(mine)
            name = self.task if mine is None else mine.predicate.audit
            amount = own if least_us is None else min(own, use.price_of(least_us, ask))
            owed.append(Due(case.credential(self.node).operator, name, "cleared", amount))
        return owed

    @cached_property
    def redo(self) -> int:
        """What the buyer paid for work done again because of the accused, at its ask at most (R18.6)."""
        if self.is_by_stories:
            return 0
        case, made = self.case, self._concluded
        agreed, total = case.ask(case.contributions[self.task]), 0
        for line in self.receipt.settlement:
            done = case.contributions.get(TaskId(line.task))
            if line.reason != "redo" or done is None:
                continue
            if conclusion.cause_of(case, made.decisions, done.predicate.task) == self.node:
                asked = max(case.ask(done), 1)
                total += line.usd_micros * min(agreed, asked) // asked
        return total

    @cached_property
    def _concluded(self) -> Conclusion:
        return conclusion.conclude(self.case, status=self.receipt.status, reason=self.receipt.reason)

    def _us(self, answer: Answer, said: Credential) -> int:
        if answer.used is None:
            return 0
        return use.work_us(answer.used, self.case.spec.resources, grade.in_price(said))

    def taken(self, made: Sentence, left: dict[NodeId, int]) -> list[TakenBond]:
        """Return what each loser's bond gives; `left` is what it holds, the whole of it unless other jobs took some."""
        operators = self.case.operators
        return [TakenBond(node, operators[node], min(self.most(node), left[node])) for node in made.losers]

    def lines(
        self, made: Sentence, due: Sequence[Due], redo: int, left: dict[NodeId, int], insured: int
    ) -> tuple[SettlementLine, ...]:
        """Return how the money goes, by what losers' bonds still hold and what insurance has."""
        taken = self.taken(made, left)
        return appeal.lines(taken, due, redo, min(insured, appeal.short_of(taken, due)))

    @property
    def _answers(self) -> list[Answer]:
        return [item.predicate for item in self.case.answers_of.get(self.task, ())]

    def _is_its_audit(self, item: Logged[Answer]) -> bool:
        said = item.predicate
        return (said.task, said.node, said.role) == (self.task, self.node, Role.AUDITOR)


@dataclass(frozen=True, slots=True)
class Heard:
    """A hearer's answer, the credential it heard under, and the leaf of the answer."""

    answer: Answer
    credential: Credential
    leaf: Digest


@dataclass(frozen=True, slots=True)
class Papers:
    """What a ruling rests on beside the receipt; signatures and proofs are taken as checked."""

    appeal: Appeal
    appeal_leaf: Digest
    heard: tuple[Heard, ...]  # the answers it names, in log order


def faults(dispute: DisputedBond, papers: Papers, said: Ruling) -> list[str]:
    """Return which rules of R18 a ruling breaks, by finding; none where it holds."""
    if dispute.is_by_stories:
        return _faults_by_stories(dispute, papers, said)
    found = {*_faults_of_draw(dispute, papers, said)}
    by_answers = dispute.sentence([item.answer for item in papers.heard])
    made: Sentence | None = by_answers
    if said.reason == Reason.REPLAYED:
        agrees = said.outcome is RulingOutcome.RELEASED
        made = appeal.judged(dispute.node, dispute.accusers, agrees=agrees)
    elif said.reason == Reason.UNHEARD:
        made = Sentence(RulingOutcome.RELEASED, ())
    decided = said.reason == Reason.TWO_OF_THREE
    if said.reason not in RULED_BY or decided is not (by_answers is not None):
        found.add("ruling.reason")
    if made is not None:
        if said.outcome is not made.outcome:
            found.add("ruling.outcome")
        if not _holds(dispute, papers, said, made):
            found.add("ruling.lines")
    return sorted(found)


RULED_BY = frozenset({Reason.TWO_OF_THREE, Reason.REPLAYED, Reason.UNHEARD})


def _faults_by_stories(dispute: DisputedBond, papers: Papers, said: Ruling) -> list[str]:
    """Return what is wrong with a ruling on a node that contradicted itself (R18.8)."""
    made, opened = Sentence(RulingOutcome.FORFEITED, (dispute.node,)), papers.appeal
    holds = {
        "appeal.dispute": _is_of(dispute, papers, said),
        "appeal.candidates": not opened.candidates,
        "appeal.heard": not said.heard and not papers.heard,
        "ruling.reason": said.reason == Reason.TWO_STORIES,
        "ruling.outcome": said.outcome is made.outcome,
        "ruling.lines": _holds(dispute, papers, said, made),
    }
    return sorted(finding for finding, is_so in holds.items() if not is_so)


def _is_of(dispute: DisputedBond, papers: Papers, said: Ruling) -> bool:
    made, named = papers.appeal, (dispute.case.job_id, dispute.task, dispute.node)
    return (made.job, made.task, made.node) == (said.job, said.task, said.node) == named and (
        said.appeal == papers.appeal_leaf
    )


def _faults_of_draw(dispute: DisputedBond, papers: Papers, said: Ruling) -> list[str]:
    made, case = papers.appeal, dispute.case
    wrong = []
    convicted = {node for item in case.verdicts_of.get(dispute.task, ()) for node in item.predicate.refuted}
    if dispute.node not in convicted or not _is_of(dispute, papers, said):
        wrong.append("appeal.dispute")
    listed = [item.node for item in made.candidates]
    if listed != sorted(set(listed)) or {item.operator for item in made.candidates} & dispute.involved:
        wrong.append("appeal.candidates")
    chance = appeal.randomness(papers.appeal_leaf, said.checkpoint_root)
    ranked = [item.node for item in appeal.hearers(made, dispute.unit, chance)]
    heard = [item.answer for item in papers.heard]
    can_hear = appeal.HEARERS if len(ranked) >= appeal.HEARERS else 0
    if said.heard != tuple(item.leaf for item in papers.heard) or len(heard) > can_hear:
        wrong.append("appeal.heard")
    if len({item.node for item in heard}) < len(heard) or any(
        (item.job, item.task, item.role) != (case.job_id, dispute.task, Role.AUDITOR)
        or item.node not in ranked
        or item.audit != appeal.name(chance, dispute.task, item.node)
        for item in heard
    ):
        wrong.append("appeal.heard")
    listed_as = {item.node: (item.operator, item.engine_class) for item in made.candidates}
    for item in papers.heard:
        if listed_as.get(item.answer.node) != (item.credential.operator, item.credential.engine_class):
            wrong.append("appeal.candidates")
    return wrong


def _holds(dispute: DisputedBond, papers: Papers, said: Ruling, made: Sentence) -> bool:
    """Tell whether a ruling's lines are those of its sentence, with what it says bonds and insurance gave (R18.6)."""
    took = {line.task: -line.usd_micros for line in said.lines if line.account.startswith("bond:")}
    added = -sum(line.usd_micros for line in said.lines if (line.account, line.reason) == ("insurance", "appeal"))
    if set(took) != set(made.losers) or any(amount < 0 for amount in (*took.values(), added)):
        return False
    taken = dispute.taken(made, {NodeId(node): amount for node, amount in took.items()})
    due = dispute.due([(item.answer, item.credential) for item in papers.heard], made)
    if added > appeal.short_of(taken, due):
        return False
    return appeal.lines(taken, due, dispute.redo, added) == said.lines
