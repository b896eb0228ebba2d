"""Engine classes as buyers see them."""

from __future__ import annotations

import pytest
from tests.unit.cli.test_plan import offer

from stannary.cli import classes
from stannary.wire.buyer import Offer


def offers(*rows: tuple[str, str, int]) -> list[Offer]:
    """Make offers of (operator, engine class, ask)."""
    return [
        offer(f"n-{index:012x}").model_copy(
            update={"operator": operator, "engine_class": name, "ask_usd_micros_per_hour": ask}
        )
        for index, (operator, name, ask) in enumerate(rows)
    ]


def test_a_class_counts_operators_and_not_nodes() -> None:
    """Ten nodes of one operator are one voice, however cheap."""
    many = [("ann", "theirs", 1)] * 10
    found = classes.of(offers(*many, ("bob", "common", 70), ("cat", "common", 60)))
    assert [(item.name, item.num_operators, item.num_nodes) for item in found] == [("common", 2, 2), ("theirs", 1, 10)]
    assert found[0].least_ask_usd_micros_per_hour == 60


def test_who_is_not_there_is_not_counted() -> None:
    """A node that left or was lost checks nobody; a busy one does."""
    states = ["idle", "busy", "lost", "left", "suspect", "suspended", "draining"]
    listed = offers(*((f"operator-{state}", "c", 5) for state in states))
    found = classes.of(item.model_copy(update={"state": state}) for item, state in zip(listed, states, strict=True))
    assert [(item.num_operators, item.num_nodes) for item in found] == [(2, 2)]


def test_of_as_many_operators_the_cheaper_class_comes_first() -> None:
    """The order is that in which jobs go to classes (place/match.py)."""
    assert [item.name for item in classes.of(offers(("ann", "a", 9), ("bob", "b", 3)))] == ["b", "a"]


@pytest.mark.parametrize(
    ("operators", "said"), [(["ann"], classes.ALONE), (["ann", "bob"], classes.PAIR), (["ann", "bob", "cat"], "")]
)
def test_so_few_operators_are_said_to_be_too_few(operators: list[str], said: str) -> None:
    """Two who vouch for each other are two: where three are needed nobody reads that they are there."""
    (found,) = classes.of(offers(*((name, "c", 5) for name in operators)))
    assert found.why_weak == said
    assert said in found.text
