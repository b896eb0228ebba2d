"""The node's clock beside the market's: compared at every beat, said when they part, kept for `node status`.

A node whose clock is so far off that the market refuses what it signs (rules/clocks.py) takes no work until the
two agree again: its work would come to nothing, and its refusals would count as the job's failures. Nor does it
forget what is old by its own clock alone: the first beat at which both agree tells when that may be done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stannary import files
from stannary.formats import instants
from stannary.rules import clocks

FILE = (
    "clock-off"  # in the node's directory: whole seconds this clock is ahead (above 0) or behind, as of the last beat
)
SAY_FROM_S = 30  # far below what is refused, far above what a slow link adds

Tell = Callable[[str], None]


@dataclass(slots=True)
class ClockWatch:
    """What is known of the difference between two clocks."""

    directory: Path
    tell: Tell
    once_fit: Callable[[], object] = lambda: None  # called at the first beat at which the clock is fit
    off_s: int = 0
    _was_fit: bool = field(default=False, init=False)

    def compare(self, sent_s: float, heard_s: float, market: str | None) -> None:
        """Take the market's time as it came with an answer to a beat sent and heard by this clock."""
        if market is None:
            return
        doubt_s = (heard_s - sent_s) / 2 + 1  # how long the way was, and whole seconds
        off_s = (sent_s + heard_s) / 2 - instants.parse(market)
        now_off_s = 0 if abs(off_s) <= doubt_s else round(off_s)
        if now_off_s != self.off_s:
            self._part(now_off_s)
        if self.is_fit and not self._was_fit:
            self._was_fit = True
            self.once_fit()

    def _part(self, now_off_s: int) -> None:
        was_far, self.off_s = abs(self.off_s) >= SAY_FROM_S, now_off_s
        files.replace(self.directory / FILE, f"{now_off_s}\n".encode())
        if abs(now_off_s) >= SAY_FROM_S:
            stopped = "" if self.is_fit else "; no work is taken until they agree"
            self.tell(f"this clock is {instants.words(now_off_s)} the market's (set it by NTP){stopped}")
        elif was_far:
            self.tell("this clock agrees with the market's again")

    @property
    def is_fit(self) -> bool:
        """Tell whether the market would take what is signed now."""
        return clocks.off_s(self.off_s, earliest=0, latest=0) == 0
