"""From --profile and environment to a connected client."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from stannary.cli.command import output, profile_flag
from stannary.errors import StannaryError, UsageError
from stannary.formats import bounds
from stannary.sdk import brokers, local, profile
from stannary.sdk.brokers import Keeper
from stannary.sdk.client import Client
from stannary.sdk.profile import Settings


def settings() -> Settings:
    """Return the settings of this call."""
    return profile.resolve(profile_flag())


def connect() -> Client:
    """Return a client of the configured market; a job that is open from here gets its broker."""
    used = settings()
    client = Client.open(used)
    if used.profile.vkey and brokers.open_jobs(used):
        _make_sure(used)
    return client


def tender(job: str) -> Callable[[], str]:
    """Return what a follower of `job` calls at every turn; a job sent from another machine has its broker there."""
    used = settings()
    return Keeper(used).tend if job in brokers.open_jobs(used) else lambda: ""


def _make_sure(used: Settings) -> None:
    """Start the broker of jobs that are open; the command goes on where that fails."""
    try:
        started, is_new = brokers.ensure(used)
    except StannaryError as err:
        output().say(f"the broker does not start, open jobs wait for it: {err}")
        return
    if is_new:
        output().say(f"broker started, pid {started.pid}: {brokers.PURPOSE}")


def way_back(err: StannaryError, flag: str | None) -> str:
    """Return the command that helps where a market is not there: one of ours is started, another is looked at."""
    if err.hint != "stannary market status":
        return err.hint
    try:
        market = profile.resolve(flag).profile
    except StannaryError:
        return err.hint
    is_this = bool(market.url) and urlsplit(market.url).netloc in str(err)
    return "stannary market start" if is_this and local.of_profile(market) is not None else err.hint


def job_id(text: str) -> str:
    """Return a job id; what is none would otherwise become part of a path."""
    if not bounds.JOB.fits(text):
        raise UsageError("not a job id", why=f"{text!r:.60}, expected j- and 12 hex digits", hint="stannary ls")
    return text
