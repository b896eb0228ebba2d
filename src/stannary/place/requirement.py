"""What a job asks of its nodes: the hard masks, read from the parsed and signed spec."""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Tier

OPERATOR_SHARE_PPM = 500_000  # half: no operator alone makes a quorum of two thirds


@dataclass(frozen=True, slots=True)
class Requirement:
    """The hard masks of one job."""

    num_nodes: int
    tier: Tier
    cpus: int
    memory_bytes: int
    regions: frozenset[str]  # jurisdictions; empty: any
    exclude_operators: frozenset[str]
    max_ask_usd_micros_per_hour: int
    verified: bool  # somebody of another operator must be able to recompute
    terms: frozenset[str] = frozenset()  # accepted terms digests; empty: any

    @property
    def max_lanes_per_operator(self) -> int:
        """Return how many lanes one operator may hold; unverified work has no share to guard."""
        if not self.verified:
            return self.num_nodes
        return max(1, self.num_nodes * OPERATOR_SHARE_PPM // 1_000_000)


def requirement(spec: JobSpec, *, terms: frozenset[str] = frozenset()) -> Requirement:
    """Return the masks of a spec; `terms` are the digests of those this market accepts."""
    return Requirement(
        num_nodes=spec.num_nodes,
        tier=spec.trust.tier,
        cpus=spec.resources.cpus,
        memory_bytes=spec.resources.memory_bytes,
        regions=frozenset(spec.trust.regions),
        exclude_operators=frozenset(spec.trust.exclude_operators),
        max_ask_usd_micros_per_hour=spec.trust.max_price_usd_micros_per_hour,
        verified=spec.trust.verify is not Verification.NONE,
        terms=terms,
    )
