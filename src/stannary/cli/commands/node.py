"""`stannary node`: sell this machine's power. The agent is a process of its own (`python -m stannary.agent`)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from stannary import files
from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain
from stannary.cli.registry import NODE_COMMANDS
from stannary.errors import ConflictError, NotFound, UsageError
from stannary.formats import bounds, canonical, instants, quantity, workdir
from stannary.sdk import processes
from stannary.sdk.processes import wait_until
from stannary.wire import join_token
from stannary.wire.connection import Connection
from stannary.wire.join_token import JoinToken

NODE_FILE, CREDENTIAL_FILE, PID_FILE = "node.json", "credential.json", "agent.pid"
CLOCK_FILE = "clock-off"  # agent/clocks.py
DRAIN_PATIENCE_S = 600.0
STDIN = "-"
MAX_TOKEN_CHARS = 4096  # twice what a token may hold (wire/join_token.py)

name_option = click.option(
    "--name",
    callback=lambda *given: given[2] or _only_name(),
    help="Which node of this machine (default: the only one).",
)


@click.group(cls=LazyGroup, table=NODE_COMMANDS)
def node() -> None:
    """Sell this machine's power. No inbound port is opened; software evidence is NOT hardware-attested."""


@command
@click.argument("token")
@click.option("--name", help="What the node is called here and on the market's lists (default: the host's name).")
@click.option("--operator", help="Who answers for this node; the token names the same.")
@click.option("--ask", metavar="DOLLARS", default="0.10", show_default=True, help="Price per hour.")
@click.option("--accept-terms", is_flag=True, help="Sign the market's terms without being asked.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def join(out: Output, token: str, arguments: tuple[str, ...], **said: Any) -> NoReturn:
    """Join a market with TOKEN, or with `-`: the first line of standard input, which no other account can see (ps).

    The market's terms and the bond are shown before anything is signed.
    What follows `--` goes to `python -m stannary.agent join`.
    """
    word = sys.stdin.readline(MAX_TOKEN_CHARS).strip() if token == STDIN else token
    invited = join_token.parse(word)
    who = said["operator"] or invited.operator
    who = who or out.ask("Operator (who answers for this node)", flag="--operator NAME")
    name = said["name"] or _host_name()
    if not bounds.NAME.fits(name):
        raise UsageError("not a node name", why=f"{name!r:.60}, expected {bounds.NAME.expected}", hint="--name NAME")
    if (_place(name) / NODE_FILE).exists():
        raise ConflictError(f"a node {name} is here already", why=str(_place(name)), hint=f"--name {name}-2")
    price = quantity.usd_micros(said["ask"], "--ask")
    terms = _agree(out, invited, who, is_agreed=said["accept_terms"])
    place = files.make_private_dir(_place(name))
    _say_on_stdin(word)
    words = ["join", "-", "--dir", str(place), "--name", name, "--operator", who, "--ask", str(price)]
    _become(out, [*words, *(["--terms", terms] if terms else []), *arguments])


@command
@name_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(out: Output, name: str, arguments: tuple[str, ...]) -> NoReturn:
    """Run the agent in the foreground; SIGTERM drains it."""
    place = _joined(name)
    if _pid(place) is not None:
        raise ConflictError(f"node {name} runs already", why=f"pid {_pid(place)}", hint="stannary node status")
    processes.write(place / PID_FILE, processes.this(name))  # exec keeps the pid
    _become(out, ["run", "--dir", str(place), *arguments])


@command
def ls(out: Output) -> None:
    """List the nodes kept on this machine."""
    root = files.data_dir() / "node"
    found = [_describe(path) for path in sorted(root.glob(f"*/{NODE_FILE}"))]
    if not found:
        out.say("no node is kept on this machine; a market's operator gives the token for: stannary node join TOKEN")
    rows = [(item["name"], item["node"], item["operator"], item["url"], item["state"]) for item in found]
    out.table(
        ("NAME", "NODE", "OPERATOR", "MARKET", "STATE"), rows, {"nodes": found}, narrow=("MARKET", "OPERATOR", "NAME")
    )


@command
@name_option
def status(out: Output, name: str) -> None:
    """Show a node's market, engine class and process."""
    place = _joined(name)
    described = {**_describe(place / NODE_FILE), "clock": _clock(place)}
    out.result(described, [f"{key:<16}{value}" for key, value in described.items()])
    out.say("software evidence, tier T0: NOT hardware-attested")


@command
@name_option
def drain(out: Output, name: str) -> None:
    """Finish the work at hand, take no more, and stop."""
    place = _joined(name)
    pid = _pid(place)
    if pid is None:
        raise NotFound(
            f"node {name} does not run",
            why=f"no living process in {place / PID_FILE}",
            hint="nothing to drain; start it: stannary node run",
        )
    os.kill(pid, signal.SIGTERM)
    out.say(f"draining {name} (pid {pid}); Ctrl-C stops waiting, not draining")
    if not wait_until(lambda: _pid(place) is None, DRAIN_PATIENCE_S):
        raise ConflictError(
            f"node {name} still works", why=f"after {DRAIN_PATIENCE_S:.0f} s", hint="stannary node status"
        )
    out.result({"name": name, "state": "stopped"}, f"{name} has stopped")


@command
@name_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(out: Output, name: str, yes: bool) -> None:
    """Remove a stopped node's key and credential from this machine."""
    place = _joined(name)
    if _pid(place) is not None:
        raise ConflictError(f"node {name} runs", why=f"pid {_pid(place)}", hint=f"stannary node drain --name {name}")
    if not yes:
        out.confirm(f"Remove {place}? The node's key is lost; it cannot come back under this name.", flag="--yes")
    shutil.rmtree(place)
    out.result({"removed": str(place)}, f"removed {place}")


def _become(out: Output, arguments: list[str]) -> NoReturn:
    """Replace this process by the agent, so that signals and the exit code pass as they are."""
    out.clear_status()
    sys.stdout.flush()
    words = [sys.executable, "-P", "-m", "stannary.agent", *arguments]
    os.execv(sys.executable, words)  # noqa: S606  our own module, no shell


def _agree(out: Output, invited: JoinToken, who: str, *, is_agreed: bool) -> str:
    """Show what joining means, ask, and return the digest of the terms that were agreed to."""
    with Connection(invited.url, tls_fingerprint=invited.tls, vkey=invited.vkey) as link:
        market = join_token.market_of(link, invited)
    bond = quantity.dollars(invited.bond_usd_micros)
    out.say(f"Market   {market.name} at {invited.url}")
    text = market.terms or f"Terms    {market.terms_digest}  (this market shows no text: ask its operator)"
    for line in text.splitlines():
        out.say(line)
    out.say(f"Bond     {bond} for this node: what {plain(who)} loses when its work is refuted")
    if not is_agreed:
        out.confirm(f"Sign these terms for {plain(who)}?", flag="--accept-terms")
    return market.terms_digest if market.terms else ""


def _host_name() -> str:
    """Return this machine's name as one word of a node's name."""
    word = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0]).lstrip("._-")[:40]
    return word or "node"


def _only_name() -> str:
    """Return the name of the one node kept here, the host's name where there is none.

    Raises:
        UsageError: there are several.
    """
    names = sorted(path.parent.name for path in (files.data_dir() / "node").glob(f"*/{NODE_FILE}"))
    if len(names) > 1:
        raise UsageError("which node?", why=f"{', '.join(names)} are kept on this machine"[:300], hint="--name NAME")
    return names[0] if names else _host_name()


def _say_on_stdin(secret: str) -> None:
    """Make a secret the standard input of what this process becomes: its command line is seen by every account."""
    reader, writer = os.pipe()
    os.write(writer, f"{secret[:MAX_TOKEN_CHARS]}\n".encode())  # far less than a pipe holds
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)


def _place(name: str) -> Path:
    if "/" in name or workdir.parse_path(name) != name:
        raise UsageError("not a node name", why=f"{name!r:.60}")
    return files.data_dir() / "node" / name


def _joined(name: str) -> Path:
    place = _place(name)
    if not (place / NODE_FILE).exists():
        raise NotFound(f"no node {name} on this machine", why=str(place), hint="stannary node join TOKEN")
    return place


def _describe(path: Path) -> dict[str, Any]:
    members = canonical.decode_object(path.read_bytes())
    wanted = ("node", "operator", "url", "engine_class", "market_profile")
    pid = _pid(path.parent)
    described = {name: plain(str(members.get(name, ""))) for name in wanted}
    return {"name": path.parent.name, **described, "state": f"running, pid {pid}" if pid else "stopped"}


def _clock(place: Path) -> str:
    """Say how far this clock was off the market's at the last beat."""
    try:
        off_s = int((place / CLOCK_FILE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return "as the market's"
    return f"{instants.words(off_s)} the market's" if off_s else "as the market's"


def _pid(place: Path) -> int | None:
    """Return the pid of the living agent of a node."""
    started = processes.read(place / PID_FILE)
    return started.pid if started is not None and started.is_alive else None
