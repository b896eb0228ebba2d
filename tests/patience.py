"""Waiting in tests for what another process does: asked again and again, always to a deadline, and never slept for.

The pause between two looks is real time, because the other process lives in it; nothing may depend on how long it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2

from stannary import errors
from stannary.sdk.processes import wait_until

T = TypeVar("T")

PATIENCE_S = 150.0  # a cold interpreter and torch on a machine whose cores others use
PAUSE_S = 0.1


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return when something outside this process is so; it is a failure if it never comes."""
    assert wait_until(condition, patience_s), f"waited {patience_s:.0f} s for {what}"


async def answered(ask: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """Ask a market that may be away until it answers."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except (httpx2.TransportError, errors.ServiceError):
            assert time.monotonic() < until, f"no answer within {patience_s:.0f} s"
            await asyncio.sleep(PAUSE_S)
