"""One move of a job: read it, decide, carry it out; again where the job has moved on meanwhile.

Rules:
- A decision is made outside every transaction, on the event loop, from a snapshot and the world of that moment; its
  transaction is queued before anything else can happen. So what is being answered is known to it, and what another
  wrote since the snapshot was read makes it void (applying.py).
- Whatever a crash interrupted, the next decision finds undone and does: there is nothing else to recover.
- Who is told is told when it is durable.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats import ids, note
from stannary.formats.digest import Digest
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Rejection
from stannary.jobs.course import asking, ending, failing, lapsing, offering
from stannary.jobs.course.actions import STANDS_STILL, Action, Conclude, EndLease, Print
from stannary.jobs.course.asking import OfferedAudit
from stannary.jobs.course.concluding import JudgedJob
from stannary.jobs.course.decide import course
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.masks import why_dear
from stannary.jobs.course.state import CosignedCheckpoint, Grant, JobOrder, JobState, LeaseRow, Node, Placed, World
from stannary.jobs.states import JobStatus, LeaseState
from stannary.market import terms
from stannary.market.clock import now_ms
from stannary.market.engine import applying, loading
from stannary.market.engine.applying import Applied, Decided, Pen
from stannary.market.engine.holding import Holds
from stannary.market.engine.ready import Ready
from stannary.market.exchange import Exchange
from stannary.market.offerbook import asked
from stannary.market.presence import Presence, Roster
from stannary.market.topics import WORK, job_topic
from stannary.place import match
from stannary.rules import masks
from stannary.rules.pace import Progress, median_step_s
from stannary.wire import node as wire

Give = Callable[[Connection, JobOrder, Grant, int], LeaseRow]

MAX_REPORTED = 64  # leases of one job whose reports are remembered; the median wants the latest


@dataclass(frozen=True, slots=True)
class _There:
    """The nodes that may get new work at one moment: heard from lately, not draining."""

    roster: Roster
    at_s: float

    def __contains__(self, node: object) -> bool:
        name = str(node)
        present = self.roster.presence(name, self.at_s) is Presence.LIVE
        return present and self.roster.state(name) != "draining"


@dataclass(frozen=True, slots=True)
class _Lost:
    """The nodes given up at one moment."""

    roster: Roster
    at_s: float

    def __contains__(self, node: object) -> bool:
        return self.roster.is_given_up(str(node), self.at_s)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move decided, and the state it left."""

    draft: CourseDraft
    applied: Applied = field(default_factory=Applied)

    @property
    def has_moved(self) -> bool:
        """Whether anything was planned, handed in, drawn or judged."""
        return any(not isinstance(action, STANDS_STILL) for action in self.draft.actions)

    @property
    def concludes(self) -> bool:
        """Whether nothing is open any more: the receipt can be made."""
        return any(isinstance(action, Conclude) for action in self.draft.actions)


class Mover:
    """Moves the jobs of one market."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.holds = Holds()
        self.ready = Ready()
        self.resumed_at_ms = 0
        self._last_given: dict[str, LeaseType] = {}  # node -> what it was given last: work or an audit
        self._progress: dict[str, dict[str, Progress]] = {}  # job -> lease -> what its node reported
        self._checkpoint = CosignedCheckpoint("", 0, Digest(""))

    def world(self, job: str) -> World:
        """Return what a decision about a job may know now."""
        exchange = self._exchange
        text = exchange.log.checkpoint()
        if text != self._checkpoint.text:
            self._checkpoint = read_checkpoint(text)
        return World(
            now_ms=now_ms(exchange.clock),
            timing=exchange.settings.timing,
            nodes=exchange.directory,
            live=_There(exchange.roster, exchange.clock.steady()),
            answering=frozenset(self.holds.answering),
            checkpoint=self._checkpoint,
            place=self._place,
            terms=terms.accepted,
            resumed_at_ms=self.resumed_at_ms,
            leaps=exchange.clock.leaps,
            gone=_Lost(exchange.roster, exchange.clock.steady()),
            busy=self.ready.busy,
            step_s=self.step_s(job),
        )

    async def move(self, order: JobOrder, decide: Callable[[JobState, World], CourseDraft] = course) -> Moved:
        """Take a job as far as it goes now."""
        exchange = self._exchange
        while True:
            state = await exchange.store.aread(lambda c: loading.snapshot(c, order))
            world = self.world(order.job)
            draft = decide(state, world)
            moved = Moved(draft)
            if all(isinstance(action, Conclude) for action in draft.actions):
                break
            moved = Moved(draft, await exchange.store.awrite(self._applying(state, draft.actions, world)))
            if not moved.applied.is_stale:
                break
        await self._tell(moved)
        return moved

    async def carry_out(self, job: JudgedJob, decided: Sequence[Action]) -> None:
        """Carry out what was decided about a job of which nothing is open, unless it has moved on."""
        exchange = self._exchange
        applied = await exchange.store.awrite(self._applying(job, decided, self.world(job.order.job)))
        exchange.journal.wake()
        if applied.revoked:
            await exchange.forget_nodes(applied.revoked)
        exchange.bell.ring(*applied.rings)

    async def end(self, order: JobOrder, to: JobStatus, reason: str, message: str) -> bool:
        """Begin the end of a job; tell whether it begins now."""

        def decide(state: JobState, world: World) -> CourseDraft:
            draft = CourseDraft(state, world)
            ending.begin_end(draft, to, reason, message)
            return draft

        return bool((await self.move(order, decide)).draft.actions)

    async def report(self, order: JobOrder | None, lease: str, failure: wire.Failure) -> str:
        """End a lease its node cannot fulfil; return its job. What enough operators report is the job's failure.

        Raises:
            ConflictError: the lease has ended before.
        """
        exchange = self._exchange
        message = failure.message or failure.reason
        row = await exchange.store.aread(lambda c: loading.lease(c, lease))
        lines = (*failure.log_tail.splitlines(), message)

        def decide(state: JobState, world: World) -> CourseDraft:
            draft = CourseDraft(state, world)
            if lease not in state.leases:
                raise ConflictError("this lease has ended", why=lease)
            failing.report(draft, state.leases[lease], failure.reason, message)
            draft.do(Print(row.task, row.node, lines))
            return draft

        if order is None:
            said = EndLease(lease, LeaseState.RELEASED, failure.reason, message[: ending.MAX_MESSAGE_CHARS])
            await exchange.store.awrite(lambda c: applying.release(c, row, said, lines, exchange.now_ms))
        else:
            await self.move(order, decide)
        return row.job

    async def give(self, node: str) -> LeaseRow | None:
        """Give a node that has room what it should do next, audits and work in turn; None if nothing is there."""
        exchange = self._exchange
        holder, world = exchange.directory.get(node), self.world("")
        if node not in world.live or holder.why_out(world.now_ms):
            return None
        offered, is_audits_turn = self.ready.offered(node), asking.is_audits_turn(self._last_given.get(node))
        given = None if offered is not None and is_audits_turn else await self._give_work(holder, world)
        return await self._give_audit(*offered) if given is None and offered is not None else given

    async def _give_audit(self, order: JobOrder, offer: OfferedAudit) -> LeaseRow | None:
        moment = self.world(order.job)
        self.ready.took(offer, moment.now_ms)
        return await self._give(order, asking.take(order, offer, moment), applying.give_audit)

    async def _give_work(self, holder: Node, world: World) -> LeaseRow | None:
        found = self.ready.choose(holder, world, self._exchange.directory.version)
        if found is None:
            return None
        order, task = found
        moment = self.world(order.job)
        self.ready.taken(task, holder.node, moment.now_ms)
        grant = offering.grant(order, task, holder, moment, "w-" + secrets.token_hex(12))
        return await self._give(order, grant, applying.give)

    async def _give(self, order: JobOrder, grant: Grant, apply: Give) -> LeaseRow | None:
        now_ms = self._exchange.now_ms
        try:
            given = await self._exchange.store.awrite(lambda c: apply(c, order, grant, now_ms))
        except ConflictError:  # another was quicker, or the job has moved on: read again, it rings when it has work
            self._exchange.bell.ring(job_topic(order.job))
            return None
        self._last_given[grant.node] = grant.type
        return given

    async def expire(self, orders: Callable[[str], JobOrder | None]) -> list[LeaseRow]:
        """End what is overdue; its tasks go to other nodes, in the next epoch."""
        exchange = self._exchange
        held = await exchange.store.aread(loading.held)
        # What is being answered must be known at the moment the write is queued: nothing is awaited from here on.
        now_s, worlds = exchange.clock.steady(), dict[str, World]()
        lost = _Lost(exchange.roster, now_s)
        over: list[tuple[LeaseRow, str]] = []
        for item in held:
            job = item.lease.job
            if job not in worlds:
                worlds[job] = self.world(job)
            reported = self._progress.get(job, {}).get(item.lease.lease)
            reason = lapsing.why_over(lapsing.HeldLease(item, orders(job), reported), worlds[job], lost, now_s)
            if reason:
                over.append((item.lease, reason))
        if not over:
            return []
        at_ms = exchange.now_ms
        return await exchange.store.awrite(lambda c: applying.take_back(c, over, at_ms))

    def hear(self, lease: LeaseRow, phase: str, step: int) -> None:
        """Take a report of progress."""
        now_s = self._exchange.clock.steady()
        of_job = self._progress.setdefault(lease.job, {})
        kind, _, _ = ids.place_of(lease.task)
        of_job.setdefault(lease.lease, Progress(kind, now_s, now_s)).hear(phase, step, now_s)
        if len(of_job) > MAX_REPORTED:
            del of_job[next(iter(of_job))]

    def step_s(self, job: str) -> float:
        """Return the measured time of a step of a job, zero where none was."""
        return median_step_s(self._progress.get(job, {}).values())

    def forget(self, job: str) -> None:
        """Drop what is known of a job that has ended."""
        self._progress.pop(job, None)
        self.ready.drop(job)

    async def _tell(self, moved: Moved) -> None:
        exchange, draft = self._exchange, moved.draft
        changed = [*moved.applied.convicted, *moved.applied.standing]
        if changed:
            await exchange.read_nodes(changed)
        found = self.ready.note(draft.state(), draft.engine_class)
        exchange.bell.ring(*moved.applied.rings, *([WORK] if found else []))

    def _applying(self, state: Decided, decided: Sequence[Action], world: World) -> Callable[[Connection], Applied]:
        exchange, decided = self._exchange, tuple(decided)
        pen = Pen(exchange.journal.sign, exchange.log.inclusion, exchange.log.consistency)
        return lambda c: applying.apply(c, state, decided, world, pen)

    def _place(self, order: JobOrder) -> Placed:
        live = _There(self._exchange.roster, self._exchange.clock.steady())
        standing = self._exchange.directory.offers(now_ms(self._exchange.clock))
        wanted = asked(order.spec)
        fit = [node for node in standing if not masks.why_not(node, wanted.of_auditors)]
        dear = {node.node: why for node in fit if (why := why_dear(node, order))}
        offers = [node for node in standing if node.node not in dear]
        away = {node.node: "not heard from" for node in offers if node.node not in live}
        found = match.match(offers, wanted, away)
        rejected = sorted([*found.rejected, *itertools.starmap(Rejection, dear.items())], key=lambda item: item.node)
        return Placed(tuple(offer.node for offer in found.chosen), tuple(rejected), found.engine_class)


def read_checkpoint(text: str) -> CosignedCheckpoint:
    """Read our own published checkpoint."""
    body = note.parse_checkpoint(note.parse(text).text)
    return CosignedCheckpoint(text, body.size, Digest("sha256:" + body.root.hex()))
