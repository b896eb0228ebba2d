"""The terms a node signs: what they name, and what whoever signed former ones may still do."""

from __future__ import annotations

from tests.integration.market.fake_buyer import before, command_spec
from tests.unit.market import moment

from stannary.jobs.course import masks
from stannary.market import terms
from stannary.rules.blame import CAP_PRICES
from stannary.rules.stake import HELD_UNITS


def test_the_terms_name_what_an_operator_risks() -> None:
    """Strikes and their stake, appeals, their window and what one costs at most stand in the text that is signed."""
    for word in (
        "strike",
        f"stake S:\n   the {HELD_UNITS} units",
        "appeal",
        "window",
        f"{CAP_PRICES} prices",
        "insurance",
    ):
        assert word in terms.TEXT, word


def test_who_signed_former_terms_serves_only_what_came_before() -> None:
    """A node that never heard of strikes ends the jobs of rules 2 it may be in, and is offered no new one."""
    world = moment.world(terms=terms.accepted)
    old, new = moment.order(before(command_spec())), moment.order(command_spec())
    former, present = (moment.node("n-1", "ann", terms=str(said)) for said in (terms.FORMER, terms.DIGEST))
    assert masks.why_not(former, old, world) == ""
    assert masks.why_not(former, new, world) == "its terms are not accepted"
    assert [masks.why_not(present, order, world) for order in (old, new)] == ["", ""]
