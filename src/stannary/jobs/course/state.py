"""What the core sees of a job, and of the world around it: frozen snapshots, read before it decides.

A snapshot holds what can still matter: of a training job the rounds from the one before the first that is not settled
for good; the draws that may still take a task; audits of tasks that are being heard. What it leaves out is decided.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from stannary.formats import canonical, record
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, LeaseType, NodeId, TaskId, TaskKind
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Assignment, Candidate, Drawable, Job, Rejection, Role, Tier, Verdict, Watch
from stannary.jobs.states import JobStatus, LeaseState, TaskState
from stannary.rules import edition, pace
from stannary.rules.grade import UNGRADED_PPM
from stannary.rules.price import rate_of
from stannary.rules.reasons import Reason
from stannary.rules.shape import Shape, shape_of
from stannary.rules.stake import UnitDone
from stannary.rules.use import DrawnUse
from stannary.tlog.rising import Leap, skipped_s

MERGE_LANE = -1


ONE_PIECE = frozenset({LeaseType.WORK, LeaseType.AUDIT})
"""What a node holds one of at a time."""


class AuditOutcome(StrEnum):
    """How an audit ended."""

    OPEN = "open"
    AGREED = "agreed"
    DISAGREED = "disagreed"
    UNANSWERED = "unanswered"  # the auditor found what was handed in, and its prover did not answer
    UNTAKEN = "untaken"  # the auditor had no room for it all the time it waited: nobody else is asked
    SILENT = "silent"  # the auditor (next in rank is asked) or the prover did not answer
    DROPPED = "dropped"  # its task was superseded or its job ended


@dataclass(frozen=True, slots=True)
class JobOrder:
    """One job as its buyer signed it."""

    job: JobId
    job_digest: Digest
    leaf: str
    buyer: str
    predicate: Job
    spec: JobSpec
    escrow_usd_micros: int | None = None  # what is held for it; None where nobody asks

    @property
    def verification(self) -> Verification:
        """How the work is checked."""
        return self.spec.trust.verify

    @property
    def shape(self) -> Shape:
        """Rounds, lanes and steps."""
        return shape_of(self.spec)


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to plan; `assignment` is canonical JSON, all that its result is a function of."""

    task: str
    job: str
    kind: TaskKind
    round: int
    lane: int
    attempt: int
    num_steps: int
    assignment: str
    assignment_digest: str


@dataclass(frozen=True, slots=True)
class Task(NewTask):
    """A task as it stands: what was planned, and what became of it."""

    state: TaskState
    epoch: int
    node: str | None
    price_usd_micros: int
    commitment: str | None
    commitment_index: int | None
    contribution: str | None
    contribution_index: int | None
    root: str | None
    outputs: Sequence[Mapping[str, Json]] | None
    draw_number: int | None
    verdict: Verdict
    reason: str
    planned_at_ms: int
    leased_at_ms: int | None
    contributed_at_ms: int | None
    ended: str | None = None  # how its program ended, as handed in
    used: Mapping[str, Json] | None = None  # what its node measured of it, as committed to
    grade_ppm: int | None = None  # of its node when it was committed to; None: not measured

    @property
    def assigned(self) -> Assignment:
        """The assignment, read."""
        return read_assignment(self.assignment)


@dataclass(frozen=True, slots=True)
class EarlierUse:
    """What was handed in for a task: where that is logged, and what its node says that it took."""

    task: TaskId
    contribution_index: int
    use: DrawnUse


@dataclass(frozen=True, slots=True)
class NewDraw:
    """A checkpoint shown to the buyer, who owes the beacon value for it."""

    job: str
    number: int
    checkpoint: str
    checkpoint_size: int
    checkpoint_root: str
    consistency: Sequence[str]
    requested_at_ms: int


@dataclass(frozen=True, slots=True)
class DrawRow(NewDraw):
    """A draw as it stands: asked for, revealed, drawn."""

    reveal: str | None
    value: str | None
    draw: str | None
    revealed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class CandidateList:
    """Who may audit what a draw draws: their statement, its place in the log, and the list where a draw needs it."""

    leaf: str
    log_index: int | None
    candidates: tuple[Candidate, ...] = ()
    watch: Watch | None = None


@dataclass(frozen=True, slots=True)
class NewAudit:
    """An audit to open; `ranked` are the auditors in the order the draw gives, `auditor` the one asked."""

    audit: str
    job: str
    task: str
    number: int
    draw_number: int
    canary: bool
    salt: str
    step: int
    auditor: str | None
    ranked: Sequence[str]
    price_usd_micros: int


@dataclass(frozen=True, slots=True)
class AuditRow(NewAudit):
    """An audit as it stands: what was opened, and what became of it."""

    rank: int
    outcome: AuditOutcome
    opened_at_ms: int
    closed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """What one node has said to one question."""

    audit: str
    role: Role
    node: str
    commitment: str
    commitment_leaf: str
    committed_at_ms: int
    answer_leaf: str | None
    answer: str | None
    root: str | None
    outputs: Sequence[Mapping[str, Json]] | None
    answered_at_ms: int | None
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease to give; the epoch of a work lease is the task's next one, of any other is 1."""

    lease: str
    type: LeaseType
    task: str
    node: str
    deadline_at_ms: int
    audit: str | None = None
    price_usd_micros: int = 0
    body: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as it stands."""

    lease: str
    type: LeaseType
    job: str
    task: str
    audit: str | None
    node: str
    epoch: int
    state: LeaseState
    reason: str
    body: Mapping[str, Json]
    granted_at_ms: int
    deadline_at_ms: int
    ended_at_ms: int | None

    @property
    def inputs(self) -> frozenset[Json]:
        """Digests of what its task is computed from, as its node was told."""
        listed = self.body.get("blobs")
        return frozenset(
            item.get("digest") for item in (listed if isinstance(listed, list) else ()) if isinstance(item, dict)
        )


@dataclass(frozen=True, slots=True)
class Leased:
    """A live lease with what its task is, and when tasks of the same round were leased and handed in."""

    lease: LeaseRow
    kind: TaskKind
    num_steps: int
    handed_in_ms: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """Whether a job's program can be recomputed at all (rules/question.py): about which task it is, was asked."""

    task: str
    outcome: Reason | None = None  # the reason of the verdict that answered it
    closed_at_ms: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is not answered yet."""
        return self.outcome is None


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """How a job is going to end, once what was handed in is judged."""

    status: JobStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class JobState:
    """One job as it stands."""

    order: JobOrder
    version: int  # number of its events: every change has one
    status: JobStatus
    ending: EarlyEnd | None
    submitted_at_ms: int
    escrow_usd_micros: int
    first_open: int  # the first round that is not settled for good
    round: int  # the last one that has tasks
    placed: tuple[str, ...] = ()  # nodes of the lanes
    worked: frozenset[str] = frozenset()  # every node a task of it was leased to
    convicted: frozenset[str] = frozenset()
    struck: frozenset[str] = frozenset()
    took_part: frozenset[str] = frozenset()  # nodes whose work, or whose answer to an audit, is logged
    questions: tuple[AskedQuestion, ...] = ()  # the last may be open
    struck_since: frozenset[str] = frozenset()  # since the last of them that was answered
    reported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # task -> operators: it cannot run
    tasks: Mapping[str, Task] = field(default_factory=dict)  # by round, kind, lane and attempt
    draws: tuple[DrawRow, ...] = ()
    watch: Watch | None = None  # whose units the next draw draws more often
    listed: Mapping[int, CandidateList] = field(default_factory=dict)  # draw number -> candidates
    drawn: Mapping[int, tuple[Drawable, ...]] = field(default_factory=dict)  # draw number -> what a made draw lists
    earlier: tuple[UnitDone, ...] = ()  # in rounds that are not here, where a draw waits to be made: each node's last
    earlier_uses: tuple[EarlierUse, ...] = ()  # likewise, all that was handed in
    audits: Mapping[str, AuditRow] = field(default_factory=dict)  # in the order they were opened
    answers: Mapping[str, tuple[AnswerRow, ...]] = field(default_factory=dict)  # audit -> in order of commitment
    leases: Mapping[str, LeaseRow] = field(default_factory=dict)  # live ones, and all questions of what is being heard
    accusers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # unit -> operators who contradicted it
    last_end_ms: Mapping[str, int] = field(default_factory=dict)  # planned task -> when its newest lease ended

    @property
    def out(self) -> Mapping[str, str]:
        """Who does nothing more in this job, and why."""
        return who_is_out(self.convicted, self.struck)


@dataclass(frozen=True, slots=True)
class Node:
    """What a node's newest credential says of it, and whether it may work."""

    node: NodeId
    operator: str
    jurisdiction: str
    terms: str
    tier: Tier
    engine_class: str
    cpus: int
    memory_bytes: int
    ask_usd_micros_per_hour: int
    bond_usd_micros: int
    expires_at_ms: int
    is_revoked: bool = False
    is_convicted: bool = False  # in whatever job: who lied to one buyer works for none
    is_suspended: bool = False  # many buyers' strikes: nothing new in their own code for a while (jobs/standing.py)
    signed_bond_usd_micros: int = 0  # what of the bond it signed itself (rules/papers.py)
    grade_ppm: int = UNGRADED_PPM  # what a second of one of its processors is paid by (rules/grade.py)
    best_grade_ppm: int = UNGRADED_PPM  # what its time limits reckon with
    is_graded: bool = False  # its power was measured
    is_awaited: bool = False  # its market measures every node, and has not measured this one

    def hour_in(self, spec: JobSpec) -> int:
        """Return what an hour costs in a job: of one of its processors, under rules 2 of agreed time."""
        ask = self.ask_usd_micros_per_hour
        return rate_of(ask, self.grade_ppm) if edition.of(spec).pays_by_use else ask

    def bond_in(self, spec: JobSpec) -> int:
        """Return what of its bond counts in a job, in micro-dollars."""
        return self.signed_bond_usd_micros if edition.of(spec).holds_to_joins else self.bond_usd_micros

    def why_out(self, now_ms: int) -> str:
        """Return why it works for nobody and judges nobody now, empty if it may."""
        if self.is_revoked:
            return "revoked"
        if self.is_convicted:
            return "convicted"
        if self.is_awaited:
            return "its power is not measured"
        return "its credential has ended" if self.expires_at_ms <= now_ms else ""


class Nodes(Protocol):
    """All nodes of a market."""

    def get(self, node: str) -> Node:
        """Return one node; NotFound if it never joined."""
        ...

    def of_class(self, engine_class: str) -> Iterable[Node]:
        """Return the nodes of one engine class, in node order."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of work and proof, in seconds."""

    reveal_s: float = pace.REVEAL_S  # the buyer's broker has this long for a beacon value (docs/threat-model.md)
    start_link_s: float = 12.0  # a worker's start and the way of its bytes, beside the agreed step time
    progress_s: float = 20.0  # a task that reported progress so lately is not taken away for being late
    answer_factor: float = 4.0  # an answer may take this many times the expected time of its task
    answer_floor_s: float = 60.0  # under rules 2 an audit may have to wait for the work its auditor holds
    audit_wait_s: float = 600.0  # an audit waits so long at least for its auditor to have room
    suspect_s: float = pace.SUSPECT_AFTER_S
    lost_s: float = pace.LOST_AFTER_S
    heartbeat_s: float = pace.HEARTBEAT_INTERVAL_S
    placing_s: float = 600.0  # a queued job waits this long for capacity
    stall_s: float = 86_400.0  # a job of which nothing moved so long, beside its longest task, ends
    appeal_s: float = (
        86_400.0  # three operators have so long to take the hearing of a disputed bond (10 s on one machine)
    )
    replay_s: float = 3_600.0  # so long the market computes a disputed unit itself
    sweep_s: float = 1.0  # how often deadlines are looked at when nothing rings


@dataclass(frozen=True, slots=True)
class CosignedCheckpoint:
    """A published, cosigned checkpoint."""

    text: str
    size: int
    root: Digest


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a job would be placed now."""

    chosen: tuple[NodeId, ...]  # in lane order
    rejected: tuple[Rejection, ...]
    engine_class: str


class Placing(Protocol):
    """Matches an order with the offers of now."""

    def __call__(self, order: JobOrder) -> Placed:
        """Return the nodes of the lanes; NoCapacity if no engine class can hold them."""
        ...


def _any_terms(_: JobSpec) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class World:
    """What there is beside the job at one moment."""

    now_ms: int
    timing: Timing
    nodes: Nodes
    live: Container[str]  # nodes that may get new work: heard from lately, not draining
    answering: Container[str]  # leases whose statement is on its way into the log: their tasks must stay as they are
    checkpoint: CosignedCheckpoint
    place: Placing
    terms: Callable[[JobSpec], frozenset[str]] = _any_terms  # digests of those this market accepts for a job; none: any
    gone: Container[str] = frozenset()  # nodes given up: lost for long, or left
    busy: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # node -> jobs it has a piece of -> since, ms
    resumed_at_ms: int = 0  # when this process began to listen
    leaps: tuple[Leap, ...] = ()  # stretches of the market's time that never passed
    step_s: float = 0.0  # measured time of a step of this job, zero before one was

    def waited_ms(self, since_ms: int) -> int:
        """Return how long this market has listened since then: its own absence is nobody's silence."""
        return self.passed_ms(max(since_ms, self.resumed_at_ms), self.now_ms)

    def passed_ms(self, since_ms: int, until_ms: int) -> int:
        """Return how much of the time between two moments really passed; never more than lies between them."""
        return until_ms - since_ms - round(1000 * skipped_s(self.leaps, since_ms / 1000, until_ms / 1000))


def who_is_out(convicted: Iterable[str], struck: Iterable[str]) -> dict[str, str]:
    """Return who does nothing more in a job, and why."""
    return {**dict.fromkeys(struck, "struck in this job"), **dict.fromkeys(convicted, "convicted in this job")}


@functools.lru_cache(maxsize=4096)
def read_assignment(text: str) -> Assignment:
    """Read a stored assignment."""
    return record.from_json(Assignment, canonical.decode(text.encode("utf-8")))


def spell_assignment(assignment: Assignment) -> str:
    """Return an assignment's canonical JSON: the bytes whose digest is signed."""
    return canonical.encode(record.to_json(assignment)).decode("utf-8")
