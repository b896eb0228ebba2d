"""`stannary logs`: what a job printed, also after its nodes are gone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.errors import UsageError
from stannary.sdk.client import Client
from stannary.wire import rfc3339
from stannary.wire.buyer import LogLine

FOLLOW_WAIT_S = 5.0
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@command
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("-n", "--tail", type=click.IntRange(0, 1000), help="Show the last so many lines.")
@click.option("--since", metavar="TIME", help="Show lines since 2h ago, or since 2026-11-22T10:00:00Z.")
@click.option("-t", "--timestamps", is_flag=True, help="Show the time of each line.")
def logs(out: Output, job: str, follow: bool, tail: int | None, since: str | None, timestamps: bool) -> None:
    """Show what a job printed. With --json each line is one JSON object."""
    name = session.job_id(job)
    start = _since(since) if since else ""
    tend = session.tender(name) if follow else None
    with session.connect() as client:
        page = client.logs(name, after=None if tail is not None else 0, tail=tail, since=start)
        while True:
            if tend is not None and (said := tend()):
                out.say(said)
            for line in page.lines:
                _print(out, line, timestamps)
            if not page.lines and (not follow or _has_ended(client, name)):
                return
            if not follow and tail is not None:
                return
            page = client.logs(name, after=page.next, wait_s=FOLLOW_WAIT_S if follow else 0.0)


def _print(out: Output, line: LogLine, timestamps: bool) -> None:
    if out.as_json:
        click.echo(line.model_dump_json())
        return
    at = f"{line.at} " if timestamps else ""
    task = (line.task or "").partition("/")[2]  # a line of the agent itself belongs to no task
    click.echo(f"{at}{line.node} {task:<12} {plain(line.text)}")


def _has_ended(client: Client, job: str) -> bool:
    return client.job(job).finished_at is not None


def _since(text: str) -> str:
    match = _AGO.fullmatch(text)
    if match is None:
        try:
            return rfc3339.spell(rfc3339.parse(text))
        except ValueError as err:  # FormatError is not one: it passes with its own words
            raise UsageError("not a time", why=f"{text!r:.60}", hint="--since 2h") from err
    ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
    return (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
