"""`stannary rulings`: the bonds a job disputes, and the files by which anybody can check what was ruled on them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.commands.market_access import directory_option, operator_of
from stannary.cli.output import Output
from stannary.errors import UsageError
from stannary.formats.quantity import dollars
from stannary.wire.buyer import DisputeList, DisputeView

COLUMNS = ("NODE", "OPERATOR", "UNIT", "BOND", "STAGE", "UNTIL", "FILE")


class DisputeSource(Protocol):
    """A market, asked as its buyer or its operator."""

    def disputes(self, job: str) -> DisputeList:
        """Return the bonds a job disputes."""
        ...

    def ruling(self, job: str, node: str) -> bytes:
        """Return a ruling file."""
        ...


output_option = click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="Write the ruling files into DIR."
)


@command
@click.argument("job")
@output_option
def rulings(out: Output, job: str, target: Path | None) -> None:
    """List the bonds a job disputes; with -o, write what was ruled as files for `stannary verify`."""
    with session.connect() as client:
        show(out, client, session.job_id(job), target)


@command
@directory_option
@click.argument("job")
@output_option
def market_rulings(out: Output, directory: Path | None, job: str, target: Path | None) -> None:
    """List the bonds a job disputes, of whichever buyer; with -o, write the files to hand to their operators."""
    with operator_of(directory) as operator:
        show(out, operator, session.job_id(job), target)


def show(out: Output, asked: DisputeSource, job: str, target: Path | None) -> None:
    """Show a job's disputes, and write the files of those that are ruled on."""
    listed = asked.disputes(job).disputes
    written = {item.node: _write(asked, job, item, target) for item in listed if target is not None and item.is_ruled}
    if not listed:
        out.say(f"no bond is disputed in {job}")
    rows = [
        (
            item.node, item.operator, item.task.partition("/")[2], dollars(item.bond_usd_micros), item.stage,
            item.until or "", str(written.get(item.node, "yes, with -o" if item.is_ruled else "")),
        )
        for item in listed
    ]  # fmt: skip
    value = [
        {**item.model_dump(mode="json"), "file": str(written[item.node]) if item.node in written else None}
        for item in listed
    ]
    out.table(COLUMNS, rows, {"disputes": value}, narrow=("OPERATOR", "FILE"))
    if written:
        out.say(f"check one, and compute its unit again: stannary verify {next(iter(written.values()))} --replay")


def _write(asked: DisputeSource, job: str, item: DisputeView, target: Path | None) -> Path:
    assert target is not None
    path = target / f"{job}.{item.node}.ruling.json"
    data = asked.ruling(job, item.node)
    try:
        target.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as err:
        raise UsageError("cannot write the file", why=f"{path}: {err.strerror}", hint="-o DIR") from err
    return path
