"""`stannary ls` and `stannary stop`."""

from __future__ import annotations

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.formats import ended
from stannary.formats.quantity import dollars
from stannary.wire.buyer import JobView, JobWait


@command
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Show so many.")
@click.option("-v", "--verbose", is_flag=True, help="Say of each open job what it waits for.")
def ls(out: Output, limit: int, verbose: bool) -> None:
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
            f"{view.progress.round}/{view.progress.rounds}" if view.has_rounds else "-",
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
        for wait in (view.waits or ())[:1] if verbose else ():
            out.say(f"    {view.id}  {_wait(wait)}")


@command
@click.argument("job")
def show(out: Output, job: str) -> None:
    """Show where a job is, and what it waits for, until when, and what comes then (docs/course.md)."""
    wanted = session.job_id(job)
    with session.connect() as client:
        view = client.job(wanted)
    lines = [
        f"{view.id}  {view.name}",
        f"  status      {view.status}{f', {view.reason}' if view.reason else ''}",
        *([f"  because     {plain(view.message)}"] if view.message and view.finished_at is not None else []),
        f"  verdict     {view.verdict}",
        f"  money       {_money(view)} of {dollars(view.escrow_usd_micros)} held",
    ]
    if view.has_rounds:
        lines.append(f"  round       {view.progress.round} of {view.progress.rounds}")
    lines += [f"  lane {node.lane}      {node.node} of {node.operator}, {node.state}" for node in view.nodes]
    for item in view.endings or ():
        lines.append(f"  lane {item.lane}      {ended.words(item.ended)}; {view.verdict}")
    lines += [f"  waits       {_wait(wait)}" for wait in view.waits or ()]
    lines += [f"  ! {fault}" for fault in view.faults or ()]
    out.result(view.model_dump(mode="json"), "\n".join(lines))


def _wait(wait: JobWait) -> str:
    """Say what is waited for: `waits for the beacon value of draw 3 until 14:02; then: draw`."""
    until = f" until {wait.until[11:16]} UTC" if wait.until is not None else ""
    otherwise = f", else {wait.otherwise}" if wait.otherwise else ""
    return f"for {wait.waits_for}{until}; then: {wait.then}{otherwise}"


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
