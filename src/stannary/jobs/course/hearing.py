"""Audits on their way: questions, silence, opened answers, the verdict.

Rules (docs/audits.md; rules/verdict.py judges):
- Nobody is asked to open an answer before both commitments are logged.
- A silent auditor is replaced by the next in rank, and the market signs that he was: when he was asked,
  until when, and how it ended (verify/silence.py). So it does of a silent prover before it judges him. A
  silent prover's work is `unverified` at best; the auditor is heard all the same, and a second one if it
  finds another root: silence convicts nobody and hides no lie.
- Disagreement asks the next-ranked auditor, of a third operator, the same question. Whoever was convicted or struck in
  this job since the candidates were fixed is passed over.
- In the buyer's own code nobody is convicted: whoever would be is struck (rules/blame.py).
- A canary is an audit whose answer is known already: agreement is, before the verdict, checked by one
  more auditor. Nothing he is told differs from any other audit.
- Questions have ids made from what they ask, so that asking twice is impossible.
- An auditor is never told the prover's root: the lease holds the assignment and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.errors import NotFound
from stannary.formats import digest, instants
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, LeaseType, NodeId, TaskId
from stannary.formats.predicates import Absence, Awaited, Role, Silence, TaskVerdict, Verdict
from stannary.jobs.course import actions, drawing
from stannary.jobs.course.draft import UNSIGNED, CourseDraft
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, DrawRow, Grant, LeaseRow, Task
from stannary.jobs.states import LeaseState, TaskState
from stannary.rules import blame, verdict
from stannary.rules.draw import Selection
from stannary.rules.pace import answer_s
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


@dataclass(frozen=True, slots=True)
class Party:
    """Who is asked what about an audit."""

    kind: LeaseType
    role: Role
    node: str


def advance(draft: CourseDraft) -> None:
    """Move every open audit of a job as far as it goes."""
    waiting = [item for item in draft.audits.values() if item.outcome is AuditOutcome.OPEN]
    for audit in sorted(waiting, key=lambda item: (item.opened_at_ms, item.audit)):
        task = draft.tasks[audit.task]
        if task.state is TaskState.DRAWN:
            _Hearing(draft, task).advance(audit)
        else:
            draft.do(actions.CloseAudit(audit.audit, AuditOutcome.DROPPED))


def question_id(audit: str, kind: LeaseType, role: Role, node: str) -> str:
    """Return the id of a question's lease."""
    parts = (audit.encode(), kind.value.encode(), role.value.encode(), node.encode())
    return f"{kind.value[0]}-" + digest.hash_parts("stannary question v1", *parts).hex()[:24]


class _Hearing:
    """Everything about one drawn task."""

    def __init__(self, draft: CourseDraft, task: Task) -> None:
        self._draft = draft
        self._task = task
        self._audits = draft.audits_of(task.task)
        self._prover = task.node or ""

    def advance(self, audit: AuditRow) -> None:
        """Take the next step of one audit."""
        first = self._audits[0]
        prover = self._side(first, Party(LeaseType.QUESTION, Role.PROVER, self._prover))
        auditor = self._auditor(audit)
        if drawing.get_draw(self._draft, audit.draw_number).draw == UNSIGNED:
            self._draft.is_unfinished = True  # a silence names the draw's leaf: asked now, heard by the next decision
            return
        if auditor is not None and auditor.silent:
            self._replace(audit)
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
            self._close(audit, AuditOutcome.SILENT)
            self._judge(self._verdict(exhausted=True))
        elif auditor.has_answered:
            self._decide(audit, answered=True)
        elif auditor.committed and self._is_unopened(audit, Role.AUDITOR, audit.auditor or ""):
            self._replace(audit)

    def _auditor(self, audit: AuditRow) -> _Side | None:
        if audit.auditor is None:
            return None
        return self._side(audit, Party(LeaseType.AUDIT, Role.AUDITOR, audit.auditor))

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
        timing = draft.world.timing
        expected = expected_s(draft.order, draft.world, task.num_steps)
        agreed = draft.order.shape.agreed_s(task.num_steps)
        given_s = answer_s(expected, agreed, floor_s=timing.answer_floor_s, factor=timing.answer_factor)
        body: dict[str, Json] = {"role": party.role.value}
        if party.kind is not LeaseType.REVEAL:
            body |= {"salt": audit.salt, "step": audit.step}
        grant = Grant(
            lease=name,
            type=party.kind,
            task=task.task,
            node=party.node,
            deadline_at_ms=draft.world.now_ms + int(1000 * given_s),
            audit=audit.audit,
            price_usd_micros=audit.price_usd_micros if party.kind is LeaseType.AUDIT else 0,
            body=body,
        )
        draft.do(actions.Ask(grant, f"{party.kind} about {task.task} to {party.node}"))
        return draft.leases[name]

    def _replace(self, audit: AuditRow) -> None:
        """Ask the next in rank, in an audit of its own: what is committed to there is committed to before it opens."""
        self._say_silent(audit, Role.AUDITOR, audit.auditor or "")
        self._close(audit, AuditOutcome.SILENT)
        if audit.canary:  # let go: the task has its agreement
            self._judge(self._verdict(exhausted=True))
        else:
            self._open_next(tuple(audit.ranked[1:]), canary=False)

    def _say_silent(self, audit: AuditRow, role: Role, node: str) -> None:
        """State that a party of an audit was asked and did not answer."""
        draft, now_ms = self._draft, self._draft.world.now_ms
        asked = LeaseType.QUESTION if role is Role.PROVER else LeaseType.AUDIT
        given = self._given(audit, role, node)
        name = question_id(audit.audit, asked if given is None else LeaseType.REVEAL, role, node)
        lease = draft.leases.get(name)
        if lease is None:
            raise NotFound("no such lease", why=name)
        said = Silence(
            job=draft.order.job,
            audit=AuditId(audit.audit),
            task=TaskId(self._task.task),
            role=role,
            node=NodeId(node),
            draw=Digest(drawing.get_draw(draft, audit.draw_number).draw or ""),
            awaited=Awaited.COMMITMENT if given is None else Awaited.ANSWER,
            reason=_ABSENCES.get(lease.reason, Absence.HANDED_BACK),
            asked_at=instants.spell(lease.granted_at_ms / 1000),
            deadline_at=instants.spell(lease.deadline_at_ms / 1000),
            ended_at=instants.spell((lease.ended_at_ms or now_ms) / 1000),
        )
        draft.do(actions.SaySilent(said))

    def _decide(self, audit: AuditRow, *, answered: bool) -> None:
        rest = tuple(audit.ranked[1:])
        decision = self._verdict(exhausted=not rest)
        self._close(audit, self._outcome(audit, decision) if answered else AuditOutcome.SILENT)
        if decision.need_auditor:
            self._open_next(rest, canary=False)
        elif decision.verdict is Verdict.VERIFIED and rest and not audit.canary and self._is_canary():
            self._open_next(rest, canary=True)
        else:
            self._judge(decision)

    def _outcome(self, audit: AuditRow, decision: Decision) -> AuditOutcome:
        """Return how an audit ends whose auditor answered; of a silent prover there is only what it handed in."""
        if decision.verdict is Verdict.VERIFIED and audit.auditor not in (*decision.refuted, *decision.odd):
            return AuditOutcome.AGREED
        prover = self._given(self._audits[0], Role.PROVER, self._prover)
        found = self._given(audit, Role.AUDITOR, audit.auditor or "")
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
        question = drawing.Question(self._task, self._row, self._selection(), ranked, len(self._audits), canary)
        drawing.open_audit(self._draft, question)

    def _close(self, audit: AuditRow, outcome: AuditOutcome) -> None:
        self._draft.do(actions.CloseAudit(audit.audit, outcome))

    def _verdict(self, *, exhausted: bool) -> Decision:
        draft = self._draft
        given = [row for audit in self._audits for row in draft.answers_of(audit.audit) if row.answer_leaf is not None]
        prover = next((item for item in given if item.role is Role.PROVER), None)
        heard = [item for item in given if item.role is Role.AUDITOR]
        named = {self._prover, *(item.node for item in given)}
        operators = {NodeId(node): draft.world.nodes.get(node).operator for node in named}
        late = self._selection().is_late
        made = verdict.judge(self._task, prover, heard, operators, exhausted=exhausted, late=late)
        return blame.decided(draft.order.spec, made)

    def _judge(self, made: Decision) -> None:
        """State the verdict."""
        task, draft = self._task, self._draft
        first = self._audits[0]
        given = self._given(first, Role.PROVER, self._prover)
        if given is None or given.answer_leaf is None:
            self._say_silent(first, Role.PROVER, self._prover)
        for lease in draft.live_of(task.task):
            if lease.lease not in draft.world.answering:  # what is on its way into the log ends its lease itself
                draft.do(actions.EndLease(lease.lease, LeaseState.REVOKED, Reason.JUDGED))
        odd = None if blame.convicts(draft.order.spec) else made.odd
        said = (made.verdict, made.reason.value, made.refuted, odd)
        stated = TaskVerdict(draft.order.job, TaskId(task.task), NodeId(self._prover), *said)
        message = f"{task.task} by {self._prover}: {made.verdict}, {made.reason}"
        draft.do(actions.Judge(task.task, made.verdict, made.reason.value, message, stated))
        known = draft.convicted
        for node in made.refuted:
            reason = made.reason.value if node == self._prover else Reason.OUTVOTED
            bond = 0 if node in known else draft.world.nodes.get(node).bond_usd_micros  # it is lost once
            draft.do(actions.Convict(node, task.task, reason, bond))
        for node in made.odd:
            draft.do(actions.Strike(node, task.task, made.reason.value if node == self._prover else Reason.OUTVOTED))
