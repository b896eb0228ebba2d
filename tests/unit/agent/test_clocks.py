"""A node's clock beside the market's: said when they part, no work taken where it would come to nothing."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from stannary.agent.clocks import FILE, ClockWatch
from stannary.agent.journal import EntryKind, Journal
from stannary.formats import instants

NOW = 1_800_000_000.0


@pytest.fixture
def said() -> list[str]:
    """What the watch has told."""
    return []


@pytest.fixture
def watch(tmp_path: Path, said: list[str]) -> ClockWatch:
    """A watch in an empty directory."""
    return ClockWatch(tmp_path, said.append)


@pytest.mark.parametrize(("off_s", "is_fit"), [(412, False), (301, False), (250, True), (-412, True), (-90_000, False)])
def test_a_clock_that_is_off_is_said_and_kept(watch: ClockWatch, said: list[str], off_s: int, is_fit: bool) -> None:
    """The seconds are told once and kept for `node status`; beyond what the market takes, no work is asked for."""
    for _ in range(3):
        watch.compare(NOW + off_s, NOW + off_s, instants.spell(NOW))
    assert watch.is_fit is is_fit
    assert len(said) == 1
    assert f"{abs(off_s):,} s {'ahead of' if off_s > 0 else 'behind'} the market's" in said[0]
    assert (watch.directory / FILE).read_text() == f"{off_s}\n"
    watch.compare(NOW, NOW, instants.spell(NOW))
    assert watch.is_fit
    assert "agrees" in said[-1]


def test_nothing_is_forgotten_by_a_wrong_clock(tmp_path: Path) -> None:
    """What is old by this clock is dropped at the first beat at which the market's says the same, and only then."""
    journal = Journal(tmp_path / "journal")
    journal.put(EntryKind.ANSWER, "j-000000000001/q1 auditor", {"blind": "00"})
    watch = ClockWatch(tmp_path, lambda _: None, functools.partial(journal.prune, NOW * 2))
    watch.compare(NOW * 2, NOW * 2, instants.spell(NOW))
    assert journal.all(EntryKind.ANSWER) == [{"blind": "00"}]
    watch.compare(NOW, NOW, instants.spell(NOW))
    assert journal.all(EntryKind.ANSWER) == []


def test_a_slow_link_is_no_wrong_clock(watch: ClockWatch, said: list[str]) -> None:
    """Half a round trip and whole seconds are no difference; a market that says no time is compared with nothing."""
    watch.compare(NOW, NOW + 40, instants.spell(NOW + 39))
    watch.compare(NOW, NOW, instants.spell(NOW - 0.9))
    watch.compare(NOW, NOW, None)
    assert (watch.off_s, said) == (0, [])
