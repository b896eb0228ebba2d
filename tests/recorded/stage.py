"""One recorded run: a market without HTTP, threads of its own or a wall clock, played in virtual time.

    played = stage.play(run, directory)

Real are the store (SQLite), the log and its witness, the intake of every statement, and the engine (engine.py). Made
up are the clock, which moves from one act to the next, and the parties (cast.py), whose keys, salts, seeds and lies
follow from their names. So a run has one outcome: every statement, event and ledger entry, byte for byte.

What happens at one instant happens in the order it was put down. Then the market rests: jobs are stepped and the log
is written until nothing moves, nodes ask for leases in the order of the cast, brokers look for draws; and again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import heapq
import itertools
import tempfile
import unittest.mock
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection
from tests.integration.market import toy_work
from tests.integration.market.fake_buyer import taken_before
from tests.recorded import cast
from tests.recorded.cast import Node, Player, derived, short
from tests.recorded.engine import Engine

from stannary.errors import StannaryError
from stannary.formats import beacon, digest, dsse, ids, instants, jobspec, note, statement
from stannary.formats.ids import LeaseType
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Job, Reveal, Used
from stannary.jobs.course.state import DrawRow, Timing
from stannary.jobs.states import LeaseState
from stannary.market import terms
from stannary.market.bell import Bell
from stannary.market.blobstore import BlobStore
from stannary.market.clock import RisingClock
from stannary.market.directory import Directory
from stannary.market.exchange import Exchange
from stannary.market.identity import Identity
from stannary.market.intake import admission, answers, joining, readings, reveals, work
from stannary.market.intake.statements import Intake
from stannary.market.journal import Journal
from stannary.market.offerbook import OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Settings
from stannary.rules import edition, shape
from stannary.settle import escrow
from stannary.store import accounts, audits, blobs, envelopes, leases, ledger, nodes
from stannary.store.accounts import NewJoinToken
from stannary.store.database import Store
from stannary.store.writer import _Operation
from stannary.tlog.log import Log
from stannary.tlog.witness import Witness, format_request
from stannary.wire import buyer as buyer_wire
from stannary.wire import node as wire
from stannary.wire.message import EnvelopeBody

T = TypeVar("T")

START_S = 1_790_000_000  # when every run begins
MARKET, WITNESS = "recorded.market", "recorded.witness"
DEPOSIT = 50_000_000
CHAIN = 64  # beacon values of a job
BEAT_S = 10.0
MAX_ACTS = 20_000  # of one run
MAX_TURNS = 200  # of one instant
QUICK: Mapping[str, float] = {
    "answer_floor_s": 10.0,
    "answer_factor": 1.0,
    "start_link_s": 4.0,
    "reveal_s": 60.0,
    "placing_s": 60.0,
    "stall_s": 600.0,
    "sweep_s": 10.0,
}


@dataclass(frozen=True, slots=True)
class JobOrder:
    """One job of a buyer; its name stands for it in the run."""

    name: str
    spec: JobSpec
    at_s: float = 1.0
    buyer: str = "ada"
    chain: int = CHAIN


@dataclass(frozen=True, slots=True)
class Run:
    """What is recorded: who is there, what is ordered, and what else happens when."""

    name: str
    about: str
    nodes: tuple[Node, ...]
    orders: tuple[JobOrder, ...]
    happens: tuple[tuple[Any, ...], ...] = ()  # seconds, verb, whom: the methods `_on_...` below
    timing: Mapping[str, float] = field(default_factory=dict)
    broker: tuple[tuple[str, str], ...] = ()  # patterns of "reveal N" and what becomes of it, as in cast.py
    spare_values: int = shape.SPARE_VALUES  # beacon values asked for beyond one a task


class Killed(Exception):
    """The market was killed between the log and the record."""


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass when the stage says so (a `market.clock.Clock`)."""

    ms: int = START_S * 1000
    set_by_ms: int = 0  # how far somebody set it

    def now(self) -> float:
        """Return seconds since 1970 UTC."""
        return (self.ms + self.set_by_ms) / 1000

    def steady(self) -> float:
        """Return seconds since the run began: nobody sets this clock."""
        return self.ms / 1000 - START_S

    async def sleep(self, seconds: float) -> None:
        """Refuse: nothing on this stage waits by itself."""
        raise AssertionError(f"something sleeps for {seconds} s")


class _WitnessBeside:
    """The market's witness, called in place of its process."""

    def __init__(self, directory: Path, log: note.VerifierKey, clock: VirtualClock) -> None:
        self._origin = log.name
        self._witness = Witness(directory, WITNESS, cast.key_of(WITNESS), [log], clock.now, clock.steady)
        self.vkey = self._witness.vkey

    def __call__(self, signed_note: str, size: int, consistency: Callable[[int], list[bytes]]) -> list[str]:
        old = self._witness.held(self._origin).size
        answer = self._witness.add_checkpoint(format_request(old, consistency(old), signed_note))
        assert answer.status == 200, f"{size} leaves: {answer}"
        return [answer.body]


class _HandStore(Store):
    """The market's store, read and written by its caller: no thread's turn decides an order, and none is waited for."""

    async def awrite(self, operation: Callable[[Connection], T]) -> T:
        """Write at once, as the writer's thread would."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._writer._commit([_Operation(operation, None, (), future)])
        return future.result()

    async def aread(self, query: Callable[[Connection], T]) -> T:
        """Read at once."""
        return self.read(query)


class _HandJournal(Journal):
    """The market's journal, which logs when it is asked to; `then` comes between the log and the record."""

    then: Callable[[], Awaitable[None]] | None = None
    killed_at = ""  # the kind of a statement of the market's own that it is killed behind, once

    async def logged(self, leaf: str) -> int:
        """Log all the outbox holds; return the leaf's index."""
        await self.drain()
        if self.killed_at and (await self._store.aread(lambda c: envelopes.get(c, leaf))).kind == self.killed_at:
            raise Killed
        then, self.then = self.then, None
        if then is not None:
            await then()
        return await super().logged(leaf)


@dataclass(slots=True)
class Played:
    """What a run left behind."""

    run: Run
    directory: Path
    vkey: str
    witness_vkey: str
    now_s: int
    said: list[str]
    jobs: dict[str, str]  # of each order
    players: dict[str, Player]


def play(run: Run, directory: Path) -> Played:
    """Play a run to its end in an empty directory; the store, the log and the blobs stay there."""
    for name, data in _new_database().items():
        (directory / name).write_bytes(data)
    with unittest.mock.patch.object(shape, "SPARE_VALUES", run.spare_values), as_of(run):
        return asyncio.run(_Stage(run, directory).play())


@contextlib.contextmanager
def as_of(run: Run) -> Iterator[None]:
    """Let the market be as it was when it took jobs like those of a run: its terms, and what it took."""
    if all(order.spec.rules is not None for order in run.orders):
        yield
        return
    with taken_before(), unittest.mock.patch.object(terms, "DIGEST", terms.FORMER):
        yield


@functools.cache
def _new_database() -> Mapping[str, bytes]:
    """Return the files of a database nothing was written to: to migrate one takes longer than most runs."""
    with tempfile.TemporaryDirectory() as place:
        Store.open(Path(place) / "market.db").close()
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


class _Stage:
    """A run under way."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self._directory = directory
        self._clock = VirtualClock()
        self._players = {item.name: Player(item) for item in run.nodes}
        self._named = {player.id: name for name, player in self._players.items()}
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self._orders = {item.name: item for item in run.orders}
        self._jobs: dict[str, str] = {}
        self._silent: set[str] = set()  # buyers
        self._asked: set[tuple[str, int]] = set()  # draws whose reveal is on its way
        self._killed: set[str] = set()  # statements at which the market was killed: once each
        self._bytes: dict[str, bytes] = {}
        self._acts: list[tuple[int, int, Callable[[], Awaitable[None]]]] = []
        self._order = itertools.count()
        self._num_acts = 0
        self._said: list[str] = []
        self._running = contextlib.AsyncExitStack()
        self._is_down = False

    async def play(self) -> Played:
        """Play it."""
        key = cast.key_of(MARKET)
        self._identity = Identity(MARKET, key, note.format_vkey(MARKET, dsse.public_bytes(key)), "sta_recorded")
        self._witness = _WitnessBeside(self._directory / "witness", note.parse_vkey(self._identity.vkey), self._clock)
        async with self._running:
            await self._running.enter_async_context(self._opened())
            await self._prepare()
            while self._acts and not self._is_over():
                await self._play_instant()
        jobs_, players = dict(self._jobs), dict(self._players)
        now_s, vkeys = int(self._clock.now()), (self._identity.vkey, self._witness.vkey)
        return Played(self._run, self._directory, *vkeys, now_s, self._said, jobs_, players)

    # --- time

    def _at(self, delay_s: float, act: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._acts, (self._clock.ms + round(1000 * delay_s), next(self._order), act))

    def _is_over(self) -> bool:
        """Tell whether every job that was ordered has ended, and nothing of the script is left."""
        return not self._script_left and not self._engine.open_jobs

    async def _play_instant(self) -> None:
        """Move on to the next act, and play all of that instant."""
        self._clock.ms = max(self._clock.ms, self._acts[0][0])
        while self._acts and self._acts[0][0] <= self._clock.ms:
            self._num_acts += 1
            assert self._num_acts < MAX_ACTS, f"{self._run.name} does not end: {self._said[-5:]}"
            await heapq.heappop(self._acts)[2]()
        await self._rest()

    async def _pass(self, seconds: float) -> None:
        """Let time go by in the middle of an act."""
        until = self._clock.ms + round(1000 * seconds)
        while self._acts and self._acts[0][0] < until:
            await self._play_instant()
        self._clock.ms = until

    async def _rest(self) -> None:
        """Let the market do all it can do now, then let everybody look; again until nothing moves."""
        if self._is_down:
            return
        for _ in range(MAX_TURNS):
            size, open_jobs = self._log.size, self._engine.open_jobs
            try:
                await self._engine.turn()
            except Killed:
                self._say("the market is killed")
                await self._restart()
                continue
            await self._exchange.journal.drain()
            if (self._log.size, self._engine.open_jobs) != (size, open_jobs):
                continue
            while await self._look_around():  # a lease that was given may free another's way, and moves no job
                pass
            return
        raise AssertionError(f"{self._run.name} finds no rest: {self._said[-5:]}")

    # --- the market

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        directory, clock, owner = self._directory, self._clock, self._identity
        settings = Settings(directory, name=MARKET, timing=Timing(**{**QUICK, **self._run.timing}))
        moment = RisingClock(clock, directory / "clock")
        with contextlib.ExitStack() as closing:
            self._store = store = _HandStore.open(directory / "market.db")
            closing.callback(store.close)
            self._log = tlog = Log.open(directory / "log", MARKET, owner.key, self._witness, interval_s=0.0)
            closing.callback(tlog.close)
            moment.lift(note.stamped_at(tlog.checkpoint()))
            bell, roster = Bell(moment), Roster(settings.timing)
            known = Directory()
            self._exchange = Exchange(
                settings=settings,
                clock=moment,
                identity=owner,
                store=store,
                log=tlog,
                journal=_HandJournal(owner, store, tlog, bell, moment),
                bell=bell,
                roster=roster,
                blobs=BlobStore(directory / "blobs"),
                directory=known,
                offers=OfferBook(known, roster, moment),
                witness_vkeys=(self._witness.vkey,),
            )
            self._engine = Engine(self._exchange)
            self._intake = Intake(self._exchange, self._engine)
            await self._engine.start()
            yield
            await self._engine.stop()

    async def _restart(self) -> None:
        """Start the market again on what it left on the disk; the nodes that are there beat at once."""
        await self._running.aclose()
        self._is_down = False
        await self._running.enter_async_context(self._opened())
        self._asked.clear()
        for player in self._players.values():
            player.served.clear()  # what a node has in hand it is told again, and does again: the same words

    # --- the script

    async def _prepare(self) -> None:
        buyers = dict.fromkeys(order.buyer for order in self._run.orders)
        for name in buyers:
            self._keys[name] = cast.key_of(name)
            await self._store.awrite(functools.partial(self._add_buyer, name))
            self._bytes[digest.digest(cast.PROGRAM)] = cast.PROGRAM
            await self._put(cast.PROGRAM, f"buyer:{name}")
        late = {whom[0] for _, verb, *whom in self._run.happens if verb == "joins"}
        for name in self._players:
            if name not in late:
                await self._on_joins(name)
        script = [(order.at_s, "orders", order.name) for order in self._run.orders] + list(self._run.happens)
        self._script_left = len(script)
        for at_s, verb, *whom in sorted(script, key=lambda item: item[0]):
            self._at(at_s, functools.partial(self._happen, verb, whom))
        self._at(BEAT_S, self._beat)
        self._at(self._exchange.settings.timing.sweep_s, self._sweep)

    def _add_buyer(self, name: str, connection: Connection) -> None:
        now_ms = self._exchange.now_ms
        accounts.add_buyer(connection, name, at_ms=now_ms)
        entry = escrow.deposit(accounts.token_hash(f"stk_{name}"), name, DEPOSIT)
        ledger.post(connection, entry, at_ms=now_ms)

    async def _happen(self, verb: str, whom: list[Any]) -> None:
        self._script_left -= 1
        self._say(" ".join(["---", verb, *map(str, whom)]))
        await getattr(self, f"_on_{verb.replace('-', '_')}")(*whom)

    async def _beat(self) -> None:
        for player in self._players.values():
            if player.present and self._is_known(player):
                self._exchange.roster.beat(player.id, player.state, self._clock.steady())
        self._at(BEAT_S, self._beat)

    async def _sweep(self) -> None:
        if not self._is_down:
            await self._engine.sweep()
        self._at(self._exchange.settings.timing.sweep_s, self._sweep)

    def _is_known(self, player: Player) -> bool:
        return player.id in self._exchange.roster.nodes()

    async def _on_joins(self, name: str) -> None:
        player, exchange = self._players[name], self._exchange
        token = f"recorded-token-of-{name}"
        expires_at_ms = exchange.now_ms + 3_600_000
        new = NewJoinToken(token, player.operator, player.cast.bond, 1, exchange.now_ms, expires_at_ms)
        await self._store.awrite(lambda c: accounts.add_join_token(c, new))
        signs_bond = any(order.spec.rules is not None for order in self._orders.values())
        signed = EnvelopeBody.of(player.join(token, exchange.clock.now(), signs_bond=signs_bond))
        await joining.join(exchange, wire.JoinRequest(token=token, envelope=signed))
        exchange.roster.beat(player.id, player.state, self._clock.steady())

    async def _on_orders(self, name: str) -> None:
        order = self._orders[name]
        key, seed = self._keys[order.buyer], derived("seed", name)
        made = Job(
            spec=jobspec.to_canonical(order.spec),
            market=ids.KeyId(self._exchange.keyid),
            buyer=base64.b64encode(dsse.public_bytes(key)).decode(),
            beacon_tip=beacon.tip(seed, order.chain),
            beacon_length=order.chain,
            nonce=derived("nonce", name).hex()[:32],
            submitted_at=instants.spell(self._clock.now()),
        )
        envelope = statement.sign("job", made, (), key)
        self._jobs[name] = ids.job_id(digest.digest(envelope.payload))
        signed = buyer_wire.Submit.of(envelope)
        await admission.submit(self._exchange, self._engine, order.buyer, f"key of {name}", signed)

    async def _on_cancels(self, name: str) -> None:
        await self._engine.cancel(self._jobs[name])

    async def _on_vanishes(self, name: str) -> None:
        self._players[name].present = False

    async def _on_returns(self, name: str) -> None:
        player = self._players[name]
        player.present, player.state = True, "idle"
        self._exchange.roster.beat(player.id, player.state, self._clock.steady())

    async def _on_leaves(self, name: str) -> None:
        player = self._players[name]
        player.present, player.state = False, "left"
        self._exchange.roster.beat(player.id, "left", self._clock.steady())

    async def _on_drains(self, name: str) -> None:
        player = self._players[name]
        player.state = "draining"
        self._exchange.roster.beat(player.id, "draining", self._clock.steady())

    async def _on_is_revoked(self, name: str) -> None:
        node = self._players[name].id
        now_ms = self._exchange.now_ms
        await self._store.awrite(lambda c: nodes.revoke(c, node, "revoked by the operator", at_ms=now_ms))
        await self._exchange.forget_nodes([node])
        await self._engine.sweep()

    async def _on_falls_silent(self, buyer: str) -> None:
        self._silent.add(buyer)

    async def _on_speaks(self, buyer: str) -> None:
        self._silent.discard(buyer)

    async def _on_restarts(self) -> None:
        await self._restart()

    async def _on_clock_is_set(self, by_s: float) -> None:
        self._clock.set_by_ms += round(1000 * by_s)

    async def _on_will_be_killed_at(self, kind: str) -> None:
        journal = self._exchange.journal
        assert isinstance(journal, _HandJournal)
        journal.killed_at = kind

    async def _on_goes_down(self) -> None:
        self._is_down = True

    async def _on_comes_back(self) -> None:
        await self._restart()

    async def _on_is_damaged(self, name: str, kind: str) -> None:
        """Let the disk garble a statement of a job that the market has signed or taken."""
        job = self._jobs[name]

        def garble(connection: Connection) -> None:
            leaf = envelopes.of_job(connection, job, kind=kind)[0].leaf
            connection.exec_driver_sql("UPDATE envelopes SET envelope = ? WHERE leaf = ?", (b"garbled", leaf))

        await self._store.awrite(garble)

    # --- nodes and brokers

    async def _look_around(self) -> bool:
        """Let every node take a lease, and every broker a draw; tell whether a lease was given."""
        taken = False
        for name, player in self._players.items():
            if player.present and self._is_known(player):
                while (lease := await self._engine.next_lease(player.id, frozenset(player.served))) is not None:
                    player.served.add(lease.lease)
                    self._take(name, await self._engine.view(lease))
                    taken = True
        for name, job in self._jobs.items():
            await self._look_for_draw(name, job)
        return taken

    async def _look_for_draw(self, name: str, job: str) -> None:
        drawn = await self._store.aread(lambda c: audits.draws_of_job(c, job))
        buyer = self._orders[name].buyer
        if (
            drawn
            and drawn[-1].value is None
            and buyer not in self._silent
            and (job, drawn[-1].number) not in self._asked
        ):
            self._asked.add((job, drawn[-1].number))
            self._at(cast.LINK_S, lambda: self._reveal(name, job, drawn[-1]))

    async def _reveal(self, name: str, job: str, row: DrawRow) -> None:
        order = self._orders[name]
        if order.buyer in self._silent or self._is_down:
            self._asked.discard((job, row.number))
            return
        listed = await self._store.aread(lambda c: audits.candidates_of(c, job, row.number))
        assert listed is not None
        made = Reveal(
            job=ids.JobId(job),
            index=row.number,
            value=beacon.value(derived("seed", name), order.chain, row.number),
            checkpoint_size=row.checkpoint_size,
            checkpoint_root=digest.parse(row.checkpoint_root),
            candidates=digest.parse(listed.leaf),
        )
        envelope = statement.sign("reveal", made, (), self._keys[order.buyer])
        doing = f"reveal {row.number}"
        take = reveals.reveal
        deed = next((deed for pattern, deed in self._run.broker if fnmatchcase(doing, pattern)), "")
        crossed, _, word = deed.partition(":")
        await self._send(
            f"{order.buyer} {name}", doing, lambda: take(self._intake, order.buyer, job, envelope), (crossed, word)
        )

    def _take(self, name: str, lease: wire.Lease) -> None:
        """Begin what a lease asks for."""
        doing = f"{lease.type.value} {short(lease.task)}"
        if lease.type is LeaseType.WORK:
            doing += f" e{lease.epoch}"
        player = self._players[name]
        deed, word = player.cast.deed(doing)
        self._say(f"{name} takes {doing}{f' and {deed} {word}'.rstrip() if deed else ''}")
        quick = {LeaseType.QUESTION: cast.ANSWER_S, LeaseType.REVEAL: cast.LINK_S}
        takes_s = quick.get(lease.type, cast.WORK_S)
        if deed in {"slow", "talking"}:
            takes_s = float(word)
        if deed == "talking":
            self._talk(name, lease, takes_s)
        if deed == "dies":
            player.present = False
        elif deed == "back":
            self._at(cast.LINK_S, lambda: self._hand_back(name, lease))
        elif deed == "fails":
            self._at(cast.LINK_S, lambda: self._fail(name, lease, word))
        elif deed != "silent":
            serve = {
                LeaseType.WORK: self._work,
                LeaseType.AUDIT: self._answer_blindly,
                LeaseType.QUESTION: self._answer_blindly,
                LeaseType.REVEAL: self._answer,
            }[lease.type]
            self._at(takes_s, lambda: serve(name, lease, (deed, word)))

    def _talk(self, name: str, lease: wire.Lease, takes_s: float) -> None:
        """Report progress every BEAT_S: one step each."""
        for step in range(1, int(takes_s / BEAT_S) + 1):

            async def report(step: int = step) -> None:
                row = await self._held(lease.lease_id)
                if row is not None:
                    self._engine.mover.hear(row, "compute", step)

            self._at(BEAT_S * step, report)

    async def _held(self, lease: str) -> Any:
        row = await self._store.aread(lambda c: leases.get(c, lease))
        return row if row.state is LeaseState.GRANTED else None

    async def _hand_back(self, name: str, lease: wire.Lease) -> None:
        self._say(f"{name} hands back {short(lease.task)}")
        await self._engine.release(lease.lease_id)

    async def _fail(self, name: str, lease: wire.Lease, reason: str) -> None:
        self._say(f"{name} reports {reason} of {short(lease.task)}")
        await self._engine.fail(lease.lease_id, reason, f"{reason} said {name}")

    async def _work(self, name: str, lease: wire.Lease, deed: tuple[str, str]) -> None:
        player = self._players[name]
        if not player.present:
            return
        player.endings[lease.task] = self._ended(lease)
        for data in player.work(lease, await self._blobs(lease), self._command(lease.job), deed).values():
            self._bytes[digest.digest(data)] = data
            if not self._is_down:
                await self._put(data, f"node:{player.id}")
        doing, envelope = (
            f"commitment {short(lease.task)} e{lease.epoch}",
            player.commitment(lease, self._used(lease.job)),
        )
        take = work.commitment
        crossed = player.cast.deed(doing)
        taken = await self._send(name, doing, lambda: take(self._intake, player.id, lease.lease_id, envelope), crossed)
        if taken and deed[0] != "mute":
            self._at(cast.LINK_S, lambda: self._contribute(name, lease))

    async def _contribute(self, name: str, lease: wire.Lease) -> None:
        player = self._players[name]
        if not player.present:
            return
        doing = f"contribution {short(lease.task)} e{lease.epoch}"
        envelope, now_s = player.contribution(lease, self._exchange.clock.now()), self._exchange.clock.now()

        async def take() -> int:
            return await work.contribution(self._intake, player.id, lease.lease_id, envelope)

        if await self._send(name, doing, take, player.cast.deed(doing)):
            reading = player.reading(lease.job, now_s)
            await readings.reading(self._intake, player.id, lease.lease_id, reading)

    async def _answer_blindly(self, name: str, lease: wire.Lease, deed: tuple[str, str]) -> None:
        player = self._players[name]
        if not player.present:
            return
        assert lease.audit is not None
        doing = f"answer-commitment {short(lease.task)} {lease.audit.role}"
        player.endings[lease.task] = self._ended(lease)
        envelope = player.answer_commitment(lease, await self._blobs(lease), self._command(lease.job), deed)

        async def take() -> int:
            return await answers.answer_commitment(self._intake, player.id, lease.lease_id, envelope)

        await self._send(name, doing, take, player.cast.deed(doing))

    async def _answer(self, name: str, lease: wire.Lease, _deed: tuple[str, str]) -> None:
        player = self._players[name]
        if not player.present:
            return
        assert lease.audit is not None
        doing = f"answer {short(lease.task)} {lease.audit.role}"
        envelope = player.answer(lease, self._exchange.clock.now(), self._used(lease.job))

        async def take() -> int:
            return await answers.answer(self._intake, player.id, lease.lease_id, envelope)

        await self._send(name, doing, take, player.cast.deed(doing))

    async def _send(self, who: str, doing: str, take: Callable[[], Awaitable[int]], deed: tuple[str, str]) -> bool:
        """Hand a statement in; tell whether it was taken."""
        if self._is_down:
            self._say(f"{who} {doing}: the market is down")
            return False
        journal = self._exchange.journal
        assert isinstance(journal, _HandJournal)
        if deed[0] == "crawls":
            journal.then = lambda: self._pass(float(deed[1]))
        elif deed[0] == "killed" and doing not in self._killed:
            self._killed.add(doing)
            journal.then = _kill
        try:
            index = await take()
        except StannaryError as err:
            journal.then = None
            self._say(f"{who} {doing}: {type(err).__name__}, {err.what}")
            return False
        except Killed:
            self._say(f"{who} {doing}: the market is killed")
            await self._restart()
            return False
        self._say(f"{who} {doing}: {index}")
        return True

    async def _put(self, data: bytes, owner: str) -> None:
        name, at_ms = digest.digest(data), self._exchange.now_ms
        await self._store.awrite(lambda c: blobs.add(c, name, len(data), owner, at_ms=at_ms))

    async def _blobs(self, lease: wire.Lease) -> dict[str, bytes]:
        return {item.name: self._bytes[item.digest] for item in lease.blobs}

    def _spec(self, job: str) -> JobSpec:
        (name,) = (name for name, other in self._jobs.items() if other == job)
        return self._orders[name].spec

    def _command(self, job: str) -> str:
        return self._spec(job).run or ""

    def _used(self, job: str) -> Used | None:
        """Return what every task takes, where that is paid by."""
        return Used(10, 0, 10) if edition.of(self._spec(job)).pays_by_use else None

    def _ended(self, lease: wire.Lease) -> str | None:
        return toy_work.ended(self._spec(lease.job), ids.place_of(lease.task)[0])

    def _say(self, text: str) -> None:
        self._said.append(f"{self._clock.ms / 1000 - START_S:9.3f} {text}")


async def _kill() -> None:
    raise Killed
