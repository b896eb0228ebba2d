"""`stannary logs`: what a job printed, also after its nodes are gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.follow import Patience
from stannary.cli.output import Output
from stannary.errors import ServiceError, UsageError
from stannary.formats import instants
from stannary.sdk.client import Client
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
    """Show what a job printed. With --json one document, with --follow one JSON object a line."""
    name = session.job_id(job)
    start = _since(since) if since else ""
    tend = session.tender(name) if follow else lambda: ""
    with session.connect() as client:
        lines = _lines(client, name, follow=follow, tail=tail, since=start, patience=Patience(out, name), tend=tend)
        if out.as_json and not follow:
            out.result({"lines": [line.model_dump(mode="json") for line in lines]})
            return
        for line in lines:
            out.line(line.model_dump(mode="json"), _text(line, timestamps))


def _lines(
    client: Client,
    job: str,
    *,
    follow: bool,
    tail: int | None,
    since: str,
    patience: Patience,
    tend: Callable[[], str],
) -> Iterator[LogLine]:
    """Yield a job's lines, page by page; while it is followed a market that does not answer is asked again."""
    after, is_first, asks_for_tail = 0, True, tail is not None
    while True:
        patience.tell(tend())
        try:
            wait_s = FOLLOW_WAIT_S if follow and not is_first else 0.0
            page = client.logs(job, after=None if asks_for_tail else after, tail=tail, since=since, wait_s=wait_s)
            ended = not page.lines and (not follow or client.job(job).finished_at is not None)
        except ServiceError as err:
            if not follow:
                raise
            patience.failed(err)
            continue
        patience.answered()
        yield from page.lines
        if ended or (asks_for_tail and not follow):
            return
        # A tail or a time is where to begin; from there on it is one line after the other.
        after, tail, since, is_first, asks_for_tail = page.next, None, "", False, False


def _text(line: LogLine, timestamps: bool) -> str:
    at = f"{line.at} " if timestamps else ""
    task = (line.task or "").partition("/")[2]  # a line of the agent itself belongs to no task
    return f"{at}{line.node or 'market':<14} {task:<12} {line.text}"


def _since(text: str) -> str:
    match = _AGO.fullmatch(text)
    if match is None:
        try:
            return instants.spell(instants.parse(text))
        except ValueError as err:  # FormatError is not one: it passes with its own words
            raise UsageError("not a time", why=f"{text!r:.60}", hint="--since 2h") from err
    ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
    return (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
