"""Who may serve a job: as a lane's holder, in another's place, and as an auditor. One rule for all (rules/masks.py)."""

from __future__ import annotations

from collections.abc import Mapping

from stannary.jobs.course.state import JobOrder, Node, World
from stannary.rules import masks


def why_not(node: Node, order: JobOrder, world: World) -> str:
    """Return why `node` may not serve the job, empty if it may: what placement asks, but for presence."""
    return node.why_out(world.now_ms) or masks.why_not(node, masks.required_by(order.spec, terms=world.terms))


def why_barred(node: Node, order: JobOrder, world: World, engine_class: str, out: Mapping[str, str]) -> str:
    """Return why a node may not do a job's work, whatever the task; empty if it may."""
    if node.engine_class != engine_class:
        return "another engine class"
    return out.get(node.node) or why_not(node, order, world)


def why_no_auditor(node: Node, order: JobOrder, world: World, out: Mapping[str, str]) -> str:
    """Return why a node may not audit what is drawn now, empty if it may."""
    return (
        out.get(node.node)
        or why_not(node, order, world)
        or ("" if node.node in world.live else "not heard from, or draining")
    )
