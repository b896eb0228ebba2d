"""`stannary offers`: what nodes sell."""

from __future__ import annotations

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.formats.quantity import dollars

GIB = 2**30


@command
def offers(out: Output) -> None:
    """Show every node's offer: tier, class, price and state."""
    with session.connect() as client:
        listed = client.offers().offers
    if not listed:
        out.say("nobody offers anything here now")
    rows = [
        (
            item.node,
            item.name or "-",
            item.operator,
            f"{item.tier} {item.attestation}",
            str(item.cpus),
            f"{item.memory_bytes / GIB:.1f}" if item.memory_bytes < 10 * GIB else f"{item.memory_bytes / GIB:.0f}",
            dollars(item.ask_usd_micros_per_hour).removeprefix("$"),
            item.state,
            item.engine_class,
        )
        for item in listed
    ]
    columns = ("NODE", "NAME", "OPERATOR", "EVIDENCE", "CPUS", "GIB", "$/H", "STATE", "CLASS")
    value = {"offers": [item.model_dump(mode="json") for item in listed]}
    out.table(columns, rows, value, narrow=("CLASS", "NAME", "OPERATOR"))
    if any(item.attestation == "software" for item in listed):
        out.say("EVIDENCE software: NOT hardware-attested; satisfies no hardware policy.")
