"""`stannary market`: run an exchange, and give out its tokens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.errors import MarketUnreachable
from stannary.files import Secret
from stannary.formats import quantity
from stannary.sdk import brokers, local, trustfile
from stannary.sdk import profile as profiles
from stannary.sdk.client import Operator
from stannary.sdk.local import LocalMarket
from stannary.sdk.profile import Profile
from stannary.verify import trust
from stannary.wire.admin import JoinTokenRequest
from stannary.wire.card import Card, read_card

directory_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="The market's directory (default: the private one)."
)


@click.group(cls=LazyGroup)
def market() -> None:
    """Run a market."""


@command
@directory_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(out: Output, directory: Path | None, arguments: tuple[str, ...]) -> NoReturn:
    """Run a market in the foreground. What follows `--` goes to `python -m stannary.market serve`."""
    place = directory or local.root()
    out.say(f"market directory {place}; Ctrl-C stops it")
    words = [sys.executable, "-m", "stannary.market", "serve", "--dir", str(place), *arguments]
    # Replacing this process lets signals and the exit code pass as they are.
    os.execv(sys.executable, words)  # noqa: S606  our own module, no shell


@command
@directory_option
def status(out: Output, directory: Path | None) -> None:
    """Show whether a market runs, and which processes belong to it."""
    place = LocalMarket(directory or local.root())
    card = place.card
    running = place.register.all()
    running += [found for home in place.broker_homes() if (found := brokers.find(home)) is not None]
    value = {
        "url": card.url if card else None,
        "name": card.name if card else None,
        "vkey": card.vkey if card else None,
        "processes": [{"name": item.name, "pid": item.pid} for item in running],
    }
    lines = [f"market    {card.url}  {card.name}" if card else "market    not running  (start it: stannary run ...)"]
    lines += [f"{item.name:<10}pid {item.pid}" for item in running]
    out.result(value, "\n".join(lines))


@command
@directory_option
def stop(out: Output, directory: Path | None) -> None:
    """Stop the private market, its nodes and its broker. Jobs go on when it starts again."""
    stopped = LocalMarket(directory or local.root()).stop()
    out.result({"stopped": stopped}, f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@command
@directory_option
@click.option("--name", default="buyer", show_default=True, help="The buyer's account.")
@click.option("--deposit", default="100", show_default=True, metavar="DOLLARS", help="Money put into it.")
def token(out: Output, directory: Path | None, name: str, deposit: str) -> None:
    """Open a buyer's account and print its API token, once."""
    with _operator(directory) as operator:
        answer = operator.api_token(name, quantity.usd_micros(deposit, "--deposit"))
    out.result(answer.model_dump(mode="json"), answer.token)


@command
@directory_option
@click.option("--operator", "operator_name", required=True, help="Who owns the node.")
@click.option("--bond", default="10", show_default=True, metavar="DOLLARS", help="Bond per node.")
@click.option("--ttl", "ttl_s", default=1800, show_default=True, help="Seconds the token is good for.")
@click.option("--uses", default=1, show_default=True, help="Nodes that may join with it.")
def join_token(out: Output, directory: Path | None, operator_name: str, bond: str, ttl_s: int, uses: int) -> None:
    """Print a token that lets a node in: stannary node join TOKEN."""
    bond_usd_micros = quantity.usd_micros(bond, "--bond")
    request = JoinTokenRequest(operator=operator_name, bond_usd_micros=bond_usd_micros, ttl_s=ttl_s, uses=uses)
    with _operator(directory) as operator:
        answer = operator.join_token(request)
    out.result(answer.model_dump(mode="json"), answer.token)


@command
@click.argument("url")
@click.option("--key", required=True, help="The market's verifier key, from its operator.")
@click.option("--witness", "witnesses", multiple=True, metavar="KEY", help="A witness's verifier key.")
@click.option("--tls-pin", default="", help="SHA-256 of the market's certificate, hex.")
@click.option("--name", "profile_name", default="default", show_default=True, help="Name of the profile.")
def add(out: Output, url: str, key: str, witnesses: tuple[str, ...], tls_pin: str, profile_name: str) -> None:
    """Use a market: pin its key and make it the default. The API token is read from standard input."""
    pinned = trust.pin(key, witnesses)
    words = sys.stdin.readline().strip()
    trustfile.pin(pinned)
    known = Profile(profile_name, url, key, witnesses, tls_pin)
    profiles.store(known, Secret(words) if words else None, make_default=True)
    out.result({"profile": profile_name, "url": url, "market": pinned.name}, f"profile {profile_name}: {url}")


def _operator(directory: Path | None) -> Operator:
    place = LocalMarket(directory or local.root())
    return place.operator(_card(place))


def _card(place: LocalMarket) -> Card:
    card = read_card(place.directory)
    if card is None:
        raise MarketUnreachable(
            "no market runs here", why=f"{place.directory} has no market.json", hint="stannary market serve"
        )
    return card


market.add_command(serve)
market.add_command(status)
market.add_command(stop)
market.add_command(token)
market.add_command(join_token)
market.add_command(add)
