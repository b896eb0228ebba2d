"""The core's actions carried out, in order, in one transaction, if the job is still what was decided about.

A job's version is the number of its events: whatever changes it has one. What an action states is signed and put into
the outbox here; whom it concerns is told when the transaction is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats import digest, dsse, instants
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, NodeId, TaskId
from stannary.formats.predicates import SettlementLine, Stopped, Watch
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.course import actions, lapsing
from stannary.jobs.course.actions import Action
from stannary.jobs.course.concluding import JudgedJob
from stannary.jobs.course.draft import new_task
from stannary.jobs.course.state import (
    ONE_PIECE,
    AuditOutcome,
    Grant,
    JobOrder,
    JobState,
    LeaseRow,
    NewDraw,
    World,
    spell_assignment,
)
from stannary.jobs.states import DisputeStage, JobStatus, LeaseState
from stannary.market.engine import loading
from stannary.market.engine.giving import manifest_digests
from stannary.market.presence import Presence
from stannary.market.topics import WORK, node_topic, seen_topic
from stannary.rules import edition
from stannary.rules.kinds import DELTA, OUTER, THETA
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import FEES, INSURANCE
from stannary.store import (
    audits,
    blobs,
    disputes,
    envelopes,
    events,
    jobs,
    leases,
    ledger,
    loglines,
    nodes,
    readings,
    standings,
    tasks,
    watches,
)
from stannary.store.envelopes import RECEIPT, Incoming
from stannary.store.jobs import JobRow
from stannary.store.loglines import LineSource, NewLine
from stannary.store.transitions import Cause, move_job, move_settlement, move_verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.statement import Subject

Sign = Callable[..., dsse.Envelope]
Proof = Callable[[int, int], list[bytes]]


Decided = JobState | JudgedJob  # what a decision was about


@dataclass(frozen=True, slots=True)
class Pen:
    """What it takes to state something: the market's signature, and proofs from its log."""

    sign: Sign
    inclusion: Proof
    consistency: Proof


@dataclass(slots=True)
class Applied:
    """What follows when the transaction is durable."""

    rings: set[str] = field(default_factory=set)
    convicted: list[str] = field(default_factory=list)  # nodes
    standing: list[str] = field(default_factory=list)  # nodes that are suspended or restored
    revoked: list[str] = field(default_factory=list)  # nodes
    is_stale: bool = False  # the job has moved on: nothing was done, decide anew


def apply(connection: Connection, state: Decided, decided: Sequence[Action], world: World, pen: Pen) -> Applied:
    """Carry out what was decided about `state`; does nothing where the job has moved on since."""
    applied = Applied()
    if jobs.get(connection, state.order.job).num_events != state.version:
        applied.is_stale = True
        return applied
    fixed = [action.made for action in decided if isinstance(action, actions.FixCandidates)]
    if any(made.watch is not None and not _may_put_aside(connection, state.order, made.watch) for made in fixed):
        applied.is_stale = True  # another job has it
        return applied
    run = _Run(connection, state, world, pen, applied)
    for action in decided:
        run.do(action)
    return applied


def _may_put_aside(connection: Connection, order: JobOrder, watch: Watch) -> bool:
    free = loading.watch(connection, order)
    return free is not None and free.usd_micros >= watch.usd_micros


def post(
    connection: Connection,
    sign: Sign,
    said: tuple[str, DataclassInstance],
    job: str,
    now_ms: int,
    subjects: tuple[Subject, ...] = (),
) -> Digest:
    """Sign a statement and put it into the outbox; return its leaf."""
    kind, predicate = said
    envelope = sign(kind, predicate, subjects)
    leaf = digest.from_raw(envelope.leaf())
    envelopes.add(connection, Incoming(leaf, kind, envelope.to_bytes(), now_ms, job))
    return leaf


def pay(connection: Connection, row: JobRow, lines: Sequence[SettlementLine], now_ms: int) -> None:
    """Move the money of a job. What bonds, insurance and fees hold is every job's: it is read in this transaction."""
    readings.settle(connection, row.job, lines)
    forfeited = {node: _taken_before(connection, node, row.job) for node in escrow.forfeiting(lines)}
    balances = ledger.balances_of(connection, [INSURANCE, FEES])
    entry = escrow.settle(escrow.Escrow(row.job, row.buyer, row.escrow_usd_micros), lines, forfeited, balances)
    if entry is not None:
        ledger.post(connection, entry, at_ms=now_ms)


def _taken_before(connection: Connection, node: str, job: str) -> int:
    return readings.forfeited(connection, node, before=job) + disputes.forfeited(connection, node)


def give(connection: Connection, order: JobOrder, grant: Grant, now_ms: int) -> LeaseRow:
    """Give a waiting task to a node, and with it, as long as the lease lasts, the right to read exactly its inputs.

    Raises:
        ConflictError: the task is not to be had any more, or the node has work already, or may not work any more.
    """
    if jobs.get(connection, order.job).status is not JobStatus.RUNNING:
        raise ConflictError("this job gives out no work any more", why=order.job)
    _check_fit(connection, grant.node)
    _allow(connection, order, grant.node)
    cause = Cause(now_ms, Reason.LEASED, f"{grant.task} to {grant.node}")
    return leases.grant(connection, with_inputs(connection, grant), cause)


def give_audit(connection: Connection, order: JobOrder, grant: Grant, now_ms: int) -> LeaseRow:
    """Give a node the audit it is offered, with the right to read its inputs.

    Raises:
        ConflictError: it is closed or taken, or the node has something in hand, or may not work any more.
    """
    if audits.get(connection, grant.audit or "").outcome is not AuditOutcome.OPEN:
        raise ConflictError("this audit is closed", why=grant.audit or "")
    _check_fit(connection, grant.node)
    if any(item.type in ONE_PIECE for item in leases.live_of_node(connection, grant.node)):
        raise ConflictError("this node has a piece in hand", why=grant.node)
    _allow(connection, order, grant.node)
    cause = Cause(now_ms, Reason.ASKED, f"{grant.type} about {grant.task} taken by {grant.node}")
    return leases.grant(connection, with_inputs(connection, grant), cause)


def with_inputs(connection: Connection, grant: Grant) -> Grant:
    """Return a grant that names what its task is a function of."""
    assignment = tasks.get(connection, grant.task).assigned
    wanted: list[tuple[str, str]] = []
    if assignment.theta is not None:
        wanted.append((THETA, assignment.theta))
    if assignment.outer is not None:
        wanted.append((OUTER, assignment.outer))
    for item in assignment.admitted or ():
        outputs = tasks.get(connection, item.task).outputs or ()
        wanted.extend((str(item.task), str(output["digest"])) for output in outputs if output["name"] == DELTA)
    listed: list[Json] = [
        {"name": name, "digest": blob, "size_bytes": blobs.size_of(connection, blob) or 0} for name, blob in wanted
    ]
    return replace(grant, body={**grant.body, "blobs": listed})


def take_back(connection: Connection, over: Iterable[tuple[LeaseRow, str]], now_ms: int) -> list[LeaseRow]:
    """End leases whose time is over, each for its reason; return those that had not ended meanwhile."""
    ended = []
    for lease, reason in over:
        if leases.get(connection, lease.lease).state is LeaseState.GRANTED:
            cause = Cause(now_ms, reason, f"{lease.type} lease of {lease.task} at {lease.node}: {reason}")
            ended.append(leases.end(connection, lease.lease, LeaseState.EXPIRED, cause))
    return ended


def release(connection: Connection, lease: LeaseRow, said: actions.EndLease, lines: Sequence[str], now_ms: int) -> None:
    """End a lease of a job that is not open; its node says why."""
    leases.end(connection, lease.lease, said.to, Cause(now_ms, said.reason, said.message))
    write_lines(connection, LineSource(lease.job, lease.task, lease.node), lines, now_ms)


def tell(connection: Connection, node: str, presence: Presence, now_ms: int) -> None:
    """Tell the jobs of a node what became of it."""
    for job in {lease.job for lease in leases.live_of_node(connection, node)}:
        message = f"{node} has left" if presence is Presence.LEFT else f"{node} is {presence}: no sign of life"
        events.append(connection, job, events.Happening(f"node.{presence}", message, now_ms, node=node))


def write_lines(connection: Connection, source: LineSource, lines: Iterable[str], now_ms: int) -> None:
    """Keep what an agent says in the log of its job."""
    loglines.append(connection, source, [NewLine(now_ms, "agent", text) for text in lines])


def _check_fit(connection: Connection, node: str) -> None:
    row = nodes.get(connection, node)
    if row.revoked_at_ms is not None or row.convicted_at_ms is not None:
        raise ConflictError("this node does no work here any more", why=node)


def _allow(connection: Connection, order: JobOrder, node: str) -> None:
    """Let a node read the job's manifest; the inputs stand in the lease itself (store/blobs.py)."""
    blobs.grant(connection, manifest_digests(order.spec), blobs.reader(order.job, node))


class _Run:
    """One transaction."""

    def __init__(self, connection: Connection, state: Decided, world: World, pen: Pen, applied: Applied) -> None:
        self._connection = connection
        self._job = state.order.job
        self._order = state.order
        self._world = world
        self._pen = pen
        self._applied = applied

    def do(self, action: Action) -> None:
        """Carry out one action."""
        match action:
            case actions.Place():
                self._place(action)
            case actions.Plan(assignment):
                self._post("assignment", assignment)
                new = new_task(assignment, spell_assignment(assignment))
                tasks.plan(self._connection, new, at_ms=self._world.now_ms)
                self._applied.rings.add(WORK)
            case actions.Drop(task, to, reason, message):
                holder = tasks.get(self._connection, task).node
                tasks.drop(self._connection, task, to, self._cause(reason, message))
                if holder is not None:
                    self._applied.rings.add(node_topic(holder))
            case actions.Settle(first_open, round_index):
                jobs.note_rounds(self._connection, self._job, first_open=first_open, last=round_index)
            case actions.ReportTask(task, operator):
                jobs.report(self._connection, self._job, task, operator)
            case actions.Print(task, node, lines):
                write_lines(self._connection, LineSource(self._job, task, node), lines, self._world.now_ms)
            case actions.BeginEnd():
                self._begin_end(action)
            case actions.Convict():
                self._convict(action)
            case actions.Strike():
                self._strike(action)
            case actions.Conclude():
                pass  # concluding.py, once everything is logged
            case _:
                self._do_proof(action)

    def _do_proof(self, action: Action) -> None:
        """Carry out what belongs to draws and audits."""
        connection, job, now_ms = self._connection, self._job, self._world.now_ms
        match action:
            case actions.FixCandidates(made):
                audits.fix_candidates(connection, job, made.index, self._post("candidates", made))
                watches.begin(connection, job, made.watch)
            case actions.RequestDraw():
                self._request(action)
            case actions.MakeDraw(drawn, extra_usd_micros):
                audits.set_draw(connection, job, drawn.index, self._post("draw", drawn), at_ms=now_ms)
                watches.use(connection, job, extra_usd_micros)
            case actions.Pass(task, number, is_drawn):
                reason = Reason.DRAWN if is_drawn else Reason.NOT_DRAWN
                message = f"the beacon {'drew' if is_drawn else 'passed over'} {task}"
                cause = self._cause(reason, message)
                tasks.draw(connection, task, number=number, selected=is_drawn, cause=cause)
            case actions.OpenAudit(new):
                audits.open_audit(connection, new, at_ms=now_ms)
            case actions.Ask():
                self._ask(action)
            case actions.CloseAudit(audit, outcome):
                audits.close(connection, audit, outcome, at_ms=now_ms)
            case actions.SaySilent(said):
                self._post("silence", said)
            case actions.SayStopped():
                self._say_stopped(action)
            case actions.Judge():
                self._judge(action)
            case actions.EndLease(lease, to, reason, message):
                ended = leases.end(connection, lease, to, self._cause(reason, message))
                self._applied.rings.add(node_topic(ended.node))
            case _:
                self._do_last(action)

    def _do_last(self, action: Action) -> None:
        """Carry out what belongs to the question about a program, to the end of a job, and what is decided behind."""
        connection, job, now_ms = self._connection, self._job, self._world.now_ms
        match action:
            case actions.OpenQuestion() | actions.CloseQuestion():
                self._do_question(action)
            case actions.SayChecked(task, message, reason):
                kind, data = ("check.ended", {"reason": reason}) if reason else ("check.begun", {})
                events.append(connection, job, events.Happening(kind, message, now_ms, task, data=data))
            case actions.PostReading(envelope):
                self._post_reading(envelope)
            case actions.Verify():
                move_job(connection, job, JobStatus.VERIFYING, self._cause(Reason.COMPLETE, "all work is judged"))
            case actions.StateReceipt(stated, subjects):
                post(connection, self._pen.sign, (RECEIPT, stated), job, now_ms, subjects)
            case actions.Pay(lines, to, message):
                pay(connection, jobs.get(connection, job), lines, now_ms)
                move_settlement(connection, job, to, self._cause(Reason.SETTLED, message))
            case actions.Revoke(node, reason):
                if nodes.get(connection, node).revoked_at_ms is None:
                    nodes.revoke(connection, node, reason, at_ms=now_ms)
                    self._applied.revoked.append(node)
            case actions.Dispute(node, task, bond):
                stage = DisputeStage.DISPUTED
                row = DisputeRow(job, node, task, bond, stage, now_ms)
                disputes.open_(connection, row)
            case actions.Publish():
                self._publish(action)
            case _:
                raise AssertionError(action)

    def _post_reading(self, envelope: bytes) -> Digest:
        leaf = digest.from_raw(dsse.from_bytes(envelope).leaf())
        envelopes.add(self._connection, Incoming(leaf, "reading", envelope, self._world.now_ms, self._job))
        return leaf

    def _say_stopped(self, said: actions.SayStopped) -> None:
        """State what a node had in hand, by its last reading; one that has sent none has nothing to show."""
        held = readings.last(self._connection, self._job, said.node)
        if held is None:
            return
        times = (instants.spell(at_ms / 1000) for at_ms in (said.granted_at_ms, self._world.now_ms))
        leaf = self._post_reading(held.envelope)
        self._post("stopped", Stopped(JobId(self._job), TaskId(said.task), NodeId(said.node), leaf, *times))

    def _cause(self, reason: str, message: str = "") -> Cause:
        return Cause(self._world.now_ms, reason, message)

    def _post(self, kind: str, predicate: DataclassInstance) -> Digest:
        return post(self._connection, self._pen.sign, (kind, predicate), self._job, self._world.now_ms)

    def _place(self, action: actions.Place) -> None:
        self._post("placement", action.placement)
        jobs.place(self._connection, self._job, action.placement.chosen)
        blobs.grant(self._connection, manifest_digests(self._order.spec), self._job)
        move_job(self._connection, self._job, JobStatus.RUNNING, self._cause(Reason.PLACED, action.message))
        self._applied.rings.add(WORK)

    def _begin_end(self, action: actions.BeginEnd) -> None:
        ending, row = action.ending, jobs.get(self._connection, self._job)
        jobs.note_ending(self._connection, self._job, ending)
        if row.status is not JobStatus.CANCELLING:
            move_job(self._connection, self._job, JobStatus.CANCELLING, self._cause(ending.reason, ending.message))

    def _request(self, action: actions.RequestDraw) -> None:
        checkpoint, number = self._world.checkpoint, action.number
        inclusion = [item.hex() for item in self._pen.inclusion(action.candidates_index, checkpoint.size)]
        audits.cover_candidates(self._connection, self._job, number, action.candidates_index, inclusion)
        new = NewDraw(
            job=self._job,
            number=number,
            checkpoint=checkpoint.text,
            checkpoint_size=checkpoint.size,
            checkpoint_root=checkpoint.root,
            consistency=[item.hex() for item in self._pen.consistency(action.old_size, checkpoint.size)],
            requested_at_ms=self._world.now_ms,
        )
        audits.request_draw(self._connection, new)
        self._applied.rings.add(seen_topic(self._job))

    def _ask(self, action: actions.Ask) -> None:
        grant = action.grant
        if "salt" in grant.body:
            grant = with_inputs(self._connection, grant)
        _allow(self._connection, self._order, grant.node)
        leases.grant(self._connection, grant, self._cause(Reason.ASKED, action.message))
        self._applied.rings.add(node_topic(grant.node))

    def _convict(self, action: actions.Convict) -> None:
        connection, node, now_ms = self._connection, action.node, self._world.now_ms
        is_final = not edition.of(self._order.spec).disputes_bonds  # else an appeal says first whether it lied
        jobs.convict(connection, self._job, node)
        if is_final:
            nodes.convict(connection, node, at_ms=now_ms)
        said: dict[str, Json] = {"reason": action.reason, "bond_usd_micros": action.bond_usd_micros}
        message = f"{node} is convicted: {action.reason}"
        happening = events.Happening("node.convicted", message, now_ms, action.task, node, said)
        events.append(connection, self._job, happening)
        held = [item for item in leases.live_of_node(connection, node) if is_final or item.job == self._job]
        for lease in lapsing.taken_back(held, node, self._world):
            leases.end(connection, lease.lease, LeaseState.REVOKED, self._cause(Reason.NODE_CONVICTED))
        self._applied.rings.update({node_topic(node), WORK})
        self._applied.convicted.append(node)

    def _strike(self, action: actions.Strike) -> None:
        connection, node, now_ms = self._connection, action.node, self._world.now_ms
        jobs.strike(connection, self._job, node, action.task, at_ms=now_ms)
        message, said = f"{node} stood alone: {action.reason}", {"reason": action.reason}
        events.append(connection, self._job, events.Happening("node.struck", message, now_ms, action.task, node, said))
        held = [item for item in leases.live_of_node(connection, node) if item.job == self._job]
        for lease in lapsing.taken_back(held, node, self._world):
            leases.end(connection, lease.lease, LeaseState.REVOKED, self._cause(Reason.NODE_STRUCK))
        self._applied.rings.update({node_topic(node), WORK})
        if standings.consider(connection, node, now_ms) is not None:
            message = f"{node} is suspended: buyers of many jobs had it struck"
            happening = events.Happening("node.suspended", message, now_ms, action.task, node)
            events.append(connection, self._job, happening)
            self._applied.standing.append(node)

    def _judge(self, action: actions.Judge) -> None:
        if action.stated is not None:
            self._post("verdict", action.stated)
        tasks.judge(self._connection, action.task, action.verdict, self._cause(action.reason, action.message))
        if action.reason == Reason.AGREED and self._order.spec.builtin:
            self._restore(action.task)
        if action.reason == Reason.NOT_REPRODUCIBLE:
            self._take_back()

    def _take_back(self) -> None:
        """Forget the strikes of a job whose program cannot be recomputed: they were nobody's doing but its buyer's."""
        now_ms = self._world.now_ms
        for node in standings.take_back(self._connection, self._job, at_ms=now_ms):
            message = f"the strike against {node} is taken back: the program is not reproducible"
            happening = events.Happening("strike.taken-back", message, now_ms, node=node)
            events.append(self._connection, self._job, happening)

    def _restore(self, task: str) -> None:
        """Restore whoever is suspended and has just agreed with another operator in code of ours."""
        connection, now_ms = self._connection, self._world.now_ms
        agreed = {tasks.get(connection, task).node, *audits.agreeing(connection, task)}
        for node in standings.suspended(connection):
            if node in agreed and standings.consider(connection, node, now_ms, has_agreed=True) is not None:
                message = f"{node} is restored: it found what others found, in code of this package"
                events.append(connection, self._job, events.Happening("node.restored", message, now_ms, task, node))
                self._applied.standing.append(node)

    def _do_question(self, action: actions.OpenQuestion | actions.CloseQuestion) -> None:
        """Carry out what belongs to the question whether the program can be recomputed."""
        connection, job, now_ms = self._connection, self._job, self._world.now_ms
        match action:
            case actions.OpenQuestion(task, message):
                jobs.open_question(connection, job, task, at_ms=now_ms)
                happening = events.Happening("question.opened", message, now_ms, task)
            case actions.CloseQuestion(task, outcome, message):
                jobs.close_question(connection, job, outcome, at_ms=now_ms)
                happening = events.Happening("question.closed", message, now_ms, task, data={"reason": outcome.value})
                self._applied.rings.add(WORK)
        events.append(connection, job, happening)
        if isinstance(action, actions.CloseQuestion) and action.outcome is Reason.NOT_REPRODUCIBLE:
            self._take_back()

    def _publish(self, action: actions.Publish) -> None:
        connection, job, end = self._connection, self._job, action.end
        blobs.add(connection, action.file, action.size_bytes, f"buyer:{self._order.buyer}", at_ms=self._world.now_ms)
        jobs.set_receipt(connection, job, action.file)
        if action.verdict is not None:
            cause = self._cause(Reason.CONCLUDED, f"the job is {action.verdict}")
            move_verdict(connection, job, action.verdict, cause)
        move_job(connection, job, end.status, self._cause(end.reason, end.message))
        held = leases.live_of_job(connection, job)
        self._applied.rings.update({seen_topic(job), WORK, *(node_topic(lease.node) for lease in held)})
