"""From --profile and environment to a connected client."""

from __future__ import annotations

import re

from stannary.cli.command import profile_flag
from stannary.errors import UsageError
from stannary.sdk import profile
from stannary.sdk.client import Client
from stannary.sdk.profile import Settings

_JOB = re.compile(r"j-[0-9a-f]{12}")


def settings() -> Settings:
    """Return the settings of this call."""
    return profile.resolve(profile_flag())


def connect() -> Client:
    """Return a client of the configured market."""
    return Client.open(settings())


def job_id(text: str) -> str:
    """Return a job id; what is none would otherwise become part of a path."""
    if _JOB.fullmatch(text) is None:
        raise UsageError("not a job id", why=f"{text!r:.60}, expected j- and 12 hex digits", hint="stannary ls")
    return text
