"""A market of one job in memory: the real core decides; what it decided, and what parties say, becomes the next state.

Nothing here knows a rule: planning, draws, hearings, leases and their ends are jobs/course. What the store does for the
market is done by `dataclasses.replace`, what the log does by `say`: it takes a statement of the market's and returns
its leaf and its index.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tests.unit.verify.world import TERMS

from stannary.formats import record
from stannary.formats.digest import Digest
from stannary.formats.ids import LeaseType, TaskKind
from stannary.formats.predicates import Answer as AnswerRecord
from stannary.formats.predicates import AnswerCommitment, Commitment, Contribution, Reveal, Role
from stannary.jobs.course import actions, asking, ending, failing, lapsing, masks, offering, waiting
from stannary.jobs.course.actions import Action
from stannary.jobs.course.decide import course
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import (
    ONE_PIECE,
    AnswerRow,
    CandidateList,
    CosignedCheckpoint,
    JobOrder,
    JobState,
    Leased,
    LeaseRow,
    Node,
    Placing,
    Task,
    Timing,
    World,
)
from stannary.jobs.states import JobStatus, LeaseState, TaskState, advance
from stannary.rules.reasons import Reason

Say = Callable[[str, Any], tuple[Digest, int]]


class Refused(Exception):
    """What a party sends is not taken: its lease has ended, or asked for something else."""


@dataclass(frozen=True, slots=True)
class Log:
    """What the market states goes here, and this is what it shows of it."""

    say: Say
    checkpoint: Callable[[], CosignedCheckpoint]  # that covers all that was said
    show: Callable[[], object]  # publish that checkpoint: a buyer is asked for a value
    stop: Callable[[str, str, int], None]  # the buyer stops what a node has in hand


class Market:
    """One job, all nodes, and what is decided about them."""

    def __init__(self, order: JobOrder, nodes: Iterable[Node], log: Log, *, place: Placing, timing: Timing) -> None:
        self.order = order
        self.nodes = {node.node: node for node in sorted(nodes, key=lambda node: node.node)}
        self.live = set(self.nodes)
        self.gone: set[str] = set()  # given up as lost
        self.kept_busy: set[str] = set()  # nodes with a piece of somebody else's job in hand
        self.answering: set[str] = set()
        self._last_given: dict[str, LeaseType] = {}
        self.timing = timing
        self.taken: list[Action] = []  # all that was ever decided
        self.is_concluded = False
        self._log = log
        self._place = place
        self._moved_at_ms = 0
        self._deserted_since_ms: int | None = None
        self.state: JobState

    def open(self, escrow_usd_micros: int, now_ms: int) -> None:
        """Take the order."""
        self._moved_at_ms = now_ms
        self.state = JobState(self.order, 0, JobStatus.QUEUED, None, now_ms, escrow_usd_micros, 0, 0)

    # --- all nodes (state.Nodes)

    def get(self, node: str) -> Node:
        """Return one node."""
        return self.nodes[node]

    def of_class(self, engine_class: str) -> list[Node]:
        """Return the nodes of one engine class, in node order."""
        return [node for node in self.nodes.values() if node.engine_class == engine_class]

    # --- what the core decides

    def world(self, now_ms: int) -> World:
        """Return what a decision may know."""
        return World(
            now_ms=now_ms,
            timing=self.timing,
            nodes=self,
            live=frozenset(self.live),
            answering=frozenset(self.answering),
            checkpoint=self._log.checkpoint(),
            place=self._place,
            terms=lambda _: frozenset({TERMS}),
            gone=frozenset(self.gone),
        )

    def move(self, now_ms: int) -> None:
        """Take the job as far as it goes now."""
        while not self.is_concluded:
            draft = course(self.state, self.world(now_ms))
            self._take(draft)
            if any(not isinstance(action, actions.STANDS_STILL) for action in draft.actions):
                self._moved_at_ms = now_ms
            if not draft.actions:
                self._note_desertion(draft, now_ms)
                return

    def keep_moving(self, now_ms: int) -> None:
        """End a job nobody works for any more, as the market's loop does (market/engine/loop.py)."""
        deserted_s = (now_ms - self._deserted_since_ms) / 1000 if self._deserted_since_ms is not None else None
        end = ending.overdue(self.order, self.world(now_ms), (now_ms - self._moved_at_ms) / 1000, deserted_s)
        if end is not None:
            self._moved_at_ms = now_ms
            self._give_up(*end, now_ms)

    def cancel(self, now_ms: int) -> None:
        """Begin the end at the buyer's wish."""
        draft = CourseDraft(self.state, self.world(now_ms))
        ending.begin_end(draft, JobStatus.CANCELLED, Reason.CANCELLED, "cancelled by its buyer")
        self._take(draft)

    def _give_up(self, reason: Reason, message: str, now_ms: int) -> None:
        draft = CourseDraft(self.state, self.world(now_ms))
        begins = ending.begin_end(draft, JobStatus.FAILED, reason, message)
        self._take(draft)
        self.is_concluded = not begins and reason is Reason.STALLED  # its end, too, is overdue: from what is there

    def _note_desertion(self, draft: CourseDraft, now_ms: int) -> None:
        if not waiting.is_deserted(draft):
            self._deserted_since_ms = None
        elif self._deserted_since_ms is None:
            self._deserted_since_ms = now_ms

    def lapse(self, now_ms: int) -> list[str]:
        """End what is overdue; return those leases."""
        world, ended = self.world(now_ms), []
        for lease in [item for item in self.state.leases.values() if item.state is LeaseState.GRANTED]:
            held = lapsing.HeldLease(self._leased(lease), self.order, None)
            reason = lapsing.why_over(held, world, self.gone, now_ms / 1000)
            if reason:
                self._end(lease.lease, LeaseState.EXPIRED, reason, world)
                ended.append(lease.lease)
        return ended

    def give(self, node: str, now_ms: int) -> LeaseRow | None:
        """Give a node the piece of work it should do next; None if there is none for it."""
        world, state = self.world(now_ms), self.state
        occupied = {
            item.node for item in state.leases.values() if item.state is LeaseState.GRANTED and item.type in ONE_PIECE
        }
        if node not in world.live or node in occupied or node in self.kept_busy:
            return None
        offered = next((item for item in asking.offers(state) if item.node == node), None)
        if offered is not None and asking.is_audits_turn(self._last_given.get(node)):
            return self._take_audit(offered, world)
        given = self._give_work(self.nodes[node], world, occupied)
        return self._take_audit(offered, world) if given is None and offered is not None else given

    def _take_audit(self, offer: asking.OfferedAudit, world: World) -> LeaseRow:
        """Let a node take the audit it is offered."""
        draft = CourseDraft(self.state, world)
        grant = asking.take(self.order, offer, world)
        draft.do(actions.Ask(grant, "taken"))
        self._take(draft)
        self._last_given[offer.node] = LeaseType.AUDIT
        return self.state.leases[grant.lease]

    def _give_work(self, holder: Node, world: World, occupied: Container[str]) -> LeaseRow | None:
        state = self.state
        if state.status is not JobStatus.RUNNING:
            return None
        engine_class = self.nodes[state.placed[0]].engine_class
        if masks.why_barred(holder, self.order, world, engine_class, state.out):
            return None
        ranked = [
            (rank, number, vacancy.task)
            for number, vacancy in enumerate(offering.vacancies(state))
            if (rank := offering.rank(vacancy, holder, world, state.out, occupied)) is not None
        ]
        return self._grant(min(ranked)[2], holder, world) if ranked else None

    # --- what parties say (the market's intake records so much of it)

    def held(self, lease: str, kind: LeaseType) -> LeaseRow:
        """Return a live lease."""
        found = self.state.leases.get(lease)
        if found is None or found.state is not LeaseState.GRANTED or found.type is not kind:
            raise Refused(lease)
        return found

    def commit(self, lease: str, made: Commitment, index: int) -> None:
        """Record a logged commitment."""
        self.held(lease, LeaseType.WORK)
        task = self.state.tasks[made.task]
        moved = replace(
            task,
            state=advance(task.state, TaskState.COMMITTED),
            commitment=made.commitment,
            commitment_index=index,
            used=record.to_json(made.used) if made.used is not None else None,
        )
        self._set_task(moved)

    def contribute(self, lease: str, made: Contribution, kept: tuple[Digest, int], now_ms: int) -> None:
        """Record a logged contribution."""
        self.held(lease, LeaseType.WORK)
        task = self.state.tasks[made.task]
        moved = replace(
            task,
            state=advance(task.state, TaskState.CONTRIBUTED),
            contribution=kept[0],
            contribution_index=kept[1],
            root=made.root,
            outputs=[record.to_json(item) for item in made.outputs],
            contributed_at_ms=now_ms,
            ended=made.ended,
        )
        self._set_task(moved)
        self.state = replace(self.state, took_part=self.state.took_part | {made.node})
        self._complete(lease, now_ms)

    def commit_answer(self, lease: str, made: AnswerCommitment, leaf: Digest, now_ms: int) -> None:
        """Record a logged answer commitment."""
        self.held(lease, LeaseType.QUESTION if made.role is Role.PROVER else LeaseType.AUDIT)
        said = AnswerRow(
            made.audit, made.role, made.node, made.commitment, leaf, now_ms, None, None, None, None, None
        )  # fmt: skip
        answers = {**self.state.answers, made.audit: (*self.state.answers.get(made.audit, ()), said)}
        took_part = self.state.took_part | ({made.node} if made.role is Role.AUDITOR else set())
        self.state = replace(self.state, answers=answers, took_part=took_part, version=self.state.version + 1)
        self._complete(lease, now_ms)

    def answer(self, lease: str, made: AnswerRecord, leaf: Digest, now_ms: int) -> None:
        """Record a logged answer."""
        self.held(lease, LeaseType.REVEAL)

        def opened(said: AnswerRow) -> AnswerRow:
            if (said.role, said.node) != (made.role, made.node):
                return said
            outputs = [record.to_json(item) for item in made.outputs]
            shown = {"answer": made.answer, "root": made.root, "outputs": outputs, "ended": made.ended}
            return replace(said, answer_leaf=leaf, answered_at_ms=now_ms, **shown)

        given = tuple(opened(said) for said in self.state.answers[made.audit])
        answers = {**self.state.answers, made.audit: given}
        self.state = replace(self.state, answers=answers, version=self.state.version + 1)
        self._complete(lease, now_ms)

    def reveal(self, made: Reveal, leaf: Digest, now_ms: int) -> None:
        """Record a logged beacon value."""
        draws = tuple(
            replace(row, reveal=leaf, value=made.value, revealed_at_ms=now_ms) if row.number == made.index else row
            for row in self.state.draws
        )
        self.state = replace(self.state, draws=draws, version=self.state.version + 1)

    def release(self, lease: str, now_ms: int) -> None:
        """Take a lease that its node hands back."""
        self._end(lease, LeaseState.RELEASED, "released", self.world(now_ms))

    def report(self, lease: str, reason: str, now_ms: int) -> None:
        """Take a node's report that it cannot do a lease."""
        draft = CourseDraft(self.state, self.world(now_ms))
        failing.report(draft, self.state.leases[lease], reason, reason)
        self._take(draft)

    def revoke(self, node: str) -> None:
        """Let a node work here no more."""
        self.nodes[node] = replace(self.nodes[node], is_revoked=True)

    # --- folding

    def _end(self, lease: str, to: LeaseState, reason: str, world: World) -> None:
        draft = CourseDraft(self.state, world)
        draft.do(actions.EndLease(lease, to, reason))
        self._take(draft)

    def _take(self, draft: CourseDraft) -> None:
        """Keep what was decided, and state what of it is a statement."""
        if any(isinstance(action, actions.RequestDraw) for action in draft.actions):
            self._log.show()  # what the decision saw, before anything is added to it
        tasks = dict(sorted(draft.tasks.items(), key=lambda item: _place_of(item[1])))  # as a snapshot lists them
        self.state = replace(draft.state(), tasks=tasks, version=self.state.version + bool(draft.actions))
        for action in draft.actions:
            self._carry_out(action)
        self.taken += draft.actions

    def _carry_out(self, action: Action) -> None:
        state, say = self.state, self._log.say
        match action:
            case actions.Place(placement):
                say("placement", placement)
            case actions.Plan(assignment):
                say("assignment", assignment)
            case actions.FixCandidates(made):
                listed = CandidateList(*say("candidates", made), made.candidates, made.watch)
                self.state = replace(state, listed={**state.listed, made.index: listed})
            case actions.MakeDraw(drawn, _):
                leaf = say("draw", drawn)[0]
                rows = tuple(replace(row, draw=leaf) if row.number == drawn.index else row for row in state.draws)
                self.state = replace(state, draws=rows)
            case actions.SaySilent(said):
                say("silence", said)
            case actions.SayStopped(task, node, granted_at_ms):
                self._log.stop(task, node, granted_at_ms)
            case actions.Judge(stated=stated) if stated is not None:
                say("verdict", stated)
            case actions.Convict(node):
                self.nodes[node] = replace(self.nodes[node], is_convicted=True)
            case actions.Conclude():
                self.is_concluded = True
            case _:
                pass

    def _leased(self, lease: LeaseRow) -> Leased:
        task = self.state.tasks[lease.task]
        beside = tuple(
            (row.leased_at_ms, row.contributed_at_ms)
            for row in self.state.tasks.values()
            if (row.round, row.kind) == (task.round, TaskKind.ROUND)
            and row.leased_at_ms is not None
            and row.contributed_at_ms is not None
        )
        return Leased(lease, task.kind, task.num_steps, beside)

    def _grant(self, task: Task, node: Node, world: World) -> LeaseRow:
        epoch = task.epoch + 1
        given = offering.grant(self.order, task, node, world, f"w-{task.task}-{epoch}")
        lease = LeaseRow(
            lease=given.lease,
            type=given.type,
            job=self.order.job,
            task=task.task,
            audit=None,
            node=node.node,
            epoch=epoch,
            state=LeaseState.GRANTED,
            reason="leased",
            body={},
            granted_at_ms=world.now_ms,
            deadline_at_ms=given.deadline_at_ms,
            ended_at_ms=None,
        )
        self._last_given[node.node] = LeaseType.WORK
        moved = replace(
            task,
            state=advance(task.state, TaskState.LEASED),
            epoch=epoch,
            node=node.node,
            price_usd_micros=given.price_usd_micros,
            commitment=None,
            commitment_index=None,
            leased_at_ms=world.now_ms,
        )
        self._set_task(moved)
        leases = {**self.state.leases, lease.lease: lease}
        self.state = replace(self.state, leases=leases, worked=self.state.worked | {node.node})
        return lease

    def _set_task(self, task: Task) -> None:
        tasks = {**self.state.tasks, task.task: task}
        self.state = replace(self.state, tasks=tasks, version=self.state.version + 1)

    def _complete(self, lease: str, now_ms: int) -> None:
        row = self.state.leases[lease]
        done = replace(row, state=advance(row.state, LeaseState.COMPLETED), ended_at_ms=now_ms)
        self.state = replace(self.state, leases={**self.state.leases, lease: done})


def _place_of(task: Task) -> tuple[int, str, int, int]:
    return task.round, task.kind.value, task.lane, task.attempt
