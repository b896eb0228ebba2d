"""What a draw draws more often because its node was struck, and who pays for it (docs/receipt.md R8.15, R14.13)."""

from __future__ import annotations

from collections.abc import Mapping

from stannary.formats import ids
from stannary.formats.ids import TaskId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Draw, Drawable, Watch
from stannary.rules import draw, first, stake, use
from stannary.rules.draw import Selection
from stannary.rules.kinds import TASKS
from stannary.rules.shape import shape_of
from stannary.verify.case import Case


@dataclass(frozen=True, slots=True)
class ExtraAudits:
    """The tasks that were drawn only because their node is watched, and what insurance gives for them at most."""

    tasks: frozenset[TaskId]
    usd_micros: int


def may_be(case: Case, watch: Watch) -> bool:
    """Tell whether a list of candidates may say this: where units have rates of their own, in node order."""
    has_rates = case.edition.watches and stake.unit_ppm(case.spec, 1, 0) is not None
    return has_rates and bool(watch.nodes) and list(watch.nodes) == sorted(set(watch.nodes)) and watch.usd_micros >= 0


def of_draw(case: Case, made: Draw) -> dict[int, int]:
    """Return the log indexes of a draw's watched commitments, and what each costs at most (R8.15)."""
    listed = case.candidates.get(made.candidates)
    watch = listed.predicate.watch if listed is not None and case.edition.watches else None
    if watch is None:
        return {}
    used = {item.index: item.predicate.used for item in case.commitments}
    units = []
    for entry in made.drawable:
        took, grade_ppm = used.get(entry.commitment_index), case.grade_at(entry.node, entry.commitment_index)
        units.append((entry.node, use.work_us(took, case.spec.resources, grade_ppm) if took is not None else 0))
    found = stake.watched(units, watch, case.spec.trust.max_price_usd_micros_per_hour)
    return {made.drawable[at].commitment_index: price for at, price in found.items()}


def extra_audits(case: Case, selections: Mapping[TaskId, Selection]) -> ExtraAudits:
    """Return what was drawn only because its node is watched (R14.13)."""
    values = {item.leaf: item.predicate.value for item in case.reveals}
    tasks: set[TaskId] = set()
    total = 0
    for item in case.draws:
        said = item.predicate
        watched = of_draw(case, said)
        total += sum(watched.values())
        for entry in said.drawable if watched else ():
            randomness = draw.beacon(values[said.reveal], said.checkpoint_root)
            selection = selections.get(entry.task)
            if entry.commitment_index in watched and case.is_taken(entry) and selection and not selection.is_late:
                tasks |= {entry.task} if _is_extra(case, entry, randomness) else set()
    return ExtraAudits(frozenset(tasks), total)


def _is_extra(case: Case, entry: Drawable, randomness: bytes) -> bool:
    is_merge, last = TASKS[ids.place_of(entry.task)[0]].is_merge, shape_of(case.spec).last_units(case.job_id)
    is_due = is_merge and ids.unit_of(entry.task) in last
    is_due = is_due or first.is_first(case.spec, case.job_id, entry.task) or entry.task in case.broken_off
    held_steps = stake.held_steps(case.handed_in, entry.node, entry.commitment_index)
    own_ppm = stake.unit_ppm(case.spec, entry.num_steps, held_steps)
    is_own = entry.audit_ppm == stake.unit_ppm(case.spec, entry.num_steps, 0)  # else it is far out, which is drawn
    return own_ppm is not None and is_own and not is_due and draw.is_extra(entry, own_ppm, randomness)
