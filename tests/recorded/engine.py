"""The engine under recorded runs: the one file that knows how a job is moved.

The stage calls `turn`, `sweep`, `next_lease`, `view`, `hear`, `fail`, `release` and `cancel`, and nothing else of the
market's engine. Whoever changes the engine's shape changes this file; every recorded byte stays.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stannary.errors import StannaryError
from stannary.jobs.course.state import ONE_PIECE, LeaseRow
from stannary.jobs.states import LeaseState
from stannary.market.clock import now_ms
from stannary.market.engine import applying, giving
from stannary.market.engine.loop import MAX_FAULTS, MAX_RETRY_S, RETRY_S, Engines, _Pulse
from stannary.market.presence import keep
from stannary.store import leases, tasks
from stannary.store.transitions import Cause
from stannary.wire import node as wire


class Engine(Engines):
    """The market's engine with its loops taken out: each is turned by hand, in order."""

    def __init__(self, exchange: Any) -> None:
        super().__init__(exchange)
        self._pulses: dict[str, _Pulse] = {}
        self._rests_until: dict[str, float] = {}  # jobs whose step failed

    @property
    def open_jobs(self) -> list[str]:
        """Return the jobs that have not ended, oldest first."""
        return list(self.orders)

    async def turn(self) -> None:
        """Begin what may begin, then take every job as far as it goes now."""
        if self._queue:
            await self._begin()
        for job in list(self._pulses):
            await self._turn_job(job)

    async def sweep(self) -> None:
        """Tell what became of silent nodes, and end what is overdue."""
        exchange = self._exchange
        for node, presence in exchange.roster.sweep(exchange.clock.steady()):
            await exchange.store.awrite(
                partial(applying.tell, node=node, presence=presence, now_ms=now_ms(exchange.clock))
            )
        await self._expire()
        keep(self._presence_file, exchange.roster.here(exchange.clock.steady()))

    async def stop(self) -> None:
        """Leave off; what was under way is in the store."""
        self._loops.clear()
        await super().stop()

    async def next_lease(self, node: str, have: frozenset[str]) -> LeaseRow | None:
        """Return the oldest lease of a node that it does not know of, or a new piece of work."""
        live = await self._exchange.store.aread(lambda c: leases.live_of_node(c, node))
        unknown = next((item for item in live if item.lease not in have), None)
        if unknown is not None or any(item.type in ONE_PIECE for item in live):
            return unknown
        return await self.mover.give(node)

    async def view(self, lease: LeaseRow) -> wire.Lease:
        """Return a lease as its node is told."""
        return giving.view(lease, await self._exchange.store.aread(lambda c: tasks.get(c, lease.task)))

    async def fail(self, lease: str, reason: str, message: str) -> None:
        """Take a node's report that it cannot do a lease."""
        failure = wire.Failure(reason=reason, message=message, log_tail="")

        async def give_up() -> None:
            row = await self._exchange.store.aread(lambda c: leases.get(c, lease))
            await self.mover.report(self.orders.get(row.job), lease, failure)

        await self.holds.alone(lease, give_up)

    async def release(self, lease: str) -> None:
        """Take a lease that its node hands back."""

        async def hand_back() -> None:
            row = await self._exchange.store.aread(lambda c: leases.get(c, lease))
            cause = Cause(now_ms(self._exchange.clock), "released", f"{row.task} is handed back by {row.node}")
            await self._exchange.store.awrite(lambda c: leases.end(c, lease, LeaseState.RELEASED, cause))

        await self.holds.alone(lease, hand_back)

    async def _turn_job(self, job: str) -> None:
        steady_s, pulse = self._exchange.clock.steady(), self._pulses[job]
        if steady_s < self._rests_until.get(job, 0.0):
            return
        frame = self.orders[job]
        try:
            ended = await self._step(frame, pulse)
            pulse.num_faults = 0
        except StannaryError as err:
            pulse.num_faults += 1
            ended = pulse.num_faults >= MAX_FAULTS and await self._abort(frame, err)
            self._rests_until[job] = steady_s + min(RETRY_S * 2 ** (pulse.num_faults - 1), MAX_RETRY_S)
        self._unplanned.pop(job, None)
        if ended:
            self._loops.pop(job)
            self._pulses.pop(job)
            self.mover.forget(job)
            self._awaiting_log.discard(job)
            self._let_go(job)

    def _spawn(self, job: str) -> None:
        self._unplanned[job] = self.orders[job].shape.num_lanes
        self._loops[job] = None  # type: ignore[assignment]  # counted as under way; nobody runs it
        self._pulses[job] = _Pulse(self._exchange.clock.steady())
