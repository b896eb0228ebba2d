"""`stannary cost`: who was paid what for a job, and where the paid time went."""

from __future__ import annotations

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, columns_text, plain
from stannary.formats.quantity import dollars
from stannary.wire.buyer import Cost

PARTS = ("useful", "start", "link", "idle", "audit", "churn")


@command
@click.argument("job")
def cost(out: Output, job: str) -> None:
    """Show the ledger lines of a job and its six-part time split."""
    wanted = session.job_id(job)
    with session.connect() as client:
        answer = client.cost(wanted)
    out.result(answer.model_dump(mode="json"), _text(answer))


def _text(answer: Cost) -> str:
    rows = [
        (plain(line.account), plain(line.task) or "-", line.reason, dollars(line.usd_micros)) for line in answer.lines
    ]
    lines = [columns_text(("ACCOUNT", "TASK", "REASON", "AMOUNT"), rows)] if rows else []
    lines.append(
        f"escrow {dollars(answer.escrow_usd_micros)} · paid {dollars(answer.paid_usd_micros)}"
        f" · refunded {dollars(answer.refunded_usd_micros)}"
    )
    if answer.split is not None:
        lines.append(" · ".join(f"{name} {getattr(answer.split, name) / 100:.1f}" for name in PARTS))
    return "\n".join(lines)
