"""The plan of `stannary run --dry-run`: what travels, who could run it, what it costs at worst."""

from __future__ import annotations

from stannary.cli import travels
from stannary.cli.output import plain
from stannary.errors import UsageError
from stannary.formats.jobspec import JobSpec
from stannary.formats.quantity import dollars
from stannary.sdk.submit import Prepared
from stannary.wire.buyer import Offer, Quote


def text(quote: Quote, prepared: Prepared) -> str:
    """Return the plan for people."""
    spec = prepared.spec
    offers = {offer.node: offer for offer in quote.offers}
    nodes = "1 node" if spec.num_nodes == 1 else f"{spec.num_nodes} nodes"
    lines = [f"Plan   {spec.name}: {spec.kind}, {nodes}, verification {spec.trust.verify}"]
    lines += [f"  chosen    {_node(node, offers.get(node))}" for node in quote.chosen]
    others = set(quote.chosen) | {item.node for item in quote.rejected}
    lines += [f"  could too {_node(node, offer)}" for node, offer in offers.items() if node not in others]
    lines += [f"  rejected  {item.node}  {plain(item.reason)}" for item in quote.rejected]
    budget = dollars(spec.budget_usd_micros)
    lines += [
        *travels.lines(prepared),
        f"  audited   {quote.audit_ppm / 10_000:.2f} % of tasks, {quote.required_ppm / 10_000:.2f} % needed",
        f"  work      {dollars(quote.work_usd_micros):>12}",
        f"  audits    {dollars(quote.audit_usd_micros):>12}",
        f"  at most   {dollars(quote.escrow_usd_micros):>12}   of a budget of {budget}",
        "NOT hardware-attested: tier T0 nodes show software evidence only.",
    ]
    return "\n".join(lines)


def over_budget(quote: Quote, spec: JobSpec) -> UsageError | None:
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
    machine = f"{offer.cpus} cpus, {travels.size(offer.memory_bytes)}"
    return f"{node}  {plain(offer.operator):<20} {dollars(offer.ask_usd_micros_per_hour)}/h  {machine}  {offer.state}"
