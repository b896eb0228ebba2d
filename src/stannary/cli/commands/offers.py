"""`stannary offers`: what nodes sell."""

from __future__ import annotations

from stannary.cli import classes, session
from stannary.cli.command import command
from stannary.cli.output import Output, wrapped
from stannary.formats.quantity import dollars

GIB = 2**30


@command
def offers(out: Output) -> None:
    """Show every node's offer: tier, class, price and state; and how many operators each class has."""
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
    found = classes.of(listed)
    value = {
        "offers": [item.model_dump(mode="json") for item in listed],
        "classes": [{"engine_class": each.name, "operators": each.num_operators} for each in found],
    }
    out.table(columns, rows, value, narrow=("CLASS", "NAME", "OPERATOR"))
    for each in found:
        for line in (f"class {each.shown}", *wrapped(each.text, indent=2)):
            out.say(line)
    if any(item.attestation == "software" for item in listed):
        out.say("EVIDENCE software: NOT hardware-attested; satisfies no hardware policy.")
