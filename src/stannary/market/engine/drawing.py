"""Draws: a checkpoint is shown to the buyer, his beacon value comes back, and what it selects is opened.

Rules:
- One draw of a job is under way at a time; what is handed in meanwhile waits for the next, so draws
  batch by themselves under load.
- A beacon index is bound to its checkpoint in the store before anybody sees it, and never moves.
- A draw takes every commitment its checkpoint covers, opened or not yet: a task held back for a luckier
  beacon would be a task not audited. What is opened later is judged by the draw that took it.
- What is selected is computed by verify/draw.py from the logged draw; the market adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.formats import dsse, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId, audit_id
from stannary.formats.predicates import Candidate, Draw, Drawable, Verdict
from stannary.jobs.states import TaskState
from stannary.market.engine import pricing
from stannary.market.engine.frame import JobFrame, Outcome, World, fits
from stannary.market.engine.outbox import post
from stannary.store import audits, envelopes, nodes, tasks
from stannary.store.audits import DrawRow, NewAudit, NewDraw
from stannary.store.nodes import NodeRow
from stannary.store.tasks import TaskRow
from stannary.store.transitions import Cause
from stannary.verify import draw

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
    if last is not None and last.value is None:
        return last
    number = last.number + 1 if last is not None else FIRST_INDEX
    old_size = last.checkpoint_size if last is not None else 0
    size = world.checkpoint.size
    covered = [row for row in fresh if row.commitment_index is not None and row.commitment_index < size]
    if not covered or size <= old_size or number >= frame.predicate.beacon_length:
        return None
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
    outcome.rings.add(f"seen:{frame.job}")
    return audits.get_draw(connection, frame.job, number)


def pass_unasked(connection: Connection, world: World, rows: Iterable[TaskRow], outcome: Outcome) -> None:
    """Close handed-in work of a job whose buyer agreed to pay on completion."""
    for row in rows:
        if row.state is TaskState.CONTRIBUTED:
            cause = Cause(world.now_ms, "verification-none", f"{row.task} is taken as it is")
            tasks.judge(connection, row.task, Verdict.UNVERIFIED, cause)
            outcome.moved = True


def selection_of(frame: JobFrame, row: DrawRow, task: TaskRow) -> draw.Selection:
    """Return what a made draw says of one task (auditors aside, which the audit keeps)."""
    drawable = Drawable(TaskId(task.task), NodeId(task.node or ""), "", "", task.num_steps, task.commitment_index or 0)
    return draw.select(_record(frame, row, (drawable,), ()), _randomness(row), frame.spec.trust.audit_ppm)[0]


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
    convicted = pricing.convicted(connection, frame.job)
    candidates = tuple(
        Candidate(NodeId(node.node), node.operator, node.engine_class)
        for node in sorted(by_node.values(), key=lambda node: node.node)
        if node.node in world.live and node.node not in convicted and not fits(node, frame)
    )
    leaf = post(connection, world, "draw", _record(frame, row, drawable, candidates), frame.job)
    audits.set_draw(connection, frame.job, row.number, leaf, at_ms=world.now_ms)
    return audits.get_draw(connection, frame.job, row.number)


def _apply(connection: Connection, frame: JobFrame, world: World, row: DrawRow, task: TaskRow) -> None:
    """Give a handed-in task what the draw that took it selected."""
    payload = dsse.from_bytes(envelopes.get(connection, row.draw or "").envelope).payload
    made = statement.read(payload, "draw", Draw).predicate
    selections = draw.select(made, _randomness(row), frame.spec.trust.audit_ppm)
    selection = next((item for item in selections if item.task == task.task), None)
    if selection is None:  # committed after the draw's revelation was recorded, by an epoch before this one
        return
    reason = "drawn" if selection.drawn else "not-drawn"
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
    """Open an audit; its auditor is the first of those ranked."""
    auditor = asked.ranked[0] if asked.ranked else None
    ask = by_node[auditor].ask_usd_micros_per_hour if auditor is not None else 0
    new = NewAudit(
        audit=audit_id(TaskId(asked.task.task), asked.number),
        job=frame.job,
        task=asked.task.task,
        number=asked.number,
        draw_number=asked.draw_number,
        canary=asked.canary,
        salt=asked.selection.salt.hex(),
        step=asked.selection.step,
        auditor=auditor,
        ranked=asked.ranked,
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


def _record(frame: JobFrame, row: DrawRow, drawable: tuple[Drawable, ...], candidates: tuple[Candidate, ...]) -> Draw:
    return Draw(
        job=frame.job,
        index=row.number,
        reveal=Digest(row.reveal or ""),
        checkpoint_size=row.checkpoint_size,
        checkpoint_root=Digest(row.checkpoint_root),
        drawable=drawable,
        candidates=candidates,
    )


def _randomness(row: DrawRow) -> bytes:
    return draw.beacon(row.value or "", Digest(row.checkpoint_root))
