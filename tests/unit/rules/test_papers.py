"""Papers: what a credential may say, what of its bond counts, which one is in force, and that an ask only falls."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats import digest, ids
from stannary.formats.predicates import Attestation, Credential, Join, Member, NodeKind, Tier
from stannary.rules import papers

NODE = ids.NodeId("n-000000000000")
JOIN = Join(
    NODE, "key", "oak", "DE", digest.digest(b"terms"), NodeKind.SITE, (Member("m1", Tier.T0),), "cpu", 4, 2**30,
    100_000, digest.digest(b"token"), "2026-01-01T00:00:00Z", 5_000_000,
)  # fmt: skip
HELD = Credential(
    NODE, "key", "oak", "DE", JOIN.terms, NodeKind.SITE, (Member("m1", Tier.T1),), Tier.T1, Attestation.SOFTWARE,
    "none", "cpu", 4, 2**30, 100_000, 5_000_000, digest.digest(b"join"), "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z",
)  # fmt: skip
OF_THE_MARKET = {"tier", "attestation", "ear_status", "bond_usd_micros", "join", "issued_at", "expires_at"}
MEASURED = {"grade_ppm", "best_grade_ppm", "tests"}


@dataclass(frozen=True)
class Paper:
    index: int
    predicate: Credential


def test_every_member_a_join_has_too_must_be_the_same() -> None:
    """Whatever of a credential is not the market's to say is compared; the tiers of a site's members are."""
    assert papers.differences(HELD, JOIN) == ()
    for field in fields(Credential):
        other = (Member("m2", Tier.T1),) if field.name == "members" else 7
        expected = () if field.name in OF_THE_MARKET | MEASURED else (field.name,)
        assert papers.differences(replace(HELD, **{field.name: other}), JOIN) == expected
    assert papers.differences(replace(HELD, bond_usd_micros=7), JOIN, bond=True) == ("bond_usd_micros",)


@pytest.mark.parametrize(
    ("posted", "signed", "counts"), [(5, 5, 5), (9, 5, 5), (5, 9, 5), (5, None, 0), (-5, 5, 0), (0, 0, 0)]
)
def test_a_bond_counts_as_far_as_both_signed_it(posted: int, signed: int | None, counts: int) -> None:
    """Neither side alone makes a stake; what no join names is none."""
    held = replace(HELD, bond_usd_micros=posted)
    assert papers.bond_that_counts(held, replace(JOIN, bond_usd_micros=signed)) == counts
    assert papers.bond_that_counts(held, None) == 0


def test_the_newest_credential_logged_before_is_in_force() -> None:
    """At its own index a credential is not in force yet; before the first one the first counts."""
    held = [Paper(index, HELD) for index in (3, 7)]
    assert [papers.in_force(held, index).index for index in (0, 3, 4, 7, 8, 99)] == [3, 3, 3, 3, 7, 7]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 20), st.integers(0, 20))
def test_who_raises_its_ask_gains_nothing_by_it(asks: list[int], since: int, until: int) -> None:
    """The lowest ask in force counts: never above the one in force when the job was placed, nor above the last."""
    since, until = sorted((since, until))
    held = [Paper(3 * at, replace(HELD, ask_usd_micros_per_hour=ask)) for at, ask in enumerate(asks)]
    lowest = papers.lowest_ask(held, since, until)
    every = [papers.in_force(held, index).predicate.ask_usd_micros_per_hour for index in range(since, until + 1)]
    assert lowest == min(every)
