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

    reveal_s: float = 900.0  # the buyer's broker has this long for a beacon value (docs/threat-model.md)
    start_link_s: float = 12.0  # a worker's start and the way of its bytes, beside the agreed step time
    progress_s: float = 20.0  # a task that reported progress so lately is not taken away for being late
    answer_factor: float = 4.0  # an answer may take this many times the expected time of its task
    answer_floor_s: float = 60.0  # an audit may have to wait for the work its auditor holds
    suspect_s: float = limits.SUSPECT_AFTER_S
    lost_s: float = limits.LOST_AFTER_S
    heartbeat_s: float = limits.HEARTBEAT_INTERVAL_S
    placing_s: float = 600.0  # a queued job waits this long for capacity
    stall_s: float = (
        86_400.0  # a job of which nothing moved so long, beside its longest task, ends; its escrow comes back
    )
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
    credential_ttl_s: float = 90 * 86_400.0  # a node joins again before its end
    node_quota_bytes: int = 4 * limits.MAX_BLOB_BYTES  # of what a node stores in a day and no contribution claims
    node_quota_blobs: int = 200_000  # the same by number: two tasks of the most files an output may have
    buyer_quota_bytes: int = 128 * limits.MAX_BLOB_BYTES  # of what a buyer stores in a week for no placed job
    buyer_quota_blobs: int = 1_000_000
    timing: Timing = Timing()

    @property
    def node_quota(self) -> tuple[int, int]:
        """Bytes and number of a node's unclaimed blobs."""
        return self.node_quota_bytes, self.node_quota_blobs

    @property
    def buyer_quota(self) -> tuple[int, int]:
        """Bytes and number of a buyer's unclaimed blobs."""
        return self.buyer_quota_bytes, self.buyer_quota_blobs

    @property
    def is_loopback(self) -> bool:
        """Tell whether plain HTTP is allowed here."""
        return self.host in {"127.0.0.1", "::1", "localhost"}
