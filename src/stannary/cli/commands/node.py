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
from stannary.errors import AuthError, ConflictError, NotFound, StannaryError, UsageError
from stannary.formats import bounds, canonical, instants, quantity, workdir
from stannary.run.sandbox import cgroup
from stannary.sdk import processes, slots
from stannary.sdk.processes import wait_until
from stannary.sdk.slots import NODE_FILE, PID_FILE
from stannary.wire import join_token
from stannary.wire.connection import Connection
from stannary.wire.join_token import JoinToken

CLOCK_FILE = "clock-off"  # agent/clocks.py
SUSPENDED_FILE, WANTED_FILE = "suspended", "canary-wanted"  # agent/standing.py
DISPUTES_FILE = "disputes.json"  # the same
MAX_DISPUTES_BYTES = 1024 * 1024
HAND_FILE = "in-hand.json"  # agent/desk.py
DRAIN_PATIENCE_S = 600.0
STDIN = "-"
TOKEN_VARIABLE = "STANNARY_JOIN_TOKEN"  # noqa: S105  a name
MAX_TOKEN_CHARS = 4096  # twice what a token may hold (wire/join_token.py)

name_option = click.option(
    "--name",
    callback=lambda *given: given[2] or _only_name(),
    help="Which node of this machine, or which slots (default: the only one, or the only family).",
)


@click.group(cls=LazyGroup, table=NODE_COMMANDS)
def node() -> None:
    """Sell this machine's power. No inbound port is opened; software evidence is NOT hardware-attested."""


@command
@click.argument("token")
@click.option("--name", help="What the node is called here and on the market's lists (default: the host's name).")
@click.option("--operator", help="Who answers for this node; the token names the same.")
@click.option("--ask", metavar="DOLLARS", default="0.10", show_default=True, help="Price per hour.")
@click.option("--slots", "num_slots", type=click.IntRange(1), default=1, help="Join N nodes, NAME-1 to NAME-N.")
@click.option("--cpus", type=click.IntRange(0), default=0, help="Cores each node sells (default: an equal share).")
@click.option("--accept-terms", is_flag=True, help="Sign the market's terms without being asked.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def join(out: Output, token: str, num_slots: int, arguments: tuple[str, ...], **said: Any) -> None:
    """Join a market with the token in STANNARY_JOIN_TOKEN, or else, TOKEN being `-`, on standard input's first line.

    A TOKEN in full would be seen by every account (ps): it is taken off the command line at once.
    The market's terms and the bond are shown before anything is signed.
    A node does one job at a time: --slots sells a large machine as several nodes, by one token with as many uses.
    What follows `--` goes to `python -m stannary.agent join`.
    """
    word = _token(out, token)
    invited = join_token.parse(word)
    who = said["operator"] or invited.operator
    who = who or out.ask("Operator (who answers for this node)", flag="--operator NAME")
    name = said["name"] or _host_name()
    names = [name] if num_slots == 1 else slots.names(name, num_slots)
    if not bounds.NAME.fits(names[-1]):
        raise UsageError(
            "not a node name", why=f"{names[-1]!r:.70}, expected {bounds.NAME.expected}", hint="--name NAME"
        )
    missing = _missing(name, names)
    price = quantity.usd_micros(said["ask"], "--ask")
    words = ["--operator", who, "--ask", str(price)]
    if num_slots == 1:
        words += ["--cpus", str(said["cpus"])]
        _warn_of_others(out, names, said["cpus"] or cgroup.usable_cpus())
    else:
        each = slots.share(num_slots, said["cpus"], cgroup.usable_cpus(), cgroup.usable_memory_bytes())
        words += ["--cpus", str(each.cpus), "--memory-bytes", str(each.memory_bytes)]
        out.say(
            f"Slots    {num_slots} nodes of {each.cpus} core{'s' if each.cpus != 1 else ''} "
            f"and {each.memory_bytes // 1024**2:,} MiB of memory each"
        )
        _warn_of_others(out, names, num_slots * each.cpus)
    terms = _agree(out, invited, who, num_nodes=len(missing), is_agreed=said["accept_terms"])
    words += ["--terms", terms] if terms else []
    if num_slots == 1:
        out.status(f"{name} joins: its engine class is measured")
        made = slots.join(_place(name), word, ["--name", name, *words, *arguments], lambda line: out.say(plain(line)))
        again = "" if slots.kept(_root()) == [name] else f" --name {name}"
        out.result({"name": name, **made}, f"{name} has joined; start it: stannary node run{again}")
        return
    _join_slots(out, name, names, word, [*words, *arguments])


@command
@name_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(out: Output, name: str, arguments: tuple[str, ...]) -> None:
    """Run the agent in the foreground, or those of all slots; SIGTERM drains them."""
    places = _joined(name)
    for place in places:
        if _pid(place) is not None:
            why = f"pid {_pid(place)}"
            raise ConflictError(f"node {place.name} runs already", why=why, hint="stannary node status")
    place = places[0]
    if place.name != name:
        slots.serve(places, arguments, lambda line: out.say(plain(line)))
        return
    processes.write(place / PID_FILE, processes.this(name))  # exec keeps the pid
    _become(out, ["run", "--dir", str(place), *arguments])


@command
def ls(out: Output) -> None:
    """List the nodes kept on this machine."""
    found = [_describe(_root() / name / NODE_FILE) for name in slots.kept(_root())]
    if not found:
        out.say("no node is kept on this machine; a market's operator gives the token for: stannary node join -")
    rows = [(item["name"], item["node"], item["operator"], item["url"], item["state"]) for item in found]
    out.table(
        ("NAME", "NODE", "OPERATOR", "MARKET", "STATE"), rows, {"nodes": found}, narrow=("MARKET", "OPERATOR", "NAME")
    )


@command
@name_option
def status(out: Output, name: str) -> None:
    """Show a node's market, engine class and process, and what it does now."""
    found = [
        {
            **_describe(place / NODE_FILE),
            "in_hand": _in_hand(place),
            "clock": _clock(place),
            "grade_ppm": _grade_ppm(place),
            "standing": _standing(place),
            "canary": _canary(place),
            "disputes": _disputes(place),
        }
        for place in _joined(name)
    ]
    lines = []
    for item in found:
        lines += [f"{key:<16}{value}" for key, value in item.items() if key not in {"grade_ppm", "disputes"}]
        lines += [f"{'grade':<16}{_grade(item['grade_ppm'])}"]
        lines += [*_dispute_lines(item["disputes"]), ""]
    out.result(found[0] if found[0]["name"] == name else {"name": name, "nodes": found}, lines[:-1])
    out.say("software evidence, tier T0: NOT hardware-attested")


@command
@name_option
def canary(out: Output, name: str) -> None:
    """Ask the market to look at a suspended node again, once what was wrong with it is mended."""
    places = [place for place in _joined(name) if _suspension(place) is not None]
    if not places:
        raise NotFound(f"node {name} is not suspended", why="as of its last beat", hint="stannary node status")
    for place in places:
        files.replace(place / WANTED_FILE, b"")
    stopped = [place.name for place in places if _pid(place) is None]
    if stopped:
        out.say(f"{', '.join(stopped)} does not run; start it: stannary node run")
    names = [place.name for place in places]
    said = f"{', '.join(names)}: the market is asked; it waits a minute between two canaries, and longer each time"
    out.result({"asked": names}, said)


@command
@name_option
def drain(out: Output, name: str) -> None:
    """Finish the work at hand, take no more, and stop."""
    running = [(place, pid) for place in _joined(name) if (pid := _pid(place)) is not None]
    if not running:
        raise NotFound(
            f"node {name} does not run",
            why=f"no living process in {_place(name) / PID_FILE}",
            hint="nothing to drain; start it: stannary node run",
        )
    for place, pid in running:
        os.kill(pid, signal.SIGTERM)
        out.say(f"draining {place.name} (pid {pid}); Ctrl-C stops waiting, not draining")
    if not wait_until(lambda: all(_pid(place) is None for place, _ in running), DRAIN_PATIENCE_S):
        raise ConflictError(
            f"node {name} still works", why=f"after {DRAIN_PATIENCE_S:.0f} s", hint="stannary node status"
        )
    out.result({"name": name, "state": "stopped"}, f"{name} has stopped")


@command
@name_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(out: Output, name: str, yes: bool) -> None:
    """Remove a stopped node's key and credential from this machine."""
    places = _joined(name)
    for place in places:
        if _pid(place) is not None:
            hint = f"stannary node drain --name {name}"
            raise ConflictError(f"node {place.name} runs", why=f"pid {_pid(place)}", hint=hint)
    shown = ", ".join(str(place) for place in places)
    if not yes:
        out.confirm(f"Remove {shown}? A node whose key is lost cannot come back under this name.", flag="--yes")
    for place in places:
        shutil.rmtree(place)
    removed = shown if places[0].name == name else [str(place) for place in places]
    out.result({"removed": removed}, f"removed {shown}")


def _token(out: Output, said: str) -> str:
    """Return the token, and take it away from where other accounts, or processes of ours, would find it."""
    if said in sys.orig_argv and said != STDIN:
        os.environ[TOKEN_VARIABLE] = said  # /proc/PID/environ is its owner's alone
        words = [STDIN if word == said else word for word in sys.orig_argv[1:]]
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  this very command, no shell
    if said != STDIN:
        return said  # not from a command line
    word = os.environ.pop(TOKEN_VARIABLE, "")
    if word or not out.can_ask:
        return word or sys.stdin.readline(MAX_TOKEN_CHARS).strip()
    return str(click.prompt("Join token, from the market's operator", hide_input=True, err=True)).strip()


def _missing(name: str, names: list[str]) -> list[str]:
    """Return those of the names under which no node is kept yet.

    Raises:
        ConflictError: all are here, or a node whose name would hide them.
    """
    here = slots.kept(_root())
    missing = [item for item in names if item not in here]
    if not missing or name in here:
        taken = name if name in here else f"{names[0]} to {names[-1]}"
        raise ConflictError(f"a node {taken} is here already", why=str(_root()), hint=f"--name {name}-b")
    return missing


def _warn_of_others(out: Output, names: list[str], cpus: int) -> None:
    others, usable = slots.claimed_cpus(_root(), names), cgroup.usable_cpus()
    if others + cpus > usable:
        out.say(
            f"  ! nodes kept on this machine sell {others} cores already; with {cpus} more that is more than the "
            f"{usable} usable here: jobs would wait for each other and their wall limits pass"
        )


def _join_slots(out: Output, family: str, names: list[str], token: str, words: list[str]) -> None:
    """Let every slot join that has not; what is measured for the first serves the others.

    Raises:
        StannaryError: the agent's own; it says how many have joined and how to go on.
    """
    joined: list[dict[str, Any]] = []
    measured: list[str] = []  # of this machine as it is now; what a kept slot says may be of another torch
    for name in names:
        place = _place(name)
        if (place / NODE_FILE).exists():
            joined.append(_describe(place / NODE_FILE))
            continue
        out.status(f"{name} joins")
        try:
            found = slots.join(place, token, ["--name", name, *measured, *words], lambda line: out.say(plain(line)))
        except StannaryError as err:
            left = len(names) - len(joined)
            again = f"stannary node join - --name {family} --slots {len(names)}"
            more = f"a token with {left} uses (stannary market join-token --uses {left})"
            raise type(err)(
                f"{len(joined)} of {len(names)} slots have joined: {err.what}",
                why=err.why,
                hint=f"{more if isinstance(err, AuthError) else err.hint or 'mend it'}, then go on: {again}",
                detail=err.detail,
            ) from err
        measured = ["--engine-class", found["engine_class"]]
        joined.append({"name": name, **found})
    out.clear_status()
    value = {"name": family, "nodes": [{"name": item["name"], "node": item["node"]} for item in joined]}
    out.result(value, f"{len(joined)} slots have joined; start them: stannary node run --name {family}")


def _become(out: Output, arguments: list[str]) -> NoReturn:
    """Replace this process by the agent, so that signals and the exit code pass as they are."""
    out.clear_status()
    sys.stdout.flush()
    words = [sys.executable, "-P", "-m", "stannary.agent", *arguments]
    os.execv(sys.executable, words)  # noqa: S606  our own module, no shell


def _agree(out: Output, invited: JoinToken, who: str, *, num_nodes: int, is_agreed: bool) -> str:
    """Show what joining means, ask, and return the digest of the terms that were agreed to."""
    with Connection(invited.url, tls_fingerprint=invited.tls, vkey=invited.vkey) as link:
        market = join_token.market_of(link, invited)
    bond = quantity.dollars(invited.bond_usd_micros)
    out.say(f"Market   {market.name} at {invited.url}")
    text = market.terms or f"Terms    {market.terms_digest}  (this market shows no text: ask its operator)"
    for line in re.sub(r"\n {2,}(?=\S)", " ", text).splitlines():  # as wide as the screen is, not as the text
        out.say(line)
    sum_ = quantity.dollars(num_nodes * invited.bond_usd_micros)
    each = "this node" if num_nodes == 1 else f"each of {num_nodes} nodes, {sum_} in sum"
    out.say(f"Bond     {bond} for {each}: what {plain(who)} can lose by appeals")
    out.say(f"Appeals  heard within {instants.span(market.appeal_s)}")
    if not is_agreed:
        out.confirm(f"Sign these terms for {plain(who)}?", flag="--accept-terms")
    return market.terms_digest if market.terms else ""


def _host_name() -> str:
    """Return this machine's name as one word of a node's name."""
    word = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0]).lstrip("._-")[:40]
    return word or "node"


def _only_name() -> str:
    """Return the name of the one node or family kept here, the host's name where there is none.

    Raises:
        UsageError: there are several.
    """
    names = slots.kept(_root())
    families = {slots.family_of(name) for name in names}
    if len(names) > 1 and len(families) == 1 and "" not in families:
        return families.pop()
    if len(names) > 1:
        raise UsageError("which node?", why=f"{', '.join(names)} are kept on this machine"[:300], hint="--name NAME")
    return names[0] if names else _host_name()


def _root() -> Path:
    return files.data_dir() / "node"


def _place(name: str) -> Path:
    if "/" in name or workdir.parse_path(name) != name:
        raise UsageError("not a node name", why=f"{name!r:.60}")
    return _root() / name


def _joined(name: str) -> list[Path]:
    """Return where the node of a name lives, or each slot of a family."""
    place = _place(name)
    found = slots.meant(name, slots.kept(_root()))
    if not found:
        raise NotFound(f"no node {name} on this machine", why=str(place), hint="stannary node join -")
    return [_root() / item for item in found]


def _describe(path: Path) -> dict[str, Any]:
    try:
        members = canonical.decode_object(path.read_bytes())
    except (OSError, StannaryError) as err:  # one node's damaged file hides no other node
        members = {"node": f"unreadable: {err}"}
    wanted = ("node", "operator", "url", "engine_class", "market_profile")
    pid = _pid(path.parent)
    described = {name: plain(str(members.get(name, ""))) for name in wanted}
    return {"name": path.parent.name, **described, "state": f"running, pid {pid}" if pid else "stopped"}


def _in_hand(place: Path) -> str:
    """Say what the agent of a node does now, an audit or work, and questions it answers beside it."""
    if _pid(place) is None:
        return "nothing"
    try:
        listed = canonical.decode((place / HAND_FILE).read_bytes())
    except (OSError, StannaryError):  # nothing yet; one node's damaged file hides no other node
        listed = []
    found = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    said = [f"{item.get('type')} {item.get('task')} since {item.get('since')}" for item in found]
    return plain(", ".join(said)) or "nothing"


def _clock(place: Path) -> str:
    """Say how far this clock was off the market's at the last beat."""
    try:
        off_s = int((place / CLOCK_FILE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return "as the market's"
    return f"{instants.words(off_s)} the market's" if off_s else "as the market's"


def _grade_ppm(place: Path) -> int | None:
    """Return what this node's work is paid by, as its credential says; None if nobody measured it."""
    held = slots.credential(place)
    return held.grade_ppm if held is not None else None


def _grade(grade_ppm: int | None) -> str:
    return "not measured: 1 SCU a processor" if grade_ppm is None else f"{quantity.scu(grade_ppm)} SCU a processor"


def _standing(place: Path) -> str:
    """Say whether the market holds strikes against this node, as of the last beat, and what is to be done."""
    word = _suspension(place)
    if word is None:
        return "good"
    return f"suspended since buyers of many jobs had it struck; no pay and no bond is touched: {_NEXT[word]}"


def _canary(place: Path) -> str:
    """Return one word for programs: how the canary of a suspended node stands; empty where there is none."""
    return _suspension(place) or ""


def _suspension(place: Path) -> str | None:
    """Return how a suspended node's canary stands, None where it is not suspended."""
    try:
        word = (place / SUSPENDED_FILE).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return word if word in _NEXT else ""


_REPAIR = (
    "test this machine's memory (memtester, or memtest86+ at boot), take back what overclocks it, install stannary "
    "anew, then ask for another: stannary node canary"
)
_NEXT = {
    "": "let it run, the market looks at it at once",
    "waiting": "let it run, the market looks at it as soon as it is connected and has nothing in hand",
    "asked": "it is asked a unit of work in code of this package now; the right result ends this at once",
    "failed": f"it failed a unit in code of this package and stays suspended until it does one right: {_REPAIR}",
    "unanswered": f"it did not answer what the market asked and stays suspended until it does: see its log; {_REPAIR}",
    "unchecked": "nobody could compare what it found; let it run, ten minutes of its connection end this",
    "impossible": "it has nothing to train with; let it run, ten minutes of its connection end this",
}


def _disputes(place: Path) -> list[dict[str, canonical.Json]]:
    """Return what was disputed of this node's bond at the last beat."""
    try:
        value = canonical.decode((place / DISPUTES_FILE).read_bytes(), max_bytes=MAX_DISPUTES_BYTES)
    except (FileNotFoundError, StannaryError):
        return []
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _dispute_lines(disputes: list[dict[str, canonical.Json]]) -> list[str]:
    """Say of each dispute what it is, until when, and what its operator can do."""
    lines = []
    for item in disputes:
        bond, until = item.get("bond_usd_micros"), item.get("until")
        money = quantity.dollars(bond) if isinstance(bond, int) else "?"
        when = f", offered until {until} at least" if until else ""
        what = f"{plain(str(item.get('task')))}: the bond of {money} is in dispute ({item.get('stage')}{when})"
        said = (
            what,
            "two others computed this unit otherwise; an appeal by operators who had no part decides, unasked",
            "nothing is lost yet, and nothing need be done: keep the node and its key; it works on for other jobs",
            "the ruling is a file to check (stannary verify FILE --replay), had from the market's operator",
        )
        lines += [f"{'' if number else 'disputed':<16}{line}" for number, line in enumerate(said)]
    return lines


def _pid(place: Path) -> int | None:
    """Return the pid of the living agent of a node."""
    started = processes.read(place / PID_FILE)
    return started.pid if started is not None and started.is_alive else None
