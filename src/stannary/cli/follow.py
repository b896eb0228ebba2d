"""Show a running job: phases with elapsed time, each round with its figures, a command's output, and who was convicted.

Rules:
1. What is not worth a line of its own (leases, draws, audits that agree) goes through the status line of a terminal, as
   a sentence (happenings.py).
2. A wait of more than SILENCE_S says what is waited for, once in each phase, also outside a terminal.
3. A market that does not answer is asked again (Patience): said once, given up after GIVE_UP_S with the command that
   goes on from there. Nothing of a job is lost by either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from stannary.cli import happenings
from stannary.cli.happenings import Weight
from stannary.cli.output import Output, cell, wrapped
from stannary.errors import Interrupted, ServiceError
from stannary.formats import bounds, ended, ids
from stannary.rules.kinds import TASKS
from stannary.sdk.client import Client, Turn
from stannary.wire.buyer import Event, JobView, LogLine

PHASES = ("queued", "running", "verifying", "cancelling")
SILENCE_S = 5.0
GIVE_UP_S = 1800.0  # a market that is moved to another machine is back by then
RETRY_S = 1.0
MAX_NAMED = 2  # nodes named while they are waited for
MAX_METRICS = 8  # of one round, as many as a contribution may carry
MAX_OUTPUT_CHARS = 1_000  # of one line of a command on this screen; `stannary logs` has all of it
WAITS: Mapping[str, str] = {
    "queued": "its turn at the market",
    "running": "its nodes to compute",
    "verifying": "others to compute drawn work again",
    "cancelling": "nodes to hand back, and the audits of what was done",
}


class Patience:
    """Asks a market again while it does not answer (rule 3)."""

    def __init__(
        self,
        out: Output,
        job: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._out, self._job, self._clock, self._sleep = out, job, clock, sleep
        self._silent_since: float | None = None

    def tell(self, line: str) -> None:
        """Say what a broker's keeper has to say, if anything."""
        if line:
            self._out.say(line)

    def answered(self) -> None:
        """Note an answer."""
        if self._silent_since is not None:
            self._out.say(f"  market     answers again after {self._clock() - self._silent_since:.0f} s")
            self._silent_since = None

    def failed(self, err: ServiceError) -> None:
        """Say that there was no answer, and wait a moment.

        Raises:
            ServiceError: it has been silent for too long.
        """
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
            self._out.say(f"  ! market     {err.what}; asking again (Ctrl-C stops that, not the job)")
            if err.hint:
                self._out.say(f"               if it stays silent: {err.hint}")
        if now - self._silent_since >= GIVE_UP_S:
            raise type(err)(err.what, why=err.why, hint=f"stannary wait {self._job}") from err
        self._out.status(f"    market silent for {now - self._silent_since:.0f} s; later: stannary wait {self._job}")
        self._sleep(RETRY_S)


def detached(job: str, out: Output) -> int:
    """Say that Ctrl-C ended the looking, not the job, and return the exit code."""
    out.say(f"Detached. {job} goes on.   follow: stannary wait {job}   end it: stannary stop {job}")
    out.result({"job": job, "detached": True})
    return Interrupted.exit_code


@contextmanager
def going_on(job: str) -> Iterator[None]:
    """Name the command that goes on with a job in the error of a market that has fallen silent."""
    try:
        yield
    except ServiceError as err:
        raise type(err)(err.what, why=err.why, hint=f"stannary wait {job}", detail=err.detail) from err


@dataclass(slots=True)
class Follower:
    """Prints the turns of one job."""

    out: Output
    clock: Callable[[], float] = time.monotonic
    phase: str = ""
    since: float = 0.0
    seen: int = 0
    _said_at: float = 0.0
    _waits_said: set[str] = field(default_factory=set)
    _audits: set[tuple[str, str]] = field(default_factory=set)  # (node, task) drawn and not yet closed
    _losses: dict[str, list[Decimal | None]] = field(default_factory=dict)  # by `r<round>`
    _auditing: set[tuple[str, str]] = field(default_factory=set)  # (node, task): its lines repeat another node's

    def __post_init__(self) -> None:
        self.since = self._said_at = self.clock()

    def show(self, turn: Turn) -> None:
        """Print what is new."""
        for event in turn.events:
            self.seen = max(self.seen, event.seq)
            self._event(event, turn.view)
        if turn.view.finished_at is not None:
            self._phase("")
        else:
            self._wait(turn.view)

    def output(self, line: LogLine, num_lanes: int) -> None:
        """Print a line of a command's output; an auditor's would be the same again."""
        if line.stream not in ("stdout", "stderr") or (line.node or "", line.task or "") in self._auditing:
            return
        lane = (line.task or "").partition("/run/")[2].partition("/")[0]
        mark = f"{lane} |" if num_lanes > 1 and lane else "|"
        self._say(f"  {mark} {cell(line.text, MAX_OUTPUT_CHARS)}")

    def _event(self, event: Event, view: JobView) -> None:
        subject, _, state = event.type.partition(".")
        if event.type == "lease.granted" and event.node and event.task:
            keep = self._auditing.add if event.data.get("type") == "audit" else self._auditing.discard
            keep((event.node, event.task))
        if subject == "audit":
            note = self._audits.add if state == "opened" else self._audits.discard
            note((event.node or "", event.task or ""))
        if subject == "job" and state in PHASES:
            self._phase(state)
        elif subject == "check":  # no alarm
            for line in wrapped(f"{happenings.label(event):<11}{happenings.sentence(event)}", indent=2, hanging=13):
                self._say(line)
        elif happenings.weight(event) is Weight.LINE:
            self._say(f"  ! {happenings.label(event):<12}{happenings.sentence(event)}")
        else:
            self.out.status(f"    {happenings.sentence(event)}")
        if event.type == "task.contributed":
            self._figures(event, view.progress.rounds)
            self._ending(event)

    def _ending(self, event: Event) -> None:
        """Say at once how a program ended that did not end well; others compute it again meanwhile."""
        how = event.data.get("ended")
        if event.task and isinstance(how, str) and bounds.ENDED.fits(how) and how != ended.WELL:
            more = "; its outputs are there: stannary get" if TASKS[ids.place_of(event.task)[0]].is_program else ""
            said = f"{happenings.unit(event.task)}: {ended.words(how)}{more}"
            for line in wrapped(f"pending    {said}", indent=2, hanging=13):
                self._say(line)

    def _phase(self, state: str) -> None:
        now = self.clock()
        if self.phase:
            self._say(f"  {self.phase:<11}{now - self.since:6.1f} s")
        self._waits_said = {said for said in self._waits_said if not said.startswith(state or " ")}
        self.phase, self.since, self._said_at = state, now, now

    def _figures(self, event: Event, num_rounds: int) -> None:
        """Collect the lanes' losses; with the merge print the round's figures, every metric under its own name."""
        metrics = _metrics(event)
        number = happenings.round_merged(event)
        if number is None:
            place = (event.task or "").split("/")[1:2]
            if place:
                self._losses.setdefault(place[0], []).append(_decimal(metrics.get("loss", "")))
            return
        stated = self._losses.pop(f"r{number - 1}", [])
        losses = [loss for loss in stated if loss is not None]
        figures = [f"loss {sum(losses) / len(losses):.4f}"] if losses else []
        if len(losses) < len(stated):  # nan cannot be signed, and what such a lane gave weighs nothing in the merge
            figures.append(f"{len(stated) - len(losses)} of {len(stated)} lanes without a finite loss")
        figures += [f"{cell(name, 60)} {cell(value, 30)}" for name, value in metrics.items()]
        took = f"{self.clock() - self.since:6.1f} s  {number:>3}/{num_rounds}"
        self._say("  ".join([f"  {'round':<11}{took}", *figures]))

    def _wait(self, view: JobView) -> None:
        """Say what is waited for (rule 2)."""
        now = self.clock()
        if now - self._said_at < SILENCE_S or view.status not in WAITS:
            return
        at_work = any(item.state == "work" for item in view.nodes)
        is_audited = view.status == "running" and bool(self._audits) and not at_work
        what = "others to compute again what was handed in" if is_audited else _workers(view)
        said = f"{view.status}{is_audited}"
        if said not in self._waits_said:
            self._waits_said.add(said)
            self._say(f"  waiting    for {what}")
        else:
            self.out.status(f"    {view.status} for {now - self.since:.0f} s: waiting for {what}")

    def _say(self, line: str) -> None:
        self.out.say(line)
        self._said_at = self.clock()


def follow(
    client: Client,
    job: str,
    out: Output,
    tend: Callable[[], str] = lambda: "",
    *,
    patience: Patience | None = None,
) -> JobView:
    """Show a job until it ends, and return it; `tend` makes sure of its broker and says what is to be said.

    Raises:
        ServiceError: the market has not answered for GIVE_UP_S; the hint goes on.
    """
    follower, patience = Follower(out), patience or Patience(out, job)
    printed = _Printed()
    while True:
        patience.tell(tend())
        try:
            for turn in client.follow(job, follower.seen):
                patience.answered()
                patience.tell(tend())
                follower.show(turn)
                printed.show(client, turn.view, follower)
                if turn.view.finished_at is not None:
                    return turn.view
        except ServiceError as err:
            patience.failed(err)


@dataclass(slots=True)
class _Printed:
    """How far a command's output has been shown."""

    after: int = 0

    def show(self, client: Client, view: JobView, follower: Follower) -> None:
        """Show what a command has printed since; the recipe of a training job speaks by its metrics."""
        while view.is_program:
            page = client.logs(view.id, after=self.after)
            for line in page.lines:
                follower.output(line, len(view.nodes))
            self.after = page.next
            if not page.lines:
                return


def _workers(view: JobView) -> str:
    """Say what a phase waits for, and for which nodes."""
    at_work = [item for item in view.nodes if item.state not in ("idle", "convicted")]
    names = [f"{item.node} ({cell(item.operator, 40)})" for item in at_work[:MAX_NAMED]]
    more = f" and {len(at_work) - MAX_NAMED} more" if len(at_work) > MAX_NAMED else ""
    return WAITS[view.status] + (f": {', '.join(names)}{more}" if names else "")


def _metrics(event: Event) -> dict[str, str]:
    found = event.data.get("metrics")
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in list(found.items())[:MAX_METRICS] if isinstance(value, str)}


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
