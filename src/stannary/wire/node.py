"""Bodies between a node's agent and the market."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from stannary.formats import bounds
from stannary.formats.ids import LeaseType, TaskKind
from stannary.formats.predicates import Role
from stannary.wire import limits
from stannary.wire.market import MarketInfo
from stannary.wire.message import (
    AuditText,
    Base64Signature,
    Count,
    Decimal,
    DigestText,
    EnvelopeBody,
    Epoch,
    Hex32,
    Instant,
    JobText,
    LeaseText,
    LongSaid,
    Message,
    Money,
    Name,
    NodeName,
    NodeText,
    PathText,
    Said,
    Seconds,
    Signed,
    TaskText,
    WaitS,
    Word,
)

SESSION_LABEL = b"stannary session v1\n"

LogText = Annotated[
    str, StringConstraints(max_length=limits.MAX_LOG_LINE_CHARS), AfterValidator(bounds.printable)
]  # what a job printed
HeldLeases = Annotated[list[LeaseText], Field(max_length=limits.MAX_LEASES_HELD)]


class JoinRequest(Message):
    """POST /v1/join: the whole token word, and the node's `join` envelope (its digest inside)."""

    token: Annotated[str, StringConstraints(max_length=2048)]
    envelope: EnvelopeBody


class Joined(Message):
    """The node's id, its credential (a market statement) and the market it joined."""

    node: NodeText
    credential: EnvelopeBody
    market: MarketInfo


class ChallengeRequest(Message):
    """POST /v1/sessions/challenge."""

    node: NodeText


class Challenge(Message):
    """A nonce to sign once, before it expires."""

    nonce: Hex32
    expires_at: Instant


class SessionRequest(Message):
    """POST /v1/sessions: Ed25519 by the node key over `session_message(market vkey, nonce)`."""

    node: NodeText
    nonce: Hex32
    signature: Base64Signature


class Session(Message):
    """A short bearer token; renewed by a new challenge."""

    token: Name
    expires_at: Instant


class NodeState(StrEnum):
    """What an agent says of itself."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    LEFT = "left"  # its last word: it was stopped, and comes back if it is started again


class Heartbeat(Message):
    """POST /v1/heartbeat: still here, holding these leases, and something of these jobs."""

    state: NodeState
    leases: HeldLeases
    version: Name
    jobs: Annotated[list[JobText], Field(max_length=limits.MAX_JOBS_HELD)] = Field(default_factory=list)
    name: NodeName = ""
    wants_canary: bool = False  # suspended, its provider asks to be looked at again


class DisputedHere(Message):
    """A bond of the node that is disputed."""

    job: JobText
    task: TaskText
    stage: Word
    bond_usd_micros: Money
    until: Instant | None = None  # a hearing is offered until then at least


class HeartbeatAnswer(Message):
    """Leases that are no longer the node's, jobs of which nothing need be kept, and when to beat again (+-20 %)."""

    drop: list[LeaseText]
    stopped: HeldLeases = Field(default_factory=list)  # of `drop`, what its buyer stopped: partial outputs are taken
    interval_s: Seconds
    ended: list[JobText] = Field(default_factory=list)
    now: Instant | None = None  # the market's, for the node to compare its clock with
    suspended: bool = False  # nothing new in buyers' own code for a while (docs/audits.md)
    canary: Word | None = None  # how its canary stands, while it is suspended (jobs/canary.py)
    disputes: list[DisputedHere] = Field(default_factory=list)  # of its bond, that are not decided


class NextLease(Message):
    """POST /v1/leases/next: the oldest open lease of the node that is not in `have`, or a new one.

    An answer lost on the way is given again to whoever asks with the same `have`; an agent that
    starts anew with an empty list is handed all it still holds.
    """

    wait_s: WaitS = 0.0
    have: HeldLeases = Field(default_factory=list)
    tests: bool = False  # whoever asks has room for a test of its power now: it may get one in place of a lease (202)


class PowerTest(Message):
    """POST /v1/power/next, or in place of a lease: show what your processors do, at once. The market's clock runs."""

    nonce: Hex32
    processors: Count  # that are to be at work at once
    seconds: Count


class PowerAnswer(Message):
    """POST /v1/power: the node's `power` envelope, and the proof whose digest stands in it."""

    envelope: EnvelopeBody
    proof: Annotated[str, StringConstraints(max_length=limits.MAX_POWER_PROOF_CHARS)]


class GradedNode(Message):
    """The node's credential with its new grade."""

    credential: EnvelopeBody


class AuditRef(Message):
    """Which question a lease belongs to. Nothing here tells a first opinion from a second one or a canary."""

    audit_id: AuditText
    role: Role


class BlobRef(Message):
    """An input to fetch: `theta`, `outer`, or the task id of an admitted contribution (its delta)."""

    name: Name
    digest: DigestText
    size_bytes: Count


class Lease(Message):
    """A task or a question held by one node until `deadline_at`.

    work      do the task: commitment, blobs, contribution
    audit     recompute it without being told the prover's root: answer-commitment
    question  (prover) answer for a task you contributed: answer-commitment
    reveal    both commitments are logged: hand in the answer that opens yours
    """

    lease_id: LeaseText
    type: LeaseType
    epoch: Epoch
    job: JobText
    task: TaskText
    kind: TaskKind
    deadline_at: Instant
    assignment: dict[str, Any] | None = None  # canonical JSON of the Assignment; absent in `reveal`
    audit: AuditRef | None = None  # audit, question and reveal
    salt: Hex32 | None = None  # audit and question: the audit salt, hex
    step: Count | None = None  # audit and question: the drawn inner step, 1..num_steps
    blobs: list[BlobRef] = Field(default_factory=list)
    committed: Hex32 | None = None  # work: what the node has committed to in this epoch, for a journal that forgot it


class ReadingSubmit(Signed):
    """POST /v1/leases/{id}/reading."""


class LogUploadLine(Message):
    """One line of a task's output."""

    at: Instant
    stream: Word
    text: LogText


class LogUpload(Message):
    """POST /v1/leases/{id}/logs. `first_seq` numbers the first line within the lease, from 0.

    Lines already received are dropped by number, so that an upload may be repeated.
    """

    first_seq: Count
    lines: Annotated[list[LogUploadLine], Field(max_length=limits.MAX_LOG_LINES)]


class ProgressReport(Message):
    """POST /v1/leases/{id}/progress."""

    step: Count
    steps: Count
    phase: Word  # environment | fetch | compute | store
    loss: Decimal | None = None


class Failure(Message):
    """POST /v1/leases/{id}/fail: the task cannot be done here."""

    reason: Word  # recipe-not-deterministic | recipe-error | pickle-refused | out-of-memory | wall-limit | ...
    message: Said
    log_tail: LongSaid = ""


class StoredOutput(Message):
    """One stored output."""

    name: PathText
    digest: DigestText
    size_bytes: Count


class Partial(Message):
    """POST /v1/leases/{id}/partial: what a program had left when its buyer stopped it. Nobody vouches for it."""

    outputs: Annotated[list[StoredOutput], Field(max_length=bounds.MAX_OUTPUTS)]


def session_message(market_vkey: str, nonce: str) -> bytes:
    """Return the bytes a node signs; the market's key inside keeps one market from replaying to another."""
    return SESSION_LABEL + market_vkey.encode() + b"\n" + nonce.encode()
