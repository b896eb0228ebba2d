"""`stannary broker`: the process that answers the markets' beacon requests for this buyer's open jobs."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.errors import NotFound, StannaryError
from stannary.sdk import brokers
from stannary.sdk import profile as profiles


@click.group(cls=LazyGroup)
def broker() -> None:
    """Answer for your open jobs. Commands that follow a job start it; `serve` is for an always-on machine.

    Before work is audited the market asks for a number nobody could know. The broker holds it, and gives
    it out only for a log it has checked. While a job is open, the machine with its broker must be reachable.
    """


@command
def serve(out: Output) -> NoReturn:
    """Run the broker of this profile in the foreground until SIGTERM or Ctrl-C, also while no job is open."""
    used = session.settings()
    arguments = brokers.serve(used)
    out.say(f"broker of {used.account} for {used.profile.url}; Ctrl-C stops it")
    sys.stderr.flush()
    words = [sys.executable, "-P", *arguments]
    # Replacing this process lets signals and the exit code pass as they are.
    os.execv(sys.executable, words)  # noqa: S606  our own module, no shell


@command
def status(out: Output) -> None:
    """Show the brokers that run on this machine, and the jobs that need one."""
    found = [_describe(account) for account in sorted({*brokers.accounts(), *_profiles()})]
    listed = [item for item in found if item["pid"] is not None or item["open_jobs"]]
    rows = [
        (item["profile"], str(item["pid"] or "-"), item["state"], str(len(item["open_jobs"])), item["url"] or "-")
        for item in listed
    ]
    out.table(("PROFILE", "PID", "STATE", "OPEN", "MARKET"), rows, {"brokers": listed})
    if not listed:
        out.say("no broker runs, and no job is open that needs one")


@command
@click.argument("profile", required=False)
def stop(out: Output, profile: str | None) -> None:
    """Stop the broker of PROFILE, as `status` names it, also one that was removed (default: the one in use).

    Open jobs wait for it; one that waits too long ends `buyer-silent`.
    """
    account = profile or session.settings().account
    if profile is not None and account not in brokers.accounts():
        known = ", ".join(brokers.accounts()) or "none"
        raise NotFound(f"no broker of {account:.80}", why=f"known: {known}"[:300], hint="stannary broker status")
    num_open = len(_describe(account)["open_jobs"])
    stopped = brokers.stop(brokers.home(account))
    value = {"profile": account, "stopped": stopped.pid if stopped else None, "open_jobs": num_open}
    words = f"stopped the broker of {account}, pid {stopped.pid}" if stopped else "no broker was running"
    out.result(value, words)
    if num_open:
        out.say(f"{num_open} jobs are open and are paid for unfinished without it; start it: stannary broker serve")


def _profiles() -> list[str]:
    return list(profiles.load(profiles.config_path()).profiles)


def _describe(account: str) -> dict[str, Any]:
    running = brokers.find(brokers.home(account))
    url, jobs = "", []
    try:
        used = profiles.resolve(account, {})
        url, jobs = used.profile.url, brokers.open_jobs(used)
    except StannaryError:  # one of the environment, or of a profile that was removed
        pass
    state = "stopped" if running is None else "serving" if running.name == brokers.SERVED else "running"
    return {
        "profile": account,
        "pid": running.pid if running is not None else None,
        "state": state,
        "open_jobs": jobs,
        "url": url,
        "log": str(brokers.home(account) / f"{brokers.BROKER}.log"),
    }


broker.add_command(serve)
broker.add_command(status)
broker.add_command(stop)
