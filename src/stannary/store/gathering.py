"""Items of a bulk gathered on the event loop, so that thread and loop meet once a group and not once an item.

Rules:
- At most GROUPS groups are with the writer: one is written while the next waits, and what comes
  meanwhile makes the one after. Nobody waits for a timer.
- All of a group are told in one call of the loop, each its own answer or error.
- Whoever stops waiting leaves his item to be written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from stannary.errors import ServiceError
from stannary.store.writer import MAX_BATCH, Bulk, Writer

GROUPS = 2
_Waiter = tuple[Any, "asyncio.Future[Any]"]


class Gathering:
    """Gathers the items of one bulk on one event loop."""

    def __init__(self, writer: Writer, bulk: Bulk[Any, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self._writer = writer
        self._bulk = bulk
        self._waiting: deque[_Waiter] = deque()
        self._num_groups = 0
        self._is_called = False

    async def add(self, item: object) -> object:
        """Write `item` with its neighbours; return its answer or raise its error."""
        future: asyncio.Future[object] = self.loop.create_future()
        self._waiting.append((item, future))
        if not self._is_called and self._num_groups < GROUPS:
            self._is_called = True
            self.loop.call_soon(self._hand_over)
        return await future

    def _hand_over(self) -> None:
        self._is_called = False
        while self._waiting and self._num_groups < GROUPS:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            self._num_groups += 1

            def written(done: Future[Sequence[Any]], group: Sequence[_Waiter] = group) -> None:
                if not self.loop.is_closed():
                    self.loop.call_soon_threadsafe(self._tell, group, done)

            try:
                self._writer.write_group(self._bulk, [item for item, _ in group]).add_done_callback(written)
            except ServiceError as error:  # the store is closed: theirs to hear, not the loop's
                self._num_groups -= 1
                _tell(group, [error] * len(group))

    def _tell(self, group: Sequence[_Waiter], done: Future[Sequence[Any]]) -> None:
        self._num_groups -= 1
        error = done.exception()
        _tell(group, done.result() if error is None else [error] * len(group))
        self._hand_over()


def _tell(group: Sequence[_Waiter], outcomes: Sequence[object]) -> None:
    for (_, future), outcome in zip(group, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
