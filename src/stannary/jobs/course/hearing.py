"""Audits on their way: questions, silence, opened answers, the verdict.

Rules (docs/audits.md; rules/verdict.py judges):
- Nobody is asked to open an answer before both commitments are logged.
- A silent auditor is replaced by the next in rank, and the market signs that he was: when he was asked, when he took
  it, until when, and how it ended (verify/silence.py). So it does of a silent prover before it judges him. A
  silent prover's work is `unverified` at best; the auditor is heard all the same, and a second one if it
  finds another root: silence convicts nobody and hides no lie.
- An auditor who has no room is waited for (asking.py). If he never has, the market signs that, nobody else is asked,
  and the task counts as not audited: where nobody was heard it stands as one that was not drawn, and proves nothing.
- Disagreement asks the next-ranked auditor, of a third operator, the same question. Whoever was convicted or struck in
  this job since the candidates were fixed is passed over.
- In the buyer's own code nobody is convicted: whoever would be is struck (rules/blame.py).
- A conviction disputes a bond, once a job, and takes nothing of it.
- Before two operators are struck, or where three answers differ, outsiders are asked whether the program can be
  recomputed at all (outsiders.py): whose runs these are, and what they come to, is rules/question.py's to say.
- A canary is an audit whose answer is known already: agreement is, before the verdict, checked by one
  more auditor. Nothing he is told differs from any other audit.
- An auditor is never told the prover's root: the lease holds the assignment and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.errors import NotFound
from stannary.formats import ended, instants
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, LeaseType, NodeId, TaskId
from stannary.formats.predicates import Absence, Awaited, Role, Silence, TaskVerdict, Verdict
from stannary.jobs.course import actions, asking, drawing, outsiders, planning
from stannary.jobs.course.asking import OfferedAudit, Party, question_id
from stannary.jobs.course.draft import UNSIGNED, CourseDraft
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, DrawRow, LeaseRow, Task
from stannary.jobs.states import LeaseState, TaskState
from stannary.rules import blame, edition, question
from stannary.rules.draw import Selection
from stannary.rules.question import OUTSIDERS
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Decision

_ABSENCES: dict[str, Absence] = {
    Reason.DEADLINE: Absence.DEADLINE,
    Reason.NODE_LOST: Absence.LOST,
    Reason.NODE_REVOKED: Absence.REVOKED,
    Reason.NODE_CONVICTED: Absence.REVOKED,
}  # by what ended the lease; whatever else did was the node's own word


@dataclass(frozen=True, slots=True)
class _Side:
    """What one party of an audit has done so far."""

    committed: bool
    has_answered: bool
    silent: bool
    untaken: bool = False


def advance(draft: CourseDraft) -> None:
    """Move every open audit of a job as far as it goes."""
    waiting = [item for item in draft.audits.values() if item.outcome is AuditOutcome.OPEN]
    for audit in sorted(waiting, key=lambda item: (item.opened_at_ms, item.audit)):
        task = draft.tasks[audit.task]
        if draft.audits[audit.audit].outcome is not AuditOutcome.OPEN:
            continue  # with another run of the same task
        if task.state is not TaskState.DRAWN:
            draft.do(actions.CloseAudit(audit.audit, AuditOutcome.DROPPED))
        elif not asking.is_held(audit, draft.questions, draft.leases):
            _Hearing(draft, task).advance(audit)


class _Hearing:
    """Everything about one drawn task."""

    def __init__(self, draft: CourseDraft, task: Task) -> None:
        self._draft = draft
        self._task = task
        self._audits = draft.audits_of(task.task)
        self._prover = task.node or ""
        self._waits = edition.of(draft.order.spec).audits_are_taken

    def advance(self, audit: AuditRow) -> None:
        """Take the next step of one audit."""
        if outsiders.is_run(self._draft, audit):
            self._advance_runs()
        else:
            self._advance(audit)

    def _advance(self, audit: AuditRow) -> None:
        first = self._audits[0]
        prover = self._side(first, Party(LeaseType.QUESTION, Role.PROVER, self._prover))
        auditor = self._auditor(audit)
        if drawing.get_draw(self._draft, audit.draw_number).draw == UNSIGNED:
            self._draft.is_unfinished = True  # a silence names the draw's leaf: asked now, heard by the next decision
            return
        if auditor is not None and (auditor.silent or (auditor.untaken and audit.canary)):
            self._replace(audit)
            return
        if auditor is not None and auditor.untaken:
            self._give_up(audit, prover)
            return
        if prover.silent:
            self._hear_alone(audit, auditor)
            return
        both = prover.committed and (auditor is None or auditor.committed)
        if both and not prover.has_answered and self._is_unopened(first, Role.PROVER, self._prover):
            self._hear_alone(audit, auditor)
            return
        waits = both and auditor is not None and not auditor.has_answered
        if waits and self._is_unopened(audit, Role.AUDITOR, audit.auditor or ""):
            self._replace(audit)
            return
        if prover.has_answered and (auditor is None or auditor.has_answered):
            self._decide(audit, answered=auditor is not None)

    def _hear_alone(self, audit: AuditRow, auditor: _Side | None) -> None:
        """Hear the auditor of a task whose prover does not answer."""
        if auditor is None:
            self._finish(audit, AuditOutcome.SILENT, self._verdict(exhausted=True))
        elif auditor.has_answered:
            self._decide(audit, answered=True)
        elif auditor.committed and self._is_unopened(audit, Role.AUDITOR, audit.auditor or ""):
            self._replace(audit)

    def _auditor(self, audit: AuditRow) -> _Side | None:
        if audit.auditor is None:
            return None
        if self._waits and asking.is_offered(audit, self._draft.leases):
            reason = self._why_passed(audit)
            untaken = reason is Absence.NOT_TAKEN
            return _Side(False, False, silent=reason is not None and not untaken, untaken=untaken)
        return self._side(audit, Party(LeaseType.AUDIT, Role.AUDITOR, audit.auditor))

    def _why_passed(self, audit: AuditRow) -> Absence | None:
        return asking.why_passed(self._draft, OfferedAudit(audit, self._task))

    def _side(self, audit: AuditRow, party: Party) -> _Side:
        given = self._given(audit, party.role, party.node)
        if given is not None:
            return _Side(True, given.answer_leaf is not None, silent=False)
        return _Side(False, False, silent=self._ask(audit, party).state is not LeaseState.GRANTED)

    def _given(self, audit: AuditRow, role: Role, node: str) -> AnswerRow | None:
        for row in self._draft.answers_of(audit.audit):
            if row.role is role and row.node == node:
                return row
        return None

    def _is_unopened(self, audit: AuditRow, role: Role, node: str) -> bool:
        """Ask a party to open its answer; tell whether its time for that is over."""
        return self._ask(audit, Party(LeaseType.REVEAL, role, node)).state is not LeaseState.GRANTED

    def _ask(self, audit: AuditRow, party: Party) -> LeaseRow:
        """Return the lease of a question, granted now if it never was."""
        draft, task = self._draft, self._task
        name = question_id(audit.audit, party.kind, party.role, party.node)
        if name in draft.leases:
            return draft.leases[name]
        grant = asking.grant(draft.order, draft.world, task, audit, party)
        draft.do(actions.Ask(grant, f"{party.kind} about {task.task} to {party.node}"))
        return draft.leases[name]

    def _replace(self, audit: AuditRow) -> None:
        """Ask the next in rank, in an audit of its own: what is committed to there is committed to before it opens."""
        made = self._verdict(exhausted=True) if audit.canary else None  # let go: the task has its agreement
        if made is not None and made.need_outsider and self._outsiders() is None:
            return
        self._say_silent(audit, Role.AUDITOR, audit.auditor or "")
        if made is not None:
            self._finish(audit, AuditOutcome.SILENT, made)
        else:
            self._close(audit, AuditOutcome.SILENT)
            self._open_next(tuple(audit.ranked[1:]), canary=False)

    def _give_up(self, audit: AuditRow, prover: _Side) -> None:
        """Close an audit that its auditor had no room for, once its prover has said or withheld what it was asked."""
        name = question_id(self._audits[0].audit, LeaseType.REVEAL, Role.PROVER, self._prover)
        opening = self._draft.leases.get(name)
        if prover.silent or (opening is not None and not prover.has_answered):
            if opening is not None and opening.state is LeaseState.GRANTED:
                return
            is_untaken = False
        elif not prover.committed:
            return
        else:
            is_untaken = True  # there is nobody to compare it with: its prover need not open it
        self._say_silent(audit, Role.AUDITOR, audit.auditor or "")
        self._close(audit, AuditOutcome.UNTAKEN)
        self._judge(self._judged(exhausted=True, untaken=is_untaken))

    def _say_silent(self, audit: AuditRow, role: Role, node: str) -> None:
        """State that a party of an audit was asked and did not answer."""
        draft, given = self._draft, self._given(audit, role, node)
        is_waited_for = self._waits and role is Role.AUDITOR and given is None
        if is_waited_for and asking.is_offered(audit, draft.leases):
            until_ms = audit.opened_at_ms + asking.wait_ms(draft, self._task)
            reason, ended_ms, taken_at = self._why_passed(audit) or Absence.LOST, draft.world.now_ms, None
        else:
            lease = self._lease_of(audit, role, node, given)
            until_ms, ended_ms = lease.deadline_at_ms, lease.ended_at_ms or draft.world.now_ms
            reason = _ABSENCES.get(lease.reason, Absence.HANDED_BACK)
            taken_at = _spell(lease.granted_at_ms) if is_waited_for else None
        said = Silence(
            job=draft.order.job,
            audit=AuditId(audit.audit),
            task=TaskId(self._task.task),
            role=role,
            node=NodeId(node),
            draw=Digest(drawing.get_draw(draft, audit.draw_number).draw or ""),
            awaited=Awaited.COMMITMENT if given is None else Awaited.ANSWER,
            reason=reason,
            asked_at=_spell(audit.opened_at_ms if is_waited_for else lease.granted_at_ms),
            deadline_at=_spell(until_ms),
            ended_at=_spell(ended_ms),
            taken_at=taken_at,
        )
        draft.do(actions.SaySilent(said))

    def _lease_of(self, audit: AuditRow, role: Role, node: str, given: AnswerRow | None) -> LeaseRow:
        """Return the lease under which a party's next word was awaited."""
        asked = LeaseType.QUESTION if role is Role.PROVER else LeaseType.AUDIT
        name = question_id(audit.audit, asked if given is None else LeaseType.REVEAL, role, node)
        lease = self._draft.leases.get(name)
        if lease is None:
            raise NotFound("no such lease", why=name)
        return lease

    def _decide(self, audit: AuditRow, *, answered: bool) -> None:
        rest = tuple(audit.ranked[1:])
        decision = self._verdict(exhausted=not rest)
        outcome = self._outcome(audit, decision) if answered else AuditOutcome.SILENT
        is_known = decision.verdict is Verdict.VERIFIED and not audit.canary
        if decision.need_auditor or (is_known and rest and self._is_canary()):
            self._close(audit, outcome)
            self._open_next(rest, canary=not decision.need_auditor)
        else:
            self._finish(audit, outcome, decision)

    def _finish(self, audit: AuditRow, outcome: AuditOutcome, made: Decision) -> None:
        """Close the last audit of a task and judge, or ask outsiders before: the audit stays open while they wait."""
        if not made.need_outsider:
            self._close(audit, outcome)
            self._answer(made) if made.reason in question.ENDING else self._judge(made)
            return
        found = self._outsiders()
        if found is not None:
            self._close(audit, outcome)
            self._ask_outsiders(found)

    def _outsiders(self, wanted: int = OUTSIDERS) -> list[str] | None:
        """Open the question; return whom to ask, None while it must wait."""
        draft, task = self._draft, self._task.task
        if not draft.asked:
            self._open_question()
        if draft.asked != task:
            return None
        return outsiders.find(draft, self._task, wanted)

    def _open_question(self) -> None:
        task = self._task.task
        self._draft.do(actions.OpenQuestion(task, f"answers about {task} differ: is it the program?"))

    def _ask_outsiders(self, found: list[str]) -> None:
        """Ask whom there is; where nobody is, it is answered by what was heard."""
        for node in found:
            outsiders.open_runs(self._draft, self._task, node)
        if not found and not self._open_runs():
            self._answer(self._judged(exhausted=True))

    def _open_runs(self) -> list[AuditRow]:
        audits = self._draft.audits_of(self._task.task)
        return [item for item in audits if item.outcome is AuditOutcome.OPEN and outsiders.is_run(self._draft, item)]

    def _advance_runs(self) -> None:
        """Ask outsiders for their runs, then to open them; judge by them."""
        runs = self._open_runs()
        sides = [(audit, side) for audit in runs if (side := self._auditor(audit)) is not None]
        silent = next((audit for audit, side in sides if side.silent or side.untaken), None)
        if silent is None and all(side.committed for _, side in sides):
            unopened = [audit for audit, side in sides if not side.has_answered]
            if not unopened:
                self._hear_runs(runs)
                return
            late = [audit for audit in unopened if self._is_unopened(audit, Role.AUDITOR, audit.auditor or "")]
            silent = next(iter(late), None)
        if silent is not None:
            found = self._outsiders(1)
            if found is not None:
                self._pass_over(silent, runs)
                self._ask_outsiders(found)

    def _hear_runs(self, runs: list[AuditRow]) -> None:
        """Judge by runs that are all opened, or ask another outsider."""
        made = self._judged(exhausted=False)
        found = self._outsiders() if made.need_outsider else []
        if found is None:
            return
        is_same = not made.need_outsider and self._prover not in made.odd
        for audit in runs:
            self._close(audit, AuditOutcome.AGREED if is_same else AuditOutcome.DISAGREED)
        if made.need_outsider:
            self._ask_outsiders(found)
        else:
            self._answer(made)

    def _pass_over(self, silent: AuditRow, runs: list[AuditRow]) -> None:
        """Take both runs from an outsider who does not answer one of them."""
        self._say_silent(silent, Role.AUDITOR, silent.auditor or "")
        for audit in runs:
            if audit.auditor == silent.auditor:
                self._end_leases(audit.audit)
                self._close(audit, AuditOutcome.SILENT if audit is silent else AuditOutcome.DROPPED)

    def _answer(self, made: Decision) -> None:
        """Judge the task the question was about; where the program cannot be judged, the job ends."""
        draft = self._draft
        if not draft.asked:  # as often as may be: nobody is asked
            self._open_question()
        self._judge(made)
        message = self._why(made)
        draft.do(actions.CloseQuestion(self._task.task, made.reason, message))
        if made.reason in question.ENDING:
            draft.failure = (made.reason, message)

    def _why(self, made: Decision) -> str:
        if made.reason is Reason.REPRODUCED:
            return "all four runs agree: the program can be computed again"
        if made.reason is Reason.NO_OUTSIDER:
            return f"answers about {self._task.task} differ, and nobody without a part in the job could run it again"
        return question.why_different([outsiders.ran(run) for run in self._opinions()[2]])

    def _outcome(self, audit: AuditRow, decision: Decision) -> AuditOutcome:
        """Return how an audit ends whose auditor answered; of a silent prover there is only what it handed in."""
        if decision.verdict is Verdict.VERIFIED and audit.auditor not in (*decision.refuted, *decision.odd):
            return AuditOutcome.AGREED
        prover = self._given(self._audits[0], Role.PROVER, self._prover)
        found = self._given(audit, Role.AUDITOR, audit.auditor or "")
        if found is not None and ended.is_cut(found.ended) and ended.is_cut(self._task.ended):
            return AuditOutcome.AGREED
        is_unanswered = prover is None or prover.answer_leaf is None
        if is_unanswered and found is not None and found.root == self._task.root:
            return AuditOutcome.UNANSWERED
        return AuditOutcome.DISAGREED

    @property
    def _row(self) -> DrawRow:
        """The draw that asks."""
        return drawing.get_draw(self._draft, self._audits[0].draw_number)

    def _is_canary(self) -> bool:
        return self._selection().canary

    def _selection(self) -> Selection:
        return drawing.selection_of(self._draft, self._row, self._task)

    def _open_next(self, ranked: tuple[str, ...], *, canary: bool) -> None:
        asked = drawing.Question(self._task, self._row, self._selection(), ranked, len(self._audits), canary)
        drawing.open_audit(self._draft, asked)

    def _close(self, audit: AuditRow, outcome: AuditOutcome) -> None:
        self._draft.do(actions.CloseAudit(audit.audit, outcome))

    def _verdict(self, *, exhausted: bool) -> Decision:
        """Judge by what was heard; `exhausted`: no further auditor can be had. Outsiders are asked all the same."""
        made = self._judged(exhausted=False)
        return made if made.need_outsider else self._judged(exhausted=exhausted)

    def _judged(self, *, exhausted: bool, untaken: bool = False) -> Decision:
        draft = self._draft
        prover, heard, runs = self._opinions()
        named = {self._prover, *(item.node for item in (*heard, *runs))}
        operators = {NodeId(node): draft.world.nodes.get(node).operator for node in named}
        is_late, spare = self._selection().is_late, outsiders.spare(draft, self._task)
        told = question.Hearing(self._task, prover, heard, runs, operators, is_late, untaken, spare)
        return question.judge(draft.order.spec, told, outsiders.past(draft), exhausted=exhausted)

    def _opinions(self) -> tuple[AnswerRow | None, list[AnswerRow], list[AnswerRow]]:
        """Return the prover's answer, the auditors', and the outsiders'."""
        prover: AnswerRow | None = None
        heard: list[AnswerRow] = []
        runs: list[AnswerRow] = []
        for audit in self._draft.audits_of(self._task.task):
            for row in self._draft.answers_of(audit.audit):
                if row.answer_leaf is None:
                    continue
                if row.role is Role.PROVER:
                    prover = prover or row
                else:
                    (runs if outsiders.is_run(self._draft, audit) else heard).append(row)
        return prover, heard, runs

    def _judge(self, made: Decision) -> None:
        """State the verdict."""
        task, draft = self._task, self._draft
        first = self._audits[0]
        given = self._given(first, Role.PROVER, self._prover)
        if (given is None or given.answer_leaf is None) and made.reason is not Reason.NOT_AUDITED:
            self._say_silent(first, Role.PROVER, self._prover)
        self._end_leases()
        odd = None if blame.convicts(draft.order.spec) else made.odd
        said = (made.verdict, made.reason.value, made.refuted, odd)
        stated = TaskVerdict(draft.order.job, TaskId(task.task), NodeId(self._prover), *said)
        message = f"{task.task} by {self._prover}: {made.verdict}, {made.reason}"
        is_checked = planning.is_first_checked(draft)
        draft.do(actions.Judge(task.task, made.verdict, made.reason.value, message, stated))
        if not is_checked and planning.is_first_checked(draft):
            draft.do(actions.SayChecked(task.task, f"the first check has ended: {message}", made.reason.value))
        known, disputes = draft.convicted, edition.of(draft.order.spec).disputes_bonds
        for node in made.refuted:
            reason = made.reason.value if node == self._prover else Reason.OUTVOTED
            bond = 0 if node in known else draft.world.nodes.get(node).bond_in(draft.order.spec)  # it is lost once
            draft.do(actions.Convict(node, task.task, reason, 0 if disputes else bond))
            if disputes and node not in known:
                draft.do(actions.Dispute(node, task.task, bond))
        for node in made.odd:
            draft.do(actions.Strike(node, task.task, made.reason.value if node == self._prover else Reason.OUTVOTED))

    def _end_leases(self, audit: str = "") -> None:
        """Take back what is asked about the task, or in one of its audits."""
        draft = self._draft
        for lease in draft.live_of(self._task.task):
            # what is on its way into the log ends its lease itself
            if (not audit or lease.audit == audit) and lease.lease not in draft.world.answering:
                draft.do(actions.EndLease(lease.lease, LeaseState.REVOKED, Reason.JUDGED))


def _spell(at_ms: int) -> str:
    return instants.spell(at_ms / 1000)
