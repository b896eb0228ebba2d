"""Several witnesses as one: all are asked at once, and a checkpoint carries the cosignatures of those who came.

Rules:
1. The market's own witness must come, where it has one; where it has none, at least one of the others.
2. Another that answers is waited for, WAIT_S at most. One that did not is away: it is asked on, at most once in
   RETRY_S, and nothing waits for it until it has answered. Whether a checkpoint without it will do, its reader decides.
3. A refusal (another history was seen, or a longer one) stops the log, whoever refuses: nobody here knows who is right.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Protocol

from stannary.errors import ServiceError, StannaryError
from stannary.tlog.log import Cosigner
from stannary.tlog.witness_client import REFUSED

WAIT_S = 2.0  # a cosignature takes a round trip and two fsyncs
RETRY_S = 5.0  # between questions to a witness that is away

log = logging.getLogger("stannary.tlog")


class NamedCosigner(Cosigner, Protocol):
    """A Cosigner that is known by a name."""

    @property
    def name(self) -> str:
        """Return the name that stands in its cosignatures."""
        ...


@dataclass(slots=True)
class _Other:
    """What is known of a witness: the question under way, and since when it is away."""

    ask: NamedCosigner
    asked: Future[Sequence[str]] | None = None
    asked_at: float = 0.0
    is_away: bool = False


class Witnesses:
    """A Cosigner (tlog/log.py) that asks several. Called from the log's writer thread only."""

    def __init__(
        self,
        own: Cosigner | None,
        others: Sequence[NamedCosigner],
        *,
        wait_s: float = WAIT_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._others = [_Other(item) for item in others]
        self._wait_s = wait_s
        self._retry_s = retry_s
        self._clock = clock

    def __call__(self, signed_note: str, size: int, consistency: Callable[[int], list[bytes]]) -> Sequence[str]:
        """Return the cosignature lines of those who came.

        Raises:
            ServiceError: rule 1 or 3; the log asks again.
        """
        asked = [item for item in self._others if self._ask(item, (signed_note, size, consistency))]
        lines = list(self._own(signed_note, size, consistency)) if self._own is not None else []
        wait([item.asked for item in asked if item.asked is not None and not item.is_away], self._wait_s)
        if not lines and not any(item.asked is not None and _has_answered(item.asked) for item in asked):
            wait([item.asked for item in asked if item.asked is not None], self._wait_s, FIRST_COMPLETED)
        for item in asked:
            lines += self._take(item)
        if not lines:
            names = ", ".join(item.ask.name for item in self._others)
            raise ServiceError("no witness answers", why=names, hint="look at their processes and addresses")
        return lines

    def _ask(self, item: _Other, question: tuple[str, int, Callable[[int], list[bytes]]]) -> bool:
        """Ask a witness in a thread of its own, unless it has not answered the last question or is left in peace."""
        if item.asked is not None and not item.asked.done():
            return False
        if item.is_away and item.asked is not None and _has_answered(item.asked):
            item.is_away = False
            log.warning("witness %s is back", item.ask.name)
        now = self._clock()
        if item.is_away and now - item.asked_at < self._retry_s:
            return False
        item.asked, item.asked_at = Future(), now
        threading.Thread(target=_answer, args=(item.asked, item.ask, question), daemon=True).start()
        return True

    def _take(self, item: _Other) -> Sequence[str]:
        """Return what a witness answered, nothing if it is away."""
        assert item.asked is not None
        error: BaseException | None = TimeoutError(f"nothing within {self._wait_s:.0f} s")
        if item.asked.done():
            error = item.asked.exception()
        if error is None:
            return item.asked.result()
        if _is_refusal(error):
            raise error
        if not item.is_away:
            item.is_away = True
            log.warning("witness %s is away: %s", item.ask.name, error)
        return ()


def _has_answered(asked: Future[Sequence[str]]) -> bool:
    return asked.done() and (asked.exception() is None or _is_refusal(asked.exception()))


def _is_refusal(error: BaseException | None) -> bool:
    return isinstance(error, StannaryError) and error.detail == REFUSED


def _answer(
    asked: Future[Sequence[str]], ask: Cosigner, question: tuple[str, int, Callable[[int], list[bytes]]]
) -> None:
    try:
        asked.set_result(ask(*question))
    except Exception as err:  # noqa: BLE001  a thread's edge: it belongs to who waits for the answer
        asked.set_exception(err)
