"""What a node shows of its power: its statement of a test, and how a credential names it (docs/receipt.md R6.25)."""

from __future__ import annotations

from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.lean import dataclass


@dataclass(frozen=True, slots=True)
class ShownPower:
    """What a node did in one test of its power, in its own words: the market's nonce is in every round of it."""

    node: NodeId
    nonce: str
    cpus: int  # processors at work at once
    rounds: int  # done by all of them together
    root: Digest  # of the proof, which the market looked at
    took_ms: int  # by the node's clock
    measured_at: str


@dataclass(frozen=True, slots=True)
class GradeTest:
    """A test of a node's power, and how long it took by the market's clock."""

    power: Digest  # log leaf of the node's statement
    took_ms: int
