"""`stannary market token`, `join-token`: who may be on a market, as its operator says."""

from __future__ import annotations

from pathlib import Path

import click

from stannary.cli.command import command, group_command
from stannary.cli.output import Output, plain
from stannary.errors import MarketUnreachable
from stannary.formats import quantity
from stannary.sdk import local
from stannary.sdk.client import Operator
from stannary.sdk.local import LocalMarket
from stannary.wire.admin import JoinTokenRequest
from stannary.wire.card import Card

directory_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="The market's directory (default: the private one)."
)


@group_command
@directory_option
@click.option("--name", default="buyer", show_default=True, help="The buyer's account.")
@click.option("--deposit", default="100", show_default=True, metavar="DOLLARS", help="Money put into it.")
def token(out: Output, directory: Path | None, name: str, deposit: str) -> None:
    """Open a buyer's account and print its API token, once."""
    with operator_of(directory) as operator:
        answer = operator.api_token(name, quantity.usd_micros(deposit, "--deposit"))
    out.result(answer.model_dump(mode="json"), answer.token)


@command
@directory_option
@click.option("--name", metavar="BUYER", help="Of this account only.")
def ls(out: Output, directory: Path | None, name: str | None) -> None:
    """List API tokens by their ids, which open nothing: whose, since when, last used, revoked."""
    with operator_of(directory) as operator:
        found = operator.api_tokens(name).tokens
    rows = [(item.id, item.account, item.created_at, item.last_used_at or "", item.revoked_at or "") for item in found]
    value = {"tokens": [item.model_dump(mode="json") for item in found]}
    out.table(("ID", "ACCOUNT", "CREATED (UTC)", "LAST USED", "REVOKED"), rows, value, narrow=("ACCOUNT",))


@command
@directory_option
@click.argument("token_id", metavar="ID")
def revoke(out: Output, directory: Path | None, token_id: str) -> None:
    """Make an API token worthless at once, by its id (market token ls). The account and its jobs stay."""
    with operator_of(directory) as operator:
        gone = operator.revoke_api_token(token_id)
    out.result(gone.model_dump(mode="json"), f"token {gone.id} of {plain(gone.account)} is revoked")


token.add_command(ls)
token.add_command(revoke)


@command
@directory_option
@click.option("--operator", "operator_name", required=True, help="Who owns the node.")
@click.option("--bond", default="10", show_default=True, metavar="DOLLARS", help="Bond per node.")
@click.option("--ttl", "ttl_s", default=1800, show_default=True, help="Seconds the token is good for.")
@click.option("--uses", default=1, show_default=True, help="Nodes that may join with it.")
def join_token(out: Output, directory: Path | None, operator_name: str, bond: str, ttl_s: int, uses: int) -> None:
    """Print a token that lets a node in: stannary node join -, which reads it from standard input."""
    bond_usd_micros = quantity.usd_micros(bond, "--bond")
    request = JoinTokenRequest(operator=operator_name, bond_usd_micros=bond_usd_micros, ttl_s=ttl_s, uses=uses)
    with operator_of(directory) as operator:
        answer = operator.join_token(request)
    out.result(answer.model_dump(mode="json"), answer.token)


def start_command(place: LocalMarket) -> str:
    """Return the command that starts a market of this machine."""
    if place.directory == local.root().absolute():
        return "stannary market start"
    return f"stannary market {'start' if place.directory.is_dir() else 'serve'} --dir {place.directory}"


def operator_of(directory: Path | None) -> Operator:
    """Return what speaks to the market of a directory as its operator."""
    place = LocalMarket((directory or local.root()).absolute())
    return place.operator(card_of(place))


def card_of(place: LocalMarket) -> Card:
    """Return the card of a market of this machine.

    Raises:
        MarketUnreachable: none runs there.
    """
    found = place.card
    if found is None:
        is_known = place.directory.is_dir()
        why = f"nothing answers for {place.directory}" if is_known else f"{place.directory} does not exist"
        hint = start_command(place) if is_known else f"stannary market serve --dir {place.directory}"
        raise MarketUnreachable("no market runs here", why=why, hint=hint)
    return found
