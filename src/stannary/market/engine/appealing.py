"""Disputed bonds taken to their rulings, unasked, once their jobs have ended (docs/audits.md, Appeals).

What is decided is rules/appeal.py's and jobs/appealing.py's; what is read and written is ruling.py's. Nothing is
remembered that a kill could take: what was begun is in the store, and is begun again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.formats import instants
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Appeal, Candidate, Ruling, RulingOutcome
from stannary.jobs import appealing
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.course.asking import OfferedAudit
from stannary.jobs.states import DisputeStage
from stannary.market.engine import replaying, ruling
from stannary.market.engine.moving import Mover, read_checkpoint
from stannary.market.engine.ruling import Ended, Money
from stannary.market.exchange import Exchange
from stannary.market.topics import WORK, node_topic, seen_topic
from stannary.rules import appeal, masks
from stannary.rules.appeal import HEARERS, Sentence
from stannary.rules.reasons import Reason
from stannary.verify.recomputation import Outcome
from stannary.verify.ruling import DisputedBond, Heard

SCRATCH = "replays"
MAX_REPLAYS = 2  # at once, each in a process of its own: nodes' requests and other appeals go on beside them
MAX_TRIES = 5  # to compute one unit: what takes the market down with it each time is nobody's loss in the end
NOTE_S = 60.0  # of a window, at most, are forgotten by a kill

Bond = tuple[str, str]  # job and node

log = logging.getLogger("stannary.market")


class Appeals:
    """The disputes of one market that are not decided."""

    def __init__(self, exchange: Exchange, mover: Mover) -> None:
        self.exchange = exchange
        self.mover = mover
        self.ended: dict[str, Ended] = {}  # jobs with a dispute: each is read once
        self.since: dict[Bond, float] = {}  # hearings -> until when their window is noted, on the steady clock
        self.replays: dict[Bond, asyncio.Task[None]] = {}

    async def keep(self) -> None:
        """Take disputes on, for ever."""
        await asyncio.to_thread(shutil.rmtree, self.scratch, ignore_errors=True)  # of a market that was killed
        try:
            while True:
                try:
                    await self.sweep()
                except StannaryError as err:
                    log.warning("disputes wait: %s", err)
                except Exception:  # a process edge: without this loop no disputed bond would ever be anybody's again
                    log.exception("disputes wait")
                await self.exchange.clock.sleep(self.exchange.settings.timing.sweep_s)
        finally:
            for replay in self.replays.values():
                replay.cancel()
            await asyncio.gather(*self.replays.values(), return_exceptions=True)

    async def sweep(self) -> None:
        """Take each dispute its next step, if there is one."""
        waiting = await self.exchange.store.aread(ruling.waiting)
        self.replays = {bond: task for bond, task in self.replays.items() if not task.done()}
        for row in waiting:
            await _carefully(row, _Appeal(self, row).advance())
        for job in self.ended.keys() - {row.job for row in waiting}:
            del self.ended[job]
        for bond in self.since.keys() - {(row.job, row.node) for row in waiting if row.stage is DisputeStage.HEARING}:
            del self.since[bond]
            self.mover.ready.drop(" ".join(bond))

    @property
    def scratch(self) -> Path:
        """Where units are laid out to be computed again."""
        return self.exchange.settings.directory / SCRATCH


async def _carefully(row: DisputeRow, step: Coroutine[None, None, None]) -> None:
    """Take a step; one dispute that cannot go on keeps no other waiting."""
    try:
        await step
    except StannaryError as err:
        log.warning("the dispute about %s in %s waits: %s", row.node, row.job, err)
    except Exception:  # a process edge: it is tried again
        log.exception("the dispute about %s in %s waits", row.node, row.job)


class _Appeal:
    """One dispute, at one moment."""

    def __init__(self, appeals: Appeals, row: DisputeRow) -> None:
        self._appeals = appeals
        self._exchange = appeals.exchange
        self._row = row
        self._bond: Bond = (row.job, row.node)
        self._ended: Ended

    async def advance(self) -> None:
        """Take the next step, if there is one."""
        exchange, row, known = self._exchange, self._row, self._appeals.ended
        if row.job not in known:
            found = await exchange.store.aread(lambda c: ruling.ended(c, row.job))
            if found is None:
                await exchange.store.awrite(lambda c: ruling.let_go(c, row, exchange.now_ms))
                await self._tell([row.node])
                return
            known[row.job] = found
        self._ended = known[row.job]
        if row.appeal is None:
            await self._open()
        elif row.stage is DisputeStage.DISPUTED:
            await self._begin(Digest(row.appeal))
        elif row.stage is DisputeStage.HEARING:
            await self._hear(Digest(row.appeal))
        elif row.num_replays >= MAX_TRIES and self._bond not in self._appeals.replays:
            await self._rule(Sentence(RulingOutcome.RELEASED, ()), Reason.UNHEARD, [])
        elif self._bond not in self._appeals.replays and len(self._appeals.replays) < MAX_REPLAYS:
            computing = _carefully(row, self._compute())
            self._appeals.replays[self._bond] = asyncio.create_task(computing, name=f"replay {row.task}")

    @property
    def _dispute(self) -> DisputedBond:
        return DisputedBond(self._ended.case, self._ended.receipt, TaskId(self._row.task), NodeId(self._row.node))

    async def _open(self) -> None:
        exchange, row, ended = self._exchange, self._row, self._ended
        now_ms = exchange.now_ms
        candidates = () if self._dispute.is_by_stories else self._outsiders(now_ms)
        at = instants.spell(now_ms / 1000)
        made = Appeal(ended.order.job, TaskId(row.task), NodeId(row.node), ended.leaf, candidates, at)
        await exchange.store.awrite(lambda c: ruling.open_(c, row, exchange.journal.sign, made, now_ms))
        exchange.journal.wake()

    def _outsiders(self, now_ms: int) -> tuple[Candidate, ...]:
        """Return who may hear it: whoever is there of the class and had no part, whatever the buyer's lists say."""
        exchange, ended, involved = self._exchange, self._ended, self._dispute.involved
        wanted = masks.required_by(ended.order.spec)
        return tuple(
            Candidate(NodeId(node.node), node.operator, node.engine_class)
            for node in exchange.directory.of_class(self._dispute.unit.engine_class)
            if node.operator not in involved
            and not node.why_out(now_ms)
            and not masks.why_weak(node, wanted)
            and not exchange.roster.not_ready(node.node, exchange.clock.steady())
        )

    async def _begin(self, leaf: Digest) -> None:
        exchange, row = self._exchange, self._row
        index = await exchange.journal.logged(leaf)
        shown = read_checkpoint(exchange.log.checkpoint())
        if index >= shown.size:
            return
        if self._dispute.is_by_stories:
            self._row = replace(row, checkpoint=shown.text)
            await self._rule(Sentence(RulingOutcome.FORFEITED, (self._dispute.node,)), Reason.TWO_STORIES, [])
            return
        ranked, _ = await self._ranked(leaf, shown.root)
        now_ms = exchange.now_ms
        if len(ranked) < HEARERS:
            message = f"fewer than three operators had no part in the job: the market computes {row.task} again itself"
            why = (Reason.TOO_FEW, message)
            await exchange.store.awrite(lambda c: ruling.begin(c, row, DisputeStage.REPLAYING, shown.text, why, now_ms))
        else:
            message = f"{', '.join(ranked[:HEARERS])} are to compute {row.task} again: what two of them find decides"
            why = (Reason.DRAWN, message)
            await exchange.store.awrite(lambda c: ruling.begin(c, row, DisputeStage.HEARING, shown.text, why, now_ms))
        exchange.bell.ring(seen_topic(row.job))

    async def _hear(self, leaf: Digest) -> None:
        exchange, row, dispute = self._exchange, self._row, self._dispute
        text = row.checkpoint or ""
        ranked, chance = await self._ranked(leaf, read_checkpoint(text).root)
        names = {node: appeal.name(chance, dispute.task, node) for node in ranked}
        asked, task = await exchange.store.aread(lambda c: ruling.asked(c, row.task, list(names.items())))
        world = self._appeals.mover.world(row.job)
        out = {node for node in ranked if node in world.gone or world.nodes.get(node).why_out(world.now_ms)}
        is_late = await self._listened_s() >= exchange.settings.timing.appeal_s
        step = appealing.step(ranked, asked, out=out, is_late=is_late)
        now_ms = world.now_ms
        open_until_ms = now_ms + int(1000 * exchange.settings.timing.answer_floor_s)
        offers = [OfferedAudit(item.audit, task) for item in asked if item.is_offered]
        holders = {item.node: item.lease.granted_at_ms for item in asked if item.lease is not None and item.is_held}
        self._appeals.mover.ready.note_hearings(" ".join(self._bond), self._ended.order, offers, holders)

        def write(connection: Connection) -> None:
            for audit, outcome in step.close:
                ruling.close(connection, audit, outcome, now_ms)
            for node in step.offer:
                ruling.offer(connection, self._ended.order, dispute, (node, names[node]), now_ms)
            for node in step.open:
                ruling.ask_to_open(connection, dispute.task, (node, names[node]), open_until_ms, now_ms)

        if step.close or step.offer or step.open:
            await exchange.store.awrite(write)
            exchange.bell.ring(*map(node_topic, step.open))
        elif step.is_over:
            heard = await exchange.store.aread(lambda c: ruling.heard(c, asked))
            made = dispute.sentence([item.answer for item in heard])
            if made is not None:
                await self._rule(made, Reason.TWO_OF_THREE, heard)
                return
            message = f"no two of those who heard it agree: the market computes {row.task} again itself"
            why = (Reason.NO_AGREEMENT, message)
            await exchange.store.awrite(lambda c: ruling.begin(c, row, DisputeStage.REPLAYING, text, why, now_ms))
        if offers:
            exchange.bell.ring(*map(node_topic, (item.node for item in offers)), WORK)

    async def _listened_s(self) -> float:
        """Return how much of the window has passed while this market listened."""
        now_s, row = self._exchange.clock.steady(), self._row
        passed_s = now_s - self._appeals.since.setdefault(self._bond, now_s)
        if passed_s >= NOTE_S:
            listened_s = row.listened_s + int(passed_s)
            await self._exchange.store.awrite(lambda c: ruling.note_listened(c, row, listened_s))
            self._appeals.since[self._bond] += int(passed_s)
        return row.listened_s + passed_s

    async def _compute(self) -> None:
        exchange, dispute, case = self._exchange, self._dispute, self._ended.case
        unit = await asyncio.to_thread(dispute.to_replay)
        await exchange.store.awrite(lambda c: ruling.begin_replay(c, self._row, replaying.digests_of(case, unit)))
        limit_s = exchange.settings.timing.replay_s
        found = await replaying.replay(case, unit, exchange.blobs, self._appeals.scratch, limit_s)
        log.info("%s, computed again: %s %s", unit.task, found.outcome, found.detail)
        if found.outcome is Outcome.UNCHECKED:
            await self._rule(Sentence(RulingOutcome.RELEASED, ()), Reason.UNHEARD, [])
        else:
            agrees = found.outcome is not Outcome.DIFFERENT
            made = appeal.judged(dispute.node, dispute.accusers, agrees=agrees)
            await self._rule(made, Reason.REPLAYED, [])

    async def _rule(self, made: Sentence, reason: Reason, heard: list[Heard]) -> None:
        exchange, row, ended, dispute = self._exchange, self._row, self._ended, self._dispute
        shown = read_checkpoint(row.checkpoint or "")
        given = [(item.answer, item.credential) for item in heard]
        redo, due = await asyncio.to_thread(lambda: (dispute.redo if made.losers else 0, dispute.due(given, made)))
        money = Money(made, tuple(due), redo)
        now_ms = exchange.now_ms
        said = Ruling(
            job=ended.order.job,
            task=dispute.task,
            node=dispute.node,
            appeal=Digest(row.appeal or ""),
            checkpoint_size=shown.size,
            checkpoint_root=shown.root,
            outcome=made.outcome,
            reason=reason,
            heard=tuple(item.leaf for item in heard),
            lines=(),
            decided_at=instants.spell(now_ms / 1000),
        )
        sign = exchange.journal.sign
        changed = await exchange.store.awrite(lambda c: ruling.rule_on(c, row, sign, ended, money, said, now_ms))
        await self._tell(changed)

    async def _ranked(self, leaf: Digest, root: Digest) -> tuple[list[str], bytes]:
        made = await self._exchange.store.aread(lambda c: ruling.opened(c, leaf))
        chance = appeal.randomness(leaf, root)
        return [item.node for item in appeal.hearers(made, self._dispute.unit, chance)], chance

    async def _tell(self, changed: list[str]) -> None:
        exchange = self._exchange
        exchange.journal.wake()
        await exchange.forget_nodes(changed)
        exchange.bell.ring(seen_topic(self._row.job), WORK)
