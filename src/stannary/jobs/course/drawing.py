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
- What the last draw adds (rules/draw.py rule 6) is heard like anything else, though its round was settled: the job is
  planned from that round on again, so that a conviction makes void what stands on it.
- A chain without another value draws nothing more: what waits for it is unverified, and its job ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from stannary.errors import ConflictError
from stannary.formats import instants, record
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Candidate, Candidates, Drawable, Rejection, Used, Verdict
from stannary.formats.predicates import Draw as DrawRecord
from stannary.formats.quantity import PPM
from stannary.jobs.course import actions
from stannary.jobs.course.draft import CourseDraft, Drawing
from stannary.jobs.course.masks import why_no_auditor
from stannary.jobs.course.state import DrawRow, EarlierUse, NewAudit, Node, Task
from stannary.jobs.states import TaskState
from stannary.rules import draw as rule
from stannary.rules import first, stake, use
from stannary.rules.ending import has_broken_off
from stannary.rules.grade import UNGRADED_PPM
from stannary.rules.price import price_of
from stannary.rules.reasons import Reason
from stannary.rules.stake import UnitDone
from stannary.rules.use import DrawnUse, StepRates

FIRST_INDEX = 0  # formats/beacon.py
TAKEN = frozenset({TaskState.COMMITTED, TaskState.CONTRIBUTED})
PASSED_OVER = frozenset({TaskState.PASSED, TaskState.SUPERSEDED})


def advance(draft: CourseDraft) -> Drawing:
    """Make the draw whose value is revealed, or ask for the next one."""
    last = draft.draws[-1] if draft.draws else None
    if last is not None and last.value is not None and last.draw is None:
        _make(draft, last)
        last = draft.draws[-1]
    fresh = _pass_made(draft)
    if last is not None and last.draw is not None:
        _pass_late(draft, last)
    number = last.number + 1 if last is not None else FIRST_INDEX
    length = draft.order.predicate.beacon_length
    if (
        number < length
        and number not in draft.listed
        and any(_is_untaken(task, draft) for task in draft.tasks.values())
    ):
        _fix_candidates(draft, number)
    if last is not None and last.value is None:
        return Drawing(owed=last)
    covered = [task for task in fresh if _is_covered(task, draft.world.checkpoint.size)]
    if not covered:
        return Drawing()
    if number >= length:
        _give_up(draft, fresh)
        return Drawing()
    return _request(draft, last, number)


def pass_unasked(draft: CourseDraft) -> None:
    """Close handed-in work of a job whose buyer agreed to pay on completion."""
    for task in list(draft.tasks.values()):
        if task.state is TaskState.CONTRIBUTED:
            message = f"{task.task} is taken as it is"
            draft.do(actions.Judge(task.task, Verdict.UNVERIFIED, Reason.NOT_ASKED, message))


def selection_of(draft: CourseDraft, row: DrawRow, task: Task) -> rule.Selection:
    """Return what a made draw says of one task, its own or a late one (auditors aside, which the audit keeps)."""
    drawable = Drawable(TaskId(task.task), NodeId(task.node or ""), "", "", task.num_steps, task.commitment_index or 0)
    is_late = all(entry.task != task.task for entry in draft.drawn[row.number])
    return replace(rule.select(_record(draft, row, (drawable,)), (), randomness(row), 0)[0], is_late=is_late)


@dataclass(frozen=True, slots=True)
class Question:
    """An audit to open: what the draw said, and who may still be asked, first in rank first."""

    task: Task
    row: DrawRow
    selection: rule.Selection
    ranked: tuple[str, ...]
    number: int = 0
    canary: bool = False


def open_audit(draft: CourseDraft, asked: Question) -> None:
    """Open an audit; its auditor is the first of those ranked who is not out of the job."""
    ranked = tuple(node for node in asked.ranked if node not in draft.out)
    auditor = ranked[0] if ranked else None
    ask = draft.world.nodes.get(auditor).ask_usd_micros_per_hour if auditor is not None else 0
    new = NewAudit(
        audit=rule.audit_name(randomness(asked.row), TaskId(asked.task.task), auditor or ""),
        job=draft.order.job,
        task=asked.task.task,
        number=asked.number,
        draw_number=asked.row.number,
        canary=asked.canary,
        salt=asked.selection.salt.hex(),
        step=asked.selection.step,
        auditor=auditor,
        ranked=ranked,
        price_usd_micros=price_of(asked.task.num_steps, draft.order.shape.step_ms, ask),
    )
    draft.do(actions.OpenAudit(new))


def randomness(row: DrawRow) -> bytes:
    """Return the beacon of a revealed draw."""
    return rule.beacon(row.value or "", Digest(row.checkpoint_root))


def get_draw(draft: CourseDraft, number: int) -> DrawRow:
    """Return one draw of the job."""
    for row in draft.draws:
        if row.number == number:
            return row
    raise ConflictError("no such draw", why=f"{draft.order.job}, draw {number}")


def _pass_made(draft: CourseDraft) -> list[Task]:
    """Give handed-in tasks what the draw that took them selected; return those no draw has taken."""
    fresh = []
    selected: dict[int, dict[str, rule.Selection]] = {}
    for task in list(draft.tasks.values()):
        if task.state is TaskState.CONTRIBUTED:
            taken = _taken_by(task, draft.draws)
            if taken is None:
                fresh.append(task)
            elif taken.draw is not None:
                if taken.number not in selected:
                    own, _ = _select(draft, taken)
                    selected[taken.number] = {item.entry.task: item.selection for item in own}
                # or it was committed after the draw's revelation was recorded, by an epoch before this one
                if task.task in selected[taken.number]:
                    _pass(draft, taken, task, selected[taken.number][task.task])
    return fresh


def _pass_late(draft: CourseDraft, row: DrawRow) -> None:
    """Draw what the last draw adds of what earlier ones have passed over."""
    if not any(task.state in PASSED_OVER for task in draft.tasks.values()):
        return
    for item in _select(draft, row)[1]:
        task = draft.tasks.get(item.entry.task)
        if task is None or task.state not in PASSED_OVER or task.contribution is None or task.draw_number == row.number:
            continue
        if (task.node, task.commitment_index) == (item.entry.node, item.entry.commitment_index):
            _pass(draft, row, task, item.selection)
            if task.round < draft.first_open:
                draft.do(actions.Settle(task.round, draft.round))


def _pass(draft: CourseDraft, row: DrawRow, task: Task, selection: rule.Selection) -> None:
    draft.do(actions.Pass(task.task, row.number, selection.drawn))
    if selection.drawn:
        open_audit(draft, Question(task, row, selection, tuple(item.node for item in selection.auditors)))


def _is_untaken(task: Task, draft: CourseDraft) -> bool:
    """Tell whether a task is committed to and no draw has taken it: the next one may."""
    return task.state in TAKEN and _taken_by(task, draft.draws) is None


def _taken_by(task: Task, draws: Iterable[DrawRow]) -> DrawRow | None:
    """Return the draw that took a task's commitment: the first whose checkpoint covers it."""
    return next((row for row in draws if _is_covered(task, row.checkpoint_size)), None)


def _is_covered(task: Task, size: int) -> bool:
    return task.commitment_index is not None and task.commitment_index < size


def _fix_candidates(draft: CourseDraft, number: int) -> None:
    """State who may audit what draw `number` draws, once."""
    world = draft.world
    worked = draft.worked | frozenset(draft.placed)
    of_class: dict[str, Node] = {node.node: node for node in world.nodes.of_class(draft.engine_class)}
    listed: list[Candidate] = []
    left_out: list[Rejection] = []
    for name in sorted({*of_class, *worked}):
        node = of_class.get(name)
        reason = why_no_auditor(world.nodes.get(name), draft.order, world, draft.out)
        if node is not None and not reason:
            listed.append(Candidate(NodeId(name), node.operator, node.engine_class))
        elif name in worked or (node is not None and not node.is_revoked):
            left_out.append(Rejection(NodeId(name), reason or "another engine class"))
    fixed_at = instants.spell(world.now_ms / 1000)
    made = Candidates(draft.order.job, number, tuple(listed), tuple(left_out), fixed_at, draft.watch)
    draft.do(actions.FixCandidates(made))


def _request(draft: CourseDraft, last: DrawRow | None, number: int) -> Drawing:
    """Ask the buyer for the next value, for a checkpoint that covers the candidates."""
    old_size = last.checkpoint_size if last is not None else 0
    size = draft.world.checkpoint.size
    listed = draft.listed.get(number)
    index = listed.log_index if listed is not None else None
    if index is None or index >= size or size <= old_size:
        return Drawing(awaits_log=True)
    draft.do(actions.RequestDraw(number, old_size, index))
    return Drawing(owed=draft.draws[-1])


def _give_up(draft: CourseDraft, rows: Iterable[Task]) -> None:
    for task in rows:
        message = f"{task.task} cannot be drawn any more"
        draft.do(actions.Judge(task.task, Verdict.UNVERIFIED, Reason.EXHAUSTED, message))
    draft.failure = (Reason.EXHAUSTED, "the buyer's beacon chain has no value left for another draw")


def _make(draft: CourseDraft, row: DrawRow) -> None:
    held = [task for task in draft.tasks.values() if task.state in TAKEN and _taken_by(task, draft.draws) is row]
    held.sort(key=lambda task: task.commitment_index or 0)
    done = _handed_in(draft)
    far = use.far_out([_use(task) for task in held], _took_before(draft, held), draft.order.spec.resources)
    spec = draft.order.spec
    took = [(NodeId(task.node or ""), _use(task).work_us(spec.resources)) for task in held]
    listed = draft.listed.get(row.number)
    watch = listed.watch if listed is not None else None
    watched = stake.watched(took, watch, spec.trust.max_price_usd_micros_per_hour)
    entries = tuple(
        _drawable(draft, task, [] if at in watched else done, is_far=is_far)
        for at, (task, is_far) in enumerate(zip(held, far, strict=True))
    )
    draft.do(actions.MakeDraw(_record(draft, row, entries), sum(watched.values())))


def _use(task: Task) -> DrawnUse:
    used = record.from_json(Used, dict(task.used)) if task.used is not None else None
    return DrawnUse(task.kind, task.num_steps, used, UNGRADED_PPM if task.grade_ppm is None else task.grade_ppm)


def _took_before(draft: CourseDraft, held: Sequence[Task]) -> StepRates:
    """Return the work of what was handed in before the first of these was committed to."""
    since = min((task.commitment_index or 0 for task in held), default=0)
    here = (
        EarlierUse(TaskId(task.task), task.contribution_index, _use(task))
        for task in draft.tasks.values()
        if task.contribution_index is not None
    )
    found = StepRates()
    spec = draft.order.spec
    for item in (*here, *draft.earlier_uses):
        if item.contribution_index < since:
            is_first = first.is_first(spec, draft.order.job, item.task)
            found.add(item.use.kind, item.use.work_us(spec.resources), item.use.num_steps, is_first=is_first)
    return found


def _handed_in(draft: CourseDraft) -> list[UnitDone]:
    """Return what nodes have handed in."""
    return [
        *draft.earlier,
        *(
            UnitDone(NodeId(task.node or ""), task.contribution_index, task.num_steps)
            for task in draft.tasks.values()
            if task.contribution_index is not None
        ),
    ]


def _drawable(draft: CourseDraft, task: Task, done: Iterable[UnitDone], *, is_far: bool) -> Drawable:
    node = draft.world.nodes.get(task.node or "")
    before = task.commitment_index or 0
    own_ppm = stake.unit_ppm(draft.order.spec, task.num_steps, stake.held_steps(done, node.node, before))
    return Drawable(
        task=TaskId(task.task),
        node=node.node,
        operator=node.operator,
        engine_class=node.engine_class,
        num_steps=task.num_steps,
        commitment_index=before,
        audit_ppm=PPM if is_far else own_ppm,
    )


def _select(draft: CourseDraft, row: DrawRow) -> tuple[tuple[rule.Taken, ...], tuple[rule.Taken, ...]]:
    """Return what a made draw selects; those before it are all there where it may be the last (store/snapshots.py)."""
    broken_off = {TaskId(name) for name, task in draft.tasks.items() if has_broken_off(task.kind, task.ended)}
    draws = rule.Draws(draft.order.spec, broken_off)
    for earlier in draft.draws:
        if earlier.number < row.number and earlier.draw is not None:
            draws.note(_record(draft, earlier, draft.drawn[earlier.number]), randomness(earlier))
    return draws.take(
        _record(draft, row, draft.drawn[row.number]), draft.listed[row.number].candidates, randomness(row)
    )


def _record(draft: CourseDraft, row: DrawRow, drawable: tuple[Drawable, ...]) -> DrawRecord:
    listed = draft.listed.get(row.number)
    if listed is None:
        raise ConflictError("a draw without its candidates", why=f"{draft.order.job}, draw {row.number}")
    return DrawRecord(
        job=draft.order.job,
        index=row.number,
        reveal=Digest(row.reveal or ""),
        checkpoint_size=row.checkpoint_size,
        checkpoint_root=Digest(row.checkpoint_root),
        drawable=drawable,
        candidates=Digest(listed.leaf),
    )
