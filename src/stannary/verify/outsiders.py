"""Whom the question was asked, whether a job's program can be recomputed at all (rules/question.py).

Rules (docs/receipt.md R11.11, R11.12):
1. Outsiders run a unit only where its hearing opens the question.
2. Whoever is asked had no part in the job before: his operator was placed on none of it, had handed in no work and
   committed to no answer. A market that asks those who know the job asks its friends.
3. They are asked in rank order, behind the last auditor: whoever is passed over had a part, and whoever does not give
   both runs is passed over by a signed silence. Two who gave both are enough; where fewer did, nobody is left to ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Answer, Role
from stannary.rules import question
from stannary.rules.draw import Selection
from stannary.verify.case import Case, Logged
from stannary.verify.conclusion import is_run, past_of, spare_of
from stannary.verify.report import Findings


def check(case: Case, selections: Mapping[TaskId, Selection], findings: Findings) -> None:
    """Add a finding for every outsider who should not have been asked, or should have been."""
    for task, selection in selections.items():
        if selection.drawn:
            _Asked(case, task, selection, findings).check()


class _Asked:
    """Who was asked about one task, as auditor and as outsider."""

    def __init__(self, case: Case, task: TaskId, selection: Selection, findings: Findings) -> None:
        self._case = case
        self._task = task
        self._selection = selection
        self._findings = findings
        answers = case.answers_of.get(task, ())
        self._runs = [item for item in answers if is_run(selection, item.predicate)]
        self._heard = [item for item in answers if item not in self._runs]

    def check(self) -> None:
        """Check the ranks behind the last auditor."""
        began = {rank: at for rank in range(len(self._selection.auditors)) if (at := self._began(rank)) is not None}
        if not self._is_opened():
            if began:
                self._findings.refute(
                    "question.unasked", self._task, "outsiders were asked", "only where answers differ too much"
                )
            return
        verdicts = self._case.verdicts_of.get(self._task)
        num_complete = 0
        for rank in range(self._last_auditor() + 1, len(self._selection.auditors)):
            if rank in began:
                if num_complete == question.OUTSIDERS:
                    self._findings.refute(
                        "question.unasked", self._task, self._node(rank), "two operators with both runs are enough"
                    )
                num_complete += self._check_outsider(rank, began[rank])
                continue
            if num_complete == question.OUTSIDERS:
                continue
            following = [at for other, at in began.items() if other > rank]
            until = min(following, default=verdicts[-1].index if verdicts else None)
            if until is not None and not self._has_part(rank, until):
                self._findings.refute(
                    "question.skipped", self._task, self._node(rank), "asked, or with a part in the job before"
                )

    def _check_outsider(self, rank: int, began: int) -> bool:
        """Check one who was asked; return whether both runs are there."""
        node = self._node(rank)
        if self._has_part(rank, began):
            self._findings.refute("question.insider", self._task, node, "an operator without a part in the job")
        if sum(item.predicate.node == node for item in self._runs) == len(self._selection.runs[rank]):
            return True
        verdicts = self._case.verdicts_of.get(self._task)
        silences = [self._case.silences.get((run, node, Role.AUDITOR)) for run in self._selection.runs[rank]]
        if verdicts and not any(said is not None and said.index < verdicts[-1].index for said in silences):
            self._findings.refute("question.skipped", self._task, node, "both runs, or a signed silence")
        return False

    def _is_opened(self) -> bool:
        contribution = self._case.contributions[self._task].predicate
        own: list[Logged[Answer]] = [item for item in self._heard if item.predicate.role is Role.PROVER]
        prover = next((item.predicate for item in own if item.predicate.node == contribution.node), None)
        heard = [item.predicate for item in self._heard if item.predicate.role is Role.AUDITOR]
        late, operators = self._selection.is_late, self._case.operators
        spare = spare_of(self._case, self._selection)
        told = question.Hearing(contribution, prover, heard, (), operators, late, spare=spare)
        return question.judge(self._case.spec, told, past_of(self._case, self._task)).need_outsider

    def _began(self, rank: int) -> int | None:
        """Return the log index of the first word about a run of a rank: its own commitment, or its silence."""
        parties = [(run, self._node(rank), Role.AUDITOR) for run in self._selection.runs[rank]]
        words = [self._case.answer_commitments.get(party) or self._case.silences.get(party) for party in parties]
        return min((said.index for said in words if said is not None), default=None)

    def _last_auditor(self) -> int:
        """Return the last rank that was asked as an auditor, -1 for none."""
        heard = {item.predicate.node for item in self._heard if item.predicate.role is Role.AUDITOR}
        silent = self._case.silences
        asked = [
            rank
            for rank, audit in enumerate(self._selection.audits)
            if self._node(rank) in heard or (audit, self._node(rank), Role.AUDITOR) in silent
        ]
        return max(asked, default=-1)

    def _has_part(self, rank: int, before: int) -> bool:
        """Tell whether the operator of a rank had a part in the job before a log index (R10.11)."""
        case = self._case
        nodes = {node for item in case.placements for node in item.predicate.chosen if item.index < before}
        nodes |= {item.predicate.node for item in case.contributions.values() if item.index < before}
        for (_, node, role), item in case.answer_commitments.items():
            if role is Role.AUDITOR and item.index < before:
                nodes.add(node)
        return self._selection.auditors[rank].operator in {case.operators[node] for node in nodes}

    def _node(self, rank: int) -> NodeId:
        return self._selection.auditors[rank].node
