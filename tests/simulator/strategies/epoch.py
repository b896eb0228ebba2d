"""One epoch: a job on a day of the simulator, whose parties spend time, and what each has of it in the end.

An epoch is decided by the same core as a market's job, settled by the same functions as a receipt, and its disputed
bonds are ruled on by those of rules/appeal.py. What is added here is what no log shows: what an execution really took,
and whether a result is the true one. Statements are signed only where a receipt is to be verified; nothing else asks.

A buyer's program is a `Program`: what it makes and how long it takes may depend on whatever a program can see of where
and when it runs, and on nothing else: not on whether it runs as work or as an audit.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.simulator.day import Day
from tests.simulator.parties import Computed, Party, Sight
from tests.simulator.toys import Toy, recipe

from stannary.formats import commitments, digest, dsse, ids, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, LeaseType, NodeId, TaskId
from stannary.formats.jobspec import JobKind, JobSpec, RecipeSpec
from stannary.formats.predicates import Appeal, Assignment, Candidate, Role, SettlementLine
from stannary.jobs.course import actions, asking, offering
from stannary.jobs.course.state import CosignedCheckpoint, JobOrder, LeaseRow, Node, Placed, Timing
from stannary.jobs.states import LeaseState
from stannary.place.match import match
from stannary.rules import appeal, grade, masks, stake, use
from stannary.verify import conclusion
from stannary.verify.case import Case, Logged, read
from stannary.verify.conclusion import Conclusion
from stannary.verify.ruling import DisputedBond

TIMING = Timing(reveal_s=600.0, placing_s=600.0, stall_s=3600.0)
SAMPLED_PPM = stake.least_ppm(600_000, 990_000, 1, stake.HELD_UNITS)  # what `sampled` needs with S units behind each
SWEEP_S = 120.0
UNSIGNED = (dsse.Signature("", bytes(64)),)


@dataclass(frozen=True, slots=True)
class Run:
    """What a program can see of one execution of it."""

    node: str
    at_s: float
    round: int
    lane: int
    chance: random.Random


class Program:
    """A program that makes the same wherever, whenever and however often it runs."""

    def word(self, run: Run) -> str:
        """Return what is made instead of the wanted result; empty: the wanted result."""
        return ""

    def slowness(self, run: Run) -> float:
        """Return how long it takes, of what a honest program's step does."""
        return 1.0

    def useful(self, run: Run) -> float:
        """Return how much of that its result needs: who makes a program slow for nothing has nothing of it."""
        return self.slowness(run)

    def ended(self, run: Run) -> str | None:
        """Return how it ends, None for well."""
        return None


@dataclass
class Seat(Toy):
    """An honest operator's node: it computes what it is asked to, and its meter says what that took."""

    epoch: Epoch | None = field(default=None, repr=False)
    computed_ms: list[int] = field(default_factory=list)  # of each execution, whoever asked for it
    took_ms: dict[str, int] = field(default_factory=dict)  # task -> what an execution of it takes here
    worth_ask: int = field(init=False)  # what its computing is worth, whatever it asks later

    def __post_init__(self) -> None:
        """Note what it asks at first."""
        super().__post_init__()
        self.worth_ask = self.ask

    @property
    def day(self) -> Epoch:
        """The epoch it lives in."""
        assert self.epoch is not None
        return self.epoch

    def begin(self, assignment: Assignment, lease: LeaseRow) -> None:
        """Start the program of a task."""
        self.took_ms[assignment.task] = self.day.takes_ms(assignment, self)

    def compute(self, assignment: Assignment, sight: Sight) -> Computed:
        """Run the program to its end."""
        run = self.day.run_of(assignment, self)
        took_ms = self.took_ms.get(assignment.task) or self.day.takes_ms(assignment, self)
        self.computed_ms.append(took_ms)
        made = self.make(assignment, self.day.program.word(run))
        return replace(made, ended=self.day.program.ended(run))

    def make(self, assignment: Assignment, word: str) -> Computed:
        """Return the wanted result, or another one for a word."""
        return self._made(assignment, word)

    def metered_ms(self, assignment: Assignment, role: Role, took_ms: int) -> int:
        """Say what it took."""
        return self.took_ms.get(assignment.task, took_ms)

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Take as long as the program does, and what its bytes and its machine's mood take."""
        return expected * (1.0 + 0.3 * chance.random())


@dataclass(frozen=True, slots=True)
class Account:
    """What one operator has of an epoch, in micro-dollars."""

    paid: int  # for work, audits and appeals
    worked: int  # what all it computed is worth at its own ask, whether it was paid or not
    bond: int  # lost


@dataclass(frozen=True, slots=True)
class Books:
    """What everybody has of an epoch, in micro-dollars."""

    accounts: Mapping[str, Account]  # by operator
    struck: frozenset[str]  # operators
    buyer_paid: int
    worth: int  # of the true results the buyer can fetch, at the price of their work
    good_audits: int  # paid for audits that confirm a true result
    good_work: int  # paid for true results that stand
    false_paid: int  # units that are false, and paid
    reason: str

    def profit(self, operator: str, cost_ppm: int) -> float:
        """Return what an operator gains, where computing costs it so much of its ask."""
        mine = self.accounts[operator]
        return mine.paid - mine.worked * cost_ppm / 1_000_000 - mine.bond

    def loss(self, operator: str) -> int:
        """Return what an honest operator is short of: the price of what it computed, and its bond."""
        mine = self.accounts[operator]
        return max(mine.worked - mine.paid, 0) + mine.bond

    @property
    def buyers_gain(self) -> int:
        """What a buyer holds, less what he paid for anything but audits that confirm it: of an honest one nothing."""
        return self.worth - (self.buyer_paid - self.good_audits)

    @property
    def buyers_loss(self) -> int:
        """What an honest buyer paid for anything but true units of his result and the audits that confirm them."""
        return max(self.buyer_paid - self.good_work - self.good_audits, 0)


class Epoch(Day):
    """One job among seats."""

    def __init__(
        self,
        *,
        seed: int,
        seats: Sequence[Seat],
        kind: JobKind = JobKind.COMMAND,
        settings: RecipeSpec | None = None,
        program: Program | None = None,
        audit_ppm: int = SAMPLED_PPM,
        exclude: Iterable[str] = (),
        is_signed: bool = False,
    ) -> None:
        super().__init__(
            seed=seed, fleet=seats, settings=settings or recipe(), audit_ppm=audit_ppm, kind=kind, timing=TIMING,
            rules=3,
        )  # fmt: skip
        self.program = program or Program()
        self.exclude = tuple(exclude)
        self.is_signed = is_signed
        self.seats = {seat.id: seat for seat in seats}
        self.hides_all_but: set[str] = set()  # nodes whom a market names as auditors, beside who works
        self.planned_ms: dict[str, tuple[float, int]] = {}  # lease -> when it was begun, and what it takes
        self.said: dict[int, Logged[Any]] = {}
        self._case: Case | None = None
        self._shown: CosignedCheckpoint | None = None
        for seat in seats:
            seat.epoch = self

    # --- what happens otherwise than on a plain day

    def live(self) -> Epoch:
        """Play the epoch to its end."""
        super().live()
        return self

    @cached_property
    def _spec(self) -> JobSpec:
        made = super().spec()
        return replace(made, trust=replace(made.trust, exclude_operators=self.exclude))

    def spec(self) -> JobSpec:
        """Return the job's spec."""
        return self._spec

    @property
    def sweep_s(self) -> float:
        """How often deadlines are looked at."""
        return SWEEP_S

    def log(self, kind: str, predicate: Any, key: Ed25519PrivateKey) -> dsse.Envelope:
        """Log one statement, unsigned where no receipt is asked for."""
        if self.is_signed:
            return super().log(kind, predicate, key)
        payload = _paper(kind, predicate) if kind in ("join", "credential") else _payload(kind, predicate)
        envelope = dsse.Envelope(payload, dsse.STATEMENT_TYPE, UNSIGNED)
        leaf = envelope.leaf()
        index = self.append(leaf)
        self.entries.append((index, envelope))
        self.said[index] = Logged(index, digest.from_raw(leaf), payload, kind, predicate)
        return envelope

    def case(self) -> Case:
        """Return the case as it stands; what was just said need not be read again."""
        if self._case is None or len(self._case.statements) != len(self.entries):
            self._case = Case([self.said.get(index) or read(index, envelope) for index, envelope in self.entries])
        return self._case

    def checkpoint(self) -> str:
        """Sign the log as it stands, where a receipt is asked for."""
        return super().checkpoint() if self.is_signed else ""

    def _as_seen(self, node: Party) -> Node:
        """Return what a market knows of a node, its grade by the tests it signed among it."""
        tests = [(self._power(node, at), took_ms) for at, (_, _, took_ms) in enumerate(node.tests)]
        low, high = grade.of_tests(tests)
        return replace(super()._as_seen(node), grade_ppm=low, best_grade_ppm=high)

    def run_of(self, assignment: Assignment, seat: Seat) -> Run:
        """Return what a program can see that runs now."""
        return Run(seat.name, self.clock_s, assignment.round, assignment.lane, self.chance)

    def takes_ms(self, assignment: Assignment, seat: Seat) -> int:
        """Return what an execution takes that begins now."""
        slowness = self.program.slowness(self.run_of(assignment, seat))
        return max(int(assignment.num_steps * self.step_ms * slowness), 1)

    def _checkpoint(self) -> CosignedCheckpoint:
        if self._shown is None or self._shown.size != self.tree.size:
            self._shown = super()._checkpoint()
        return self._shown

    def _place(self, order: JobOrder) -> Placed:
        """Place the lanes as a market does."""
        away = {node: "away" for node in self.market.nodes if node not in self.market.live}
        found = match(self.market.nodes.values(), masks.required_by(order.spec), away)
        return Placed(tuple(item.node for item in found.chosen), found.rejected, found.engine_class)

    def _begin(self, lease: LeaseRow) -> None:
        seat = self.seats[NodeId(lease.node)]
        if lease.type in (LeaseType.WORK, LeaseType.AUDIT):
            assignment = self.market.state.tasks[lease.task].assigned
            seat.begin(assignment, lease)
            self.planned_ms[lease.lease] = self.clock_s, seat.took_ms[assignment.task]
        usual, self.step_ms = self.step_ms, self._step_ms(lease, seat)
        super()._begin(lease)
        self.step_ms = usual

    def _step_ms(self, lease: LeaseRow, seat: Seat) -> int:
        """Return what a step of this lease takes, so that the day waits for it."""
        if lease.lease not in self.planned_ms:
            return self.step_ms
        return self.planned_ms[lease.lease][1] // self.market.state.tasks[lease.task].num_steps

    def _commit(self, lease: LeaseRow, task: Any) -> None:
        if self._is_held(lease):
            super()._commit(lease, task)

    def _commit_answer(self, lease: LeaseRow) -> None:
        if self._is_held(lease):
            super()._commit_answer(lease)

    def _is_held(self, lease: LeaseRow) -> bool:
        """Tell whether a lease is its node's still: else it was told so, and has stopped computing since."""
        is_held = self.market.state.leases[lease.lease].state is LeaseState.GRANTED
        if is_held:
            self.planned_ms.pop(lease.lease, None)
        return is_held

    def open(self) -> None:
        """Take the order, at a market that may hide its other nodes from it."""
        super().open()
        if self.hides_all_but:
            of_class, shown = self.market.of_class, self.hides_all_but
            self.market.of_class = lambda name: [  # type: ignore[method-assign]
                node for node in of_class(name) if node.node in shown | self.market.state.worked
            ]

    def _finish(self) -> None:
        if self.is_signed:
            super()._finish()
        for name, (begun_s, took_ms) in self.planned_ms.items():  # begun, and never handed in
            lease = self.market.state.leases[name]
            ended_ms = lease.ended_at_ms if lease.state is not LeaseState.GRANTED else None
            until_s = self.clock_s if ended_ms is None else (ended_ms - self.start_ms) / 1000
            self.seats[NodeId(lease.node)].computed_ms.append(min(int(1000 * max(until_s - begun_s, 0)), took_ms))

    @property
    def start_ms(self) -> int:
        """When the day began."""
        return self.now_ms - int(1000 * self.clock_s)

    def join_again(self, seat: Seat, ask: int) -> None:
        """Give a node another credential at another ask, as a market would that looks at no open job."""
        seat.ask = ask
        self._credential(seat)
        self.market.nodes[seat.id] = self._as_seen(seat)

    def _askers(self) -> list[Party]:
        """Return who may be given anything now: asking the others would say the same, more slowly."""
        state = self.market.state
        if next(offering.vacancies(state), None) is not None:
            return list(self.fleet.values())
        return [self.seats[NodeId(item.node)] for item in asking.offers(state)]

    # --- what came of it

    def books(self) -> Books:
        """Return what everybody has."""
        lines = [*self.concluded.settlement.lines, *self.rulings]
        paid: Counter[str] = Counter()
        bonds: Counter[str] = Counter()
        for line in lines:
            kind, _, operator = line.account.partition(":")
            if kind == "operator":
                paid[operator] += line.usd_micros
            elif kind == "bond":
                bonds[operator] -= line.usd_micros
        worked: Counter[str] = Counter()
        for seat in self.seats.values():
            worked[seat.operator] += sum(use.price_of(1000 * ms, seat.worth_ask) for ms in seat.computed_ms)
        operators = {seat.operator for seat in self.seats.values()}
        returned = sum(line.usd_micros for line in self.rulings if line.account == "buyer")
        made = self.case().contributions
        good = {task for task, item in made.items() if self.is_true(item.predicate)}
        agreeing = self._agreeing(good)
        return Books(
            accounts={name: Account(paid[name], worked[name], bonds[name]) for name in operators},
            struck=frozenset(self.party(node).operator for node in self.market.state.struck),
            buyer_paid=self.concluded.settlement.paid_usd_micros - returned,
            worth=self._worth(),
            good_audits=sum(line.usd_micros for line in lines if line.reason == "audit" and line.task in agreeing),
            good_work=sum(line.usd_micros for line in lines if line.reason in ("work", "merge") and line.task in good),
            false_paid=sum(line.reason in ("work", "merge", "redo") and line.usd_micros > 0 for line in lines
                           if line.task in made and line.task not in good),
            reason=self.concluded_as[1],
        )  # fmt: skip

    @property
    def concluded_as(self) -> tuple[str, str]:
        """How the job ended, and why."""
        ending = self.market.state.ending
        return ("succeeded", "complete") if ending is None else (ending.status.value, ending.reason)

    @cached_property
    def concluded(self) -> Conclusion:
        """What a receipt of it states."""
        status, reason = self.concluded_as
        return conclusion.conclude(self.case(), status=status, reason=reason)

    def is_true(self, made: predicates.Contribution) -> bool:
        """Tell whether a contribution is what its buyer wanted."""
        seat = self.seats[NodeId(made.node)]
        return made.outputs == seat.make(self.assignments[made.task], "").listed

    def _agreeing(self, good: set[TaskId]) -> set[str]:
        """Return the audits that confirm a true result, canaries and runs of outsiders among them."""
        case = self.case()
        roots = {task: case.contributions[task].predicate.root for task in good}
        said = [item.predicate for item in case.answers.values() if item.predicate.role is Role.AUDITOR]
        return {item.audit for item in said if roots.get(item.task) == item.root}

    def _worth(self) -> int:
        """Return the price of the true results that were handed in, each unit once, and of what was stopped."""
        units: dict[str, int] = {}
        for task, (_, made) in self.contributions.items():
            if self.is_true(made):
                seat = self.seats[NodeId(made.node)]
                useful_ms = self._useful_ms(self.assignments[task], seat)
                units[ids.unit_of(task)] = use.price_of(1000 * useful_ms, seat.worth_ask)
        for line in self.concluded.settlement.lines:
            if line.reason == "stopped":  # partial outputs, worth the share of the unit that was computed
                units.setdefault(ids.unit_of(TaskId(line.task)), self._stopped_worth(TaskId(line.task)))
        return sum(units.values())

    def _useful_ms(self, assignment: Assignment, seat: Seat) -> int:
        useful = self.program.useful(self.run_of(assignment, seat))
        return int(assignment.num_steps * self.step_ms * useful)

    def _stopped_worth(self, task: TaskId) -> int:
        row = next(
            item for item in self.market.state.leases.values() if item.task == task and item.type is LeaseType.WORK
        )
        seat = self.seats[NodeId(row.node)]
        ended_ms = self.now_ms if row.ended_at_ms is None else row.ended_at_ms
        done_ms = min(ended_ms - row.granted_at_ms, self._useful_ms(self.assignments[task], seat))
        return use.price_of(1000 * done_ms, seat.worth_ask)

    # --- disputed bonds

    @cached_property
    def rulings(self) -> list[SettlementLine]:
        """Rule on every bond in dispute, as an appeal does, and return how the money goes."""
        found = [item for item in self.market.taken if isinstance(item, actions.Dispute)]
        return [line for item in found for line in self._rule(TaskId(item.task), NodeId(item.node))]

    def _rule(self, task: TaskId, node: NodeId) -> Sequence[SettlementLine]:
        case, (status, reason) = self.case(), self.concluded_as
        ending = conclusion.Ending(status, reason, "", self.time(self.now), self.time(self.now))
        said = conclusion.compose(case, self.concluded, ending, [])
        dispute = DisputedBond(case, said, task, node)
        listed = tuple(
            Candidate(seat.id, seat.operator, seat.engine_class)
            for seat in sorted(self.seats.values(), key=lambda item: item.id)
            if seat.operator not in dispute.involved
        )
        made = Appeal(self.job_id, task, node, digest.digest(b"receipt"), listed, self.time(self.now))
        chance = appeal.randomness(digest.digest(f"{self.seed} {task}".encode()), digest.from_raw(self.tree.root()))
        hearers = appeal.hearers(made, dispute.unit, chance)[: appeal.HEARERS]
        heard = [self._hear(dispute, task, item.node) for item in hearers] if len(hearers) == appeal.HEARERS else []
        sentence = dispute.sentence(heard)
        if sentence is None:  # the market replays it, with the package's own code
            sentence = appeal.judged(node, dispute.accusers, agrees=self._is_right(dispute, task, node))
        papers = [(item, case.credential(item.node)) for item in heard]
        taken = dispute.taken(sentence, {seat.id: seat.bond for seat in self.seats.values()})
        due = dispute.due(papers, sentence)
        return appeal.lines(taken, due, dispute.redo, appeal.short_of(taken, due))

    def _is_right(self, dispute: DisputedBond, task: TaskId, node: NodeId) -> bool:
        """Tell whether the unit makes what the accused says: its result, and its answer where it gave one."""
        asked, claim = dispute.question, dispute.claim
        made = self.seats[node].make(self.assignments[task], "")
        answer = commitments.answer_hash(bytes.fromhex(asked.salt), made.states[asked.step])
        return claim.root == predicates.result_root(made.listed) and claim.answer in (None, answer)

    def _hear(self, dispute: DisputedBond, task: TaskId, node: NodeId) -> predicates.Answer:
        seat, assignment, asked = self.seats[node], self.assignments[task], dispute.question
        given = seat.audit(assignment, asked.step, bytes.fromhex(asked.salt), self._sight())
        return predicates.Answer(
            job=self.job_id, audit=AuditId(f"{task}/q{node[2:]}"), task=task, role=Role.AUDITOR, node=node,
            blind="", answer=given.answer, root=predicates.result_root(given.outputs), outputs=given.outputs,
            spent=predicates.Spent(0, 0, 0, 0, 0), answered_at=self.time(self.now),
            used=self.used(assignment, seat, Role.AUDITOR),
        )  # fmt: skip


def _payload(kind: str, predicate: Any) -> bytes:
    return statement.Statement(kind, (), predicate).to_bytes()


_paper = functools.lru_cache(maxsize=1 << 12)(_payload)  # the same nodes join in every epoch


@contextmanager
def quickly() -> Iterator[None]:
    """Remember hashes that were computed before: the core asks for each of them many times."""
    with mock.patch.object(digest, "hash_parts", functools.lru_cache(maxsize=1 << 16)(digest.hash_parts)):
        yield


def in_code_of_ours(settings: RecipeSpec) -> RecipeSpec:
    """Return settings of a built-in recipe, in which a recomputation convicts."""
    return replace(settings, entry="builtin:toy", code=_ANY_CODE)


_ANY_CODE: Digest = digest.digest(b"any code: nothing of it is run")
