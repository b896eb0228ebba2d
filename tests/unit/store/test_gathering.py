"""Gathering: items of one loop go to the writer in few groups, and each hears its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from stannary.errors import ConflictError, ServiceError
from stannary.store import gathering
from stannary.store.database import Store
from stannary.store.gathering import GROUPS, Gathering
from stannary.store.writer import Writer


class Desk:
    """A writer whose groups are written when the test says so."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[object], Future[Sequence[Any]]]] = []
        self.closed = False

    def write_group(self, bulk: object, items: Sequence[object]) -> Future[Sequence[Any]]:
        """Take a group."""
        if self.closed:
            raise ServiceError("the store is closed")
        future: Future[Sequence[Any]] = Future()
        self.groups.append((list(items), future))
        return future


def bulk(_connection: object, items: Sequence[object]) -> list[object]:
    """Never called: the desk answers."""
    raise AssertionError(items)


async def settle() -> None:
    """Let the loop hand over what it was told."""
    for _ in range(3):
        await asyncio.sleep(0)


def gathered(desk: Desk) -> Gathering:
    """Return a gathering before a desk."""
    return Gathering(cast("Writer", desk), bulk)


def test_items_of_one_turn_make_one_group() -> None:
    """What waits in one turn of the loop is one group, answered in order."""

    async def scenario() -> None:
        desk = Desk()
        gathering_ = gathered(desk)
        asked = [asyncio.create_task(gathering_.add(item)) for item in "abc"]
        await settle()
        ((items, future),) = desk.groups
        assert items == ["a", "b", "c"]
        future.set_result([1, 2, 3])
        assert await asyncio.gather(*asked) == [1, 2, 3]

    asyncio.run(scenario())


def test_at_most_two_groups_are_with_the_writer() -> None:
    """While GROUPS are under way the rest gathers, and goes together when one is written."""

    async def scenario() -> None:
        desk = Desk()
        gathering_ = gathered(desk)
        asked = []
        for item in range(GROUPS + 3):
            asked.append(asyncio.create_task(gathering_.add(item)))
            await settle()
        assert [items for items, _ in desk.groups] == [[item] for item in range(GROUPS)]
        desk.groups[0][1].set_result(["first"])
        await settle()
        assert desk.groups[GROUPS][0] == [GROUPS, GROUPS + 1, GROUPS + 2]
        for items, future in desk.groups[1:]:
            future.set_result([f"{item}" for item in items])
        assert await asyncio.gather(*asked) == ["first", *(str(item) for item in range(1, GROUPS + 3))]

    asyncio.run(scenario())


def test_a_group_is_no_larger_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_BATCH items are split, none is lost."""
    monkeypatch.setattr(gathering, "MAX_BATCH", 2)

    async def scenario() -> None:
        desk = Desk()
        gathering_ = gathered(desk)
        asked = [asyncio.create_task(gathering_.add(item)) for item in range(5)]
        for _ in range(3):
            await settle()
            for items, future in desk.groups:
                if not future.done():
                    future.set_result(items)
        assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4]
        assert [len(items) for items, _ in desk.groups] == [2, 2, 1]

    asyncio.run(scenario())


def test_each_hears_its_own_error() -> None:
    """An error among the answers is raised to its item alone; an error of the group to all."""

    async def scenario() -> None:
        desk = Desk()
        gathering_ = gathered(desk)
        asked = [asyncio.create_task(gathering_.add(item)) for item in "ab"]
        await settle()
        desk.groups[0][1].set_result([ConflictError("mine"), "fine"])
        with pytest.raises(ConflictError, match="mine"):
            await asked[0]
        assert await asked[1] == "fine"
        asked = [asyncio.create_task(gathering_.add(item)) for item in "cd"]
        await settle()
        desk.groups[1][1].set_exception(OSError("disk"))
        for task in asked:
            with pytest.raises(OSError, match="disk"):
                await task

    asyncio.run(scenario())


def test_who_gives_up_is_written_all_the_same() -> None:
    """A waiter that was cancelled leaves its item in the group, and its neighbours their answers."""

    async def scenario() -> None:
        desk = Desk()
        gathering_ = gathered(desk)
        first, second = (asyncio.create_task(gathering_.add(item)) for item in "ab")
        await asyncio.sleep(0)
        first.cancel()
        await settle()
        ((items, future),) = desk.groups
        assert items == ["a", "b"]
        future.set_result([1, 2])
        assert await second == 2
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scenario())


def test_a_closed_store_is_told_to_those_who_ask() -> None:
    """A store that closed is each asker's error, and the gathering goes on answering."""

    async def scenario() -> None:
        desk = Desk()
        desk.closed = True
        gathering_ = gathered(desk)
        for _ in range(GROUPS + 1):
            with pytest.raises(ServiceError):
                await gathering_.add("a")
        desk.closed = False
        again = asyncio.create_task(gathering_.add("b"))
        await settle()
        desk.groups[0][1].set_result(["written"])
        assert await again == "written"

    asyncio.run(scenario())


def test_the_store_gathers_for_each_loop(store: Store) -> None:
    """awrite_bulk answers in order, durable, and serves another event loop after the first is gone."""

    def count(connection: Any, items: Sequence[int]) -> list[int]:
        return [item + 1 for item in items]

    async def scenario() -> list[int]:
        return await asyncio.gather(*(store.awrite_bulk(count, item) for item in range(20)))

    for _ in range(2):
        assert asyncio.run(scenario()) == list(range(1, 21))
