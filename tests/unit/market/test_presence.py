"""Presence: live, suspect, lost by the clock alone; every worsening is told once."""

from __future__ import annotations

from pathlib import Path

from stannary.market.presence import Presence, Roster, keep, kept
from stannary.market.settings import Timing

TIMING = Timing(suspect_s=35.0, lost_s=120.0)


def test_silence_makes_suspect_then_lost() -> None:
    """The bounds are those of the settings, to the second; a node never seen is lost."""
    roster = Roster(TIMING)
    roster.beat("n", "idle", 0.0)
    expected = [
        (34.9, Presence.LIVE),
        (35.0, Presence.SUSPECT),
        (119.9, Presence.SUSPECT),
        (120.0, Presence.LOST),
    ]
    assert [(at, roster.presence("n", at)) for at, _ in expected] == expected
    assert roster.presence("other", 0.0) is Presence.LOST


def test_each_worsening_is_told_once() -> None:
    """A sweep tells what got worse since the last; a beat says from where the node comes back."""
    roster = Roster(TIMING)
    roster.beat("n", "busy", 0.0)
    assert roster.sweep(40.0) == [("n", Presence.SUSPECT)]
    assert roster.sweep(41.0) == []
    assert roster.sweep(130.0) == [("n", Presence.LOST)]
    assert roster.beat("n", "busy", 131.0) is Presence.LOST
    assert roster.beat("n", "busy", 132.0) is None
    assert roster.sweep(133.0) == []


def test_a_node_that_left_says_so_itself() -> None:
    """Its last beat makes it `left` at once, told once; its next one brings it back."""
    roster = Roster(TIMING)
    roster.beat("n", "idle", 0.0)
    roster.beat("n", "left", 1.0)
    assert roster.presence("n", 1.0) is Presence.LEFT
    assert roster.sweep(2.0) == [("n", Presence.LEFT)]
    assert roster.sweep(500.0) == []
    assert roster.presence("n", 500.0) is Presence.LEFT
    assert roster.beat("n", "idle", 501.0) is Presence.LEFT
    assert roster.presence("n", 501.0) is Presence.LIVE


def test_a_poll_keeps_what_the_node_said() -> None:
    """A poll is a sign of life and changes no state; after a restart a node counts as seen once."""
    roster = Roster(TIMING)
    roster.beat("n", "draining", 0.0)
    roster.touch("n", 30.0)
    assert (roster.state("n"), roster.silent_s("n", 42.0)) == ("draining", 12.0)
    roster.assume("n", 90.0)
    roster.assume("m", 90.0)
    assert (roster.silent_s("n", 90.0), roster.silent_s("m", 90.0), roster.state("m")) == (60.0, 0.0, "idle")


def test_who_was_gone_before_a_restart_stays_gone(tmp_path: Path) -> None:
    """Who is written down as here counts as seen at the next start; a node that had left is lost until it beats."""
    before = Roster(TIMING)
    before.beat("here", "busy", 0.0)
    before.beat("gone", "left", 0.0)
    before.beat("dead", "idle", -TIMING.lost_s)
    keep(tmp_path / "present", before.here(1.0))
    found = kept(tmp_path / "present")
    assert found == {"here"}
    after = Roster(TIMING)
    for node in ("here", "gone", "dead"):
        after.assume(node, 500.0, was_here=node in found)
    assert [after.presence(node, 500.0) for node in ("here", "gone", "dead")] == [
        Presence.LIVE,
        Presence.LOST,
        Presence.LOST,
    ]
    assert after.sweep(500.0) == []
    assert after.beat("gone", "idle", 501.0) is Presence.LOST
    assert after.presence("gone", 501.0) is Presence.LIVE


def test_a_market_that_wrote_nothing_down_takes_all_for_here(tmp_path: Path) -> None:
    """An absent or damaged file is no reason to take nodes for lost."""
    assert kept(tmp_path / "present") is None
    (tmp_path / "present").write_bytes(b"\xff\xfe\x00")
    assert kept(tmp_path / "present") is None


def test_a_node_is_called_what_it_says():
    """A name comes with a beat and stays; one never said is empty, and changes nothing that placing rests on."""
    roster = Roster(Timing())
    roster.beat("n-1", "idle", 0.0)
    version = roster.version
    assert roster.name("n-1") == ""
    roster.call("n-1", "quarry")
    assert (roster.name("n-1"), roster.name("n-2"), roster.version) == ("quarry", "", version)
