"""What a node offers, as placing sees it: its credential, and whether it can take work now."""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats.ids import NodeId
from stannary.formats.predicates import Tier


@dataclass(frozen=True, slots=True)
class Offer:
    """One node's standing offer; `not_ready` says why it takes no work now, empty if it does."""

    node: NodeId
    operator: str
    jurisdiction: str
    terms: str
    tier: Tier
    engine_class: str
    cpus: int
    memory_bytes: int
    ask_usd_micros_per_hour: int
    not_ready: str = ""
