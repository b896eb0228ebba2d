"""Every figure a market operator may set, with its default and where the default comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stannary.wire import limits


class Profile(StrEnum):
    """Who may be on the market. Only `local` lists T0 nodes (software evidence)."""

    LOCAL = "local"
    PRIVATE = "private"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of work and proof, in seconds."""

    reveal_s: float = 900.0  # the buyer's broker has this long for a beacon value (contract: 15 min)
    lease_floor_s: float = 30.0  # no task's deadline is below this: a loaded laptop pauses that long
    lease_slack: float = 20.0  # first deadline = slack x the agreed reference time of the task
    answer_floor_s: float = 60.0  # an audit starts a worker; a question may recompute the round
    mad_factor: float = 6.0  # deadline = median + k MAD of arrivals (DESIGN 8); 6 MAD is about 4 sigma
    grace_s: float = 10.0  # a round at quorum waits this much longer at least
    suspect_s: float = limits.SUSPECT_AFTER_S
    lost_s: float = limits.LOST_AFTER_S
    heartbeat_s: float = limits.HEARTBEAT_INTERVAL_S
    placing_s: float = 600.0  # a queued job waits this long for capacity
    sweep_s: float = 1.0  # how often deadlines are looked at when nothing rings


@dataclass(frozen=True, slots=True)
class Settings:
    """One market."""

    directory: Path
    name: str = "local.market"
    host: str = "127.0.0.1"
    port: int = 0
    profile: Profile = Profile.LOCAL
    witness: bool = True  # start a witness process beside the market
    credential_ttl_s: float = 7 * 86_400.0
    quorum_ppm: int = 500_000  # a round may close with this share of its lanes
    max_task_failures: int = 3  # a task that fails on so many nodes fails its job
    max_reading_lag: int = 64
    timing: Timing = Timing()

    @property
    def is_loopback(self) -> bool:
        """Tell whether plain HTTP is allowed here."""
        return self.host in {"127.0.0.1", "::1", "localhost"}
