"""Audits on their way: questions, silence, opened answers, the verdict.

Rules (docs/audits.md; rules/verdict.py judges):
- Nobody is asked to open an answer before both commitments are logged.
- A silent auditor is replaced by the next in rank, and the market signs that he was: when he was asked,
  until when, and how it ended (verify/silence.py). So it does of a silent prover before it judges him. A
  silent prover's work is `unverified` at best; the auditor is heard all the same, and a second one if it
  finds another root: silence convicts nobody and hides no lie.
- Disagreement asks the next-ranked auditor, of a third operator, the same question. Whoever was convicted in this
  job since the candidates were fixed is passed over.
- A canary is an audit whose answer is known already: agreement is, before the verdict, checked by one
  more auditor. Nothing he is told differs from any other audit.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.formats import dsse, instants, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, LeaseType, NodeId, TaskId
from stannary.formats.predicates import (
    Absence,
    Answer,
    Awaited,
    Contribution,
    Role,
    Silence,
    TaskVerdict,
    Verdict,
)
from stannary.jobs.states import LeaseState, TaskState
from stannary.market.engine import drawing, leasing, pricing
from stannary.market.engine.frame import JobFrame, Outcome, World
from stannary.market.engine.outbox import post
from stannary.market.topics import WORK, node_topic
from stannary.rules import verdict
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Decision
from stannary.store import audits, envelopes, events, jobs, leases, nodes, tasks
from stannary.store.audits import AnswerRow, AuditRow
from stannary.store.audits import Outcome as AuditOutcome
from stannary.store.tasks import TaskRow
from stannary.store.transitions import Cause

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
    answer_leaf: str | None
    silent: bool


def advance(connection: Connection, frame: JobFrame, world: World, outcome: Outcome) -> None:
    """Move every open audit of a job as far as it goes."""
    for audit in audits.of_job(connection, frame.job, only_open=True):
        task = tasks.get(connection, audit.task)
        if task.state is TaskState.DRAWN:
            _Hearing(connection, frame, world, outcome, task).advance(audit)
        else:
            audits.close(connection, audit.audit, AuditOutcome.DROPPED, at_ms=world.now_ms)
            outcome.moved = True


class _Hearing:
    """Everything about one drawn task."""

    def __init__(self, connection: Connection, frame: JobFrame, world: World, outcome: Outcome, task: TaskRow) -> None:
        self._connection = connection
        self._frame = frame
        self._world = world
        self._outcome = outcome
        self._task = task
        self._audits = audits.of_task(connection, task.task)
        self._prover = task.node or ""

    def advance(self, audit: AuditRow) -> None:
        """Take the next step of one audit."""
        first = self._audits[0]
        prover = self._side(first, Role.PROVER, self._prover, LeaseType.QUESTION)
        auditor = self._auditor(audit)
        if auditor is not None and auditor.silent:
            self._replace(audit)
            return
        if prover.silent:
            self._hear_alone(audit, auditor)
            return
        opened = prover.answer_leaf is not None
        both = prover.committed and (auditor is None or auditor.committed)
        if both and not opened and self._reveal(first, Role.PROVER, self._prover):
            self._hear_alone(audit, auditor)
            return
        waits = both and auditor is not None and auditor.answer_leaf is None
        if waits and self._reveal(audit, Role.AUDITOR, audit.auditor or ""):
            self._replace(audit)
            return
        if opened and (auditor is None or auditor.answer_leaf is not None):
            self._decide(audit, answered=auditor is not None)

    def _hear_alone(self, audit: AuditRow, auditor: _Side | None) -> None:
        """Hear the auditor of a task whose prover does not answer."""
        if auditor is None:
            self._close(audit, AuditOutcome.SILENT)
            self._judge(self._verdict(exhausted=True))
        elif auditor.answer_leaf is not None:
            self._decide(audit, answered=True)
        elif auditor.committed and self._reveal(audit, Role.AUDITOR, audit.auditor or ""):
            self._replace(audit)

    def _auditor(self, audit: AuditRow) -> _Side | None:
        if audit.auditor is None:
            return None
        return self._side(audit, Role.AUDITOR, audit.auditor, LeaseType.AUDIT)

    def _side(self, audit: AuditRow, role: Role, node: str, kind: LeaseType) -> _Side:
        given = self._given(audit, role, node)
        if given is not None:
            return _Side(True, given.answer_leaf, silent=False)
        party = leasing.Party(kind, role, node)
        lease = leasing.ask(self._connection, self._frame, self._world, (audit, self._task), party)
        self._outcome.rings.add(node_topic(node))
        return _Side(False, None, silent=lease.state is not LeaseState.GRANTED)

    def _given(self, audit: AuditRow, role: Role, node: str) -> AnswerRow | None:
        for row in audits.answers_of(self._connection, audit.audit):
            if row.role is role and row.node == node:
                return row
        return None

    def _reveal(self, audit: AuditRow, role: Role, node: str) -> bool:
        """Ask a party to open its answer; tell whether its time for that is over."""
        kind = LeaseType.REVEAL
        party = leasing.Party(kind, role, node)
        lease = leasing.ask(self._connection, self._frame, self._world, (audit, self._task), party)
        self._outcome.rings.add(node_topic(node))
        return lease.state is not LeaseState.GRANTED

    def _replace(self, audit: AuditRow) -> None:
        """Ask the next in rank, in an audit of its own: what is committed to there is committed to before it opens."""
        rest = tuple(audit.ranked[1:])
        self._say_silent(audit, Role.AUDITOR, audit.auditor or "")
        self._close(audit, AuditOutcome.SILENT)
        if audit.canary:  # let go: the task has its agreement
            self._judge(self._verdict(exhausted=True))
        else:
            self._open_next(rest, canary=False)

    def _say_silent(self, audit: AuditRow, role: Role, node: str) -> None:
        """State that a party of an audit was asked and did not answer."""
        asked = LeaseType.QUESTION if role is Role.PROVER else LeaseType.AUDIT
        given = self._given(audit, role, node)
        name = leasing.question_id(audit.audit, asked if given is None else LeaseType.REVEAL, role, node)
        lease = leases.get(self._connection, name)
        row = audits.get_draw(self._connection, self._frame.job, audit.draw_number)
        said = Silence(
            job=self._frame.job,
            audit=AuditId(audit.audit),
            task=TaskId(self._task.task),
            role=role,
            node=NodeId(node),
            draw=Digest(row.draw or ""),
            awaited=Awaited.COMMITMENT if given is None else Awaited.ANSWER,
            reason=_ABSENCES.get(lease.reason, Absence.HANDED_BACK),
            asked_at=instants.spell(lease.granted_at_ms / 1000),
            deadline_at=instants.spell(lease.deadline_at_ms / 1000),
            ended_at=instants.spell((lease.ended_at_ms or self._world.now_ms) / 1000),
        )
        post(self._connection, self._world, "silence", said, self._frame.job)

    def _decide(self, audit: AuditRow, *, answered: bool) -> None:
        rest = tuple(audit.ranked[1:])
        decision = self._verdict(exhausted=not rest)
        agreed = decision.verdict is Verdict.VERIFIED and audit.auditor not in decision.refuted
        self._close(audit, self._outcome_of(answered, agreed))
        if decision.need_auditor:
            self._open_next(rest, canary=False)
        elif decision.verdict is Verdict.VERIFIED and rest and not audit.canary and self._is_canary():
            self._open_next(rest, canary=True)
        else:
            self._judge(decision)

    def _outcome_of(self, answered: bool, agreed: bool) -> AuditOutcome:
        if not answered:
            return AuditOutcome.SILENT
        return AuditOutcome.AGREED if agreed else AuditOutcome.DISAGREED

    def _is_canary(self) -> bool:
        row = audits.get_draw(self._connection, self._frame.job, self._audits[0].draw_number)
        return drawing.selection_of(self._connection, self._frame, row, self._task).canary

    def _open_next(self, ranked: tuple[str, ...], *, canary: bool) -> None:
        first = self._audits[0]
        row = audits.get_draw(self._connection, self._frame.job, first.draw_number)
        selection = drawing.selection_of(self._connection, self._frame, row, self._task)
        by_node = {node.node: node for node in nodes.all_nodes(self._connection)}
        asked = drawing.Question(self._task, row.number, selection, ranked, len(self._audits), canary)
        drawing.open_audit(self._connection, self._frame, self._world, asked, by_node)

    def _close(self, audit: AuditRow, outcome: AuditOutcome) -> None:
        audits.close(self._connection, audit.audit, outcome, at_ms=self._world.now_ms)
        self._outcome.moved = True

    def _verdict(self, *, exhausted: bool) -> Decision:
        answered = [row for audit in self._audits for row in audits.answers_of(self._connection, audit.audit)]
        opened = [self._answer(row.answer_leaf) for row in answered if row.answer_leaf is not None]
        prover = next((item for item in opened if item.role is Role.PROVER), None)
        heard = [item for item in opened if item.role is Role.AUDITOR]
        operators = {NodeId(node.node): node.operator for node in nodes.all_nodes(self._connection)}
        return verdict.judge(self._contribution(), prover, heard, operators, exhausted=exhausted)

    def _answer(self, leaf: str) -> Answer:
        payload = dsse.from_bytes(envelopes.get(self._connection, leaf).envelope).payload
        return statement.read(payload, "answer", Answer).predicate

    def _contribution(self) -> Contribution:
        kept = envelopes.get(self._connection, self._task.contribution or "")
        return statement.read(dsse.from_bytes(kept.envelope).payload, "contribution", Contribution).predicate

    def _judge(self, made: Decision) -> None:
        """State the verdict."""
        task, connection, world = self._task, self._connection, self._world
        first = self._audits[0]
        given = self._given(first, Role.PROVER, self._prover)
        if given is None or given.answer_leaf is None:
            self._say_silent(first, Role.PROVER, self._prover)
        for lease in leases.live_of_task(connection, task.task):
            if lease.lease in world.answering:
                continue  # what is on its way into the log ends its lease itself
            leases.end(connection, lease.lease, LeaseState.REVOKED, Cause(world.now_ms, Reason.JUDGED))
            self._outcome.rings.add(node_topic(lease.node))
        record = TaskVerdict(
            self._frame.job, TaskId(task.task), NodeId(self._prover), made.verdict, made.reason.value, made.refuted
        )
        post(connection, world, "verdict", record, self._frame.job)
        message = f"{task.task} by {self._prover}: {made.verdict}, {made.reason}"
        tasks.judge(connection, task.task, made.verdict, Cause(world.now_ms, made.reason.value, message))
        self._convict(made)
        self._outcome.moved = True

    def _convict(self, made: Decision) -> None:
        if not made.refuted:
            return
        connection, job, now_ms = self._connection, self._frame.job, self._world.now_ms
        known = pricing.convicted(connection, job)
        progress = dict(jobs.get(connection, job).progress)
        convicted: list[Json] = [*sorted({*known, *made.refuted})]
        jobs.set_progress(connection, job, {**progress, "convicted": convicted})
        for node in made.refuted:
            nodes.convict(connection, node, at_ms=now_ms)
            reason = made.reason.value if node == self._prover else Reason.OUTVOTED
            bond = 0 if node in known else pricing.bond(connection, node)  # it is lost once
            said: dict[str, Json] = {"reason": reason, "bond_usd_micros": bond}
            happening = events.Happening(
                "node.convicted", f"{node} is convicted: {reason}", now_ms, self._task.task, node, said
            )
            events.append(connection, job, happening)
            for lease in leases.live_of_node(connection, node):
                if lease.type in leasing.ONE_PIECE and lease.lease not in self._world.answering:
                    leases.end(connection, lease.lease, LeaseState.REVOKED, Cause(now_ms, Reason.NODE_CONVICTED))
            self._outcome.rings.update({node_topic(node), WORK})
