"""Draws: candidates are fixed, a checkpoint is shown to the buyer, his value comes back, what it selects is opened.

Rules:
- One draw of a job is under way at a time; what is handed in meanwhile waits for the next, so draws
  batch by themselves under load.
- Who may audit what a draw draws is logged when the first of it is committed to, before the checkpoint its
  beacon is made of: nobody is added, dropped or moved when it is known whom the beacon ranks first.
- A beacon index is bound to its checkpoint in the store before anybody sees it, and never moves.
- A draw takes every commitment its checkpoint covers, opened or not yet: a task held back for a luckier
  beacon would be a task not audited. What is opened later is judged by the draw that took it.
- What is selected is computed by rules/draw.py from the logged draw; the market adds nothing.
- A chain without another value draws nothing more: what waits for it is unverified, and its job ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats import dsse, instants, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Candidate, Candidates, Draw, Drawable, Rejection, Verdict
from stannary.jobs.states import TaskState
from stannary.market.engine import pricing
from stannary.market.engine.frame import JobFrame, Outcome, World, fits
from stannary.market.engine.outbox import post
from stannary.market.topics import seen_topic
from stannary.rules import draw
from stannary.rules.reasons import Reason
from stannary.store import audits, envelopes, jobs, nodes, tasks
from stannary.store.audits import DrawRow, NewAudit, NewDraw
from stannary.store.nodes import NodeRow
from stannary.store.tasks import TaskRow
from stannary.store.transitions import Cause

FIRST_INDEX = 0  # formats/beacon.py


def advance(
    connection: Connection, frame: JobFrame, world: World, rows: Sequence[TaskRow], outcome: Outcome
) -> DrawRow | None:
    """Make the draw whose value is revealed, or ask for the next one; return the draw the buyer owes."""
    drawn = audits.draws_of_job(connection, frame.job)
    last = drawn[-1] if drawn else None
    if last is not None and last.value is not None and last.draw is None:
        drawn[-1] = last = _make(connection, frame, world, last, drawn[:-1], rows)
        outcome.moved = True
    fresh = []
    for row in rows:
        if row.state is TaskState.CONTRIBUTED:
            taken = _taken_by(row, drawn)
            if taken is None:
                fresh.append(row)
            elif taken.draw is not None:
                _apply(connection, frame, world, taken, row)
                outcome.moved = True
    number = last.number + 1 if last is not None else FIRST_INDEX
    if number < frame.predicate.beacon_length and any(_is_untaken(row, drawn) for row in rows):
        _fix_candidates(connection, frame, world, number, outcome)
    if last is not None and last.value is None:
        return last
    size = world.checkpoint.size
    covered = [row for row in fresh if row.commitment_index is not None and row.commitment_index < size]
    if not covered:
        return None
    if number >= frame.predicate.beacon_length:
        _give_up_drawing(connection, world, fresh, outcome)
        return None
    return _request(connection, frame, world, last, outcome)


def pass_unasked(connection: Connection, world: World, rows: Iterable[TaskRow], outcome: Outcome) -> None:
    """Close handed-in work of a job whose buyer agreed to pay on completion."""
    for row in rows:
        if row.state is TaskState.CONTRIBUTED:
            cause = Cause(world.now_ms, Reason.NOT_ASKED, f"{row.task} is taken as it is")
            tasks.judge(connection, row.task, Verdict.UNVERIFIED, cause)
            outcome.moved = True


def selection_of(connection: Connection, frame: JobFrame, row: DrawRow, task: TaskRow) -> draw.Selection:
    """Return what a made draw says of one task (auditors aside, which the audit keeps)."""
    drawable = Drawable(TaskId(task.task), NodeId(task.node or ""), "", "", task.num_steps, task.commitment_index or 0)
    made = _record(connection, frame, row, (drawable,))
    return draw.select(made, (), _randomness(row), frame.spec.trust.audit_ppm)[0]


def _is_untaken(task: TaskRow, drawn: Sequence[DrawRow]) -> bool:
    """Tell whether a task is committed to and no draw has taken it: the next one may."""
    return task.state in {TaskState.COMMITTED, TaskState.CONTRIBUTED} and _taken_by(task, drawn) is None


def _fix_candidates(connection: Connection, frame: JobFrame, world: World, number: int, outcome: Outcome) -> None:
    """State who may audit what draw `number` draws, once."""
    if audits.candidates_of(connection, frame.job, number) is not None:
        return
    convicted = pricing.convicted(connection, frame.job)
    placed = jobs.placed(connection, frame.job)
    worked = {*placed, *(row.node for row in tasks.of_job(connection, frame.job))}
    engine_classes = {nodes.get(connection, node).engine_class for node in placed[:1]}
    listed: list[Candidate] = []
    left_out: list[Rejection] = []
    for node in sorted(nodes.all_nodes(connection), key=lambda node: node.node):
        reason = _unfit(node, frame, world, convicted)
        if not reason and node.engine_class in engine_classes:
            listed.append(Candidate(NodeId(node.node), node.operator, node.engine_class))
        elif node.node in worked or (node.engine_class in engine_classes and node.revoked_at_ms is None):
            left_out.append(Rejection(NodeId(node.node), reason or "another engine class"))
    fixed_at = instants.spell(world.now_ms / 1000)
    made = Candidates(frame.job, number, tuple(listed), tuple(left_out), fixed_at)
    audits.fix_candidates(connection, frame.job, number, post(connection, world, "candidates", made, frame.job))
    outcome.moved = True


def _unfit(node: NodeRow, frame: JobFrame, world: World, convicted: frozenset[str]) -> str:
    if node.node in convicted:
        return "convicted in this job"
    return fits(node, frame) or ("" if node.node in world.live else "not heard from, or draining")


def _request(
    connection: Connection, frame: JobFrame, world: World, last: DrawRow | None, outcome: Outcome
) -> DrawRow | None:
    """Ask the buyer for the next value, for a checkpoint that covers the candidates; None before there is one."""
    number = last.number + 1 if last is not None else FIRST_INDEX
    old_size = last.checkpoint_size if last is not None else 0
    size = world.checkpoint.size
    listed = audits.candidates_of(connection, frame.job, number)
    index = envelopes.get(connection, listed.leaf).log_index if listed is not None else None
    if index is None or index >= size or size <= old_size:
        outcome.awaits_log = True
        return None
    inclusion = [item.hex() for item in world.inclusion(index, size)]
    audits.cover_candidates(connection, frame.job, number, index, inclusion)
    new = NewDraw(
        job=frame.job,
        number=number,
        checkpoint=world.checkpoint.text,
        checkpoint_size=size,
        checkpoint_root=world.checkpoint.root,
        consistency=[item.hex() for item in world.consistency(old_size, size)],
        requested_at_ms=world.now_ms,
    )
    audits.request_draw(connection, new)
    outcome.rings.add(seen_topic(frame.job))
    return audits.get_draw(connection, frame.job, number)


def _give_up_drawing(connection: Connection, world: World, rows: Iterable[TaskRow], outcome: Outcome) -> None:
    for row in rows:
        cause = Cause(world.now_ms, Reason.EXHAUSTED, f"{row.task} cannot be drawn any more")
        tasks.judge(connection, row.task, Verdict.UNVERIFIED, cause)
    outcome.moved = True
    outcome.failure = (Reason.EXHAUSTED, "the buyer's beacon chain has no value left for another draw")


def _taken_by(task: TaskRow, drawn: Sequence[DrawRow]) -> DrawRow | None:
    """Return the draw that took a task's commitment: the first whose checkpoint covers it."""
    for row in drawn:
        if task.commitment_index is not None and task.commitment_index < row.checkpoint_size:
            return row
    return None


def _make(
    connection: Connection,
    frame: JobFrame,
    world: World,
    row: DrawRow,
    earlier: Sequence[DrawRow],
    rows: Sequence[TaskRow],
) -> DrawRow:
    by_node = {node.node: node for node in nodes.all_nodes(connection)}
    held = [task for task in rows if task.state in {TaskState.COMMITTED, TaskState.CONTRIBUTED}]
    taken = [task for task in held if _taken_by(task, [*earlier, row]) is row]
    taken.sort(key=lambda task: task.commitment_index or 0)
    drawable = tuple(_drawable(task, by_node[task.node or ""]) for task in taken)
    leaf = post(connection, world, "draw", _record(connection, frame, row, drawable), frame.job)
    audits.set_draw(connection, frame.job, row.number, leaf, at_ms=world.now_ms)
    return audits.get_draw(connection, frame.job, row.number)


def _apply(connection: Connection, frame: JobFrame, world: World, row: DrawRow, task: TaskRow) -> None:
    """Give a handed-in task what the draw that took it selected."""
    payload = dsse.from_bytes(envelopes.get(connection, row.draw or "").envelope).payload
    made = statement.read(payload, "draw", Draw).predicate
    listed = envelopes.get(connection, made.candidates).envelope
    candidates = statement.read(dsse.from_bytes(listed).payload, "candidates", Candidates).predicate.candidates
    selections = draw.select(made, candidates, _randomness(row), frame.spec.trust.audit_ppm)
    selection = next((item for item in selections if item.task == task.task), None)
    if selection is None:  # committed after the draw's revelation was recorded, by an epoch before this one
        return
    reason = Reason.DRAWN if selection.drawn else Reason.NOT_DRAWN
    cause = Cause(world.now_ms, reason, f"the beacon {'drew' if selection.drawn else 'passed over'} {task.task}")
    tasks.draw(connection, task.task, number=row.number, selected=selection.drawn, cause=cause)
    if selection.drawn:
        by_node = {node.node: node for node in nodes.all_nodes(connection)}
        question = Question(task, row.number, selection, tuple(item.node for item in selection.auditors), 0, False)
        open_audit(connection, frame, world, question, by_node)


@dataclass(frozen=True, slots=True)
class Question:
    """An audit to open: what the draw said, and who may still be asked, first in rank first."""

    task: TaskRow
    draw_number: int
    selection: draw.Selection
    ranked: tuple[str, ...]
    number: int
    canary: bool


def open_audit(
    connection: Connection, frame: JobFrame, world: World, asked: Question, by_node: Mapping[str, NodeRow]
) -> None:
    """Open an audit; its auditor is the first of those ranked who is not convicted."""
    convicted = pricing.convicted(connection, frame.job)
    ranked = tuple(node for node in asked.ranked if node not in convicted)
    auditor = ranked[0] if ranked else None
    row = audits.get_draw(connection, frame.job, asked.draw_number)
    ask = by_node[auditor].ask_usd_micros_per_hour if auditor is not None else 0
    new = NewAudit(
        audit=draw.audit_name(_randomness(row), TaskId(asked.task.task), auditor or ""),
        job=frame.job,
        task=asked.task.task,
        number=asked.number,
        draw_number=asked.draw_number,
        canary=asked.canary,
        salt=asked.selection.salt.hex(),
        step=asked.selection.step,
        auditor=auditor,
        ranked=ranked,
        price_usd_micros=pricing.task_price(frame, asked.task.num_steps, ask),
    )
    audits.open_audit(connection, new, at_ms=world.now_ms)


def _drawable(task: TaskRow, node: NodeRow) -> Drawable:
    return Drawable(
        task=TaskId(task.task),
        node=NodeId(node.node),
        operator=node.operator,
        engine_class=node.engine_class,
        num_steps=task.num_steps,
        commitment_index=task.commitment_index or 0,
    )


def _record(connection: Connection, frame: JobFrame, row: DrawRow, drawable: tuple[Drawable, ...]) -> Draw:
    listed = audits.candidates_of(connection, frame.job, row.number)
    if listed is None:
        raise ConflictError("a draw without its candidates", why=f"{frame.job}, draw {row.number}")
    return Draw(
        job=frame.job,
        index=row.number,
        reveal=Digest(row.reveal or ""),
        checkpoint_size=row.checkpoint_size,
        checkpoint_root=Digest(row.checkpoint_root),
        drawable=drawable,
        candidates=Digest(listed.leaf),
    )


def _randomness(row: DrawRow) -> bytes:
    return draw.beacon(row.value or "", Digest(row.checkpoint_root))
