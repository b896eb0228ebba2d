"""What a node offers, as placing sees it: its credential, and whether it can take work now."""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats.ids import NodeId
from stannary.formats.predicates import Credential, Tier


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


def from_credential(credential: Credential, *, not_ready: str = "") -> Offer:
    """Return the offer a credential stands for.

    Args:
        credential: the appraised, unexpired credential; for a site its tier is the minimum already.
        not_ready: why the node takes no work now (busy, draining, suspect), empty if it does.
    """
    return Offer(
        node=credential.node,
        operator=credential.operator,
        jurisdiction=credential.jurisdiction,
        terms=credential.terms,
        tier=credential.tier,
        engine_class=credential.engine_class,
        cpus=credential.cpus,
        memory_bytes=credential.memory_bytes,
        ask_usd_micros_per_hour=credential.ask_usd_micros_per_hour,
        not_ready=not_ready,
    )
