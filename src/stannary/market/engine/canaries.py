"""Suspended nodes looked at, unasked (docs/audits.md, Canaries): a unit is ordered, asked, computed, paid and decided.

What is decided is jobs/canary.py's and rules/canary.py's; what is read and written is ordering.py's. What a node found
the market computes itself, in a process and a sandbox of its own; where its machine cannot compare, two nodes of other
operators are asked the same, if insurance can pay them.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import builtin
from stannary.errors import NotFound, StannaryError
from stannary.formats import beacon, digest, dsse, ids, instants, jobspec, statement
from stannary.formats.ids import KeyId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import CanaryOutcome, Candidate, Drawable, Job
from stannary.jobs import appealing, canary
from stannary.jobs.appealing import AskedHearer
from stannary.jobs.canary import CanaryRow, CanaryWord, SuspendedNode
from stannary.market.engine import loading, ordering, replaying
from stannary.market.engine.ordering import CanaryOrder, CanaryRuling
from stannary.market.exchange import Exchange
from stannary.market.topics import QUEUE, WORK, node_topic
from stannary.rules import canary as rule
from stannary.rules import draw, masks
from stannary.rules.reasons import Reason
from stannary.verify import canary as verdicts
from stannary.verify.canary import HeardCanary
from stannary.verify.recomputation import DrawnStep, Found, Outcome, ReplayPlan, Unit

SCRATCH = "canaries"
ADDRESS_BYTES = 16
MAX_COMPUTING = 2
BESIDE = 2  # nodes of other operators that are asked where the market cannot compare

log = logging.getLogger("stannary.market")


class Canaries:
    """What is ordered of suspended nodes, and who has been there for how long."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._ready_since_ms: dict[str, int] = {}  # suspended nodes that are there and have room
        self._advancing: dict[str, asyncio.Task[None]] = {}  # by job
        self._computing = asyncio.Semaphore(MAX_COMPUTING)

    async def keep(self) -> None:
        """Look at suspended nodes, for ever."""
        try:
            while True:
                try:
                    await self.look()
                except StannaryError as err:
                    log.warning("canaries wait: %s", err)
                except Exception:  # a process edge: without this loop no suspension would ever end
                    log.exception("canaries wait")
                await self._exchange.clock.sleep(self._exchange.settings.timing.sweep_s)
        finally:
            for task in self._advancing.values():
                task.cancel()

    async def look(self) -> None:
        """Take each open canary on, order those that are due, and restore whom nobody could look at in time."""
        exchange = self._exchange
        rows = await exchange.store.aread(ordering.open_)
        for row in rows:
            if row.job not in self._advancing:
                task = asyncio.create_task(self._advance(row), name=f"canary {row.job}")
                self._advancing[row.job] = task
                task.add_done_callback(partial(self._forget, row.job))
        is_any = bool(exchange.canary_words) or any(node.is_suspended for node in exchange.directory)
        held = await exchange.store.aread(ordering.suspended) if is_any else []
        room = canary.MAX_OPEN - len(rows)
        for item in held:
            room -= await self._take_on(item, has_turn=room > 0)
        self._note(held)

    async def _take_on(self, held: SuspendedNode, *, has_turn: bool) -> bool:
        """Order a canary or restore by time, where either is due; tell whether one was ordered."""
        exchange, now_ms = self._exchange, self._exchange.now_ms
        node = exchange.directory.get(held.node)
        is_there = held.has_room and not node.why_out(now_ms) and not self._away(held.node)
        if not is_there:
            self._ready_since_ms.pop(held.node, None)
            return False
        since_ms = self._ready_since_ms.setdefault(held.node, now_ms)
        is_wanted = held.node in exchange.canary_wishes
        if has_turn and canary.can_run(node.engine_class) and canary.is_due(held, now_ms, is_wanted=is_wanted):
            await self._order(held.node)
            exchange.canary_wishes.discard(held.node)
            return True
        is_over = canary.is_over(held, since_ms, now_ms)
        if is_over and await exchange.store.awrite(lambda c: ordering.restore(c, held.node, now_ms)):
            await self._restored(held.node)
        return False

    async def _order(self, node: str) -> None:
        exchange, now_ms = self._exchange, self._exchange.now_ms
        nonce, key = secrets.token_bytes(rule.NONCE_BYTES), Ed25519PrivateKey.generate()
        spec = rule.spec_of(nonce, builtin.code_digest(), exchange.root[0] if exchange.root is not None else None)
        said = Job(
            spec=jobspec.to_canonical(spec),
            market=KeyId(exchange.keyid),
            buyer=base64.b64encode(dsse.public_bytes(key)).decode(),
            beacon_tip=beacon.tip(nonce, rule.CHAIN_LENGTH),
            beacon_length=rule.CHAIN_LENGTH,
            nonce=secrets.token_urlsafe(ADDRESS_BYTES),
            submitted_at=instants.spell(now_ms / 1000),
        )
        envelope = statement.sign("job", said, (), key)
        job = ids.job_id(digest.digest(envelope.payload))
        made = CanaryOrder(node, nonce, job, spec, envelope, rule.assignment_of(job, spec))
        await asyncio.to_thread(exchange.blobs.put, rule.corpus_of(nonce))
        until_ms = now_ms + int(1000 * canary.ANSWER_S)
        sign = exchange.journal.sign
        await exchange.store.awrite(lambda c: ordering.order(c, sign, made, until_ms, now_ms))
        exchange.journal.wake()
        exchange.bell.ring(node_topic(node), WORK)

    async def _advance(self, row: CanaryRow) -> None:
        try:
            await self._step(row)
        except StannaryError as err:
            log.warning("canary %s waits: %s", row.job, err)
        except Exception:  # a process edge: one canary's fault keeps no other waiting
            log.exception("canary %s waits", row.job)

    def _forget(self, job: str, _: asyncio.Task[None]) -> None:
        self._advancing.pop(job, None)

    async def _step(self, row: CanaryRow) -> None:
        exchange = self._exchange
        asked = await exchange.store.aread(lambda c: ordering.asked(c, row))
        step = appealing.step((), asked, out=(), is_late=True)
        if step.close:
            await exchange.store.awrite(lambda c: ordering.close(c, step.close, exchange.now_ms))
        elif step.open:
            until_ms = exchange.now_ms + int(1000 * exchange.settings.timing.answer_floor_s)
            await exchange.store.awrite(lambda c: ordering.ask_to_open(c, row, step.open, until_ms, exchange.now_ms))
            exchange.bell.ring(*map(node_topic, step.open), WORK)
        elif step.is_over:
            await self._judge(row, asked)

    async def _judge(self, row: CanaryRow, asked: list[AskedHearer]) -> None:
        """Decide a canary from what was answered, from what the market computes, or ask others first."""
        exchange = self._exchange
        spec = (await exchange.store.aread(lambda c: loading.order(c, row.job))).spec
        heard = await exchange.store.aread(lambda c: ordering.heard(c, row))
        mine = next((item for item in heard if item.answer.node == row.node), None)
        if mine is None:
            await self._decide(row, spec, CanaryRuling(CanaryOutcome.UNANSWERED, _why_silent(asked[0])))
            return
        found = verdicts.by_answers(heard, row.node)
        if found is not None:
            await self._decide(row, spec, CanaryRuling(found.outcome, found.reason))
        elif len(asked) > 1:
            await self._decide(row, spec, CanaryRuling(CanaryOutcome.UNCHECKED, Reason.NO_AGREEMENT))
        else:
            computed = await self._compute(row, spec, mine)
            log.info("canary %s, computed: %s %s", row.job, computed.outcome, computed.detail)
            if computed.outcome is not Outcome.UNCHECKED:
                passed = computed.outcome is not Outcome.DIFFERENT
                outcome = CanaryOutcome.PASSED if passed else CanaryOutcome.FAILED
                await self._decide(row, spec, CanaryRuling(outcome, Reason.REPLAYED))
            elif not await self._ask_others(row, spec):
                await self._decide(row, spec, CanaryRuling(CanaryOutcome.UNCHECKED, Reason.UNHEARD))

    async def _compute(self, row: CanaryRow, spec: JobSpec, mine: HeardCanary) -> Found:
        exchange, nonce = self._exchange, bytes.fromhex(row.nonce)
        assigned = rule.assignment_of(ids.JobId(row.job), spec)
        question = rule.question_of(nonce, assigned.task)
        unit = Unit(
            assignment=assigned,
            root=mine.answer.root,
            outputs=(),
            engine_class=exchange.directory.get(row.node).engine_class,
            blobs=(),
            drawn=True,
            question=DrawnStep(question.step, question.salt.hex(), mine.answer.answer),
        )
        plan = ReplayPlan(jobspec.to_canonical(spec), row.asked_at_ms // 1000, (unit,))
        corpus = [item.digest for item in spec.inputs.values()]
        scratch = exchange.settings.directory / SCRATCH
        async with self._computing:
            return await replaying.compute(plan, corpus, exchange.blobs, scratch, canary.COMPUTE_S)

    async def _ask_others(self, row: CanaryRow, spec: JobSpec) -> bool:
        """Ask nodes of other operators the same; tell whether anybody could be asked."""
        exchange, now_ms = self._exchange, self._exchange.now_ms
        suspect, nonce, wanted = exchange.directory.get(row.node), bytes.fromhex(row.nonce), masks.required_by(spec)
        able = [
            Candidate(node.node, node.operator, node.engine_class)
            for node in exchange.directory.of_class(suspect.engine_class)
            if not node.is_suspended
            and not node.why_out(now_ms)
            and not masks.why_weak(node, wanted)
            and not self._away(node.node)
        ]
        task = rule.assignment_of(ids.JobId(row.job), spec).task
        unit = Drawable(task, suspect.node, suspect.operator, suspect.engine_class, rule.STEPS, 0)
        chosen = [item.node for item in draw.rank(unit, able, nonce)[:BESIDE]]
        until_ms = now_ms + int(1000 * canary.ANSWER_S)
        held = await exchange.store.aread(ordering.insurance)
        if not chosen or held < rule.MOST_USD_MICROS * (1 + len(chosen)):
            return False
        await exchange.store.awrite(lambda c: ordering.ask(c, row, spec, chosen, until_ms, now_ms))
        exchange.bell.ring(*map(node_topic, chosen), WORK)
        return True

    async def _decide(self, row: CanaryRow, spec: JobSpec, made: CanaryRuling) -> None:
        exchange, sign, now_ms = self._exchange, self._exchange.journal.sign, self._exchange.now_ms
        is_restored = await exchange.store.awrite(lambda c: ordering.decide(c, sign, row, spec, made, now_ms))
        exchange.journal.wake()
        log.info("%s", ordering.words(row, made))
        if is_restored:
            await self._restored(row.node)

    async def _restored(self, node: str) -> None:
        self._ready_since_ms.pop(node, None)
        await self._exchange.read_nodes([node])
        self._exchange.bell.ring(WORK, QUEUE)

    def _away(self, node: str) -> str:
        return self._exchange.roster.not_ready(node, self._exchange.clock.steady())

    def _note(self, held: list[SuspendedNode]) -> None:
        """Keep how each suspended node's canary stands, for its provider and the market's operator."""
        exchange, words = self._exchange, dict[str, CanaryWord]()
        for item in held:
            try:
                words[item.node] = canary.word(item, exchange.directory.get(item.node).engine_class)
            except NotFound:
                continue
        exchange.canary_words = words
        exchange.canary_wishes.intersection_update(words)


def _why_silent(asked: AskedHearer) -> str:
    """Return why a node did not answer: how its lease ended, or that of the opening."""
    last = asked.opening if asked.opening is not None else asked.lease
    return last.reason if last is not None else ""
