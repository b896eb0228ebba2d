"""Who may serve a job: as a lane's holder, in another's place, and as an auditor. One rule for all (rules/masks.py)."""

from __future__ import annotations

from collections.abc import Mapping

from stannary.formats.quantity import PPM, dollars
from stannary.jobs.course.state import JobOrder, Node, World
from stannary.rules import blame, edition, masks, price

SLACK_PPM = 1_250_000  # of what is held for: powers measured anew differ, and few units take all they may


def why_not(node: Node, order: JobOrder, world: World) -> str:
    """Return why `node` may not work for the job, empty if it may: what placement asks, but for presence."""
    return _why_out(node, order, world) or masks.why_not(node, _required(order, world)) or why_dear(node, order)


def why_dear(node: Node, order: JobOrder) -> str:
    """Return why what is held for a job does not cover a node, empty if it does.

    That was reckoned by the dearest there when the job came. Whoever has raised his ask since, or came later, would be
    paid from what is held for others.
    """
    held = order.escrow_usd_micros
    if held is None or not edition.of(order.spec).pays_by_use:
        return ""
    most, hour = price.most_per_hour(order.spec, held) * SLACK_PPM // PPM, node.hour_in(order.spec)
    return f"an hour of it costs {dollars(hour)}, {dollars(most)} is held for" if hour > most else ""


def why_barred(node: Node, order: JobOrder, world: World, engine_class: str, out: Mapping[str, str]) -> str:
    """Return why a node may not do a job's work, whatever the task; empty if it may."""
    if node.engine_class != engine_class:
        return "another engine class"
    return out.get(node.node) or why_not(node, order, world)


def why_no_auditor(node: Node, order: JobOrder, world: World, out: Mapping[str, str]) -> str:
    """Return why a node may not audit what is drawn now, empty if it may."""
    return (
        out.get(node.node)
        or _why_out(node, order, world)
        or masks.why_not(node, _required(order, world).of_auditors)
        or why_dear(node, order)
        or ("" if node.node in world.live else "not heard from, or draining")
    )


def _why_out(node: Node, order: JobOrder, world: World) -> str:
    if node.is_suspended and not blame.convicts(order.spec):
        return "suspended"
    return node.why_out(world.now_ms)


def _required(order: JobOrder, world: World) -> masks.Requirement:
    return masks.required_by(order.spec, terms=world.terms(order.spec))
