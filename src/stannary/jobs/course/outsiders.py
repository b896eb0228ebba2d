"""Whom the question is asked, whether a job's program can be recomputed at all (rules/question.py), and when.

Rules:
- Asked are the next in rank of the task's own draw whose operators had no part in the job (docs/receipt.md R10.11). Had
  one a piece of the job in hand, nobody could tell yet: it is waited for.
- Each has two audits, offered at once: whoever takes one does not know whether it is a run, or of whom the other is.
  Whoever has no room for one in time is passed over by a signed silence, too.
- While it is asked, nothing new of the job is begun: no work is leased, no round is closed, no audit of another task
  is offered. What was begun goes on. Else nodes would work for nothing where the program is not
  reproducible, and those without a part in the job become fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stannary.formats.ids import NodeId, TaskId
from stannary.jobs.course import actions, drawing
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import ONE_PIECE, AnswerRow, AuditRow, NewAudit, Task
from stannary.jobs.states import LeaseState
from stannary.rules import blame, draw, first
from stannary.rules.price import price_of
from stannary.rules.question import ENDING, Past, Ran
from stannary.rules.reasons import Reason


def past(draft: CourseDraft) -> Past:
    """Return what the verdicts of a job said before this decision."""
    odd = frozenset(draft.world.nodes.get(node).operator for node in draft.struck_since)
    outcomes = [asked.outcome for asked in draft.questions]
    return Past(odd, outcomes.count(Reason.REPRODUCED), any(outcome in ENDING for outcome in outcomes))


def is_run(draft: CourseDraft, audit: AuditRow) -> bool:
    """Tell whether an audit is an outsider's run."""
    if audit.auditor is None or blame.convicts(draft.order.spec):
        return False
    randomness = drawing.randomness(drawing.get_draw(draft, audit.draw_number))
    return any(audit.audit == draw.run_name(randomness, TaskId(audit.task), audit.auditor, run) for run in draw.RUNS)


def find(draft: CourseDraft, task: Task, wanted: int) -> list[str] | None:
    """Return the next in rank who may be asked, at most so many; None while it is not known yet."""

    def operator(node: str) -> str:
        return draft.world.nodes.get(node).operator

    have_part = {operator(node) for node in (*draft.placed, *draft.took_part)}
    live = [item for item in draft.leases.values() if item.state is LeaseState.GRANTED and item.type in ONE_PIECE]
    busy = {operator(item.node) for item in live}
    found: list[str] = []
    for node in _unasked(draft, task):
        if len(found) == wanted:
            break
        if operator(node) in have_part:
            continue
        if operator(node) in busy:
            return None
        found.append(node)
    return found


def spare(draft: CourseDraft, task: Task) -> Mapping[str, int]:
    """Return how many could be asked behind each in rank about a first unit (rules/first.py), nothing of another."""
    if not first.is_first(draft.order.spec, draft.order.job, TaskId(task.task)):
        return {}

    def operator(node: str) -> str:
        return draft.world.nodes.get(node).operator

    ranked = draft.audits_of(task.task)[0].ranked  # without who was out when it was drawn
    return first.spare([(NodeId(node), operator(node)) for node in ranked], {operator(n) for n in draft.placed}, ())


def open_runs(draft: CourseDraft, task: Task, outsider: str) -> None:
    """Open both runs of an outsider."""
    audits = draft.audits_of(task.task)
    row = drawing.get_draw(draft, audits[0].draw_number)
    ask = draft.world.nodes.get(outsider).ask_usd_micros_per_hour
    for run in draw.RUNS:
        new = NewAudit(
            audit=draw.run_name(drawing.randomness(row), TaskId(task.task), outsider, run),
            job=draft.order.job,
            task=task.task,
            number=len(audits) + run - draw.RUNS[0],
            draw_number=row.number,
            canary=False,
            salt=audits[0].salt,
            step=audits[0].step,
            auditor=outsider,
            ranked=(outsider,),
            price_usd_micros=price_of(task.num_steps, draft.order.shape.step_ms, ask),
        )
        draft.do(actions.OpenAudit(new))


def _unasked(draft: CourseDraft, task: Task) -> Sequence[str]:
    """Return those in rank behind the last who was asked about a task."""
    audits = draft.audits_of(task.task)
    ranked = list(audits[0].ranked)
    last = max((ranked.index(item.auditor) for item in audits if item.auditor in ranked), default=-1)
    return ranked[last + 1 :]


def ran(run: AnswerRow) -> Ran:
    """Return what an outsider's run found."""
    return Ran(run.node, {str(item["name"]): str(item["digest"]) for item in run.outputs or ()})
