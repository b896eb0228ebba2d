"""The layers of a node's evidence, each read once: planning, joining and appraisal look at the same parsed record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stannary.certify.evidence.kinds import VERIFIERS
from stannary.certify.evidence.verifier import limit
from stannary.errors import FormatError, UnsupportedFormat

if TYPE_CHECKING:
    from stannary.certify.envelope import Evidence, Part
    from stannary.certify.evidence.collateral import Collateral
    from stannary.certify.evidence.verifier import EvidenceVerifier


@dataclass(frozen=True, slots=True)
class Layer:
    """A submodule that reads: its verifier, what that reads in it, and the collateral carried beside it."""

    part: Part
    verifier: EvidenceVerifier[Any]
    parsed: Any
    carried: Collateral


@dataclass(frozen=True, slots=True)
class Unread:
    """A submodule that does not read, and why."""

    part: Part
    problem: FormatError


def read(name: str, part: Part) -> Layer | Unread:
    """Read the submodule of this name."""
    verifier = VERIFIERS.get(part.kind)
    try:
        if verifier is None or name.partition("/")[0] not in verifier.places:
            raise UnsupportedFormat("submodule does not hold this kind of evidence", why=f"{part.kind[:40]} in {name}")
        carried = part.collateral()
        return Layer(part, verifier, verifier.parse(limit(part.evidence, f"{part.kind} evidence")), carried)
    except FormatError as err:
        return Unread(part, err)


def read_all(evidence: Evidence) -> tuple[Layer | Unread, ...]:
    """Read every submodule."""
    return tuple(read(name, part) for name, part in evidence.parts.items())
