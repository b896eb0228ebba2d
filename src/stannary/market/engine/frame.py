"""The unchanging facts of one job, and the changing facts of the world a step looks at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stannary.formats import canonical, dsse, jobspec, note, predicates, record, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Assignment
from stannary.market import terms
from stannary.market.clock import passed_ms
from stannary.market.settings import Settings
from stannary.rules.masks import Requirement, required_by, why_not
from stannary.rules.shape import Shape, shape_of
from stannary.store.jobs import JobRow
from stannary.store.nodes import NodeRow
from stannary.tlog.rising import Leap


@dataclass(frozen=True, slots=True)
class JobFrame:
    """One job as its buyer signed it."""

    job: JobId
    job_digest: Digest
    leaf: str
    buyer: str
    predicate: predicates.Job
    spec: JobSpec

    @property
    def verification(self) -> Verification:
        """How the work is checked."""
        return self.spec.trust.verify

    @property
    def shape(self) -> Shape:
        """Its rounds, lanes and steps."""
        return shape_of(self.spec)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published, cosigned checkpoint."""

    text: str
    size: int
    root: Digest


@dataclass(frozen=True, slots=True)
class World:
    """What a step may know beside the database, taken before its transaction."""

    now_ms: int
    settings: Settings
    live: frozenset[str]  # nodes that may get new work: seen lately, not draining
    lost: frozenset[str]  # nodes given up
    answering: frozenset[str]  # leases whose statement is on its way into the log: their tasks must stay as they are
    checkpoint: Checkpoint
    consistency: Callable[[int, int], list[bytes]]
    inclusion: Callable[[int, int], list[bytes]]
    sign: Callable[..., dsse.Envelope]
    resumed_at_ms: int = 0  # when this process began to listen
    leaps: tuple[Leap, ...] = ()  # stretches of the market's time that never passed
    step_s: Mapping[str, float] = field(default_factory=dict)  # job -> measured time of a step (rules/pace.py)

    def waited_ms(self, since_ms: int) -> int:
        """Return how long this market has listened since then: its own absence is nobody's silence."""
        return self.passed_ms(max(since_ms, self.resumed_at_ms), self.now_ms)

    def passed_ms(self, since_ms: int, until_ms: int) -> int:
        """Return how much of the time between two moments really passed."""
        return passed_ms(self.leaps, since_ms, until_ms)


@dataclass(slots=True)
class Outcome:
    """What a step asks of its caller once it is durable."""

    rings: set[str] = field(default_factory=set)
    moved: bool = False  # something changed: step again
    owed: bool = False  # nothing but the buyer's value is waited for
    awaits_log: bool = False  # goes on when statements of the job are in the log
    failure: tuple[str, str] | None = None  # reason and message: the job cannot go on


def frame_of(row: JobRow, envelope: bytes) -> JobFrame:
    """Read the frame of a stored job (its envelope was verified when it was admitted)."""
    payload = dsse.from_bytes(envelope).payload
    predicate = statement.read(payload, "job", predicates.Job).predicate
    spec = jobspec.from_canonical(predicate.spec)
    return JobFrame(JobId(row.job), Digest(row.job_digest), row.leaf, row.buyer, predicate, spec)


@functools.lru_cache(maxsize=4096)
def read_assignment(text: str) -> Assignment:
    """Read a stored assignment."""
    return record.from_json(Assignment, canonical.decode(text.encode("utf-8")))


def spell_assignment(assignment: Assignment) -> str:
    """Return an assignment's canonical JSON: the bytes whose digest is signed."""
    return canonical.encode(record.to_json(assignment)).decode("utf-8")


def read_checkpoint(text: str) -> Checkpoint:
    """Read our own published checkpoint."""
    body = note.parse_checkpoint(note.parse(text).text)
    return Checkpoint(text, body.size, Digest("sha256:" + body.root.hex()))


def asked(spec: JobSpec) -> Requirement:
    """Return what a spec asks of its nodes on this market."""
    return required_by(spec, terms=frozenset({terms.DIGEST}))


def fits(node: NodeRow, frame: JobFrame) -> str:
    """Return why `node` may not serve the job, empty if it may: what placement asks, but for presence."""
    if node.revoked_at_ms is not None:
        return "revoked"
    if node.convicted_at_ms is not None:  # in whatever job: who lied to one buyer works for none
        return "convicted"
    return why_not(node, asked(frame.spec))
