"""`stannary wait`: follow a job to its end; the exit code is its outcome."""

from __future__ import annotations

import click

from stannary.cli import ending, session
from stannary.cli.command import command
from stannary.cli.follow import detached, follow, going_on
from stannary.cli.output import Output


@command
@click.argument("job")
def wait(out: Output, job: str) -> int:
    """Wait for a job's end and write its receipt. Ctrl-C stops waiting, not the job."""
    wanted = session.job_id(job)
    with session.connect() as client:
        try:
            view = follow(client, wanted, out, session.tender(wanted))
        except KeyboardInterrupt:
            return detached(job, out)
        with going_on(job):
            return ending.conclude(client, view, out)
