"""A queued job gets its nodes, once. Who later stands in for a lost node is a lease, not a placement."""

from __future__ import annotations

from stannary.errors import NoCapacity
from stannary.formats import instants
from stannary.formats.predicates import Placement
from stannary.jobs.course import actions
from stannary.jobs.course.draft import CourseDraft
from stannary.rules.price import work_of
from stannary.rules.reasons import Reason


def place(draft: CourseDraft) -> None:
    """Place the job, or leave it queued until there is room for it."""
    world, order = draft.world, draft.order
    try:
        found = world.place(order)
    except NoCapacity as err:
        if world.waited_ms(draft.submitted_at_ms) > 1000 * world.timing.placing_s:
            draft.failure = (Reason.NO_CAPACITY, str(err))
        return
    escrow = draft.escrow_usd_micros
    work = work_of(order.spec, escrow)
    placement = Placement(
        job=order.job,
        chosen=found.chosen,
        rejected=found.rejected,
        escrow_usd_micros=escrow,
        work_usd_micros=work,
        audit_usd_micros=escrow - work,
        placed_at=instants.spell(world.now_ms / 1000),
    )
    draft.do(actions.Place(placement, f"placed on {len(found.chosen)} nodes of class {found.engine_class}"))
