"""A market that lies about its nodes: prices, operators, classes and bonds nobody signed, and offers that change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.verify.test_words import World, ids_of
from tests.unit.verify.world import World as AnyWorld

from stannary.formats.predicates import Credential, SettlementLine, Verdict
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report

FRIEND = "n1"  # of lane 0
SECOND = "n2"  # of lane 1: who begins once the first unit holds


def judged(world: AnyWorld) -> Report:
    """Verify a world's receipt."""
    return verify_receipt(world.receipt(), world.trust(), world.now)


def paid(report: Report, operator: str) -> list[SettlementLine]:
    """Return what an operator is paid."""
    assert report.claims is not None
    return [line for line in report.claims.receipt.settlement if line.account == f"operator:{operator}"]


def small(**more: Any) -> World:
    """Return a job of one round, two lanes and a merge."""
    return World(rounds=1, lanes=2, audit_ppm=1_000_000, **more)


def renewed(ask: int, *, bond: int | None = None) -> World:
    """Return a world whose friend joins again between its commitment of round 0 and round 1."""
    world = World(rounds=2, lanes=2, audit_ppm=1_000_000)
    spec = world.spec()
    dear = replace(spec, trust=replace(spec.trust, max_price_usd_micros_per_hour=10**8))
    world.spec = lambda: dear  # type: ignore[method-assign]  # its buyer would pay any price
    world.open()
    world.run_lanes(0, lanes=range(1))
    world.audit()
    world.run_lanes(0, lanes=range(1, 2))
    friend = world.nodes[FRIEND]
    friend.ask, friend.bond = ask, friend.bond if bond is None else bond
    world._credential(friend)
    world.audit()
    world.merge(0)
    world.audit()
    world.run_lanes(1)
    world.audit()
    world.merge(1)
    world.audit()
    world.close()
    return world


@pytest.mark.parametrize(
    "change",
    [
        {"ask_usd_micros_per_hour": 400_000},
        {"cpus": 64},
        {"memory_bytes": 2**40},
        {"jurisdiction": "DE"},
    ],
    ids=str,
)
def test_a_credential_that_says_what_its_node_did_not_sign_is_refused(change: dict[str, Any]) -> None:
    """The market adds to a friend's price, or makes a small machine large; only rules 2 take its word for it."""
    for world, expected in ((small(), {"credential.differs"}), (AnyWorld(rounds=1, lanes=2), set())):
        friend = world.nodes[FRIEND].id
        world.bend["credential"] = lambda said, friend=friend: replace(said, **change) if said.node == friend else said
        assert ids_of(judged(world.play())) == expected


@pytest.mark.parametrize("change", [{"operator": "rowan"}, {"engine_class": "another"}], ids=str)
def test_a_credential_of_another_operator_or_class_than_signed_is_refused(change: dict[str, Any]) -> None:
    """One owner's second node as a stranger's, or a node lifted into a class: its join says otherwise."""
    world = small()
    friend = world.nodes[FRIEND]
    world.bend["credential"] = lambda said: replace(said, **change) if said.node == friend.id else said
    for name, value in change.items():
        setattr(friend, name, value)
    world.bend["join"] = lambda said: replace(said, operator="elm", engine_class=world.nodes["n2"].engine_class)
    assert "credential.differs" in ids_of(judged(world.play()))


def test_a_credential_without_its_join_is_refused() -> None:
    """What the node signed must be there, logged before the credential that names it."""
    world = small()
    world.bend["join"] = lambda said: None if said.node == world.nodes[FRIEND].id else said
    assert ids_of(judged(world.play())) == {"credential.join"}


def test_a_credential_of_an_older_join_than_the_last_is_refused() -> None:
    """The market goes back to a price its node has given up."""
    world = small()
    kept: dict[str, Credential] = {}

    def keep(said: Credential) -> Credential:
        return kept.setdefault(said.node, said)

    world.bend["credential"] = keep
    friend = world.nodes[FRIEND]
    world.open()
    world.bend["credential"] = lambda said: said
    friend.ask //= 2
    world._credential(friend)
    world.log("credential", kept[friend.id], world.market_key)
    world.run_lanes(0, lanes=range(1))
    world.audit()
    world.run_lanes(0, lanes=range(1, 2))
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    assert "credential.join" in ids_of(judged(world))


def test_a_node_that_changes_its_operator_is_refused() -> None:
    """Under another name it could audit itself."""
    world = renewed(360_000)
    assert ids_of(judged(world)) == set()
    world = World(rounds=1, lanes=2, audit_ppm=1_000_000)
    world.open()
    friend = world.nodes[FRIEND]
    friend.operator = "rowan"
    world._credential(friend)
    friend.operator = "elm"
    world.run_lanes(0, lanes=range(1))
    world.audit()
    world.run_lanes(0, lanes=range(1, 2))
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    assert "credential.changed" in ids_of(judged(world))


def test_who_joins_again_at_twenty_times_the_price_is_paid_the_old_one() -> None:
    """A market that lets its friend do so gains it nothing, in work or in audits."""
    report = judged(renewed(20 * 360_000))
    assert (report.exit_code, ids_of(report)) == (0, set())
    lines = paid(report, "elm")
    assert {line.reason for line in lines} >= {"work", "audit"}
    old = {"r0/l": 12, "r1/l": 24, "r0/m": 8, "r1/m": 8}  # 3, 6 and 2 steps of 40 ms at 0.36 dollars an hour
    assert all(line.usd_micros == old[line.task.partition("/")[2][:4]] for line in lines)


def test_an_ask_that_falls_counts_from_the_next_unit_on() -> None:
    """What was committed to before is paid as it was asked then."""
    report = judged(renewed(180_000))
    assert ids_of(report) == set()
    by_round = {line.task.split("/")[1]: line.usd_micros for line in paid(report, "elm") if line.reason == "work"}
    # 3 steps of round 0 at 0.36 dollars an hour, 6 of round 1 at half of that
    assert by_round == {"r0": 12, "r1": 12}


@pytest.mark.parametrize(("posted", "signed"), [(1_000_000_000, 100_000), (100_000, 1_000_000_000), (100_000, None)])
def test_a_bond_that_one_side_made_up_counts_for_nothing(posted: int, signed: int | None) -> None:
    """The figures are those of the bond both signed, and that is what a convicted node forfeits."""
    world = small(liars={SECOND})
    friend = world.nodes[SECOND].id
    world.bend["credential"] = lambda said: replace(said, bond_usd_micros=posted) if said.node == friend else said
    world.bend["join"] = lambda said: replace(said, bond_usd_micros=signed) if said.node == friend else said
    report, honest = judged(world.play()), judged(small(liars={SECOND}).play())
    assert report.claims is not None
    assert honest.claims is not None
    assert report.claims.case.bond(world.nodes[SECOND].id) == min(posted, signed or 0)
    figures, others = report.claims.receipt.soundness, honest.claims.receipt.soundness
    assert figures.stake_ppm == (others.stake_ppm if signed else 0) < 10**12
    assert report.verdict is Verdict.VERIFIED  # every unit was recomputed, whatever the stake


def test_a_market_that_states_the_bond_it_made_up_is_refused() -> None:
    """A stake that nobody signed, in the receipt's own figures."""
    world = small()
    world.bend["receipt"] = lambda said: replace(said, soundness=replace(said.soundness, stake_ppm=10**12))
    assert ids_of(judged(world.play())) == {"receipt.soundness"}


def test_a_bond_that_shrinks_on_the_way_counts_at_its_least() -> None:
    """Nobody is deterred by what he has taken back."""
    report = judged(renewed(360_000, bond=7))
    assert report.claims is not None
    assert report.claims.receipt.soundness.stake_ppm == 7 * 10**6 // 24
