"""Show a running job: phases with elapsed time, the loss of each round, and who was convicted.

What is not worth a line of its own (leases, draws, audits that agree) goes through the status line
of a terminal. Messages come from the market and pass `plain`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stannary.cli.output import Output, plain
from stannary.sdk.client import Client, Turn
from stannary.wire.buyer import Event, JobView, Progress

PHASES = ("queued", "placing", "attesting", "starting", "running", "recovering", "verifying", "cancelling")
LINES = {
    "task.refuted": "CONVICTED",
    "audit.refuted": "CONVICTED",
    "lease.expired": "lost",
    "lease.released": "handed back",
    "task.superseded": "redone",
    "job.failed": "failed",
    "node.lost": "lost",
    "beacon.overdue": "waiting",
}
QUIET = ("lease.released",)  # ordinary while a job ends or a node drains


@dataclass(slots=True)
class Follower:
    """Prints the turns of one job."""

    out: Output
    clock: Callable[[], float] = time.monotonic
    phase: str = ""
    since: float = 0.0
    seen: int = 0
    _last: Progress | None = field(default=None)

    def show(self, turn: Turn) -> None:
        """Print what is new."""
        for event in turn.events:
            self.seen = max(self.seen, event.seq)
            self._event(event)
        self._progress(turn.view)

    def _event(self, event: Event) -> None:
        subject, _, state = event.type.partition(".")
        if subject == "job" and state in PHASES:
            self._phase(state)
        elif event.type in LINES and event.type not in QUIET:
            message = plain(event.message)[:200]
            named = [name for name in (event.node, event.task) if name and name not in message]
            self.out.say(f"  ! {LINES[event.type]:<12}{' '.join([*named, message])}")
        else:
            self.out.status(f"    {event.type}  {plain(event.message)[:80]}")

    def _phase(self, state: str) -> None:
        now = self.clock()
        if self.phase:
            self.out.say(f"  {self.phase:<11}{now - self.since:6.1f} s")
        self.phase, self.since = state, now

    def _progress(self, view: JobView) -> None:
        progress = view.progress
        # A closed round's merge brings the held-out figure; until then the loss is that of a round at work.
        if progress.heldout is not None and (self._last is None or progress.heldout != self._last.heldout):
            self._last = progress
            elapsed = self.clock() - self.since
            figures = f"{progress.round:>3}/{progress.rounds}  loss {progress.loss or '-'}"
            self.out.say(f"  {'round':<11}{elapsed:6.1f} s  {figures}  held-out {progress.heldout} bits/byte")
        if view.finished_at is not None:
            self._phase("")


def follow(client: Client, job: str, out: Output, tend: Callable[[], str] = lambda: "") -> JobView:
    """Show a job until it ends, and return it; `tend` makes sure of its broker and says what is to be said."""
    follower = Follower(out)
    follower.since = follower.clock()
    view: JobView | None = None
    _say(out, tend())
    for turn in client.follow(job):
        _say(out, tend())
        follower.show(turn)
        view = turn.view
    if view is None:
        return client.job(job)
    return view


def _say(out: Output, line: str) -> None:
    if line:
        out.say(line)
