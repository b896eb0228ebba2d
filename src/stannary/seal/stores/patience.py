"""How long a store is waited for.

Rules:
1. What fails is tried ATTEMPTS times in all, with pauses that double.
2. A store that says it is busy is not failing: it is asked again as late as it wishes (Retry-After), until
   PATIENCE_S would have been waited for one object. That is the limit; then the run ends in an error and goes on
   where it stopped when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stannary.seal.stores.source import Busy, SourceFailure

ATTEMPTS = 4
PATIENCE_S = 120.0  # S3 asks clients of a bucket that grows for some minutes of fewer requests, and scales meanwhile
PAUSE_S = 0.25  # after the first failed attempt
MAX_PAUSE_S = 30.0  # between two attempts, unless the store asks for longer

Pause = Callable[[float], object]
T = TypeVar("T")


@dataclass(slots=True)
class Patience:
    """The pauses of one object: first `first_s`, then twice as long each time."""

    pause: Pause
    first_s: float
    waited_s: float = 0.0
    rounds: int = 0
    failures: int = 0

    def wait(self, err: Exception | None) -> bool:
        """Pause after a failed attempt; tell whether there is to be another one."""
        wait_s = min(self.first_s * 2.0**self.rounds, MAX_PAUSE_S)
        self.rounds += 1
        if isinstance(err, Busy):
            wait_s = max(wait_s, err.after_s)
        else:
            self.failures += 1
        if self.failures >= ATTEMPTS or self.waited_s + wait_s > PATIENCE_S:
            return False
        self.pause(wait_s)
        self.waited_s += wait_s
        return True


def patiently(
    ask: Callable[[], T], patience: Patience, is_final: Callable[[SourceFailure], bool] = lambda _: False
) -> T:
    """Return what one store answers, asked again until patience ends or a failure is final; raise the last one then."""
    while True:
        try:
            return ask()
        except SourceFailure as err:
            if is_final(err) or not patience.wait(err):
                raise
