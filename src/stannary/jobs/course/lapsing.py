"""When a lease is over though its node has not said so: a pause, no fault.

deadline       its time is over: the time it was given, and the time its reports earned it since; where no step
               time is agreed, what is left of it at the pace of its own steps
node-lost      no sign of life of its node for long
node-revoked   its node may not work here any more
late           a round's task takes longer than median + K MAD of its round, and says nothing of its progress

What a convicted node holds of any job is taken back at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.state import ONE_PIECE, JobOrder, Leased, LeaseRow, World
from stannary.jobs.states import LeaseState
from stannary.rules.kinds import TASKS
from stannary.rules.pace import Pace, Progress, deadline_s, limit_s
from stannary.rules.reasons import Reason


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A live lease, with what tells a slow task from a lost one."""

    leased: Leased
    order: JobOrder | None  # of an open job
    reported: Progress | None


def why_over(held: HeldLease, world: World, lost: Container[str], now_s: float) -> str:
    """Return why a lease is to be taken back, empty if it goes on.

    Args:
        held: the lease.
        world: the moment; `answering` leases are being handed in right now, and go on.
        lost: nodes given up.
        now_s: on the steady clock that the reports were heard by.
    """
    lease = held.leased.lease
    if lease.lease in world.answering:
        return ""
    if _is_over(held, world, now_s):
        return Reason.DEADLINE
    if lease.node in lost:
        return Reason.NODE_LOST
    if world.nodes.get(lease.node).is_revoked:
        return Reason.NODE_REVOKED
    if held.order is None or lease.type is not LeaseType.WORK:
        return ""
    return Reason.LATE if _is_late(held, held.order, world, now_s) else ""


def taken_back(leases: Iterable[LeaseRow], node: str, world: World) -> list[LeaseRow]:
    """Return what a convicted node holds among `leases` and loses: questions about what it did stay.

    What is being handed in is heard out: it is in the log, or will be before anybody can tell.
    """
    return [
        item
        for item in leases
        if item.node == node
        and item.state is LeaseState.GRANTED
        and item.type in ONE_PIECE
        and item.lease not in world.answering
    ]


def _is_over(held: HeldLease, world: World, now_s: float) -> bool:
    lease, reported, order = held.leased.lease, held.reported, held.order
    waited_ms = world.waited_ms(lease.granted_at_ms)
    is_due = waited_ms >= lease.deadline_at_ms - lease.granted_at_ms
    if order is None:
        return is_due
    # Where no step time is agreed a task is given for more than `wall_s`; an answer, for what its silence is judged by.
    is_measured = lease.type is LeaseType.WORK and not order.shape.is_agreed
    if is_measured and _has_stalled(held, world.timing.progress_s, now_s):
        return True
    bytes_moved = moved_bytes(order, lease.body)
    if (is_due or is_measured) and waited_ms >= 1000 * limit_s(order.spec.resources.wall_s, bytes_moved):
        return True
    return is_due and (reported is None or now_s >= reported.allowed_until_s(held.leased.num_steps))


def _has_stalled(held: HeldLease, least_s: float, now_s: float) -> bool:
    """Tell whether who measured its own steps has fallen behind them."""
    reported, num_steps = held.reported, held.leased.num_steps
    if reported is None or not reported.has_pace(num_steps):
        return False
    return now_s >= max(reported.at_s + least_s, reported.allowed_until_s(num_steps))


def moved_bytes(order: JobOrder, body: Mapping[str, Json]) -> int:
    """Return the most bytes a node has to fetch and hand in for a lease."""
    spec, listed = order.spec, body.get("blobs")
    inputs = [item.size_bytes for item in spec.inputs.values()]
    given = [cast("dict[str, int]", item)["size_bytes"] for item in (listed if isinstance(listed, list) else ())]
    return spec.workdir_bytes + sum(inputs) + sum(given) + spec.output_bytes


def _is_late(held: HeldLease, order: JobOrder, world: World, now_s: float) -> bool:
    leased, reported = held.leased, held.reported
    if not TASKS[leased.kind].trains:
        return False
    if reported is not None and not reported.is_silent(now_s, world.timing.progress_s, leased.num_steps):
        return False
    times_s = [world.passed_ms(begun_ms, done_ms) / 1000 for begun_ms, done_ms in leased.handed_in_ms]
    if not times_s:
        return False
    pace = Pace(order.shape.num_lanes, expected_s(order, world, leased.num_steps))
    return world.waited_ms(leased.lease.granted_at_ms) / 1000 > deadline_s(times_s, pace)
