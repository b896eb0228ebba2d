"""Chooses the nodes of a job: hard masks, one engine class, in it the cheapest.

Rules:
- A mask is never weighed against a price. Every node that is not chosen is listed with the first
  mask it failed, or with what decided between it and the chosen.
- All lanes lie in one engine class, and where work is verified that class must hold an eligible
  node of another operator for *every* chosen one: results are compared inside one class only, and
  nobody audits himself.
- No operator holds more lanes than its share.
- Price is that of a SCU-hour, so that slow and fast nodes compete by what a unit of work costs.
- Deterministic: ties are broken by node id. Same offers, same answer, whoever recomputes it.

- Who may audit is asked apart (rules/masks.py): a buyer's lists bind only who works.
- Of the classes that can hold a job under rules 3 it goes to the one of most operators: two who declare a class of
  their own cannot draw jobs there by a price, and judge one another. Under rules 2 the cheapest class is taken. A class
  the buyer names is a mask (rules/masks.py). An operator counts where a node of his is there: who left, or is not
  heard from, checks nobody, and makes no class look large.

Inside one class the cheapest first under a cap for each operator is optimal: the caps make a
partition matroid, for which greedy gives the least sum: O(n log n) for n offers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stannary.errors import NoCapacity
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Rejection
from stannary.formats.quantity import dollars
from stannary.rules.masks import Offered, Requirement, why_not
from stannary.rules.price import rate_of

CHEAPER = "another class is cheaper"


class Graded(Offered, Protocol):
    """An offer, and what its processors are worth (rules/grade.py)."""

    @property
    def grade_ppm(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Match:
    """The decision: chosen offers in lane order, everyone else with a reason, and the dearest of who may audit."""

    chosen: tuple[Graded, ...]
    rejected: tuple[Rejection, ...]
    engine_class: str
    highest_ask_usd_micros_per_hour: int  # of any node of the class that works or audits
    highest_rate_usd_micros_per_hour: int  # what an hour of one processor costs of any: what escrow reckons with


def match(offers: Iterable[Graded], requirement: Requirement, away: Mapping[NodeId, str]) -> Match:
    """Choose the nodes of a job.

    Args:
        offers: what every node offers that may work at all.
        requirement: what the job asks for.
        away: node -> why it takes no work now; such a node holds no lane, and may still audit.

    Raises:
        NoCapacity: no engine class has enough; the reasons are counted in the message.
    """
    rejected: dict[NodeId, str] = {}
    classes: dict[str, list[Graded]] = {}
    auditors: dict[str, list[Graded]] = {}
    for offer in offers:
        if not why_not(offer, requirement.of_auditors):
            auditors.setdefault(offer.engine_class, []).append(offer)
        reason = why_not(offer, requirement)
        if reason:
            rejected[offer.node] = reason
        else:
            classes.setdefault(offer.engine_class, []).append(offer)
    there = {name: [offer for offer in auditors[name] if offer.node not in away] for name in classes}
    best: tuple[int, int, str, list[Graded]] | None = None
    unfit: dict[str, str] = {}
    for name in sorted(classes):
        chosen, problem = _cheapest(classes[name], requirement, away)
        if not problem and requirement.verified and _num_operators(auditors[name]) < 2:
            problem = "nobody of another operator could audit it"
        if problem:
            unfit[name] = problem
            continue
        fewer = -_num_operators(there[name]) if requirement.most_operators else 0
        candidate = (fewer, sum(offer.ask_usd_micros_per_hour for offer in chosen), name, chosen)
        if best is None or candidate[:3] < best[:3]:
            best = candidate
    if best is None:
        raise _no_capacity(rejected, classes, unfit, requirement)
    _, _, name, chosen = best
    for other, problem in _lost(there, name, requirement).items():
        unfit.setdefault(other, problem)
    rejected.update(_not_chosen(classes, unfit, name, chosen, requirement.max_lanes_per_operator))
    eligible = [offer for offers in classes.values() for offer in offers]
    rejected.update({offer.node: away[offer.node] for offer in eligible if offer.node in away})
    return Match(
        chosen=tuple(chosen),
        rejected=tuple(Rejection(node, rejected[node]) for node in sorted(rejected)),
        engine_class=name,
        highest_ask_usd_micros_per_hour=max(offer.ask_usd_micros_per_hour for offer in auditors[name]),
        highest_rate_usd_micros_per_hour=max(
            rate_of(offer.ask_usd_micros_per_hour, offer.grade_ppm) for offer in auditors[name]
        ),
    )


def _cheapest(
    offers: Sequence[Graded], requirement: Requirement, away: Mapping[NodeId, str]
) -> tuple[list[Graded], str]:
    """Return the cheapest lanes of one class, or why it cannot hold the job."""
    cap = requirement.max_lanes_per_operator
    held: Counter[str] = Counter()
    chosen: list[Graded] = []
    # Only a node that takes work now can hold a lane; a busy one still counts as an auditor.
    for offer in sorted((o for o in offers if o.node not in away), key=_by_price):
        if len(chosen) == requirement.num_nodes:
            break
        if held[offer.operator] < cap:
            held[offer.operator] += 1
            chosen.append(offer)
    if len(chosen) < requirement.num_nodes:
        return [], _short_of(offers, chosen, requirement, away)
    return chosen, ""


def _num_operators(offers: Iterable[Graded]) -> int:
    return len({offer.operator for offer in offers})


def _lost(classes: Mapping[str, Sequence[Graded]], taken: str, requirement: Requirement) -> dict[str, str]:
    """Say of each class what decided between it and the one that was taken."""
    operators = {name: _num_operators(offers) for name, offers in classes.items()}
    more = f"another class has {operators[taken]} operators"
    return {
        name: f"{more}, this one {number}" if requirement.most_operators and number < operators[taken] else CHEAPER
        for name, number in operators.items()
    }


def _short_of(
    offers: Sequence[Graded], chosen: Sequence[Graded], requirement: Requirement, away: Mapping[NodeId, str]
) -> str:
    """Say how many lanes a class can hold and what keeps the others of its nodes from holding one."""
    waiting = Counter(away[offer.node] for offer in offers if offer.node in away)
    capped = len(offers) - len(chosen) - waiting.total()
    parts = [f"{len(chosen)} of {requirement.num_nodes} lanes can be held now"]
    parts += [f"{number} of its nodes {state}" for state, number in sorted(waiting.items())]
    if capped:
        parts.append(f"{capped} of operators that hold their share, {requirement.max_lanes_per_operator}")
    return ", ".join(parts)


def _by_price(offer: Graded) -> tuple[int, str]:
    return offer.ask_usd_micros_per_hour, offer.node


def _not_chosen(
    classes: dict[str, list[Graded]], unfit: dict[str, str], name: str, chosen: Sequence[Graded], cap: int
) -> dict[NodeId, str]:
    """Say of every eligible node that lost what it lost to."""
    taken = {offer.node for offer in chosen}
    dearest = max(offer.ask_usd_micros_per_hour for offer in chosen)
    held = Counter(offer.operator for offer in chosen)
    reasons: dict[NodeId, str] = {}
    for engine_class, offers in classes.items():
        for offer in offers:
            if offer.node in taken:
                continue
            if engine_class != name:
                reasons[offer.node] = f"engine class: {unfit[engine_class]}"
            elif offer.ask_usd_micros_per_hour > dearest:
                ask = dollars(offer.ask_usd_micros_per_hour)
                reasons[offer.node] = f"price: asks {ask}/h, the dearest chosen {dollars(dearest)}/h"
            elif held[offer.operator] >= cap:
                reasons[offer.node] = f"operator {offer.operator} holds its share of lanes"
            else:
                reasons[offer.node] = "not needed: enough others ask as little"
    return reasons


def _no_capacity(
    rejected: dict[NodeId, str], classes: dict[str, list[Graded]], unfit: dict[str, str], requirement: Requirement
) -> NoCapacity:
    counted = Counter(rejected.values()).most_common(3)
    parts = [f"{number} x {reason}" for reason, number in counted]
    parts += [f"class {name} ({len(classes[name])} nodes): {reason}" for name, reason in sorted(unfit.items())][:3]
    return NoCapacity(
        f"no place for {requirement.num_nodes} lanes at {requirement.tier}",
        why="; ".join(parts) or "no node is offered",
        hint="stannary offers; then ask for fewer nodes, relax trust, resources or price in the spec, or join a node",
    )
