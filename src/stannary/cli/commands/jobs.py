"""`stannary ls` and `stannary stop`."""

from __future__ import annotations

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.formats.quantity import dollars


@command
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Show so many.")
def ls(out: Output, limit: int) -> None:
    """List your jobs, newest first."""
    with session.connect() as client:
        views = list(client.jobs(limit))
    rows = [
        (
            view.id,
            plain(view.name),
            view.status,
            view.verdict,
            view.settlement,
            f"{view.progress.round}/{view.progress.rounds}" if view.kind == "train" else "-",
            dollars(view.paid_usd_micros),
            view.submitted_at,
        )
        for view in views
    ]
    columns = ("JOB", "NAME", "STATUS", "VERDICT", "SETTLEMENT", "ROUND", "PAID", "SUBMITTED")
    out.table(columns, rows, {"jobs": [view.model_dump(mode="json") for view in views]})


@command
@click.argument("job")
def stop(out: Output, job: str) -> None:
    """Cancel a job. Work already done and verified is paid; the rest is refunded."""
    wanted = session.job_id(job)
    with session.connect() as client:
        view = client.cancel(wanted)
    out.result(view.model_dump(mode="json"), f"{view.id} {view.status}")
