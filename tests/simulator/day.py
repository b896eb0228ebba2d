"""A day of one job under a virtual clock, among lying, slow and vanishing nodes: the core decides, parties act.

    day = Day(seed=7, fleet=[...], settings=recipe)
    day.live()
    report = verify_receipt(day.receipt(), day.trust(), day.now)

Every statement is signed and logged (tests/unit/verify/world.py), and the receipt is a whole one. What is decided is
decided by jobs/course, driven by market.py; a day only says when things happen. All chance comes from the seed: it
replays the whole day, bytes included.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.simulator.market import Log, Market, Refused
from tests.simulator.parties import Party, Sight
from tests.unit.verify.world import CHAIN_LENGTH, START, World

from stannary.formats import beacon, commitments, digest, jobspec, note, predicates
from stannary.formats.digest import Digest
from stannary.formats.ended import WELL
from stannary.formats.ids import AuditId, LeaseType, NodeId, TaskId, TaskKind
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Assignment, Assurance, Role, Spent, Tier
from stannary.jobs.course.state import (
    CosignedCheckpoint,
    DrawRow,
    JobOrder,
    LeaseRow,
    Node,
    Placed,
    Task,
    Timing,
    read_assignment,
)
from stannary.rules import edition, ending
from stannary.rules.pace import LOST_AFTER_S
from stannary.rules.price import worst_case

LINK_S = 20.0  # the way of a result, an answer or a beacon value
BACK_S = 3600.0  # when a vanished node hands in what it had begun
READING_EVERY_S = 5  # as agents do
MAX_ACTS = 50_000


class Day(World):
    """One job from order to receipt, on a virtual clock."""

    def __init__(  # one story, told in one line
        self,
        *,
        seed: int,
        fleet: Sequence[Party],
        settings: jobspec.RecipeSpec,
        audit_ppm: int = 1_000_000,
        kind: JobKind = JobKind.TRAIN,
        verify: Verification | None = None,
        timing: Timing | None = None,
        rules: int | None = None,
    ) -> None:
        super().__init__(
            rounds=settings.rounds,
            lanes=settings.lanes,
            audit_ppm=audit_ppm,
            seed=seed,
            kind=kind,
            verify=verify,
            assurance=Assurance.SAMPLED if rules is not None else None,
        )
        self.settings = settings
        self.step_ms = settings.step_ms or 0
        self.fleet = {node.name: node for node in fleet}
        self.nodes = dict(self.fleet)  # the world's nodes, each with a mind of its own
        self.chance = random.Random(seed)
        self.clock_s = 0.0
        self.blobs: dict[Digest, bytes] = {}
        self.refused: list[str] = []  # what the market did not take
        self.journal: list[str] = []
        self.reveals_until = CHAIN_LENGTH  # the buyer's broker falls silent at this draw
        self.cancelled_at_s: float | None = None
        self.breaks_off_in = 0  # the first round that a recipe does not end well, where `end` is another
        self.meter_percent = 100  # what meters say of work in hand: 200 is twice as much
        self._timing = timing if timing is not None else Timing()
        self._acts: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._away: set[str] = set()
        self._served: set[str] = set()  # leases
        self._owed: set[int] = set()  # draws whose value is on its way
        self._salts: dict[str, str] = {}
        self._committed: dict[tuple[str, Role, str], predicates.Answer] = {}

    # --- the clock

    def live(self) -> Day:
        """Play the day to its end."""
        self.open()
        self.after(self.sweep_s, self._sweep)
        if self.cancelled_at_s is not None:
            self.after(self.cancelled_at_s, self._cancel)
        for node in self.fleet.values():
            if node.busy_s is not None:
                self._keep_busy(node, *node.busy_s)
        self._look()
        for _ in range(MAX_ACTS):
            if self.market.is_concluded:
                break
            self.clock_s, _, act = heapq.heappop(self._acts)
            self.now = START + int(self.clock_s)
            act()
        assert self.market.is_concluded, f"the day did not end: {self.journal[-5:]}"
        self._finish()
        return self

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._acts, (self.clock_s + delay_s, next(self._order), act))

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return START * 1000 + int(1000 * self.clock_s)

    @property
    def sweep_s(self) -> float:
        """How often deadlines are looked at: twice a step."""
        return max(1.0, self.step_ms / 2000)

    def append(self, leaf: bytes) -> int:
        """Append a leaf; time is the virtual clock's, not the log's."""
        return self.tree.append(leaf)

    def say(self, text: str) -> None:
        """Write one line of the day's journal."""
        self.journal.append(f"{self.clock_s:9.1f} {text}")

    # --- the market

    def open(self) -> None:
        """Join and credential every node, and take the order."""
        for node in self.fleet.values():
            self._credential(node)
        self._take_order()
        case = self.case()
        order = JobOrder(self.job_id, case.job_digest, "", "buyer", case.job.predicate, self.spec())
        nodes = [self._as_seen(node) for node in self.fleet.values()]
        log = Log(self._state, self._checkpoint, self.checkpoint, self._stop)
        self.market = Market(order, nodes, log, place=self._place, timing=self._timing)
        self.market.open(self._escrow(), self.now_ms)

    def spec(self) -> jobspec.JobSpec:
        """Return the job's spec with the simulated settings."""
        base = super().spec()
        trust = replace(base.trust, max_price_usd_micros_per_hour=500_000)
        recipe = self.settings if self.kind is JobKind.TRAIN else None
        if recipe is not None and base.rules is not None:
            recipe = replace(recipe, step_ms=None)
        workdir = () if recipe is not None and recipe.builtin else base.workdir
        return replace(base, recipe=recipe, trust=trust, workdir=workdir, budget_usd_micros=10**9)

    def checkpoint(self) -> str:
        """Sign and cosign the log as it stands, in no time."""
        size = self.tree.size
        text = note.sign_checkpoint(self.name, size, self.tree.root(), self.market_key)
        line = note.cosign(text, "local.witness", self.witness_key, self.now)
        self.notes[size] = note.add_cosignatures(text, [line])
        return self.notes[size]

    @property
    def struck(self) -> set[str]:
        """Names of the nodes that stood alone in the buyer's own code."""
        return {self.party(node).name for node in self.market.state.struck}

    @property
    def convicted(self) -> set[str]:
        """Names of the nodes convicted."""
        return {self.party(node).name for node in self.market.state.convicted}

    def party(self, node: str) -> Party:
        """Return a node by its id."""
        return next(item for item in self.fleet.values() if item.id == node)

    def _state(self, kind: str, predicate: Any) -> tuple[Digest, int]:
        """Sign and log what the market states."""
        index = self.tree.size
        if kind == "assignment":
            self.assignments[predicate.task] = predicate
        elif kind == "verdict":
            self.verdicts[predicate.task] = predicate.verdict
            self.say(f"{predicate.task} {predicate.verdict} {predicate.reason} {' '.join(predicate.refuted)}")
        return digest.from_raw(self.log(kind, predicate, self.market_key).leaf()), index

    def _checkpoint(self) -> CosignedCheckpoint:
        return CosignedCheckpoint("", self.tree.size, digest.from_raw(self.tree.root()))

    def _place(self, order: JobOrder) -> Placed:
        """Give the lanes to the first of the fleet."""
        listed = [node.id for node in self.fleet.values()]
        chosen = tuple(listed[: order.shape.num_lanes])
        rest = tuple(predicates.Rejection(node, "not needed") for node in listed[order.shape.num_lanes :])
        return Placed(chosen, rest, next(iter(self.fleet.values())).engine_class)

    def _escrow(self) -> int:
        """Return the worst case: every task done once and audited twice, at the dearest ask."""
        return worst_case(self.spec(), max(node.ask for node in self.fleet.values())).escrow_usd_micros

    def _as_seen(self, node: Party) -> Node:
        return Node(
            node=node.id,
            operator=node.operator,
            jurisdiction="XX",
            terms=digest.digest(b"terms"),
            tier=Tier.T0,
            engine_class=node.engine_class,
            cpus=1,
            memory_bytes=2**30,
            ask_usd_micros_per_hour=node.ask,
            bond_usd_micros=node.bond,
            expires_at_ms=1000 * (START + 10**6),
            signed_bond_usd_micros=node.bond,
        )

    def _sweep(self) -> None:
        """Look at deadlines."""
        for lease in self.market.lapse(self.now_ms):
            self.say(f"{lease} is over")
        self.market.keep_moving(self.now_ms)
        self.after(self.sweep_s, self._sweep)
        self._look()

    def _keep_busy(self, node: Party, from_s: float, until_s: float) -> None:
        """Have a node at a piece of another job for a while."""
        self.after(from_s, lambda: self.market.kept_busy.add(node.id))

        def let_go() -> None:
            self.market.kept_busy.discard(node.id)
            self._look()

        self.after(until_s, let_go)

    def _cancel(self) -> None:
        self.market.cancel(self.now_ms)
        self._look()

    def _stop(self, task: str, name: str, granted_at_ms: int) -> None:
        """State what a node had in hand when the buyer stopped the job, by its meter."""
        node = self.party(name)
        since, read_s = granted_at_ms // 1000, self.now - self.now % READING_EVERY_S
        node.compute_ms += max(1000 * read_s - granted_at_ms, 0) * self.meter_percent // 100
        read = predicates.Reading(self.job_id, node.id, 0, "0" * 64, self._spent(node), self.time(read_s))
        leaf, _ = self._log_of(node, "reading", read)
        times = (self.time(since), self.time(self.now))
        made = predicates.Stopped(self.job_id, TaskId(task), node.id, leaf, *times)
        self._state("stopped", made)

    def _spent(self, node: Party) -> Spent:
        return Spent(0, node.compute_ms, 0, 0, 0)

    def _look(self) -> None:
        """Let the market decide, then let everybody take what is his."""
        self.market.move(self.now_ms)
        if self.market.is_concluded:
            return
        for lease in list(self.market.state.leases.values()):
            if lease.type is not LeaseType.WORK and lease.lease not in self._served:
                self._served.add(lease.lease)
                self._begin(lease)
        given, asking = True, self._askers()
        while given:
            given = False
            self.chance.shuffle(asking)  # who asks first is chance
            for node in asking:
                lease_ = None if node.name in self._away else self.market.give(node.id, self.now_ms)
                if lease_ is not None:
                    given = True
                    self._served.add(lease_.lease)
                    self._begin(lease_)
        self._ask_buyer()

    def _askers(self) -> list[Party]:
        """Return who asks for work now."""
        return list(self.fleet.values())

    def _finish(self) -> None:
        self.close()
        shown = {row.checkpoint_size for row in self.market.state.draws if row.reveal is not None}
        self.notes = {size: text for size, text in self.notes.items() if size in shown}

    def receipt(self, *, status: str = "", reason: str = "") -> bytes:
        """Make the receipt as the job ended."""
        ending = self.market.state.ending
        if ending is None:
            return super().receipt(status=status or "succeeded", reason=reason or "complete")
        return super().receipt(status=status or ending.status.value, reason=reason or ending.reason)

    # --- the buyer

    def _ask_buyer(self) -> None:
        draws = self.market.state.draws
        if draws and draws[-1].value is None and draws[-1].number not in self._owed:
            self._owed.add(draws[-1].number)
            if draws[-1].number < self.reveals_until:
                self.after(LINK_S, lambda: self._reveal(draws[-1]))

    def _reveal(self, row: DrawRow) -> None:
        value = beacon.value(self.beacon_seed, CHAIN_LENGTH, row.number)
        listed = Digest(self.market.state.listed[row.number].leaf)
        root = Digest(row.checkpoint_root)
        made = predicates.Reveal(self.job_id, row.number, value, row.checkpoint_size, root, listed)
        leaf = digest.from_raw(self.log("reveal", made, self.buyer_key).leaf())
        self.market.reveal(made, leaf, self.now_ms)
        self._look()

    # --- nodes

    def _begin(self, lease: LeaseRow) -> None:
        """Let a node begin what a lease asks of it."""
        node, task = self.party(lease.node), self.market.state.tasks[lease.task]
        expected = task.num_steps * self.step_ms / 1000
        if lease.type is LeaseType.REVEAL:
            self.after(LINK_S, lambda: self._open_answer(lease))
            return
        is_work = lease.type is LeaseType.WORK
        took = node.minutes(expected, "work" if is_work else str(lease.type), self.chance)
        if took is None and is_work:
            self._vanish(node, lease, task)
        elif took is None:
            self.say(f"{node.name} is silent about {lease.task}")
        elif is_work:
            self.after(took, lambda: self._commit(lease, task))
        else:
            self.after(took, lambda: self._commit_answer(lease))

    def _vanish(self, node: Party, lease: LeaseRow, task: Task) -> None:
        self.say(f"{node.name} vanishes with {lease.task}")
        self._away.add(node.name)
        self.market.live.discard(node.id)

        def lose() -> None:
            self.market.gone.add(node.id)

        def come_back() -> None:
            self._away.discard(node.name)
            self.market.gone.discard(node.id)
            self.market.live.add(node.id)
            self._commit(lease, task)

        self.after(LOST_AFTER_S, lose)
        self.after(BACK_S, come_back)

    def _commit(self, lease: LeaseRow, task: Task) -> None:
        node, assignment = self.party(lease.node), task.assigned
        outputs = node.work(assignment, self._sight())
        ended = self.end_of(assignment, node.made[task.task].ended)
        listed = self.handed_in(assignment, node.made[task.task].listed, ended)
        root = predicates.result_root(listed, ended)
        self.blobs.update({digest.digest(data): data for data in outputs.values()})
        if "delta" in outputs:
            self.blobs[root] = outputs["delta"]
        salt = hashlib.sha256(f"{node.name} {task.task} {lease.epoch}".encode()).hexdigest()
        made = predicates.Commitment(
            self.job_id, assignment.task, lease.epoch, node.id, commitments.commitment_hash(node.id, salt, root),
            self.used(assignment, node),
        )  # fmt: skip
        if self._is_taken(lease, "commitment"):
            self.market.commit(lease.lease, made, self._log_of(node, "commitment", made)[1])
            self.after(LINK_S, lambda: self._contribute(lease, assignment, salt, listed, ended))
        self._look()

    def _contribute(
        self,
        lease: LeaseRow,
        assignment: Assignment,
        salt: str,
        outputs: tuple[predicates.Output, ...],
        ended: str | None,
    ) -> None:
        node = self.party(lease.node)
        compute_ms = assignment.num_steps * self.step_ms
        made = predicates.Contribution(
            job=self.job_id, task=assignment.task, epoch=lease.epoch, node=node.id,
            assignment=predicates.assignment_digest(assignment), salt=salt, root=predicates.result_root(outputs, ended),
            outputs=outputs, engine_class=node.engine_class, environment=digest.digest(b"environment"),
            sandbox="bubblewrap", num_steps=assignment.num_steps, spent=Spent(5, compute_ms, 3, 2, 0),
            metrics={}, finished_at=self.time(self.now), ended=ended,
        )  # fmt: skip
        if self._is_taken(lease, "contribution"):
            node.compute_ms += compute_ms
            kept = self._log_of(node, "contribution", made)
            self.contributions[assignment.task] = (kept[1], made)
            self.market.contribute(lease.lease, made, kept, self.now_ms)
        self._look()

    def used(self, assignment: Assignment, node: Party, role: Role = Role.PROVER) -> predicates.Used | None:
        """Return what a node's meter says that a task took, where that is paid by."""
        took_ms = node.metered_ms(assignment, role, assignment.num_steps * self.step_ms)
        is_said = edition.of(self.market.order.spec).pays_by_use
        return predicates.Used(took_ms, 0, took_ms) if is_said else None

    def _commit_answer(self, lease: LeaseRow) -> None:
        node, role = self.party(lease.node), Role(str(lease.body["role"]))
        task = self.market.state.tasks[lease.task]
        assignment = read_assignment(task.assignment)
        speak = node.answer if role is Role.PROVER else node.audit
        step, salt = lease.body["step"], bytes.fromhex(str(lease.body["salt"]))
        assert isinstance(step, int)
        assert lease.audit is not None
        said = speak(assignment, step, salt, self._sight())
        ended = self.end_of(assignment, said.ended)
        outputs = self.handed_in(assignment, said.outputs, ended)
        answer = predicates.Answer(
            job=self.job_id, audit=AuditId(lease.audit), task=assignment.task, role=role, node=NodeId(node.id),
            blind=hashlib.sha256(f"{node.name} {lease.audit}".encode()).hexdigest(), answer=said.answer,
            root=predicates.result_root(outputs, ended), outputs=outputs, ended=ended,
            spent=Spent(0, 0, 0, 0, self.step_ms * assignment.num_steps), answered_at=self.time(self.now),
            used=self.used(assignment, node, role) if role is Role.AUDITOR else None,
        )  # fmt: skip
        hidden = commitments.answer_commitment_hash(node.id, answer.blind, answer.answer, answer.root)
        made = predicates.AnswerCommitment(self.job_id, answer.audit, answer.task, role, node.id, hidden)
        if self._is_taken(lease, "answer-commitment"):
            self._committed[lease.audit, role, node.id] = answer
            leaf = self._log_of(node, "answer-commitment", made)[0]
            self.market.commit_answer(lease.lease, made, leaf, self.now_ms)
        self._look()

    def _open_answer(self, lease: LeaseRow) -> None:
        node = self.party(lease.node)
        said = self._committed[lease.audit or "", Role(str(lease.body["role"])), lease.node]
        if self._is_taken(lease, "answer"):
            made = replace(said, answered_at=self.time(self.now))
            leaf = self._log_of(node, "answer", made)[0]
            self.market.answer(lease.lease, made, leaf, self.now_ms)
        self._look()

    def end_of(self, assignment: Assignment, said: str | None) -> str | None:
        """Return how a program ended, where that is part of its result: well, unless its node says otherwise."""
        how = said or self.end
        if ending.is_stated(self.spec(), assignment.kind):
            return how
        is_off = ending.may_break_off(self.spec(), assignment.kind) and assignment.round >= self.breaks_off_in
        return how if is_off and how != WELL else None

    def handed_in(
        self, assignment: Assignment, outputs: tuple[predicates.Output, ...], ended: str | None
    ) -> tuple[predicates.Output, ...]:
        """Return what is handed in beside how a program ended: a recipe that broke off has nothing."""
        return () if ending.has_broken_off(assignment.kind, ended) else outputs

    def _is_taken(self, lease: LeaseRow, what: str) -> bool:
        """Tell whether the market takes what is handed in under a lease; one that has ended takes nothing."""
        try:
            self.market.held(lease.lease, lease.type)
        except Refused:
            self.refused.append(f"{self.party(lease.node).name} {what} {lease.task} epoch {lease.epoch}")
            return False
        return True

    def _log_of(self, node: Party, kind: str, predicate: Any) -> tuple[Digest, int]:
        index = self.tree.size
        return digest.from_raw(self.log(kind, predicate, node.key).leaf()), index

    def _sight(self) -> Sight:
        def contributed(task: str) -> predicates.Contribution | None:
            found = self.contributions.get(TaskId(task))
            return found[1] if found else None

        def beside(assignment: Assignment) -> predicates.Contribution | None:
            for name, (_, made) in self.contributions.items():
                other = self.assignments[name]
                if (other.kind, other.round, other.theta) == (assignment.kind, assignment.round, assignment.theta):
                    return made
            return None

        return Sight(self.blobs.__getitem__, contributed, beside, self.chance)


def log_bytes(day: Day) -> list[bytes]:
    """Return every envelope of the day, in log order."""
    return [envelope.to_bytes() for _, envelope in day.entries]


def last_merges(day: Day) -> list[Assignment]:
    """Return the newest merge of each round."""
    merges = [item for item in day.market.state.tasks.values() if item.kind is TaskKind.MERGE]
    newest = {item.round: item for item in sorted(merges, key=lambda item: (item.round, item.attempt))}
    return [item.assigned for item in newest.values()]
