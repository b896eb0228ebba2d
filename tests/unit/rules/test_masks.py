"""The masks of a job: one rule, whoever asks, with the observed value in its words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.integration.market.fake_buyer import train_spec

from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import RULES, Auditors, Verification
from stannary.formats.predicates import Tier
from stannary.jobs.course.state import Node
from stannary.rules.masks import Requirement, required_by, why_not

GIB = 2**30
BASE = Node(NodeId("n-0"), "ann", "EU", "terms", Tier.T0, "cpu-a", 4, 4 * GIB, 100, bond_usd_micros=0, expires_at_ms=0)
ROOT = Digest("sha256:" + "abcdef" * 10 + "0123")
NEED = Requirement(2, Tier.T0, 1, GIB, frozenset(), frozenset(), 1_000, verified=True)


@pytest.mark.parametrize(
    ("change", "need", "said"),
    [
        ({}, {"tier": Tier.T1}, "tier T0"),
        ({}, {"exclude_operators": frozenset({"ann"})}, "excluded"),
        ({}, {"terms": frozenset({"other"})}, "terms"),
        ({}, {"regions": frozenset({"US"})}, "region EU"),
        ({}, {"root": ROOT}, "no jobs in the root file system rabcdefabcdef"),
        ({"engine_class": "cpu-a.abcdefabcdef"}, {"root": ROOT}, "no jobs in the root file system"),
        ({}, {"engine_class": "cpu-b"}, "engine class cpu-a, cpu-b is asked for"),
        ({"cpus": 1}, {"cpus": 2}, "1 cpus, 2"),
        ({"memory_bytes": GIB - 1}, {}, "bytes of memory"),
        ({"ask_usd_micros_per_hour": 1_001}, {}, "$0.001001/h"),
    ],
)
def test_each_mask_says_what_failed(change: dict[str, object], need: dict[str, object], said: str) -> None:
    """A node below a mask is refused with the observed value; one above it is not."""
    assert said in why_not(replace(BASE, **change), replace(NEED, **need))
    assert why_not(BASE, NEED) == ""


@pytest.mark.parametrize("tier", list(Tier))
def test_a_node_of_a_higher_tier_serves_a_lower_one_and_not_the_reverse(tier: Tier) -> None:
    """Tiers are compared by rank."""
    passed = [offered for offered in Tier if not why_not(replace(BASE, tier=offered), replace(NEED, tier=tier))]
    assert passed == list(Tier)[list(Tier).index(tier) :]


def test_a_spec_asks_for_all_it_names() -> None:
    """Nothing a spec says of its nodes is left out of its masks; terms are the market's."""
    spec = train_spec(lanes=3)
    trust = replace(
        spec.trust,
        tier=Tier.T2,
        regions=("EU", "US"),
        exclude_operators=("ann",),
        max_price_usd_micros_per_hour=7,
        verify=Verification.NONE,
    )
    resources = replace(spec.resources, cpus=64, memory_bytes=64 * GIB, engine_class="cpu-b")
    wanted = required_by(replace(spec, trust=trust, resources=resources, root=ROOT), terms=frozenset({"terms"}))
    assert wanted == Requirement(
        num_nodes=3,
        tier=Tier.T2,
        cpus=64,
        memory_bytes=64 * GIB,
        regions=frozenset({"EU", "US"}),
        exclude_operators=frozenset({"ann"}),
        max_ask_usd_micros_per_hour=7,
        verified=False,
        audits_by_class=True,
        terms=frozenset({"terms"}),
        most_operators=True,
        engine_class="cpu-b",
        root=ROOT,
    )
    assert wanted.of_auditors == replace(wanted, regions=frozenset(), exclude_operators=frozenset())


def test_lists_bind_who_works_and_not_who_audits() -> None:
    """From rules 3 on, unless the buyer says that they do; a ceiling, a tier and a size bind everybody."""
    spec = replace(train_spec(), rules=RULES)
    trust = replace(spec.trust, regions=("US",), exclude_operators=("ann",), max_price_usd_micros_per_hour=100)
    wanted = required_by(replace(spec, trust=trust))
    fit = replace(BASE, memory_bytes=wanted.memory_bytes)
    assert why_not(fit, wanted) != ""
    assert why_not(fit, wanted.of_auditors) == ""
    assert "asks" in why_not(replace(fit, ask_usd_micros_per_hour=101), wanted.of_auditors)
    listed = required_by(replace(spec, trust=replace(trust, auditors=Auditors.LISTED)))
    assert why_not(fit, listed.of_auditors) == why_not(fit, listed) != ""


def test_a_root_is_kept_to_by_the_nodes_whose_class_names_it() -> None:
    """A class of the root passes, whatever comes before its name."""
    assert why_not(replace(BASE, engine_class="cpu-fp32.0123456789ab.rabcdefabcdef"), replace(NEED, root=ROOT)) == ""


def test_no_operator_holds_more_than_half_of_verified_lanes() -> None:
    """One lane may always be held; unverified work has no share to guard."""
    assert [replace(NEED, num_nodes=number).max_lanes_per_operator for number in (1, 2, 3, 8)] == [1, 1, 1, 4]
    assert replace(NEED, num_nodes=8, verified=False).max_lanes_per_operator == 8
