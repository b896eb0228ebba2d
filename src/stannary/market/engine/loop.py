"""The engines: the queue, one loop for each job that left it, and the deadline keeper.

A loop moves its job whenever something of it rings, and once a sweep. A move that fails is tried again: its job stands
still meanwhile, the others do not.

No job holds its escrow for ever, counted in time this market was there to listen:
- What the market cannot move or conclude ends `market-fault` after MAX_FAULTS tries (about four minutes), refunded,
  with a line in the log and in the operator's list of faults. A full disk or a witness that is away is no fault: the
  job waits for it.
- A task nobody takes ends its job `no-capacity` when it has waited `placing_s` and no node that could take it has
  been there for `lost_s`.
- A job of which nothing was handed in, drawn or judged for `stall_s` and LATEST_FACTOR times its longest task ends
  `stalled`; if its end does not come in the same time again, it is concluded from what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Connection

from stannary.errors import EnvironmentProblem, LimitExceeded, ServiceError, StannaryError
from stannary.jobs.course import ending, waiting
from stannary.jobs.course.state import JobOrder
from stannary.jobs.course.waiting import Wait
from stannary.jobs.states import JobStatus, is_terminal
from stannary.market.clock import now_ms
from stannary.market.engine import aborting, applying, concluding, loading, recording
from stannary.market.engine.moving import Moved, Mover
from stannary.market.engine.queueing import Queue, Queued, Slots
from stannary.market.exchange import Exchange
from stannary.market.offerbook import asked
from stannary.market.presence import keep, kept
from stannary.market.topics import DEADLINES, QUEUE, WORK, job_topic, logged_topic, node_topic, seen_topic
from stannary.rules.reasons import Reason
from stannary.wire import errors as wire_errors

RETRY_S = 1.0
MAX_RETRY_S = 60.0
MAX_FAULTS = 10  # 1 + 2 + 4 + ... + 60 s between them: a fault that passes has passed by then
IDLE_FACTOR = 8
MAX_OPEN_OF_BUYER = 100_000  # of one buyer, queued ones among them: about 1 KiB of memory each
BACKLOG = 8  # planned tasks that wait for each live node before more jobs are placed: it is never idle for want of one
MIN_BACKLOG = 16
PRESENCE_FILE = "present"

log = logging.getLogger("stannary.market")


@dataclass(slots=True)
class _Pulse:
    """What a loop remembers of its job between two moves."""

    moved_at: float  # when anything was last handed in, drawn or judged, on the steady clock
    deserted_since: float | None = None  # the same
    num_faults: int = 0  # in a row


class Engines:
    """All that moves the jobs of one market."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.orders: dict[str, JobOrder] = {}
        self.mover = Mover(exchange)
        self.holds = self.mover.holds
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._awaiting_log: set[str] = set()  # jobs that go on when statements of theirs are logged
        self._queue = Queue()
        self._owed: set[str] = set()  # jobs that wait for nothing but their buyer's value
        self._waits: dict[str, list[Wait]] = {}  # job -> what it waits for, as of its last move
        self._open_of: dict[str, int] = {}  # buyer -> open jobs
        self._unplanned: dict[str, int] = {}  # jobs that got it and have not planned yet, with their lanes
        self._kept: frozenset[str] = frozenset()  # who is here, as written down last

    async def start(self) -> None:
        """Take up every open job where it was left."""
        exchange = self._exchange
        self.mover.resumed_at_ms = now_ms(exchange.clock)
        await exchange.journal.drain()
        await exchange.read_nodes()
        await exchange.store.awrite(self._recover)
        held = await exchange.store.aread(loading.held)
        were_here, holders = kept(self._presence_file), {item.lease.node for item in held}
        for node in exchange.directory:
            # A market that was down must not take its own absence for its nodes'.
            was_here = were_here is None or node.node in were_here or node.node in holders
            exchange.roster.assume(node.node, exchange.clock.steady(), was_here=was_here)
        for name in sorted(self.orders):
            if name not in self._queue:
                self._spawn(name)
        log.info("took up %d open jobs, %d leases", len(self.orders), len(held))

    async def stop(self) -> None:
        """End all loops; what they were doing is in the store."""
        for loop in self._loops.values():
            loop.cancel()
        await asyncio.gather(*self._loops.values(), return_exceptions=True)
        with contextlib.suppress(StannaryError):  # a full disk: the next start goes by what was written before
            keep(self._presence_file, self._exchange.roster.here(self._exchange.clock.steady()))

    def add(self, job: str, order: JobOrder) -> None:
        """Take a job that was just accepted into the queue."""
        self._take_in(job, order)
        self._queue.add(job, order.buyer, Queued(asked(order.spec), self._exchange.now_ms))
        if len(self._queue) == 1:  # who comes behind others waits with them
            self._exchange.bell.ring(QUEUE)

    async def keep_deadlines(self) -> None:
        """Expire what is overdue, for ever; tell what became of silent nodes."""
        exchange = self._exchange
        while True:
            mark = exchange.bell.mark()
            try:
                for node, presence in exchange.roster.sweep(exchange.clock.steady()):
                    await exchange.store.awrite(
                        partial(applying.tell, node=node, presence=presence, now_ms=now_ms(exchange.clock))
                    )
                await self._expire()
                here = frozenset(exchange.roster.here(exchange.clock.steady()))
                if here != self._kept:
                    await asyncio.to_thread(keep, self._presence_file, here)
                    self._kept = here
            except StannaryError as err:
                log.warning("deadlines wait: %s", err)
            except Exception:  # a process edge: without this loop no lease of a silent node would ever end
                log.exception("deadlines wait")
            await exchange.bell.wait(mark, exchange.settings.timing.sweep_s, DEADLINES)

    @property
    def _presence_file(self) -> Path:
        return self._exchange.settings.directory / PRESENCE_FILE

    async def _expire(self) -> None:
        for lease in await self.mover.expire(self.orders.get):
            log.info("lease %s of %s at %s ended", lease.lease, lease.task, lease.node)
            self._exchange.bell.ring(job_topic(lease.job), node_topic(lease.node), WORK)

    async def keep_queue(self) -> None:
        """Begin queued jobs, buyers in turn (queueing.py), as nodes come free for them, for ever.

        A job placed ahead of any free node gains nothing and costs the market ten times its submit, so jobs stay
        queued while BACKLOG tasks of others wait for each live node. What no offer fits holds nobody up.
        """
        exchange = self._exchange
        while True:
            mark = exchange.bell.mark()
            try:
                if self._queue:
                    await self._begin()
            except Exception:  # a process edge: without this loop no accepted job would ever begin
                log.exception("the queue waits")
            await exchange.bell.wait(mark, exchange.settings.timing.sweep_s, QUEUE)

    async def _begin(self) -> None:
        exchange = self._exchange
        waiting_tasks = self.mover.ready.num_waiting + sum(self._unplanned.values())
        world = self.mover.world("")
        num_live = exchange.roster.num_live(exchange.clock.steady())
        room = max(MIN_BACKLOG, BACKLOG * num_live) - waiting_tasks
        patience_ms = 1000 * exchange.settings.timing.placing_s

        def has_turn(queued: Queued) -> bool:
            # a job that waited too long gets its turn all the same: its first step says that there is no capacity
            return exchange.offers.fits(queued.wanted) or world.waited_ms(queued.since_ms) > patience_ms

        for job in self._queue.turns(self._slots(), room, has_turn):
            self._queue.remove(job)
            self._spawn(job)

    def _slots(self) -> Slots:
        return Slots(
            active=Counter(self.orders[job].buyer for job in self._loops),
            owed=Counter(self.orders[job].buyer for job in self._owed),
        )

    def waits_of(self, job: str) -> list[Wait]:
        """Return what an open job waits for, as of its last move."""
        if job in self._queue:
            return [waiting.for_its_turn(self.orders[job].job)]
        return self._waits.get(job, [])

    def check_room(self, buyer: str) -> None:
        """Refuse a buyer who has as many open jobs as one may have, before anything of another is read.

        Raises:
            LimitExceeded: too many.
        """
        if self._open_of.get(buyer, 0) >= MAX_OPEN_OF_BUYER:
            raise LimitExceeded(
                "this account has too many open jobs",
                why=f"{MAX_OPEN_OF_BUYER:,} have not ended",
                hint="wait for some of them (stannary ls), or cancel them",
                detail=wire_errors.QUOTA,
            )

    def _take_in(self, job: str, order: JobOrder) -> None:
        self.orders[job] = order
        self._open_of[order.buyer] = self._open_of.get(order.buyer, 0) + 1

    def _let_go(self, job: str) -> None:
        buyer = self.orders.pop(job).buyer
        self._waits.pop(job, None)
        self._owed.discard(job)
        self._open_of[buyer] -= 1
        if not self._open_of[buyer]:
            del self._open_of[buyer]

    def _spawn(self, job: str) -> None:
        self._unplanned[job] = self.orders[job].shape.num_lanes
        self._loops[job] = asyncio.create_task(self._run(job), name=f"engine {job}")

    def _recover(self, connection: Connection) -> None:
        at_ms = now_ms(self._exchange.clock)
        for found in loading.open_jobs(connection):
            job, order = found.job, found.order
            if isinstance(order, StannaryError):
                log.error("job %s cannot be taken up", job, exc_info=order)
                aborting.abort(connection, job, at_ms, f"its order cannot be read: {order.what}")
                continue
            self._take_in(job, order)
            if found.is_queued:
                self._queue.add(job, order.buyer, Queued(asked(order.spec), found.submitted_at_ms))
            recording.recover(connection, job, at_ms)

    async def _run(self, job: str) -> None:
        order, exchange = self.orders[job], self._exchange
        pulse = _Pulse(exchange.clock.steady())
        topics = [job_topic(job)]
        sweep_s = idle_s = exchange.settings.timing.sweep_s
        while True:
            mark = exchange.bell.mark()
            try:
                if await self._step(order, pulse):
                    break
                topics = [job_topic(job), *([logged_topic(job)] if job in self._awaiting_log else [])]
                pulse.num_faults = 0
            except (
                EnvironmentProblem,
                ServiceError,
            ) as err:  # it passes, or the operator must act: no fault of the job
                log.warning("job %s waits: %s", job, err)
                await exchange.clock.sleep(RETRY_S)
            except Exception as err:  # a process edge: counted, told and at last ended as the market's fault (_abort)
                log.exception("job %s stands still", job)
                pulse.num_faults += 1
                if pulse.num_faults >= MAX_FAULTS and await self._abort(order, err):
                    break
                await exchange.clock.sleep(min(RETRY_S * 2 ** (pulse.num_faults - 1), MAX_RETRY_S))
            self._unplanned.pop(job, None)
            rung = await exchange.bell.wait(mark, idle_s, *topics)
            # what only time can change is looked at ever more seldom: a thousand queued jobs must not busy the writer
            idle_s = sweep_s if rung else min(2 * idle_s, IDLE_FACTOR * sweep_s)
        self.mover.forget(job)
        self._awaiting_log.discard(job)
        self._unplanned.pop(job, None)
        self._loops.pop(job, None)
        self._let_go(job)
        exchange.bell.ring(QUEUE)

    async def _abort(self, order: JobOrder, cause: Exception) -> bool:
        """End a job the market cannot go on with; tell whether that could be done."""
        what = cause.what if isinstance(cause, StannaryError) else f"a fault of the market ({type(cause).__name__})"
        try:
            await self._exchange.store.awrite(
                lambda c: aborting.abort(c, order.job, now_ms(self._exchange.clock), what)
            )
        except Exception:  # a process edge: the end is tried again; its escrow would be held for ever
            log.exception("job %s cannot be ended", order.job)
            return False
        log.error("job %s is ended as %s and refunded: %s", order.job, Reason.MARKET_FAULT, what)
        self._exchange.journal.wake()
        self._exchange.bell.ring(seen_topic(order.job), job_topic(order.job), WORK)
        return True

    async def _keep_moving(self, order: JobOrder, pulse: _Pulse, moved: Moved) -> bool:
        """End a job nobody works for any more; tell whether its end, too, is overdue."""
        now = self._exchange.clock.steady()
        if moved.has_moved:
            pulse.moved_at = now
        if not waiting.is_deserted(moved.draft):
            pulse.deserted_since = None
        elif pulse.deserted_since is None:
            pulse.deserted_since = now
        deserted_s = now - pulse.deserted_since if pulse.deserted_since is not None else None
        end = ending.overdue(order, self.mover.world(order.job), now - pulse.moved_at, deserted_s)
        if end is None or is_terminal(moved.draft.status) or moved.concludes:
            return False
        is_new = await self.mover.end(order, JobStatus.FAILED, *end)
        pulse.moved_at = now
        self._exchange.bell.ring(job_topic(order.job))
        return not is_new

    async def _step(self, order: JobOrder, pulse: _Pulse) -> bool:
        """Move a job once; tell whether it has ended."""
        exchange = self._exchange
        moved = await self.mover.move(order)
        if moved.has_moved:
            exchange.journal.wake()
            exchange.bell.ring(seen_topic(order.job))
        if moved.draft.is_unfinished:
            exchange.bell.ring(job_topic(order.job))
        if moved.draft.drawing.awaits_log:
            self._awaiting_log.add(order.job)
        else:
            self._awaiting_log.discard(order.job)
        self._waits[order.job] = waiting.waits(moved.draft)
        owed = waiting.owes(moved.draft)
        if owed != (order.job in self._owed):
            (self._owed.add if owed else self._owed.discard)(order.job)
            exchange.bell.ring(QUEUE)
        overdue = await self._keep_moving(order, pulse, moved)
        if moved.concludes or overdue:
            return await self._conclude(order)
        return is_terminal(moved.draft.status)

    async def _conclude(self, order: JobOrder) -> bool:
        if await concluding.end(self._exchange, self.mover, order):
            return True
        self._awaiting_log.add(order.job)
        return False  # the journal rings when more is logged

    async def cancel(self, job: str) -> None:
        """Begin to end a job at its buyer's wish."""
        order = self.orders.get(job)
        if order is None:  # it has ended
            return
        await self.mover.end(order, JobStatus.CANCELLED, Reason.CANCELLED, "cancelled by its buyer")
        if self._queue.remove(job):
            self._spawn(job)  # its end is made by its loop, whether there is room or not
        self._exchange.bell.ring(job_topic(job), WORK)
