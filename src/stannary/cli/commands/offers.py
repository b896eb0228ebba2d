"""`stannary offers`: what nodes sell."""

from __future__ import annotations

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.formats.quantity import dollars


@command
def offers(out: Output) -> None:
    """Show every node's offer: tier, class, price and state."""
    with session.connect() as client:
        listed = client.offers().offers
    rows = [
        (
            item.node,
            plain(item.operator),
            item.tier,
            item.attestation,
            item.engine_class,
            str(item.cpus),
            f"{item.memory_bytes / 2**30:.1f}",
            f"{dollars(item.ask_usd_micros_per_hour)}/h",
            item.state,
        )
        for item in listed
    ]
    columns = ("NODE", "OPERATOR", "TIER", "EVIDENCE", "CLASS", "CPUS", "GIB", "ASK", "STATE")
    out.table(columns, rows, {"offers": [item.model_dump(mode="json") for item in listed]})
    if any(item.attestation == "software" for item in listed):
        out.say("EVIDENCE software: NOT hardware-attested; satisfies no hardware policy.")
