"""`stannary ls` and `stannary stop`."""

from __future__ import annotations

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.formats.quantity import dollars
from stannary.wire.buyer import JobView


@command
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Show so many.")
def ls(out: Output, limit: int) -> None:
    """List your jobs, newest first."""
    with session.connect() as client:
        views = list(client.jobs(limit))
    if not views:
        out.say("no job yet; the first one: stannary run --example hello")
    rows = [
        (
            view.id,
            view.name,
            view.status,
            view.verdict,
            f"{view.progress.round}/{view.progress.rounds}" if view.kind == "train" else "-",
            _money(view),
            view.submitted_at[5:16].replace("T", " "),
        )
        for view in views
    ]
    columns = ("JOB", "NAME", "STATUS", "VERDICT", "ROUND", "PAID", "SINCE (UTC)")
    out.table(columns, rows, {"jobs": [view.model_dump(mode="json") for view in views]}, narrow=("NAME",))
    for view in views:
        for fault in view.faults or ():
            out.say(f"  ! {view.id}  {fault}")


def _money(view: JobView) -> str:
    """Return what was paid, or where the money is."""
    return dollars(view.paid_usd_micros) if view.settlement in ("released", "refunded") else view.settlement


@command
@click.argument("job")
def stop(out: Output, job: str) -> None:
    """Cancel a job. Work already done and verified is paid; the rest is refunded."""
    wanted = session.job_id(job)
    with session.connect() as client:
        view = client.cancel(wanted)
    out.result(view.model_dump(mode="json"), f"{view.id} {view.status}")
