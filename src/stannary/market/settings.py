"""Every figure a market operator may set, with its default and where the default comes from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from stannary.errors import UsageError
from stannary.formats import instants
from stannary.jobs.course.state import Timing
from stannary.jobs.retention import DAY_S, Retention
from stannary.wire import limits

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared, not bound


DEFAULT_TIMING = Timing()
DEFAULT_RETENTION = Retention()
MIN_KEPT_S = DAY_S  # what a job lets go counts against its node's quota of the last day


class MarketProfile(StrEnum):
    """Who may be on the market. Only `local` lists T0 nodes (software evidence)."""

    LOCAL = "local"
    PRIVATE = "private"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Settings:
    """One market."""

    directory: Path
    name: str = "local.market"
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""  # the address others dial where it is not `host`: behind NAT, or listening on all of them
    profile: MarketProfile = MarketProfile.LOCAL
    grade_every_s: float = 0.0  # mean time between two tests of a node's power; 0: nobody's is measured
    witness: bool = True  # start a witness process beside the market
    witnesses: tuple[str, ...] = ()  # others to ask, each KEY@URL or KEY@URL#SHA256 (tlog/witness_client.py)
    credential_ttl_s: float = 90 * 86_400.0  # a node joins again before its end
    node_quota_bytes: int = 4 * limits.MAX_BLOB_BYTES  # of what a node stores in a day and no contribution claims
    node_quota_blobs: int = 200_000  # the same by number: two tasks of the most files an output may have
    buyer_quota_bytes: int = 128 * limits.MAX_BLOB_BYTES  # of what a buyer stores in a week for no placed job
    buyer_quota_blobs: int = 1_000_000
    timing: Timing = DEFAULT_TIMING
    retention: Retention = DEFAULT_RETENTION

    @property
    def node_quota(self) -> tuple[int, int]:
        """Bytes and number of a node's unclaimed blobs."""
        return self.node_quota_bytes, self.node_quota_blobs

    @property
    def buyer_quota(self) -> tuple[int, int]:
        """Bytes and number of a buyer's unclaimed blobs."""
        return self.buyer_quota_bytes, self.buyer_quota_blobs

    @property
    def address(self) -> str:
        """The address that stands on the card, in join tokens and in the certificate."""
        return self.advertise or self.host

    def check(self) -> None:
        """Refuse addresses that nobody could dial, and to keep less than is promised.

        Raises:
            UsageError: listening on all addresses without naming one, or naming one that is served no TLS; a retention
                of less than a day.
        """
        for name, kept_s in asdict(self.retention).items():
            if not kept_s >= MIN_KEPT_S:  # written so that no number is refused too
                raise UsageError(
                    "what jobs used and made is kept for a day at least",
                    why=f"--retention {name}={kept_s:g}",
                    hint=f"--retention {name}={MIN_KEPT_S:.0f}",
                )
        if self.host in WILDCARDS and not self.advertise:
            raise UsageError(
                "nobody can dial this address",
                why=f"--host {self.host} listens on all of them; card and join tokens must name one",
                hint=f"stannary market serve -- --host {self.host} --advertise market.example",
            )
        if self.is_loopback and self.advertise:
            raise UsageError(
                "a market on loopback is for its own machine",
                why=f"--host {self.host} is served without TLS; --advertise {self.advertise:.80} is for others",
                hint="leave --advertise out, or listen on an address of the network: --host 0.0.0.0",
            )

    @property
    def local_host(self) -> str:
        """The address to dial on this machine, where `address` may not lead back here."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  not bound, read

    @property
    def is_loopback(self) -> bool:
        """Tell whether plain HTTP is allowed here."""
        return self.host in {"127.0.0.1", "::1", "localhost"}


def kept_words(retention: Retention) -> str:
    """Say how long what an ended job used and made is kept, and by which setting."""
    ended_s = retention.ended_s
    how_long = "for ever" if ended_s == math.inf else f"for {instants.span(int(ended_s))} after a job's end"
    return f"they are kept {how_long} (the market's --retention ended_s)"
