"""`stannary market root`: the root file system a market's jobs run in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.commands.market_access import card_of, directory_option, operator_of
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.errors import EnvironmentProblem
from stannary.formats.digest import PREFIX, Digest
from stannary.rules.systems import root_name
from stannary.sdk import local
from stannary.sdk.local import LocalMarket
from stannary.wire import routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

MIB = 1024**2


@click.group(cls=LazyGroup)
def root() -> None:
    """Build, publish and show the root file system that jobs run in, the same on every node."""


@command
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--suite", default="bookworm", show_default=True, help="Debian's release.")
@click.option("--include", multiple=True, metavar="PACKAGE", help="A further Debian package; repeat.")
@click.option("--wheels", type=click.Path(path_type=Path), help="Locked list of what recipes import (stannary lock).")
@click.option("--mirror", "mirrors", multiple=True, help="A Debian mirror: a snapshot's, for others to rebuild from.")
@click.option("--time", "time_s", type=click.IntRange(0), help="No file is newer (POSIX seconds).")
def build(
    out: Output, target: Path, suite: str, include: tuple[str, ...], wheels: Path | None, mirrors: tuple[str, ...],
    time_s: int | None,
) -> None:  # fmt: skip
    """Build a root file system from Debian's packages into FILE. Whoever builds it again gets the same bytes."""
    from stannary.run.root import build as building

    try:
        listing = wheels.read_bytes() if wheels is not None else b""
    except OSError as err:
        raise EnvironmentProblem("cannot read the list of wheels", why=str(err)) from err
    wanted_s = time_s if time_s is not None else building.TIME_S
    plan = building.RootPlan(suite, include, mirrors, listing, time_s=wanted_s)
    made = building.build(plan, target, out.status)
    out.clear_status()
    held = made.contents
    value = {"root": made.digest, "file": str(target), "size_bytes": made.size_bytes, "python": held.python}
    lines = f"{made.digest}\n{target}: {made.size_bytes / MIB:,.0f} MiB, {held.num_files:,} names, Python {held.python}"
    out.result(value, f"{lines}\nnext: stannary market root publish {target}")


@command
@directory_option
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
def publish(out: Output, directory: Path | None, source: Path) -> None:
    """Have a market's jobs run in the root file system in FILE from now on.

    Nodes that are on the market already join anew: what jobs see on them is part of their engine class.
    """
    from stannary.run.root.build import checked

    try:
        with source.open("rb") as file:
            contents = checked(file)
            file.seek(0)
            named = Digest(PREFIX + hashlib.file_digest(file, "sha256").hexdigest())
            size_bytes = source.stat().st_size
    except OSError as err:
        raise EnvironmentProblem("cannot read the root file system", why=str(err)) from err
    sent = 0

    def progress(num_bytes: int) -> None:
        nonlocal sent
        sent += num_bytes
        out.status(f"sending {sent * 100 // max(1, size_bytes)} % of {size_bytes / MIB:,.0f} MiB")

    with operator_of(directory) as operator:
        operator.publish_root(named, source, progress)
    out.clear_status()
    value = {"root": named, "name": root_name(named), "size_bytes": size_bytes, "python": contents.python}
    out.result(value, f"jobs run in {named} from now on; nodes must join anew to take them")


@command
@directory_option
def show(out: Output, directory: Path | None) -> None:
    """Print the digest of the root file system that a market of this machine has published."""
    card = card_of(LocalMarket((directory or local.root()).absolute()))
    with Connection(card.url, tls_fingerprint=card.tls_fingerprint, vkey=card.vkey) as link:
        found = link.get(routes.MARKET, MarketInfo)
    value = {"root": found.root, "size_bytes": found.root_bytes}
    out.result(value, found.root or "none: jobs see each node's own system (stannary market root build FILE)")


for item in (build, publish, show):
    root.add_command(item)
