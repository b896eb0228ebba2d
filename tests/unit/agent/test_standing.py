"""What a node keeps of how it stands: it is told once, and forgotten when it is over."""

from __future__ import annotations

from pathlib import Path

from stannary.agent import standing
from stannary.cli.commands import node
from stannary.wire.node import DisputedHere


def test_a_suspension_is_kept_told_once_and_ends(tmp_path: Path) -> None:
    """Beat after beat says the same; `stannary node status` reads it."""
    said: list[str] = []
    shown = []
    for is_suspended in (False, True, True, False, False):
        standing.note(tmp_path, said.append, is_suspended=is_suspended)
        shown.append(node._standing(tmp_path).split()[0])
    assert shown == ["good", "suspended", "suspended", "good", "good"]
    assert [line.split()[0] for line in said] == ["suspended:", "not"]
    assert (node.SUSPENDED_FILE, node.WANTED_FILE) == (standing.FILE, standing.WANTED_FILE)


def test_how_its_canary_stands_is_kept_and_a_wish_is_sent_until_it_is_granted(tmp_path: Path) -> None:
    """`stannary node status` says what to do about each; a failed one is told once."""
    said: list[str] = []
    shown = []
    (tmp_path / standing.WANTED_FILE).write_bytes(b"")
    for word in ("waiting", "failed", "failed", "asked", "impossible"):
        standing.note(tmp_path, said.append, is_suspended=True, canary=word)
        shown.append((node._canary(tmp_path), standing.wants_canary(tmp_path)))
    assert shown == [
        ("waiting", True), ("failed", True), ("failed", True), ("asked", False), ("impossible", False),
    ]  # fmt: skip
    assert [line.partition(":")[0] for line in said] == ["suspended", "a canary was failed"]
    standing.note(tmp_path, said.append, is_suspended=True, canary="failed")
    assert "stannary node canary" in node._standing(tmp_path)
    (tmp_path / standing.FILE).write_bytes(b"of a later version")
    assert node._canary(tmp_path) == ""


def test_a_disputed_bond_is_told_once_and_shown_until_it_is_decided(tmp_path: Path) -> None:
    """Which unit, how much, until when, and that nothing need be done; gone when the market says so no more."""
    told: list[str] = []
    bond = DisputedHere(
        job="j-0123456789ab", task="j-0123456789ab/r0/l0/a0", stage="hearing", bond_usd_micros=10_000_000,
        until="2026-12-01T00:00:00Z",
    )  # fmt: skip
    for disputes in ([], [bond], [bond], []):
        standing.note_disputes(tmp_path, told.append, disputes)
        lines = node._dispute_lines(node._disputes(tmp_path))
        assert bool(lines) is bool(disputes)
        assert node._disputes(tmp_path) == [item.model_dump(mode="json") for item in disputes]
        if lines:
            first, *rest = lines
            assert first.startswith("disputed")
            assert all(word in first for word in (bond.task, "$10", "hearing", str(bond.until)))
            assert any("nothing need be done" in line for line in rest)
    assert len(told) == 2
    assert "$10" in told[0]
    assert (tmp_path / standing.DISPUTES_FILE).name == node.DISPUTES_FILE


def test_what_is_no_list_of_disputes_is_shown_as_none(tmp_path: Path) -> None:
    """A torn or foreign file breaks no view."""
    for data in (b"", b"{", b"{}", b"[1]", b"null"):
        (tmp_path / node.DISPUTES_FILE).write_bytes(data)
        assert node._dispute_lines(node._disputes(tmp_path)) == []
