"""A day of one job under a virtual clock: real rounds of a tiny model, lying, slow and vanishing nodes.

    day = Day(seed=7, fleet=[...], settings=kernel.settings(rounds=8, lanes=4))
    day.live()
    report = verify_receipt(day.receipt(), day.trust(), day.now)

Built on tests/unit/verify/world.py: every statement is signed and logged, and the receipt is a whole one. What is
decided here is decided by stannary's own functions (jobs/rounds, jobs/states, rules/draw, rules/verdict); the
simulator only says when things happen. All chance comes from the seed: it replays the whole day, bytes included.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.simulator.fleet import Sight, SimulatedNode
from tests.simulator.kernel import STEP_MS, Kernel, Symbols
from tests.unit.verify.world import START, World

from stannary.formats import digest, ids, jobspec, note, predicates
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.predicates import Assignment, Role, Spent, Verdict
from stannary.jobs import rounds
from stannary.jobs.rounds import Unit
from stannary.jobs.states import TaskState, advance
from stannary.rules import draw, verdict
from stannary.rules.pace import LOST_AFTER_S, Pace, closing
from stannary.rules.price import price_of

DRAW_EVERY_S = 900.0
LINK_S = 20.0  # between a commitment and its contribution
PATIENCE = 6.0  # an answer may take this many times what it should
BACK_S = 3600.0  # when a vanished node hands in what it had begun
WEIGHT_PPM = 1_000_000
MAX_EVENTS = 20_000
CHAIN = 64  # world.CHAIN_LENGTH: the buyer's beacon has so many values


@dataclass
class Task:
    """One unit of work as the simulated market keeps it."""

    assignment: Assignment
    state: TaskState = TaskState.PLANNED
    epoch: int = 0
    node: SimulatedNode | None = None
    held_by: set[str] = field(default_factory=set)
    log_index: int | None = None
    arrived_s: float = 0.0
    condemned: bool = False  # to be superseded as soon as it is judged

    def move(self, state: TaskState) -> None:
        """Change state along the table."""
        self.state = advance(self.state, state)


@dataclass
class Hearing:
    """Everything said about one drawn task."""

    task: Task
    selection: draw.Selection
    next_rank: int = 0
    number: int = -1
    prover: predicates.Answer | None = None
    prover_silent: bool = False
    heard: list[predicates.Answer] = field(default_factory=list)
    canary_asked: bool = False
    decided: bool = False


class Day(World):
    """One job from order to receipt, on a virtual clock."""

    def __init__(
        self, *, seed: int, fleet: Sequence[SimulatedNode], settings: jobspec.Recipe, audit_ppm: int = 1_000_000
    ) -> None:
        super().__init__(rounds=settings.rounds, lanes=settings.lanes, audit_ppm=audit_ppm, seed=seed)
        self.settings = settings
        self.fleet = {node.name: node for node in fleet}
        self.nodes = dict(self.fleet)  # type: ignore[assignment]  # world's nodes, each with a mind of its own
        self.chance = random.Random(seed)
        self.clock_s = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.tasks: dict[TaskId, Task] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.free_at: dict[str, float] = {}
        self.away_until: dict[str, float] = {}
        self.convicted: set[str] = set()
        self.hearings: dict[TaskId, Hearing] = {}
        self.selections: dict[tuple[TaskId, str], draw.Selection] = {}
        self.draws: dict[tuple[TaskId, str], Digest] = {}  # the leaf of the draw behind each selection
        self.opened_s: dict[int, float] = {}
        self.closed: set[int] = set()
        self.bend["placement"] = self._funded
        self.refused: list[str] = []  # stale results the market did not take
        self.journal: list[str] = []
        self.done = False

    # --- the clock

    def live(self) -> Day:
        """Play the day to its end."""
        self.open()
        self.after(DRAW_EVERY_S, self._draw)
        self._advance()
        for _ in range(MAX_EVENTS):
            if self.done or not self.events:
                break
            self.clock_s, _, happen = heapq.heappop(self.events)
            self.now = START + int(self.clock_s)
            happen()
        assert self.done, f"the day did not end: {self.journal[-5:]}"
        self.close()
        return self

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self.events, (self.clock_s + delay_s, next(self.order), happen))

    def append(self, leaf: bytes) -> int:
        """Append a leaf; time is the virtual clock's, not the log's."""
        return self.tree.append(leaf)

    def checkpoint(self) -> str:
        """Sign and cosign the log as it stands."""
        size = self.tree.size
        text = note.sign_checkpoint(self.name, size, self.tree.root(), self.market_key)
        line = note.cosign(text, "local.witness", self.witness_key, self.now)
        self.notes[size] = note.add_cosignatures(text, [line])
        return self.notes[size]

    def spec(self) -> jobspec.JobSpec:
        """Return the job's spec with the simulated settings."""
        base = super().spec()
        trust = replace(base.trust, max_price_usd_micros_per_hour=500_000)
        return replace(base, recipe=self.settings, trust=trust, budget_usd_micros=10**9)

    def node_of(self, lane: int) -> SimulatedNode:  # type: ignore[override]  # a node with a mind of its own
        """Return the node a lane was placed on."""
        return list(self.fleet.values())[lane]

    def say(self, text: str) -> None:
        """Write one line of the day's journal."""
        self.journal.append(f"{self.clock_s:9.1f} {text}")

    def _funded(self, placement: predicates.Placement) -> predicates.Placement:
        """Hold the worst case in escrow: every task done once and audited twice, at the dearest ask."""
        dearest = max(node.ask for node in self.fleet.values())
        steps = sum(self.lanes * self.settings.num_steps(index) + self.lanes for index in range(self.rounds))
        work = price_of(steps, STEP_MS, dearest)
        return replace(
            placement, work_usd_micros=work, audit_usd_micros=2 * work, escrow_usd_micros=3 * work
        )  # fmt: skip

    # --- planning (jobs/rounds.py decides)

    def units(self) -> list[Unit]:
        """Return the tasks as jobs/rounds.py sees them."""
        return [
            Unit(
                task=name, kind=item.assignment.kind, round=item.assignment.round, lane=item.assignment.lane,
                attempt=int(name.rpartition("/a")[2]),
                state=TaskState.SUPERSEDED if item.condemned and item.state is not TaskState.REFUTED else item.state,
                log_index=item.log_index,
                admitted=frozenset(entry.task for entry in item.assignment.admitted or ()),
            )
            for name, item in self.tasks.items()
        ]  # fmt: skip

    def _advance(self) -> None:
        """Plan what can be planned now, round by round."""
        for index in range(self.rounds):
            if not rounds.may_open(self.units(), index):
                return
            self._plan_lanes(index)
            if rounds.merge_of(self.units(), index) is None:
                self._plan_merge(index)
        judged = all(hearing.decided for hearing in self.hearings.values())
        handed_in = any(task.state is TaskState.CONTRIBUTED for task in self.tasks.values())
        self.done = rounds.may_finish(self.units(), self.rounds) and judged and not handed_in

    def _plan_lanes(self, index: int) -> None:
        theta = self._base(index)[0]
        units = self.units()
        newest = rounds.latest(units)
        for lane in range(self.lanes):
            unit = newest.get((index, TaskKind.ROUND, lane))
            if unit is not None and unit.state is not TaskState.SUPERSEDED:
                continue
            attempt = rounds.next_attempt(units, TaskKind.ROUND, index, lane)
            task = ids.round_task(self.job_id, index, lane, attempt)
            first = sum(self.settings.num_steps(earlier) for earlier in range(index))
            steps = self.settings.num_steps(index)
            self._plan(Assignment(self.job_id, task, TaskKind.ROUND, index, lane, steps, first, 0, theta))
            self.opened_s[index] = self.clock_s
            self.closed.discard(index)

    def _plan_merge(self, index: int) -> None:
        if not self._is_closed(index) or not rounds.may_merge(self.units(), index):
            return
        admission = rounds.admission(self.units(), index)
        if not admission.admitted:  # nobody's work counts: the whole round again
            for name in admission.excluded:
                self._condemn(self.tasks[TaskId(name)])
            self._advance()
            return
        theta, outer = self._base(index)
        admitted = tuple(
            predicates.Admitted(TaskId(name), self.contributions[TaskId(name)][1].root,
                                self.contributions[TaskId(name)][0], WEIGHT_PPM)
            for name in admission.admitted
        )  # fmt: skip
        attempt = rounds.next_attempt(self.units(), TaskKind.MERGE, index, 0)
        task = ids.merge_task(self.job_id, index, attempt)
        excluded = tuple(TaskId(name) for name in admission.excluded)
        steps = len(admitted)
        self._plan(
            Assignment(
                self.job_id, task, TaskKind.MERGE, index, 0, steps, 0, 0, theta, outer, admitted, excluded
            )
        )  # fmt: skip

    def _is_closed(self, index: int) -> bool:
        if index in self.closed:
            return True
        newest = [u for (at, kind, _), u in rounds.latest(self.units()).items() if at == index and kind != "merge"]
        lanes = [self.tasks[TaskId(unit.task)] for unit in newest]
        pending = [task for task in lanes if task.state in {TaskState.PLANNED, TaskState.LEASED, TaskState.COMMITTED}]
        since = self.opened_s[index]
        arrivals = [task.arrived_s - since for task in lanes if task.log_index is not None]
        pace = Pace(self.lanes, self.settings.num_steps(index) * STEP_MS / 1000)
        ending = closing(arrivals, pace, self.clock_s - since)
        if not ending.closed:
            if ending.check_again_s is not None:
                self.after(max(1.0, since + ending.check_again_s - self.clock_s), self._advance)
            return False
        for task in pending:
            self.say(f"late {task.assignment.task}")
            task.move(TaskState.ABANDONED)
        self.closed.add(index)
        return True

    def _base(self, index: int) -> tuple[Digest | None, Digest | None]:
        if index == 0:
            return None, None
        unit = rounds.merge_of(self.units(), index - 1)
        assert unit is not None
        outputs = {item.name: item.digest for item in self.contributions[TaskId(unit.task)][1].outputs}
        return outputs["theta"], outputs["outer"]

    def _plan(self, assignment: Assignment) -> None:
        self._logged_assignment(assignment)
        task = self.tasks[assignment.task] = Task(assignment)
        self._lease(task)

    def _condemn(self, task: Task) -> None:
        """Supersede a task, at once or as soon as it is judged."""
        if task.state in {TaskState.CONTRIBUTED, TaskState.DRAWN}:
            task.condemned = True
        elif task.state not in {TaskState.REFUTED, TaskState.SUPERSEDED, TaskState.ABANDONED}:
            task.condemned = True
            task.move(TaskState.SUPERSEDED)

    # --- work

    def _lease(self, task: Task) -> None:
        """Give a planned task to its lane's node, or to any other that is there."""
        if task.state is not TaskState.PLANNED:
            return
        node = self._choose(task)
        if node is None:
            self.after(300.0, lambda: self._lease(task))
            return
        task.move(TaskState.LEASED)
        task.node, epoch = node, task.epoch
        task.held_by.add(node.name)
        expected = task.assignment.num_steps * STEP_MS / 1000
        took = node.minutes(expected, "work", self.chance)
        if took is None:
            self.say(f"{node.name} vanishes with {task.assignment.task}")
            self.away_until[node.name] = self.clock_s + BACK_S
            self.after(LOST_AFTER_S, lambda: self._expire(task, epoch))
            self.after(BACK_S, lambda: self._commit(task, epoch, node))
            return
        begins = max(self.clock_s, self.free_at.get(node.name, 0.0))
        self.free_at[node.name] = begins + took
        self.after(begins + took - self.clock_s, lambda: self._commit(task, epoch, node))

    def _choose(self, task: Task) -> SimulatedNode | None:
        able = [
            node
            for node in self.fleet.values()
            if node.name not in self.convicted | task.held_by and self.away_until.get(node.name, 0) <= self.clock_s
        ]
        own = self.node_of(task.assignment.lane)
        if task.assignment.kind is TaskKind.ROUND and own in able:
            return own
        able.sort(key=lambda node: self.free_at.get(node.name, 0.0))
        return able[0] if able else None

    def _expire(self, task: Task, epoch: int) -> None:
        if task.state is TaskState.LEASED and task.epoch == epoch:
            task.epoch += 1
            task.move(TaskState.PLANNED)
            self._lease(task)

    def _commit(self, task: Task, epoch: int, node: SimulatedNode) -> None:
        if task.state is not TaskState.LEASED or task.epoch != epoch:
            self.refused.append(f"{node.name} {task.assignment.task} epoch {epoch}")
            return
        outputs = node.work(task.assignment, self._sight())
        listed = tuple(
            predicates.Output(name, digest.digest(data), len(data)) for name, data in sorted(outputs.items())
        )
        root = predicates.result_root(listed)
        self.blobs.update({digest.digest(data): data for data in outputs.values()})
        if "delta" in outputs:
            self.blobs[root] = outputs["delta"]
        salt = hashlib.sha256(f"{node.name} {task.assignment.task} {epoch}".encode()).hexdigest()
        made = predicates.Commitment(
            self.job_id, task.assignment.task, epoch, node.id, predicates.commitment_hash(node.id, salt, root)
        )
        self.commitments.append((self.tree.size, task.assignment.task, node))
        self.log("commitment", made, node.key)
        task.move(TaskState.COMMITTED)
        self.after(LINK_S, lambda: self._contribute(task, node, salt, listed))

    def _contribute(self, task: Task, node: SimulatedNode, salt: str, outputs: tuple[predicates.Output, ...]) -> None:
        if task.state is not TaskState.COMMITTED:
            self.refused.append(f"{node.name} {task.assignment.task} after its end")
            return
        assignment = task.assignment
        compute_ms = assignment.num_steps * STEP_MS
        node.compute_ms += compute_ms
        made = predicates.Contribution(
            job=self.job_id, task=assignment.task, epoch=task.epoch, node=node.id,
            assignment=predicates.assignment_digest(assignment), salt=salt, root=predicates.result_root(outputs),
            outputs=outputs, engine_class=node.engine_class, environment=digest.digest(b"environment"),
            sandbox="bubblewrap", num_steps=assignment.num_steps, spent=Spent(5, compute_ms, 3, 2, 0),
            metrics={}, finished_at=self.time(self.now),
        )  # fmt: skip
        task.log_index, task.arrived_s = self.tree.size, self.clock_s
        self.contributions[assignment.task] = (task.log_index, made)
        self.log("contribution", made, node.key)
        task.move(TaskState.CONTRIBUTED)
        self._hear(task)
        self._advance()

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

    # --- audits (rules/draw.py selects, rules/verdict.py judges)

    def _draw(self) -> None:
        """Draw what was committed since the last draw; then wait for the next."""
        if self.done:
            return
        self.after(DRAW_EVERY_S, self._draw)
        if not any(self.drawn_up_to <= item[0] for item in self.commitments):
            return
        listed, leaf = self._fix_candidates(self.num_draws, self.convicted)
        fresh, made, randomness = self._draw_tasks(leaf)
        chosen = draw.select(made, listed.candidates, randomness, self.audit_ppm)
        for (_, task, node), selection in zip(fresh, chosen, strict=True):
            self.draws.setdefault((task, node.name), self.draw)
            self.selections.setdefault((task, node.name), selection)
            self._hear(self.tasks[task])
        self._advance()

    def _hear(self, task: Task) -> None:
        """Begin the hearing of a task that is both handed in and covered by a draw."""
        name = task.assignment.task
        if task.state is not TaskState.CONTRIBUTED or task.node is None:
            return
        selection = self.selections.get((name, task.node.name))
        if selection is None:
            return
        if not selection.drawn:
            task.move(TaskState.PASSED)
            if task.condemned:
                task.move(TaskState.SUPERSEDED)
            return
        task.move(TaskState.DRAWN)
        hearing = self.hearings[name] = Hearing(task, selection)
        self._ask(hearing)

    def _ask(self, hearing: Hearing) -> None:
        """Ask the next auditor in rank, in an audit of his own (and, the first time, the prover)."""
        hearing.number += 1
        number, task = hearing.number, hearing.task
        parties: list[tuple[SimulatedNode, Role]] = []
        if number == 0 and task.node is not None:
            parties.append((task.node, Role.PROVER))
        ranked = hearing.selection.auditors
        if hearing.next_rank < len(ranked):
            parties.append((self._named(ranked[hearing.next_rank].node), Role.AUDITOR))
            hearing.next_rank += 1
        if not parties:
            self._judge(hearing, exhausted=True)
            return
        expected = task.assignment.num_steps * STEP_MS / 1000
        latest_s, present = 0.0, []
        for node, role in parties:
            took = node.minutes(expected, "question" if role is Role.PROVER else "audit", self.chance)
            starts = max(0.0, self.away_until.get(node.name, 0.0) - self.clock_s)
            if took is None or starts + took > PATIENCE * expected:
                latest_s = max(latest_s, PATIENCE * expected)
                hearing.prover_silent |= role is Role.PROVER
                self.say(f"{node.name} is silent as {role.value} of {task.assignment.task}")
            else:
                latest_s = max(latest_s, starts + took)
                present.append((node, role))
        absent = [(node, role) for node, role in parties if (node, role) not in present]
        asked_at = self.now
        self.after(latest_s, lambda: self._answered(hearing, number, present, (absent, asked_at)))

    def _answered(
        self,
        hearing: Hearing,
        number: int,
        parties: list[tuple[SimulatedNode, Role]],
        missing: tuple[list[tuple[SimulatedNode, Role]], int],
    ) -> None:
        """Log both commitments, then both answers and who gave none, then decide."""
        answers = [(node, self._said(hearing, number, node, role)) for node, role in parties]
        for node, answer in answers:
            hidden = predicates.answer_commitment_hash(node.id, answer.blind, answer.answer, answer.root)
            made = predicates.AnswerCommitment(self.job_id, answer.audit, answer.task, answer.role, node.id, hidden)
            self.log("answer-commitment", made, node.key)
        for node, answer in answers:
            self.log("answer", answer, node.key)
            if answer.role is Role.PROVER:
                hearing.prover = answer
            else:
                hearing.heard.append(answer)
        for node, role in missing[0]:
            self._say(hearing, number, (node, role), missing[1])
        exhausted = hearing.next_rank >= len(hearing.selection.auditors)
        self._judge(hearing, exhausted=exhausted)

    def _say(self, hearing: Hearing, number: int, party: tuple[SimulatedNode, Role], asked_at: int) -> None:
        """State, as the market, that a party did not answer in time."""
        task, selection = hearing.task, hearing.selection
        node, role = party
        assert task.node is not None
        deadline = min(asked_at + int(PATIENCE * task.assignment.num_steps * STEP_MS / 1000), self.now)
        said = predicates.Silence(
            job=self.job_id, audit=self._audit_of(selection, number), task=selection.task, role=role, node=node.id,
            draw=self.draws[selection.task, task.node.name], awaited=predicates.Awaited.COMMITMENT,
            reason=predicates.Absence.DEADLINE, asked_at=self.time(asked_at), deadline_at=self.time(deadline),
            ended_at=self.time(self.now),
        )  # fmt: skip
        self.log("silence", said, self.market_key)

    @staticmethod
    def _audit_of(selection: draw.Selection, number: int) -> ids.AuditId:
        return selection.audits[number] if number < len(selection.audits) else selection.alone

    def _said(self, hearing: Hearing, number: int, node: SimulatedNode, role: Role) -> predicates.Answer:
        assignment, selection = hearing.task.assignment, hearing.selection
        speak = node.answer if role is Role.PROVER else node.audit
        said = speak(assignment, selection.step, selection.salt, self._sight())
        return predicates.Answer(
            job=self.job_id, audit=self._audit_of(selection, number), task=assignment.task, role=role,
            node=node.id, blind=hashlib.sha256(f"{node.name} {assignment.task} {number}".encode()).hexdigest(),
            answer=said.answer, root=predicates.result_root(said.outputs), outputs=said.outputs,
            spent=Spent(0, 0, 0, 0, STEP_MS * assignment.num_steps), answered_at=self.time(self.now),
        )  # fmt: skip

    def _judge(self, hearing: Hearing, *, exhausted: bool) -> None:
        task = hearing.task
        name = task.assignment.task
        _, made = self.contributions[name]
        operators = {node.id: node.operator for node in self.fleet.values()}
        decision = verdict.judge(made, hearing.prover, hearing.heard, operators, exhausted=exhausted)
        if decision.need_auditor:
            self._ask(hearing)
            return
        wants_canary = hearing.selection.canary and not hearing.canary_asked and not exhausted
        if wants_canary and decision.verdict is Verdict.VERIFIED:
            hearing.canary_asked = True
            self._ask(hearing)
            return
        hearing.decided = True
        self.verdicts[name] = decision.verdict
        said = predicates.TaskVerdict(
            self.job_id, name, made.node, decision.verdict, decision.reason.value, decision.refuted
        )
        self.log("verdict", said, self.market_key)
        names = sorted(self._named(node).name for node in decision.refuted)
        self.convicted.update(names)
        self.say(f"{name} {decision.verdict} {decision.reason.value} {' '.join(names)}")
        self._conclude(task, decision.verdict)

    def _conclude(self, task: Task, found: Verdict) -> None:
        """Move a judged task on, and void what a conviction or a late silence taints."""
        states = {Verdict.VERIFIED: TaskState.VERIFIED, Verdict.REFUTED: TaskState.REFUTED}
        task.move(states.get(found, TaskState.UNVERIFIED))
        if task.condemned and task.state is not TaskState.REFUTED:
            task.move(TaskState.SUPERSEDED)
        elif found is not Verdict.VERIFIED:
            self._void()
        self._advance()

    def _void(self) -> None:
        """Condemn what does not start from the weights of a merge that stands, round by round."""
        for index in range(self.rounds):
            units = self.units()
            lanes = [u for (at, kind, _), u in rounds.latest(units).items() if at == index and kind is TaskKind.ROUND]
            before = rounds.merge_of(units, index - 1) if index else None
            handed_in = index == 0 or (before is not None and before.state in rounds.ADMISSIBLE)
            theta = self._base(index)[0] if handed_in else None
            for unit in units:
                task = self.tasks[TaskId(unit.task)]
                on_base = handed_in and task.assignment.theta == theta
                is_merge = unit.kind is TaskKind.MERGE
                if unit.round == index and not (on_base and (not is_merge or rounds.merge_stands(unit, lanes))):
                    self._condemn(task)

    def _named(self, node: str) -> SimulatedNode:
        return next(item for item in self.fleet.values() if item.id == node)


def theta_of(day: Day) -> bytes:
    """Return the weights the day ended with."""
    unit = rounds.merge_of(day.units(), day.rounds - 1)
    assert unit is not None
    made = day.contributions[TaskId(unit.task)][1]
    return day.blobs[next(item.digest for item in made.outputs if item.name == "theta")]


def theta_without_liars(day: Day) -> bytes:
    """Return the weights of another run in which only what the last merges admitted was ever handed in."""
    blobs: dict[Digest, bytes] = {}
    theta: Digest | None = None
    outer: Digest | None = None
    kernel = Kernel(day.settings, Symbols())
    for index in range(day.rounds):
        unit = rounds.merge_of(day.units(), index)
        assert unit is not None
        admitted = []
        for entry in day.assignments[TaskId(unit.task)].admitted or ():
            done = kernel.compute(replace(day.assignments[entry.task], theta=theta), blobs.__getitem__)
            blobs[entry.root] = done.outputs["delta"]
            admitted.append(entry)
        again = replace(day.assignments[TaskId(unit.task)], theta=theta, outer=outer, admitted=tuple(admitted))
        made = kernel.compute(again, blobs.__getitem__).outputs
        theta, outer = digest.digest(made["theta"]), digest.digest(made["outer"])
        blobs.update({theta: made["theta"], outer: made["outer"]})
    assert theta is not None
    return blobs[theta]


def log_bytes(day: Day) -> list[bytes]:
    """Return every envelope of the day, in log order."""
    return [envelope.to_bytes() for _, envelope in day.entries]
