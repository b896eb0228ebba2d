"""The plan of `stannary run --dry-run`: what travels, who could run it, what it costs at worst."""

from __future__ import annotations

from collections.abc import Sequence

from stannary.cli import classes, travels
from stannary.cli.output import cell, wrapped
from stannary.errors import UsageError
from stannary.formats.instants import span
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.quantity import dollars
from stannary.rules import first, stake
from stannary.rules.shape import shape_of
from stannary.sdk.submit import Prepared
from stannary.wire.buyer import Offer, PriceQuote, RejectedNode

SPARE = "not needed"  # how the market begins the reason of a node that would do as well (place/match.py)
NUM_NAMED = 3  # nodes named for one reason; --json has all


def text(quote: PriceQuote, prepared: Prepared) -> list[str]:
    """Return the plan for people, line by line."""
    spec = prepared.spec
    offers = {offer.node: offer for offer in quote.offers}
    nodes = "1 node" if spec.num_nodes == 1 else f"{spec.num_nodes} nodes"
    lines = [f"Plan   {spec.name}: {spec.kind}, {nodes}, verification {spec.trust.verify}"]
    lines += [f"  chosen    {_node(node, offers.get(node))}" for node in quote.chosen]
    rejected = [item for item in quote.rejected if not item.reason.startswith(SPARE)]
    others = set(quote.chosen) | {item.node for item in rejected}
    lines += [f"  could too {_node(node, offer)}" for node, offer in offers.items() if node not in others]
    lines += [*class_lines(quote), *_rejections(rejected)]
    budget = dollars(spec.budget_usd_micros)
    lines += [
        *travels.lines(prepared),
        *assurance_lines(quote, spec),
        *broker_lines(quote, spec),
        f"  work      {dollars(quote.work_usd_micros):>12}",
        f"  audits    {dollars(quote.audit_usd_micros):>12}",
        f"  at most   {dollars(quote.escrow_usd_micros):>12}   of a budget of {budget}",
        "NOT hardware-attested: tier T0 nodes show software evidence only.",
    ]
    return lines


def class_lines(quote: PriceQuote) -> list[str]:
    """Say of which engine class the chosen are, how many operators there are in it, and how to see the others."""
    chosen = {offer.engine_class for offer in quote.offers if offer.node in quote.chosen}
    listed = classes.of(quote.offers)
    lines = []
    for item in listed:
        if item.name in chosen:
            lines += [f"  class     {item.shown}", *wrapped(item.text, indent=12)]
    if lines and len(listed) > len(chosen):
        said = "others    of the market are to be seen with: stannary offers; resources.engine_class names one"
        lines += wrapped(said, indent=2, hanging=12)
    return lines


def assurance_lines(quote: PriceQuote, spec: JobSpec) -> list[str]:
    """Return what is audited, and what each assurance would need and cost."""
    if spec.trust.verify is Verification.NONE:
        return ["  audited   nothing: verify is none"]
    asked = (
        f"audited   {percent(spec.trust.audit_ppm)} of {num_units(spec)}, for assurance: {spec.trust.assurance}; "
        "always the first unit, one of each operator, and the last merge"
    )
    lines = wrapped(asked, indent=2, hanging=12) + auditor_lines(spec)
    first_ppm = stake.unit_ppm(spec, 1, 0)
    if first_ppm is not None:
        often = f"a node's first units are audited more often, its first at {percent(first_ppm)}"
        held = (
            f"at stake  pay for {stake.HELD_UNITS} units of this job and no bond, for the code is your own; so {often}"
        )
        lines += wrapped(held, indent=2, hanging=12)
    took = f"{spec.resources.wall_s:,} s for each" if shape_of(spec).is_agreed else "a step of 1 s"
    lines += wrapped(f"price     of what is measured: expected reckons with {took}", indent=2, hanging=12)
    if first.is_checked(spec):
        each = dollars(quote.work_usd_micros // shape_of(spec).num_tasks)
        check = f"the first unit is computed again by another operator, for {each} at most, before the rest begins"
        lines += wrapped(f"check     {check}", indent=2, hanging=12)
    for item in quote.words:
        cost = f"expected {dollars(item.expected_usd_micros)}, at most {dollars(item.worst_usd_micros)}"
        lines.append(f"    {item.assurance:<9} {percent(item.audit_ppm):>9}  {cost}")
    return lines


def auditor_lines(spec: JobSpec) -> list[str]:
    """Say whom the buyer's lists bind beside those who work, where he has any, and what comes of it."""
    trust = spec.trust
    if not (trust.regions or trust.exclude_operators or trust.auditors):
        return []
    said = (
        "auditors  only whom regions and exclude_operators allow: no bond can move in this job"
        if trust.auditors is not None
        else "auditors  anybody of the engine class: regions and exclude_operators bind only who works (with "
        "trust.auditors: listed they bind auditors too, and no bond can move)"
    )
    return wrapped(said, indent=2, hanging=12)


def broker_lines(quote: PriceQuote, spec: JobSpec) -> list[str]:
    """Say how long the buyer's broker must be there, and what comes of it where it is not."""
    if spec.trust.verify is Verification.NONE:
        return []
    kept = "for ever" if quote.kept_s is None else f"for {span(quote.kept_s)}"
    said = (
        "broker    must be reachable until the job ends; away for "
        f"{span(quote.reveal_s)} when it is asked, the job ends unverified: what is handed in and stored is paid, and "
        f"yours to fetch {kept}"
    )
    return wrapped(said, indent=2, hanging=12)


def num_units(spec: JobSpec) -> str:
    """Spell how many units of work a job has."""
    number = shape_of(spec).num_tasks
    return f"{number:,} unit{'s' if number != 1 else ''}"


def percent(ppm: int) -> str:
    """Spell an audit rate, rounded to hundredths of a per cent."""
    return f"{ppm / 10_000:.2f} %"


def _rejections(rejected: Sequence[RejectedNode]) -> list[str]:
    """Return one entry per reason, the commonest first: which nodes, a few by name."""
    nodes: dict[str, list[str]] = {}
    for item in rejected:
        nodes.setdefault(item.reason, []).append(item.node)
    lines = []
    for reason, found in sorted(nodes.items(), key=lambda item: -len(item[1])):
        more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
        lines += wrapped(f"rejected  {', '.join(found[:NUM_NAMED])}{more}: {cell(reason)}", indent=2, hanging=12)
    return lines


def over_budget(quote: PriceQuote, spec: JobSpec) -> UsageError | None:
    """Return the refusal the order would meet, None if the budget covers the worst case."""
    if quote.escrow_usd_micros <= spec.budget_usd_micros:
        return None
    needed = dollars(quote.escrow_usd_micros)
    return UsageError(
        "the budget does not cover the worst case",
        why=f"it may cost {needed}, the budget is {dollars(spec.budget_usd_micros)}; the order would be refused",
        hint=f"stannary run --budget {needed.lstrip('$').replace(',', '')}, or ask for less: rounds, wall_s, audit",
    )


def _node(node: str, offer: Offer | None) -> str:
    if offer is None:
        return node
    price = dollars(offer.ask_usd_micros_per_hour)
    machine = f"{offer.cpus} cpus, {travels.size(offer.memory_bytes)}"
    return f"{node}  {cell(offer.operator, 20):<20} {price}/h  {machine}  {offer.state}"
