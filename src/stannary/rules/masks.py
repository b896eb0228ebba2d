"""Who may hold a job's work, and audit it: the hard masks of its spec, and why a node fails one.

Rules:
1. One function says it, `why_not`: where a job is placed, where a lost lane or a merge is leased again, where the
   candidates of a draw are fixed, where it is asked whether anybody else could try, and where a verifier reads who
   was chosen, who worked and who might have been drawn.
2. Lists narrow who may work, never who may audit: auditors are drawn from the whole class (`of_auditors`), so that no
   buyer chooses who judges. His ceiling is no list: it bounds what he pays to anybody. Where he says
   `auditors: listed`, the lists bind auditors too, as they did under rules 2, and no bond can move (blame.py).
3. A class the buyer names binds auditors too: results are compared inside one only.
4. A mask is never weighed against a price or against another mask.
5. What changes by the minute is no mask: presence, other work, a conviction, a revocation, the end of a credential
   (jobs/course/masks.py).
   Nor is what holds between nodes: one engine class for all, auditors of other operators, an
   operator's share of the lanes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Tier
from stannary.formats.quantity import PPM, dollars
from stannary.rules import edition, systems

OPERATOR_SHARE_PPM = 500_000  # half: no operator alone makes a quorum of two thirds


class Offered(Protocol):
    """What a node offers: its credential, or what a market keeps of it."""

    @property
    def node(self) -> NodeId: ...
    @property
    def operator(self) -> str: ...
    @property
    def jurisdiction(self) -> str: ...
    @property
    def terms(self) -> str: ...  # digest of those it signed
    @property
    def tier(self) -> Tier: ...
    @property
    def engine_class(self) -> str: ...
    @property
    def cpus(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def ask_usd_micros_per_hour(self) -> int: ...


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
    most_operators: bool = False  # among classes the one of most operators is taken, else the cheapest
    audits_by_class: bool = False  # regions and excluded operators bind no auditor
    engine_class: str | None = None  # that the buyer names; None: any, and a job still lies in one
    root: Digest | None = None  # the root file system it names; None: whatever a node's own system is

    @property
    def max_lanes_per_operator(self) -> int:
        """Return how many lanes one operator may hold; unverified work has no share to guard."""
        if not self.verified:
            return self.num_nodes
        return max(1, self.num_nodes * OPERATOR_SHARE_PPM // PPM)

    @property
    def of_auditors(self) -> Requirement:
        """Return the masks of who audits."""
        if not self.audits_by_class:
            return self
        return replace(self, regions=frozenset(), exclude_operators=frozenset())


def required_by(spec: JobSpec, *, terms: frozenset[str] = frozenset()) -> Requirement:
    """Return the masks of a spec; `terms` are the digests of those a market accepts, which no spec names."""
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
        most_operators=edition.of(spec).places_by_operators,
        audits_by_class=edition.of(spec).audits_by_class and spec.trust.auditors is None,
        engine_class=spec.resources.engine_class,
        root=spec.root,
    )


def why_not(offered: Offered, wanted: Requirement) -> str:
    """Return the first mask a node fails, with what it offers and what is required; empty if it fails none."""
    return _trust_mask(offered, wanted) or _power_mask(offered, wanted)


def why_weak(offered: Offered, wanted: Requirement) -> str:
    """Return why a node has not the power for a task, whatever the buyer's lists and its price say; empty if it has."""
    if offered.cpus < wanted.cpus:
        return f"{offered.cpus} cpus, {wanted.cpus} are required"
    if offered.memory_bytes < wanted.memory_bytes:
        return f"{offered.memory_bytes:,} bytes of memory, {wanted.memory_bytes:,} are required"
    return ""


def _trust_mask(offered: Offered, wanted: Requirement) -> str:
    if offered.tier < wanted.tier:
        return f"tier {offered.tier}, {wanted.tier} is required"
    if offered.operator in wanted.exclude_operators:
        return f"operator {offered.operator} is excluded"
    if wanted.terms and offered.terms not in wanted.terms:
        return "its terms are not accepted"
    if strange := _class_mask(offered, wanted):
        return strange
    if wanted.regions and offered.jurisdiction not in wanted.regions:
        return f"region {offered.jurisdiction}, {', '.join(sorted(wanted.regions))} is required"
    return ""


def _class_mask(offered: Offered, wanted: Requirement) -> str:
    if wanted.root is not None and not systems.is_of_root(offered.engine_class, wanted.root):
        return f"it runs no jobs in the root file system {systems.root_name(wanted.root)}"
    if wanted.engine_class not in (None, offered.engine_class):
        return f"engine class {offered.engine_class}, {wanted.engine_class} is asked for"
    return ""


def _power_mask(offered: Offered, wanted: Requirement) -> str:
    ask, ceiling = offered.ask_usd_micros_per_hour, wanted.max_ask_usd_micros_per_hour
    if weak := why_weak(offered, wanted):
        return weak
    if ask > ceiling:
        return f"asks {dollars(ask)}/h, at most {dollars(ceiling)}/h is allowed"
    return ""
