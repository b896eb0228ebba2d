"""`stannary cost`: who was paid what for a job, and where the paid time went."""

from __future__ import annotations

import time

import click

from stannary.cli import costs, session
from stannary.cli.command import command
from stannary.cli.costs import NodeCost
from stannary.cli.output import Output, columns, table_lines
from stannary.errors import JobNotFinished, Refuted
from stannary.formats.quantity import dollars
from stannary.sdk import trustfile
from stannary.sdk.client import Client
from stannary.verify.receipt import verify_receipt
from stannary.wire.buyer import Cost

PARTS = ("useful", "start", "link", "idle", "audit", "churn")


@command
@click.argument("job")
@click.option("--lines", "shows_lines", is_flag=True, help="Show every line of the ledger.")
def cost(out: Output, job: str, shows_lines: bool) -> None:
    """Show what each node of a job got, at which price, for how long, and the six-part time split."""
    wanted = session.job_id(job)
    with session.connect() as client:
        answer = client.cost(wanted)
        nodes = _nodes(client, wanted, out)
    value = {**answer.model_dump(mode="json"), "nodes": [item.to_json() for item in nodes]}
    out.result(value, _text(answer, nodes, shows_lines=shows_lines or not nodes))


def _nodes(client: Client, job: str, out: Output) -> list[NodeCost]:
    """Return each node's part by the receipt, nothing before there is one that holds here."""
    try:
        receipt = client.receipt(job)
    except JobNotFinished:
        return []
    report = verify_receipt(receipt, trustfile.load(), int(time.time()))
    if report.claims is None or report.exit_code == Refuted.exit_code:
        out.say("the receipt does not hold here, so this is the market's word alone: stannary verify says why")
        return []
    return costs.by_node(report.claims)


def _text(answer: Cost, nodes: list[NodeCost], *, shows_lines: bool) -> list[str]:
    text = costs.lines(nodes, width=columns())
    if shows_lines and answer.lines:
        rows = [
            (line.account, line.task.partition("/")[2] or line.task or "-", line.reason, dollars(line.usd_micros))
            for line in answer.lines
        ]
        text += [*([""] if text else []), *table_lines(("ACCOUNT", "TASK", "REASON", "AMOUNT"), rows)]
    held = answer.escrow_usd_micros - answer.paid_usd_micros - answer.refunded_usd_micros
    text.append(
        f"escrow {dollars(answer.escrow_usd_micros)} · paid {dollars(answer.paid_usd_micros)}"
        f" · refunded {dollars(answer.refunded_usd_micros)}" + (f" · held {dollars(held)}" if held else "")
    )
    if answer.split is not None:
        text.append(" · ".join(f"{name} {getattr(answer.split, name) / 100:.1f}" for name in PARTS))
    return text
