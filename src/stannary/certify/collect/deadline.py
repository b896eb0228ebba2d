"""A limit on calls that cannot be interrupted: driver calls, ioctls, reads of kernel files.

The call runs in a thread of its own. One that does not come back is left behind, with everything it may
still write to, and the caller gets our error: a hostile or broken device costs its limit, never a hang.
The thread is a daemon, so it does not keep the process from ending.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, TypeVar

from stannary.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
DEVICE_LIMIT_S = 30.0  # half a challenge's life; a TDX quote takes the host seconds, everything else less


def within(call: Callable[[], T], what: str, limit_s: float = DEVICE_LIMIT_S) -> T:
    """Return what `call` returns, raise what it raises, or ServiceError once the limit is over."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as err:  # noqa: BLE001  edge of a thread: raised again in the caller's
            answer.set_exception(err)

    threading.Thread(target=run, name=f"stannary-{what}", daemon=True).start()
    try:
        return answer.result(timeout=limit_s)
    except Late as err:
        if answer.done():  # the call's own error
            raise
        raise ServiceError(
            f"{what} did not answer", why=f"nothing within {limit_s:g} s", hint="see the kernel's log: dmesg"
        ) from err
