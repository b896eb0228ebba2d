"""`stannary trust`: the pinned keys receipts are checked against."""

from __future__ import annotations

import click

from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.errors import NotFound
from stannary.sdk import trustfile
from stannary.verify import trust as pins


@click.group(cls=LazyGroup)
def trust() -> None:
    """Manage the keys receipts are checked against. A key comes from the market itself, never from a receipt."""


@command
@click.argument("key")
@click.option("--witness", "witnesses", multiple=True, metavar="KEY", help="A witness that must have cosigned.")
@click.option("--independent", multiple=True, metavar="NAME", help="Name of a witness not run by the market.")
def add(out: Output, key: str, witnesses: tuple[str, ...], independent: tuple[str, ...]) -> None:
    """Pin a market's verifier KEY (name+hash+base64)."""
    market = pins.pin(key, witnesses, independent)
    trustfile.pin(market)
    out.result({"name": market.name, "vkey": market.vkey}, f"pinned {market.name} in {trustfile.path()}")


@command
def ls(out: Output) -> None:
    """List pinned markets and their witnesses."""
    markets = trustfile.load().markets
    value = [
        {"name": item.name, "vkey": item.vkey, "witnesses": list(item.witnesses), "independent": list(item.independent)}
        for item in markets
    ]
    lines: list[str] = []  # a key is a line of its own: it is there to be copied, and 80 columns hold it
    for item in markets:
        lines += [item.name, f"  key      {item.vkey}", *(f"  witness  {key}" for key in item.witnesses)]
        lines.append(f"           {item.witness_words}" if item.witnesses else "  witness  none pinned")
    out.result({"markets": value}, lines or ["no market is pinned"])


def _remove(out: Output, name: str) -> None:
    """Forget a market's keys; its receipts become `unknown log`."""
    store = trustfile.load()
    if all(item.name != name for item in store.markets):
        known = ", ".join(item.name for item in store.markets) or "none"
        raise NotFound(f"{name!r:.80} is not pinned", why=f"pinned: {known}", hint="stannary trust ls")
    trustfile.forget(name)
    out.result({"removed": name}, f"removed {name}")


rm = command(click.argument("name")(_remove))

trust.add_command(add)
trust.add_command(ls)
trust.add_command(rm, "rm")
