"""A job's state while it is being decided: every action taken so far already counts.

The same fold serves whoever drives the core without a store. It changes what an action changes, in this snapshot's
terms; the shell writes the same to the database, and the next snapshot is read from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from stannary.formats import ids, predicates
from stannary.formats.ids import LeaseType, TaskId
from stannary.formats.predicates import Verdict
from stannary.jobs.course import actions, lapsing
from stannary.jobs.course.actions import Action
from stannary.jobs.course.state import (
    MERGE_LANE,
    AnswerRow,
    AskedQuestion,
    AuditOutcome,
    AuditRow,
    CandidateList,
    DrawRow,
    JobState,
    LeaseRow,
    NewTask,
    Task,
    World,
    spell_assignment,
    who_is_out,
)
from stannary.jobs.states import JobStatus, LeaseState, TaskState, advance
from stannary.rules import blame
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

UNSIGNED = ""  # leaf of a statement decided on but not signed yet

_STATE_OF = {
    Verdict.VERIFIED: TaskState.VERIFIED,
    Verdict.UNVERIFIED: TaskState.UNVERIFIED,
    Verdict.REFUTED: TaskState.REFUTED,
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where the draws of a job stand after a pass."""

    owed: DrawRow | None = None  # the one whose value the buyer owes
    awaits_log: bool = False  # the next one waits for a checkpoint that covers its candidates


class CourseDraft:
    """One decision in the making."""

    def __init__(self, state: JobState, world: World) -> None:
        self.world = world
        self.order = state.order
        self.actions: list[Action] = []
        self.failure: tuple[str, str] | None = None  # reason and message: the job cannot go on
        self._state = state
        self.status = state.status
        self.ending = state.ending
        self.first_open = state.first_open
        self.round = state.round
        self.placed = state.placed
        self.convicted = state.convicted
        self.struck = state.struck
        self.took_part = state.took_part
        self.questions = state.questions
        self.struck_since = state.struck_since
        self.tasks = dict(state.tasks)
        self.draws = list(state.draws)
        self.listed = dict(state.listed)
        self.watch = state.watch
        self.drawn = dict(state.drawn)
        self.audits = dict(state.audits)
        self.earlier = state.earlier
        self.earlier_uses = state.earlier_uses
        self.answers = state.answers
        self.accusers = dict(state.accusers)
        self.last_end_ms = dict(state.last_end_ms)
        self.leases = dict(state.leases)
        self.reported = dict(state.reported)
        self.drawing = Drawing()
        self.is_unfinished = False  # more follows once this is carried out
        self.worked = state.worked
        self._of_round: dict[int, list[str]] = {}
        for task in state.tasks.values():
            self._of_round.setdefault(task.round, []).append(task.task)

    def state(self) -> JobState:
        """Return the state as the actions so far leave it."""
        return replace(
            self._state,
            status=self.status,
            ending=self.ending,
            first_open=self.first_open,
            round=self.round,
            placed=self.placed,
            worked=self.worked,
            convicted=self.convicted,
            struck=self.struck,
            questions=self.questions,
            struck_since=self.struck_since,
            tasks=self.tasks,
            draws=tuple(self.draws),
            listed=self.listed,
            drawn=self.drawn,
            audits=self.audits,
            leases=self.leases,
            reported=self.reported,
            accusers=self.accusers,
            last_end_ms=self.last_end_ms,
        )

    @property
    def engine_class(self) -> str:
        """What results of this job are compared within; none before it is placed."""
        return self.world.nodes.get(self.placed[0]).engine_class if self.placed else ""

    @property
    def out(self) -> Mapping[str, str]:
        """Who does nothing more in this job, and why."""
        return who_is_out(self.convicted, self.struck)

    @property
    def asked(self) -> str:
        """The task of which it is asked if the program can be recomputed, empty for none: nothing new is begun."""
        return self.questions[-1].task if self.questions and self.questions[-1].is_open else ""

    @property
    def submitted_at_ms(self) -> int:
        """When the job was taken."""
        return self._state.submitted_at_ms

    @property
    def escrow_usd_micros(self) -> int:
        """What is held for it."""
        return self._state.escrow_usd_micros

    def of_round(self, index: int) -> list[Task]:
        """Return the tasks of one round, all attempts."""
        return [self.tasks[name] for name in self._of_round.get(index, ())]

    def live_of(self, task: str) -> list[LeaseRow]:
        """Return the live leases of a task, questions about it included, oldest first."""
        live = [item for item in self.leases.values() if item.task == task and item.state is LeaseState.GRANTED]
        return sorted(live, key=lambda item: (item.granted_at_ms, item.lease))

    def is_answering(self, task: Task) -> bool:
        """Tell whether a statement about unfinished work is on its way into the log."""
        return task.state in PENDING and any(item.lease in self.world.answering for item in self.live_of(task.task))

    def audits_of(self, task: str) -> list[AuditRow]:
        """Return the audits of a task by number."""
        return sorted((item for item in self.audits.values() if item.task == task), key=lambda item: item.number)

    def answers_of(self, audit: str) -> tuple[AnswerRow, ...]:
        """Return what was said to one audit's question, in order of commitment."""
        return self.answers.get(audit, ())

    def do(self, action: Action) -> None:
        """Take an action, and let it count."""
        self.actions.append(action)
        self._fold(action)

    def _fold(self, action: Action) -> None:
        match action:
            case actions.Place(placement):
                self.status, self.placed = advance(self.status, JobStatus.RUNNING), tuple(placement.chosen)
                self.worked |= frozenset(placement.chosen)
            case actions.Plan(assignment):
                self._plan(assignment)
            case actions.Drop(task, to, reason):
                self._end(self.live_of(task), LeaseState.REVOKED, reason)
                self._move(task, to, reason)
            case actions.Judge(task, verdict, reason):
                self._move(task, _STATE_OF[verdict], reason)
                self.tasks[task] = replace(self.tasks[task], verdict=verdict)
            case actions.Convict() | actions.Strike():
                self._put_out(action)
            case actions.EndLease(lease, to, reason):
                self._give_back(self.leases[lease], to, reason)
            case actions.ReportTask(task, operator):
                self.reported[task] = tuple(sorted({*self.reported.get(task, ()), operator}))
            case actions.Settle(first_open, round_index):
                self.first_open, self.round = first_open, round_index
            case actions.BeginEnd(ending):
                if self.status is not JobStatus.CANCELLING:
                    self.status = advance(self.status, JobStatus.CANCELLING)
                self.ending = ending
            case actions.Conclude() | actions.SayStopped() | actions.SaySilent() | actions.Print() | actions.Dispute():
                pass
            case _:
                self._fold_proof(action)

    def _fold_proof(self, action: Action) -> None:
        """Fold what belongs to draws and audits."""
        now_ms, checkpoint = self.world.now_ms, self.world.checkpoint
        match action:
            case actions.FixCandidates(made):
                self.listed[made.index] = CandidateList(UNSIGNED, None, made.candidates, made.watch)
            case actions.RequestDraw(number):
                shown = (checkpoint.text, checkpoint.size, checkpoint.root)
                self.draws.append(DrawRow(self.order.job, number, *shown, (), now_ms, None, None, None, None))
            case actions.MakeDraw(made, extra_usd_micros):
                if self.watch is not None:
                    left = self.watch.usd_micros - extra_usd_micros
                    self.watch = replace(self.watch, usd_micros=left) if left > 0 else None
                self.draws = [replace(row, draw=UNSIGNED) if row.number == made.index else row for row in self.draws]
                self.drawn[made.index] = made.drawable
            case actions.Pass(task, number, is_drawn):
                self._move(task, TaskState.DRAWN if is_drawn else TaskState.PASSED, "")
                self.tasks[task] = replace(self.tasks[task], draw_number=number)
            case actions.OpenAudit(new):
                opened: dict[str, Any] = {"rank": 0, "outcome": AuditOutcome.OPEN, "opened_at_ms": now_ms}
                self.audits[new.audit] = AuditRow(**_members(new), **opened, closed_at_ms=None)
            case actions.Ask(grant):
                self.leases[grant.lease] = LeaseRow(
                    grant.lease,
                    grant.type,
                    self.order.job,
                    grant.task,
                    grant.audit,
                    grant.node,
                    1,
                    LeaseState.GRANTED,
                    Reason.ASKED,
                    grant.body,
                    now_ms,
                    grant.deadline_at_ms,
                    None,
                )
            case actions.CloseAudit(audit, outcome):
                self.audits[audit] = replace(self.audits[audit], outcome=outcome, closed_at_ms=now_ms)
                self._note_accuser(self.audits[audit])
            case _:
                self._fold_question(action)

    def _fold_question(self, action: Action) -> None:
        """Fold what belongs to the question whether the program can be recomputed."""
        match action:
            case actions.SayChecked():
                pass
            case actions.OpenQuestion(task):
                self.questions += (AskedQuestion(task),)
            case actions.CloseQuestion(task, outcome):
                self.questions = (*self.questions[:-1], AskedQuestion(task, outcome, self.world.now_ms))
                self.struck_since = frozenset()
                if outcome is Reason.NOT_REPRODUCIBLE:
                    self.struck = frozenset()
            case _:
                raise AssertionError(action)

    def _note_accuser(self, audit: AuditRow) -> None:
        """Keep whose auditor contradicted what was handed in: it does not do that unit again (rules/blame.py)."""
        if audit.outcome is AuditOutcome.DISAGREED and audit.auditor and not blame.convicts(self.order.spec):
            unit, operator = ids.unit_of(TaskId(audit.task)), self.world.nodes.get(audit.auditor).operator
            self.accusers[unit] = self.accusers.get(unit, frozenset()) | {operator}

    def _plan(self, assignment: predicates.Assignment) -> None:
        text = spell_assignment(assignment)
        new = new_task(assignment, text)
        self._of_round.setdefault(new.round, []).append(new.task)
        self.tasks[new.task] = Task(
            **_members(new),
            state=TaskState.PLANNED,
            epoch=0,
            node=None,
            price_usd_micros=0,
            commitment=None,
            commitment_index=None,
            contribution=None,
            contribution_index=None,
            root=None,
            outputs=None,
            draw_number=None,
            verdict=Verdict.PENDING,
            reason="",
            planned_at_ms=self.world.now_ms,
            leased_at_ms=None,
            contributed_at_ms=None,
        )

    def _move(self, task: str, to: TaskState, reason: str) -> None:
        row = self.tasks[task]
        self.tasks[task] = replace(row, state=advance(row.state, to), reason=reason)

    def _end(self, ended: Iterable[LeaseRow], to: LeaseState, reason: str) -> None:
        for item in ended:
            advance(item.state, to)
            self.leases[item.lease] = replace(item, state=to, reason=reason, ended_at_ms=self.world.now_ms)

    def _put_out(self, action: actions.Convict | actions.Strike) -> None:
        """Take from a node what it holds of the job; it gets nothing more of it."""
        reason = Reason.NODE_STRUCK
        if isinstance(action, actions.Convict):
            reason = Reason.NODE_CONVICTED
            self.convicted |= {action.node}
        else:
            self.struck |= {action.node}
            self.struck_since |= {action.node}
        for item in lapsing.taken_back(self.leases.values(), action.node, self.world):
            self._give_back(item, LeaseState.REVOKED, reason)

    def _give_back(self, lease: LeaseRow, to: LeaseState, reason: str) -> None:
        """End a lease; work without a result goes back to planned."""
        self._end([lease], to, reason)
        task = self.tasks.get(lease.task)
        if lease.type is LeaseType.WORK and task is not None and task.state in HELD:
            self._move(lease.task, TaskState.PLANNED, reason)
            self.last_end_ms[lease.task] = self.world.now_ms


def _members(record: DataclassInstance) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}


PENDING = frozenset({TaskState.PLANNED, TaskState.LEASED, TaskState.COMMITTED})
HELD = frozenset({TaskState.LEASED, TaskState.COMMITTED})


def new_task(assignment: predicates.Assignment, text: str) -> NewTask:
    """Return the task of an assignment, spelled as it is signed."""
    return NewTask(
        task=assignment.task,
        job=assignment.job,
        kind=assignment.kind,
        round=assignment.round,
        lane=MERGE_LANE if TASKS[assignment.kind].is_merge else assignment.lane,
        attempt=ids.attempt_of(assignment.task),
        num_steps=assignment.num_steps,
        assignment=text,
        assignment_digest=predicates.assignment_digest(assignment),
    )
