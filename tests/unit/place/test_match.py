"""Placement: masks, one class, an auditor of another operator, then the cheapest."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import NoCapacity
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Tier
from stannary.jobs.course.state import Node
from stannary.place.match import match
from stannary.rules.masks import Requirement

GIB = 2**30
BASE = Node(NodeId("n-0"), "ann", "EU", "terms", Tier.T0, "cpu-a", 4, 4 * GIB, 100, bond_usd_micros=0, expires_at_ms=0)
NEED = Requirement(2, Tier.T0, 1, GIB, frozenset(), frozenset(), 1_000, verified=True)


def offers(*rows: tuple[str, str, str, int]) -> list[Node]:
    """Make offers of (node, operator, engine class, ask)."""
    return [
        replace(BASE, node=NodeId(node), operator=operator, engine_class=name, ask_usd_micros_per_hour=ask)
        for node, operator, name, ask in rows
    ]


OFFERS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cat"]), st.sampled_from(["x", "y"]), st.integers(0, 30), st.booleans()),
    max_size=9,
).map(
    lambda rows: (
        offers(*((f"n-{index}", operator, name, ask) for index, (operator, name, ask, _) in enumerate(rows))),
        {f"n-{index}": "busy" for index, row in enumerate(rows) if row[-1]},
    )
)


@given(OFFERS, st.integers(1, 4), st.booleans(), st.randoms())
def test_the_answer_is_the_cheapest_there_is(
    standing: tuple[list[Node], dict[str, str]], num_nodes: int, verified: bool, random: object
) -> None:
    """Against every possible choice: feasible, of least price, complete in its reasons, independent of order."""
    found, away = standing
    need = replace(NEED, num_nodes=num_nodes, verified=verified)
    least = min((_cost(pick) for pick in _picks(found, need, away)), default=None)
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    if least is None:
        with pytest.raises(NoCapacity):
            match(found, need, away)
        return
    answer = match(found, need, away)
    assert answer == match(shuffled, need, away)
    assert sum(offer.ask_usd_micros_per_hour for offer in answer.chosen) == least
    named = {offer.node for offer in answer.chosen} | {rejection.node for rejection in answer.rejected}
    assert named == {offer.node for offer in found}
    assert len(answer.chosen) + len(answer.rejected) == len(found)
    assert all(rejection.reason for rejection in answer.rejected)


def test_nobody_audits_himself() -> None:
    """A class held by one operator alone takes no verified work, but takes unverified work."""
    alone = offers(("n-1", "ann", "x", 1), ("n-2", "ann", "x", 2))
    with pytest.raises(NoCapacity):
        match(alone, replace(NEED, num_nodes=1), {})
    assert len(match(alone, replace(NEED, verified=False), {}).chosen) == 2


def test_a_busy_node_audits_but_holds_no_lane() -> None:
    """A node at work makes its class auditable; its own reason is that it is busy."""
    found = offers(("n-1", "ann", "x", 1), ("n-2", "bob", "x", 1))
    answer = match(found, replace(NEED, num_nodes=1), {"n-2": "busy"})
    assert [offer.node for offer in answer.chosen] == ["n-1"]
    assert [(item.node, item.reason) for item in answer.rejected] == [("n-2", "busy")]


def test_losers_are_told_what_decided() -> None:
    """Share, class and price are named for those that passed every mask."""
    found = offers(
        ("n-1", "ann", "x", 1),
        ("n-2", "ann", "x", 2),
        ("n-3", "bob", "x", 3),
        ("n-4", "cat", "x", 4),
        ("n-5", "bob", "y", 9),
    )
    reasons = {item.node: item.reason for item in match(found, NEED, {}).rejected}
    assert "share of lanes" in reasons[NodeId("n-2")]
    assert "price" in reasons[NodeId("n-4")]
    assert "engine class" in reasons[NodeId("n-5")]


def test_no_capacity_says_why() -> None:
    """The refusal counts the reasons."""
    with pytest.raises(NoCapacity) as refused:
        match(offers(("n-1", "ann", "x", 5_000)), NEED, {})
    assert "1 x asks $0.005/h" in refused.value.why
    with pytest.raises(NoCapacity) as empty:
        match([], NEED, {})
    assert empty.value.why == "no node is offered"
    with pytest.raises(NoCapacity) as short:
        match(offers(("n-1", "ann", "x", 1), ("n-2", "bob", "x", 1)), replace(NEED, num_nodes=3), {})
    assert "2 of 3 lanes" in short.value.why
    assert "fewer nodes" in short.value.hint  # no trust or price brings a third one


def test_fifty_thousand_offers_are_no_square() -> None:
    """Placing touches each offer a constant number of times (counted, not timed)."""
    touched = itertools.count()

    class Counting(Node):
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            next(touched)
            return object.__getattribute__(self, name)

    found = [
        Counting(NodeId(f"n-{n}"), f"op-{n % 97}", "EU", "terms", Tier.T0, "cpu-a", 4, 4 * GIB, n % 991, 0, 0)
        for n in range(5_000)
    ]
    assert len(match(found, replace(NEED, num_nodes=64), {}).chosen) == 64
    assert next(touched) < 40 * len(found)


def _picks(found: list[Node], need: Requirement, away: dict[str, str]) -> list[tuple[Node, ...]]:
    ready = [offer for offer in found if offer.node not in away]
    picks = []
    for pick in itertools.combinations(ready, need.num_nodes):
        operators = [offer.operator for offer in pick]
        within = max(map(operators.count, operators)) <= need.max_lanes_per_operator
        if within and len({offer.engine_class for offer in pick}) == 1:
            others = {o.operator for o in found if o.engine_class == pick[0].engine_class}
            if not need.verified or len(others) > 1:
                picks.append(pick)
    return picks


def _cost(pick: tuple[Node, ...]) -> int:
    return sum(offer.ask_usd_micros_per_hour for offer in pick)


def test_what_a_node_lost_to_is_true() -> None:
    """Price, the operator's share and mere plenty are told apart, at equal prices too."""
    made = match(
        offers(("n-1", "ann", "x", 10), ("n-2", "ann", "x", 10), ("n-3", "bob", "x", 10), ("n-4", "cat", "x", 10),
               ("n-5", "dan", "x", 11)),
        NEED,
        {},
    )  # fmt: skip
    said = {item.node: item.reason for item in made.rejected}
    assert said[NodeId("n-2")] == "operator ann holds its share of lanes"
    assert said[NodeId("n-4")] == "not needed: enough others ask as little"
    assert said[NodeId("n-5")] == "price: asks $0.000011/h, the dearest chosen $0.00001/h"


def test_lanes_that_cannot_be_held_are_told_by_cause() -> None:
    """Nodes that are away and nodes above their operator's share are counted apart."""
    rows = offers(("n-1", "ann", "x", 10), ("n-2", "ann", "x", 10), ("n-3", "bob", "x", 10))
    with pytest.raises(NoCapacity) as refused:
        match(rows, NEED, {"n-3": "left"})
    assert "1 of 2 lanes can be held now, 1 of its nodes left, 1 of operators that hold their share, 1" in (
        refused.value.why
    )


def test_a_class_of_more_operators_comes_before_a_cheaper_one() -> None:
    """Under rules 3 two who share a class of their own draw no job by a price; inside a class the cheapest works."""
    found = offers(
        ("n-1", "ann", "theirs", 1),
        ("n-2", "bob", "theirs", 1),
        ("n-3", "cat", "common", 50),
        ("n-4", "dan", "common", 40),
        ("n-5", "eve", "common", 60),
    )
    need = replace(NEED, num_nodes=1)
    assert [offer.node for offer in match(found, need, {}).chosen] == ["n-1"]
    answer = match(found, replace(need, most_operators=True), {})
    assert [offer.node for offer in answer.chosen] == ["n-4"]
    reasons = {item.node: item.reason for item in answer.rejected}
    assert reasons["n-1"] == "engine class: another class has 3 operators, this one 2"
    tied = match([item for item in found if item.node != "n-5"], replace(need, most_operators=True), {})
    assert [offer.node for offer in tied.chosen] == ["n-1"]
    assert {item.node: item.reason for item in tied.rejected}["n-4"] == "engine class: another class is cheaper"


def test_an_operator_who_is_not_there_makes_no_class_larger() -> None:
    """Two in league keep credentials of a third and a fourth in their class, whose nodes are long gone: it has two."""
    found = offers(
        ("n-1", "ann", "theirs", 1),
        ("n-2", "bob", "theirs", 1),
        ("n-3", "cat", "theirs", 1),
        ("n-4", "dan", "theirs", 1),
        ("n-5", "eve", "common", 50),
        ("n-6", "fay", "common", 40),
        ("n-7", "gus", "common", 60),
    )
    need = replace(NEED, num_nodes=1, most_operators=True)
    gone = {NodeId("n-3"): "not heard from", NodeId("n-4"): "lost"}
    answer = match(found, need, gone)
    assert [offer.node for offer in answer.chosen] == ["n-6"]
    reasons = {item.node: item.reason for item in answer.rejected}
    assert reasons["n-1"] == "engine class: another class has 3 operators, this one 2"
    assert [offer.node for offer in match(found, need, {}).chosen] == ["n-1"]


def test_a_class_the_buyer_names_is_taken_or_none() -> None:
    """Neither more operators nor a lower price lead a job away from it; whoever is not of it reads why."""
    found = offers(
        ("n-1", "ann", "named", 70),
        ("n-2", "bob", "named", 80),
        ("n-3", "cat", "common", 50),
        ("n-4", "dan", "common", 40),
        ("n-5", "eve", "common", 60),
    )
    need = replace(NEED, num_nodes=1, most_operators=True, engine_class="named")
    answer = match(found, need, {})
    assert [offer.node for offer in answer.chosen] == ["n-1"]
    reasons = {item.node: item.reason for item in answer.rejected}
    assert reasons["n-4"] == "engine class common, named is asked for"
    with pytest.raises(NoCapacity, match="3 x engine class common"):
        match(found[2:], need, {})


def test_whoever_is_left_out_of_work_still_audits_it() -> None:
    """An operator the buyer excludes holds no lane, makes the class one that can be audited, and is held for."""
    standing = offers(("n-0", "ann", "x", 100), ("n-1", "bob", "x", 300), ("n-2", "bob", "x", 2_000))
    need = replace(NEED, num_nodes=1, exclude_operators=frozenset({"bob"}))
    with pytest.raises(NoCapacity, match="nobody of another operator could audit it"):
        match(standing, need, {})
    found = match(standing, replace(need, audits_by_class=True), {})
    assert [item.node for item in found.chosen] == ["n-0"]
    assert found.highest_ask_usd_micros_per_hour == 300  # dearer ones than his ceiling he pays nobody
    assert [(item.node, item.reason) for item in found.rejected] == [
        ("n-1", "operator bob is excluded"),
        ("n-2", "operator bob is excluded"),
    ]
