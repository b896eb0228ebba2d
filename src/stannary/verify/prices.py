"""What each side of a unit costs: agreed beforehand, or what it measurably took (docs/receipt.md R14.2, R14.9, R14.10).

Rules/use.py says by how much of its reading a side is paid; here the sides of each unit are found in the evidence. What
nobody is paid for is priced by its own reading: only what stands at stake is reckoned with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from stannary.formats import bounds, ended, instants
from stannary.formats.ids import AuditId, TaskId, TaskKind
from stannary.formats.predicates import Answer, Contribution, Role, Stopped, Used
from stannary.rules import first, use
from stannary.rules.price import price_of
from stannary.rules.reasons import Reason
from stannary.rules.use import Sides, StepRates
from stannary.rules.verdict import Decision
from stannary.verify.case import Case, Logged
from stannary.verify.settlement import is_payable


class Prices:
    """The prices of one case, given its decisions."""

    def __init__(self, case: Case, decisions: Mapping[TaskId, Decision], *, buyer_silent: bool) -> None:
        self._case = case
        self._decisions = decisions
        self._buyer_silent = buyer_silent
        self._blamed = {node for decision in decisions.values() for node in (*decision.refuted, *decision.odd)}

    def is_on_completion(self, task: TaskId) -> bool:
        """Return whether a task is paid though unverified: the spec says so, or its buyer never revealed (R14.3)."""
        reason = self._decisions[task].reason
        return reason in (Reason.NOT_ASKED, Reason.CUT) or (self._buyer_silent and reason is Reason.AWAITED)

    def is_held(self, task: TaskId) -> bool:
        """Return whether pay was held back for an audit that nobody made, and its node is blamed for something else."""
        node = self._case.contributions[task].predicate.node
        return self._decisions[task].reason is Reason.NOT_AUDITED and node in self._blamed

    def is_payable(self, task: TaskId) -> bool:
        """Return whether a contribution is to be paid at all (R14.3)."""
        return not self.is_held(task) and is_payable(
            self._decisions[task].verdict, on_completion=self.is_on_completion(task)
        )

    def of_work(self, item: Logged[Contribution]) -> int:
        """Return the price of a contribution."""
        task = item.predicate.task
        return self._price(item, self._paid_us.get(task, self._own_us(task)))

    def of_audit(self, item: Logged[Answer], by: Logged[Contribution] | None = None) -> int:
        """Return the price of an auditor's answer, at its node's ask or at that of the contribution."""
        amount_us = self._paid_us.get(item.predicate.audit, self._answer_us(item))
        return self._price(by if by is not None else item, amount_us)

    def of_stopped(self, item: Logged[Stopped]) -> int:
        """Return what a node had in hand when its buyer stopped the job is paid: by its last reading then (R14.12)."""
        case, said = self._case, item.predicate
        held = next((found.predicate for found in case.readings if found.leaf == said.reading), None)
        if held is None:
            return 0
        done = [made for made in case.contributions.values() if made.predicate.node == said.node]
        claimed_ms = sum(bounds.MS.clamp(made.predicate.spent.compute_ms) for made in done if made.index < item.index)
        read_ms = max(bounds.MS.clamp(held.spent.compute_ms) - claimed_ms, 0)
        began, read, stopped = (instants.parse(item) for item in (said.since, held.read_at, said.stopped_at))
        in_hand_ms = use.stopped_ms(read_ms, stopped_s=stopped - read, passed_s=stopped - began)
        grade_ppm = case.grade_at(said.node, item.index)
        amount_us = use.work_us(Used(in_hand_ms, 0, 0), case.spec.resources, grade_ppm)
        return use.price_of(amount_us, case.ask_at(said.node, item.index))

    def far_apart(self) -> Iterable[tuple[TaskId, int, int]]:
        """Yield each unit whose readings are far apart, or far from the job's median, with the highest and lowest."""
        for task, sides in self._sides.items():
            if sides.is_apart:
                yield task, max(sides.own_us, *sides.recomputed_us), sides.lowest_us
            median = self._audited.median_us(self._kind(task))
            if not sides.recomputed_us and median is not None and use.is_far(sides.own_us, median * sides.num_steps):
                yield task, sides.own_us, median * sides.num_steps

    def _price(self, item: Logged[Contribution] | Logged[Answer], amount_us: int) -> int:
        ask = self._case.ask(item)
        if self._case.edition.pays_by_use:
            return use.price_of(amount_us, ask)
        return price_of(self._case.assignments[item.predicate.task].predicate.num_steps, self._case.shape.step_ms, ask)

    @cached_property
    def _sides(self) -> dict[TaskId, Sides]:
        """Return the sides that are paid of each unit that is."""
        found: dict[TaskId, Sides] = {}
        for task in self._case.contributions:
            audits = tuple(self._answer_us(item) for item in self._paid_audits(task) if self._is_side(item))
            if self.is_payable(task):
                steps = self._case.assignments[task].predicate.num_steps
                found[task] = Sides(self._own_us(task), audits, steps)
        return found

    @cached_property
    def _audited(self) -> StepRates:
        """Return the work a step of what was recomputed (R14.10)."""
        found = StepRates()
        for task, sides in self._sides.items():
            if sides.recomputed_us:
                is_first = first.is_first(self._case.spec, self._case.job_id, task)
                found.add(self._kind(task), sides.lowest_us, sides.num_steps, is_first=is_first)
        return found

    @cached_property
    def _paid_us(self) -> dict[TaskId | AuditId, int]:
        """Return the work that each paid side is paid by, under the name of its task or audit."""
        paid: dict[TaskId | AuditId, int] = {}
        if not self._case.edition.pays_by_use:
            return paid
        for task in self._case.contributions:
            audits = self._paid_audits(task)
            sides = self._sides.get(task)
            lowest = [self._answer_us(audit) for audit in audits if self._is_side(audit)]
            lowest += [sides.own_us] if sides else []
            for audit in audits:
                own_us = self._answer_us(audit)
                paid[audit.predicate.audit] = min(own_us, *lowest) if lowest else own_us
            if sides is not None:
                paid[task] = use.paid_us(sides, self._audited.median_us(self._kind(task)))
        return paid

    def _paid_audits(self, task: TaskId) -> list[Logged[Answer]]:
        decision = self._decisions[task]
        unpaid = (*decision.refuted, *decision.odd)
        answers = self._case.answers_of.get(task, ())
        return [item for item in answers if item.predicate.role is Role.AUDITOR and item.predicate.node not in unpaid]

    def _is_side(self, item: Logged[Answer]) -> bool:
        """Return whether an answer is of the same work: not where a limit cut one of the two, and the other not."""
        made = self._case.contributions[item.predicate.task].predicate
        return ended.is_cut(item.predicate.ended) is ended.is_cut(made.ended)

    def _kind(self, task: TaskId) -> TaskKind:
        return self._case.assignments[task].predicate.kind

    def _own_us(self, task: TaskId) -> int:
        made = self._case.opened.get(task)
        if made is None:
            return 0
        return self._us(made.predicate.used, self._case.grade_at(made.predicate.node, made.index))

    def _answer_us(self, item: Logged[Answer]) -> int:
        return self._us(item.predicate.used, self._case.grade(item))

    def _us(self, used: Used | None, grade_ppm: int) -> int:
        return use.work_us(used, self._case.spec.resources, grade_ppm) if used is not None else 0
