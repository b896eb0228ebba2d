"""What a job waits for that no step of its own can bring, as the loop must know it."""

from __future__ import annotations

from stannary.jobs.course import masks
from stannary.jobs.course.draft import PENDING, Draft
from stannary.jobs.states import TaskState


def owes(draft: Draft) -> bool:
    """Tell whether nothing but the buyer's beacon value is waited for."""
    return draft.drawing.owed is not None and not any(task.state in PENDING for task in draft.tasks.values())


def is_deserted(draft: Draft) -> bool:
    """Tell whether a task has waited as long as one may for placing, and no node that could take it is there now."""
    world, order = draft.world, draft.order
    patience_ms = 1000 * world.timing.placing_s
    waiting = [task for task in draft.tasks.values() if task.state is TaskState.PLANNED]
    if not any(
        world.waited_ms(max(task.planned_at_ms, draft.last_end_ms.get(task.task, 0))) > patience_ms for task in waiting
    ):
        return False
    return all(
        node.node not in world.live or masks.why_barred(node, order, world, draft.engine_class, draft.convicted)
        for node in world.nodes.of_class(draft.engine_class)
    )
