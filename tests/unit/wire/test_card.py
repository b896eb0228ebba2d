"""market.json, which lies on disk from one release to the next."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from stannary.wire.card import CARD_FILE, Card, read_card

CARD = Card(
    url="https://203.0.113.7:7433",
    name="market.example",
    vkey="market.example+00000000+AAAA",
    witness_vkeys=("w+00000000+AAAA",),
    tls_fingerprint="ab" * 32,
    pid=1,
    admin_token_file="admin-token",
)


def test_a_card_of_the_release_before_is_read(tmp_path: Path) -> None:
    """A market that stopped before an upgrade is found again: its card says nothing of a second address."""
    before = dataclasses.asdict(CARD)
    del before["local_url"]
    (tmp_path / CARD_FILE).write_text(json.dumps(before), "utf-8")
    assert read_card(tmp_path) == CARD


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With and without an address of its own machine, what is read is what was written."""
    for card in (CARD, dataclasses.replace(CARD, local_url="https://127.0.0.1:7433")):
        (tmp_path / CARD_FILE).write_text(card.line(), "utf-8")
        assert read_card(tmp_path) == card
