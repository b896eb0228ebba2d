"""`stannary market`: run an exchange. Who may be on it: market_access.py; a buyer's markets: market_profiles.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.commands import market_access, market_nodes, market_profiles, market_root
from stannary.cli.commands.market_access import card_of, directory_option, operator_of, start_command
from stannary.cli.commands.rulings import market_rulings
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain
from stannary.errors import ConflictError, NotFound, StannaryError
from stannary.formats import instants, quantity
from stannary.sdk import brokers, local, processes
from stannary.sdk import profile as profiles
from stannary.sdk.client import Client
from stannary.sdk.local import LocalMarket
from stannary.sdk.profile import Settings
from stannary.wire import admin


@click.group(cls=LazyGroup)
def market() -> None:
    """Use markets, or run one."""


@command
@directory_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(out: Output, directory: Path | None, arguments: tuple[str, ...]) -> NoReturn:
    """Run a market in the foreground. What follows `--` goes to `python -m stannary.market serve`."""
    place = LocalMarket((directory or local.root()).absolute())
    if (card := place.card) is not None:
        hint = f"stannary market stop --dir {place.directory}"
        raise ConflictError("a market runs here already", why=f"{card.url}, pid {card.pid}", hint=hint)
    place.adopt_serving(arguments, processes.this(local.MARKET))  # exec keeps the pid
    out.say(f"market directory {place.directory}; Ctrl-C stops it")
    if not out.as_json:  # its card, for programs; people are told what they need on stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Replacing this process lets signals and the exit code pass as they are.
    words = [sys.executable, "-P", "-m", "stannary.market", "serve", "--dir", str(place.directory), *arguments]
    os.execv(sys.executable, words)  # noqa: S606  our own module, no shell


@command
@directory_option
def start(out: Output, directory: Path | None) -> None:
    """Start a stopped market of this machine again in the background, over the same data."""
    where = directory or local.of_profile(session.settings().profile) or local.root()
    place = LocalMarket(where.absolute(), tell=lambda line: out.say(f"  ! {line}"))
    if place.served_with is not None:
        card = place.start()
    else:
        owner = _owner(place.directory)
        place.ensure(profile=owner)
        card = card_of(place)
    out.result({"url": card.url, "name": card.name, "pid": card.pid}, f"market {plain(card.name)} runs at {card.url}")


@command
@directory_option
def status(out: Output, directory: Path | None) -> None:
    """Show whether the market in use answers, its processes on this machine, and the broker."""
    used = session.settings()
    here = directory or local.of_profile(used.profile)
    if here is not None:
        value, lines = _of_directory(LocalMarket(here.absolute()))
    else:
        value, lines = _of_address(used)
    if directory is None:
        value |= {"profile": used.profile.name, "open_jobs": brokers.open_jobs(used)}
        lines += [f"profile   {used.profile.name}", f"open jobs {len(value['open_jobs'])}"]
    out.result(value, "\n".join(lines))


@command
@directory_option
def stop(out: Output, directory: Path | None) -> None:
    """Stop a market of this machine, its nodes and its broker. Nothing is deleted; jobs go on when it starts again."""
    stopped = LocalMarket((directory or local.root()).absolute()).stop()
    out.result({"stopped": stopped}, f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@command
@directory_option
def card(out: Output, directory: Path | None) -> None:
    """Print the line by which a buyer adds this market: its address, key, witness and certificate. It is no secret."""
    found = card_of(LocalMarket((directory or local.root()).absolute()))
    value = {
        "url": found.url,
        "name": found.name,
        "vkey": found.vkey,
        "witness_vkeys": list(found.witness_vkeys),
        "tls_pin": found.tls_fingerprint,
        "command": found.add_command(),
    }
    out.line(value, found.add_command())  # never wrapped: it is copied
    where = f" --dir {directory}" if directory is not None else ""
    out.say(f"It asks for an API token, one for each buyer: stannary market token{where} --name BUYER")


@command
@directory_option
@click.option("--last", "limit", type=click.IntRange(0), default=20, show_default=True, help="Entries to show.")
@click.option("--account", help="Only what one account gave or took: insurance, or as the balances name it.")
def ledger(out: Output, directory: Path | None, limit: int, account: str | None) -> None:
    """Show what every account holds, and the last movements of money. The balances add up to zero."""
    with operator_of(directory) as operator:
        found = operator.ledger(account)
    if account is not None and account not in found.balances:
        raise NotFound("no such account", why=f"{account} never held anything", hint="stannary market ledger")
    shown = found.entries[len(found.entries) - min(limit, len(found.entries)) :]
    value = {"balances": found.balances, "entries": [item.model_dump(mode="json") for item in shown]}
    rows = [(name, quantity.dollars(usd_micros)) for name, usd_micros in sorted(found.balances.items())]
    out.table(("ACCOUNT", "HOLDS"), rows, value, narrow=("ACCOUNT",))
    if shown and not out.as_json:
        moved = [(item.debit, item.credit, quantity.dollars(item.usd_micros), item.reason, item.key) for item in shown]
        out.table(("FROM", "TO", "AMOUNT", "WHY", "FOR"), moved, value, narrow=("FOR", "FROM", "TO"))


@command
@directory_option
def faults(out: Output, directory: Path | None) -> None:
    """List jobs the market itself could not bring to their ends; each was refunded whole."""
    with operator_of(directory) as operator:
        found = operator.faults().faults
    if not found:
        out.say("no job failed by the market's fault")
    rows = [(item.job, item.buyer, item.at, quantity.dollars(item.refunded_usd_micros), item.message) for item in found]
    value = {"faults": [item.model_dump(mode="json") for item in found]}
    out.table(("JOB", "BUYER", "AT (UTC)", "REFUNDED", "WHY"), rows, value, narrow=("WHY", "BUYER"))


@command
@directory_option
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
def backup(out: Output, directory: Path | None, target: Path) -> None:
    """Copy a market whole, keys included, whether it runs or not."""
    where = (directory or local.root()).absolute()
    made = _ask(out, f"copying {where}", ["backup", "--dir", str(where), "--to", str(target.absolute())])
    lost = f", {made['num_missing_blobs']:,} blobs were gone" if made["num_missing_blobs"] else ""
    kept = f"{made['log_size']:,} log entries and {made['num_blobs']:,} blobs{lost}"
    out.result(made, f"{plain(made['backup'])} holds {kept}, and the market's private keys")


@command
@directory_option
@click.option("--from", "source", type=click.Path(path_type=Path), required=True, help="The backup's folder.")
def restore(out: Output, directory: Path | None, source: Path) -> None:
    """Put a backup into a directory where no market lies."""
    where = (directory or local.root()).absolute()
    made = _ask(out, f"restoring {where}", ["restore", "--from", str(source.absolute()), "--dir", str(where)])
    out.result(made, f"{plain(made['origin'])} is restored in {where}, with {made['log_size']:,} log entries")


def _ask(out: Output, status: str, arguments: list[str]) -> dict[str, Any]:
    out.status(status)
    return processes.ask(["-m", "stannary.market", *arguments], lambda line: out.say(plain(line)))


def _of_directory(place: LocalMarket) -> tuple[dict[str, Any], list[str]]:
    """Return what is known of a market whose directory is here."""
    found, running = place.card, place.processes()
    running += [broker for home in place.broker_homes() if (broker := brokers.find(home)) is not None]
    value: dict[str, Any] = {
        "url": found.url if found else None,
        "name": found.name if found else None,
        "vkey": found.vkey if found else None,
        "answers": found is not None,
        "dir": str(place.directory),
        "processes": [{"name": item.name, "pid": item.pid} for item in running],
    }
    stored = _stored(place) if found is not None else None
    if stored is not None:
        value["blobs"] = stored.model_dump(mode="json")
    first = f"{found.url}  {plain(found.name)}" if found else f"not running  (start it: {start_command(place)})"
    lines = [f"market    {first}", *(f"{item.name:<10}pid {item.pid}" for item in running)]
    return value, lines + ([_blobs_line(stored)] if stored is not None else [])


def _stored(place: LocalMarket) -> admin.StorageUse | None:
    """Ask a market of this machine what it stores; None where it does not answer us: status goes on without."""
    try:
        with operator_of(place.directory) as operator:
            return operator.blobs()
    except StannaryError:
        return None


def _blobs_line(stored: admin.StorageUse) -> str:
    kept = f"for {instants.span(stored.ended_s)} after its end" if stored.ended_s is not None else "for ever"
    return f"blobs     {stored.num_blobs:,}, {stored.size_bytes:,} bytes; those of a job are kept {kept}"


def _of_address(used: Settings) -> tuple[dict[str, Any], list[str]]:
    """Return what is known of somebody else's market. It never raises: other errors send people here."""
    market, why = used.profile, ""
    try:
        with Client.open(used) as client:
            next(client.jobs(1), None)
    except StannaryError as err:
        why = f"{err.what}: {err.why}"
    running = brokers.find(brokers.home(used.account))
    value: dict[str, Any] = {
        "url": market.url,
        "name": market.vkey.partition("+")[0] or None,
        "vkey": market.vkey or None,
        "answers": not why,
        "why": why or None,
        "processes": [{"name": running.name, "pid": running.pid}] if running is not None else [],
    }
    lines = [f"market    {market.url}  {'answers' if not why else 'does not answer us'}"]
    if why:
        lines += [f"  why     {plain(why)}", "  next    ask its operator, or use another: stannary market ls"]
    return value, lines + ([f"{running.name:<10}pid {running.pid}"] if running is not None else [])


def _owner(directory: Path) -> str:
    """Return the profile of a private market's directory: local for the default one, none for one without."""
    for known in profiles.load(profiles.config_path()).profiles.values():
        if local.of_profile(known) == directory:
            return known.name
    return profiles.LOCAL if directory == local.root().absolute() else ""


for item in (serve, start, status, stop, card, ledger, faults, backup, restore):
    market.add_command(item)
market.add_command(market_root.root)
market.add_command(market_rulings, "rulings")
for item in (market_access.token, market_access.join_token, market_nodes.node):
    market.add_command(item)
for item in (market_profiles.add, market_profiles.ls, market_profiles.use, market_profiles.rm):
    market.add_command(item)
