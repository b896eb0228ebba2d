"""Reasons: the market's own words are not a node's to use, and people are told each one that is shown."""

from __future__ import annotations

from stannary.cli.happenings import REASONS
from stannary.rules.reasons import OWN, Reason

# What these say stands in the sentence of their event; nobody is told why.
PLAIN = {
    Reason.DRAWN, Reason.PLACED, Reason.LEASED, Reason.COMMITTED, Reason.CONTRIBUTED, Reason.ASKED, Reason.ANSWERED,
    Reason.COMPLETE, Reason.SETTLED, Reason.CONCLUDED, Reason.RUN_FAILED,
}  # fmt: skip


def test_every_reason_that_is_shown_has_words_for_people() -> None:
    """No screen shows a code: the table of words and the list of reasons have the same members."""
    assert set(REASONS) == set(Reason) - PLAIN


def test_what_decides_about_money_is_not_a_nodes_to_say() -> None:
    """A node whose report says one of these would have its job paid unseen, or ended in the market's name."""
    assert {Reason.BUYER_SILENT, Reason.MARKET_FAULT, Reason.COMPLETE} <= OWN
    assert Reason.RUN_FAILED not in OWN
