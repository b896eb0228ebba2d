"""`stannary lock`: a list of packages to exact versions and hashes of wheels that fit the nodes."""

from __future__ import annotations

from pathlib import Path

import click

from stannary import workdir
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.errors import UsageError
from stannary.formats import requirements
from stannary.sdk import lock as locking

DEFAULT_OUTPUT = "requirements.lock"


@command
@click.argument("listing", default="requirements.txt", metavar="[FILE]", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", default=DEFAULT_OUTPUT, type=click.Path(path_type=Path), help="Write the locked list here."
)
def lock(out: Output, listing: Path, output: Path) -> None:
    """Lock FILE (requirements.txt) into requirements.lock, for `setup:` of a job.

    `stannary run` locks an open list by itself; a file of its own keeps the versions from run to run.
    """
    try:
        place = listing.resolve()
    except (OSError, RuntimeError) as err:
        raise UsageError("cannot find the list", why=str(err), hint="stannary lock FILE") from err
    with workdir.open_plain(place.parent, place.name) as file:
        data = file.read(requirements.MAX_LIST_BYTES + 1)
    out.status(f"    locking    {listing} for {locking.target()}")
    pinned = locking.lock(data) or data
    try:
        output.write_bytes(pinned)
    except OSError as err:
        raise UsageError("cannot write the locked list", why=str(err), hint="-o FILE") from err
    number = len(requirements.locked(pinned))
    out.result(
        {"output": str(output), "num_packages": number, "target": locking.target()},
        f"{output}  {number} packages, for {locking.target()}.   in the job spec: setup: {output}",
    )
