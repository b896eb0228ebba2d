"""The roots of a machine: fetched once, whole or not there, going on where a fetch broke off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import roots

from stannary.errors import EnvironmentProblem, FormatError, MarketUnreachable, Refuted
from stannary.run.root import shelf
from stannary.run.root.shelf import Shelf

TAR = roots.small({"usr/share/much": bytes(range(256)) * 400})
NAME = roots.named(TAR)


class Market:
    """Gives a tar from a place on, and may break off."""

    def __init__(self, data: bytes = TAR, break_after: int = 0) -> None:
        self.data, self.break_after, self.asked = data, break_after, list[int]()

    @contextmanager
    def fetch(self, start: int) -> Iterator[Iterator[bytes]]:
        self.asked.append(start)
        yield self._pieces(start)

    def _pieces(self, start: int) -> Iterator[bytes]:
        for place in range(start, len(self.data), 4096):
            if self.break_after and place - start >= self.break_after:
                raise MarketUnreachable("no answer")
            yield self.data[place : place + 4096]


def make(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "roots", pause=lambda _: None)


def take(tmp_path: Path, market: Market, said: list[str] | None = None) -> Path:
    lines = said if said is not None else []
    return make(tmp_path).take(NAME, len(TAR), market.fetch, lines.append)


def test_a_root_is_fetched_and_unpacked_once(tmp_path: Path) -> None:
    """The second who needs it finds it, and nothing else is left beside it."""
    market, said = Market(), list[str]()
    place = take(tmp_path, market, said)
    assert (place / roots.RELEASE_FILE).read_bytes() == roots.OS_RELEASE
    assert take(tmp_path, market) == place
    assert market.asked == [0]
    assert sorted(path.name for path in place.parent.iterdir()) == sorted([".lock", place.name])
    assert any("100 %" in line for line in said)
    assert said[-1].endswith("unpacking")


def test_a_fetch_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    """Bytes that came are kept over breaks, and over a process that ended meanwhile."""
    market = Market(break_after=32 * 1024)
    take(tmp_path, market)
    assert len(market.asked) > 2
    assert market.asked == sorted(set(market.asked))
    other = tmp_path / "other"
    part = make(other).place(NAME)
    part.parent.mkdir(parents=True)
    part.with_name(f"{part.name}.part").write_bytes(TAR[:50_000])
    late = Market()
    take(other, late)
    assert late.asked == [50_000]


def test_a_market_that_gives_nothing_is_told_of(tmp_path: Path) -> None:
    """After some fetches without a byte the error is the connection's, and what came stays."""
    market = Market()
    market._pieces = lambda start: iter(_fail())  # type: ignore[method-assign]
    with pytest.raises(MarketUnreachable):
        take(tmp_path, market)
    assert market.asked == [0] * shelf.FRUITLESS_ATTEMPTS


def _fail() -> Iterator[bytes]:
    raise MarketUnreachable("no answer")
    yield b""


@pytest.mark.parametrize("data", [TAR[:-1], TAR[:5000] + b"!" + TAR[5001:], TAR + b"more", b""])
def test_other_bytes_are_no_root(tmp_path: Path, data: bytes) -> None:
    """Bytes of another digest are refused before anything is unpacked, and go; the next fetch begins anew."""
    if data.startswith(TAR):  # what is too long is cut at the size that was named, and is the root
        take(tmp_path, Market(data))
        return
    with pytest.raises(Refuted):
        take(tmp_path, Market(data))
    market = Market()
    assert take(tmp_path, market).is_dir()
    assert market.asked == [0]


def test_what_came_of_another_start_is_hashed_again(tmp_path: Path) -> None:
    """A part that a disk has changed meanwhile is found out."""
    place = make(tmp_path).place(NAME)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(b"x" * 1000)
    with pytest.raises(Refuted):
        take(tmp_path, Market())
    assert take(tmp_path, Market()).is_dir()


def test_what_a_killed_process_left_is_never_taken_for_a_root(tmp_path: Path) -> None:
    """A half unpacked root has another name, and the next process removes it."""
    place = make(tmp_path).place(NAME)
    left = place.parent / ".unpacking-killed"
    (left / "usr").mkdir(parents=True)
    assert take(tmp_path, Market()) == place
    assert not left.exists()


def test_a_tar_that_is_no_root_leaves_nothing(tmp_path: Path) -> None:
    """The digest may be right and the archive wrong: it is refused, and no directory stands."""
    data = roots.tar_of([(roots.member("../evil"), b"x")])
    with pytest.raises(FormatError):
        make(tmp_path).take(roots.named(data), len(data), Market(data).fetch, lambda _: None)
    assert not make(tmp_path).place(roots.named(data)).exists()
    assert not (tmp_path / "evil").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the directory, what is free and what is wanted."""
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize = 1, real.f_frsize

    monkeypatch.setattr(shelf.os, "statvfs", lambda _: Full)
    market = Market()
    with pytest.raises(EnvironmentProblem, match="not enough disk") as told:
        take(tmp_path, market)
    assert market.asked == []
    assert f"{2 * len(TAR):,} wanted" in told.value.why
