"""Whether a node is there, from the time of its last heartbeat alone.

    alive     up to 35 s       gets work
    suspect   up to 120 s      gets no new work, keeps what it has
    lost      after that       its leases expire; its tasks go to others in the next epoch

Three heartbeats and their jitter fit before `suspect`: two lost packets accuse nobody. Nothing is
stored: after a restart of the market every node counts as heard from at that moment, so that a
market that was away does not take its own absence for theirs.
"""

from __future__ import annotations

from enum import StrEnum

HEARTBEAT_S = 10.0
JITTER_PPM = 200_000  # +-20 %: a thousand nodes started together spread out within a minute
SUSPECT_S = 35.0
LOST_S = 120.0


class Liveness(StrEnum):
    """What a node's silence means."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


STEPS: tuple[tuple[float, Liveness], ...] = ((LOST_S, Liveness.LOST), (SUSPECT_S, Liveness.SUSPECT))
"""Silence from which each state holds, longest first."""


def liveness(last_heard_s: float, now_s: float) -> Liveness:
    """Return what a node is at `now_s`; a clock stepped back finds it alive."""
    silence_s = now_s - last_heard_s
    for least_s, state in STEPS:
        if silence_s >= least_s:
            return state
    return Liveness.ALIVE


def next_heartbeat_s(fraction: float) -> float:
    """Return the pause before the next heartbeat; `fraction` is a uniform random number in [0, 1)."""
    return HEARTBEAT_S * (1 + (2 * fraction - 1) * JITTER_PPM / 1e6)


def next_change_s(last_heard_s: float, now_s: float) -> float | None:
    """Return when the state changes next if nothing is heard; None once lost."""
    for least_s, _ in reversed(STEPS):
        if now_s - last_heard_s < least_s:
            return last_heard_s + least_s
    return None
