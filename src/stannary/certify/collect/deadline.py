"""A limit on calls that cannot be interrupted: driver calls, ioctls, reads of kernel files.

The call runs in a thread of its own. One that does not come back is left behind, with everything it may
still write to, and the caller gets our error: a hostile or broken device costs its limit, never a hang.
The thread is a daemon, so it does not keep the process from ending.

A driver's library may tie its session to a thread: all calls of a session share one lane.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Any, TypeVar

from stannary.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
DEVICE_LIMIT_S = 30.0  # half a challenge's life; a TDX quote takes the host seconds, everything else less


class Lane:
    """One thread that makes calls in their order, each within the limit.

    Args:
        what: what is called, for errors.
        limit_s: seconds each call may take.
    """

    def __init__(self, what: str, limit_s: float = DEVICE_LIMIT_S) -> None:
        self._what, self._limit_s = what, limit_s
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._stuck = False
        threading.Thread(target=self._run, name=f"stannary-{what}", daemon=True).start()

    def call(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, raise what it raises, or ServiceError once the limit is over."""
        if self._stuck:
            raise self._silence("an earlier call still waits")
        answer: Future[T] = Future()
        self._work.put((call, answer))
        try:
            return answer.result(timeout=self._limit_s)
        except Late as err:
            if answer.done():  # the call's own error, or an answer in the last moment
                return answer.result()
            self._stuck = True
            raise self._silence(f"nothing within {self._limit_s:g} s") from err

    def close(self) -> None:
        """Let the thread end after what it was given."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            call, answer = item
            try:
                answer.set_result(call())
            except BaseException as err:  # noqa: BLE001  edge of a thread: raised again in the caller's
                answer.set_exception(err)

    def _silence(self, why: str) -> ServiceError:
        return ServiceError(f"{self._what} did not answer", why=why, hint="see the kernel's log: dmesg")


def within(call: Callable[[], T], what: str, limit_s: float = DEVICE_LIMIT_S) -> T:
    """Make one call within a limit."""
    lane = Lane(what, limit_s)
    try:
        return lane.call(call)
    finally:
        lane.close()
