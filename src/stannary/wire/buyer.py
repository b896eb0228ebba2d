"""Bodies between a buyer (sdk, broker) and the market."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from stannary.formats.jobspec import MAX_LANES
from stannary.rules import kinds
from stannary.rules.pace import REVEAL_S
from stannary.wire.message import (
    Ask,
    Count,
    Cpus,
    Decimal,
    DigestText,
    EndedText,
    Epoch,
    Hex32,
    Instant,
    JobText,
    LongText,
    MemoryBytes,
    Message,
    Money,
    Name,
    NodeName,
    NodeText,
    OutputText,
    PathText,
    Shown,
    Signed,
    TaskText,
    Text,
    UsdMicros,
    Word,
)

MAX_CHECKPOINT_CHARS = 16 * 1024  # a signed note with 16 witnesses stays below 4 KiB
MAX_CONSISTENCY_HASHES = 64  # RFC 6962 section 2.1.2: at most ceil(log2(n)) + 1

Lane = Annotated[int, Field(ge=0, lt=MAX_LANES)]


class QuoteRequest(Message):
    """POST /v1/quotes: a canonical job spec, not signed."""

    spec: dict[str, Any]


class Offer(Message):
    """What one node sells."""

    node: NodeText
    operator: Shown
    jurisdiction: Shown
    tier: Name
    attestation: Name
    engine_class: Shown
    cpus: Cpus
    memory_bytes: MemoryBytes
    ask_usd_micros_per_hour: Ask
    state: Word  # idle | busy | draining | suspect | lost | left
    name: NodeName = ""  # what the node calls itself; nothing rests on it


class Offers(Message):
    """GET /v1/offers."""

    offers: list[Offer]


class RejectedNode(Message):
    """A node that would not be chosen, and why."""

    node: NodeText
    reason: Text


class PricedWord(Message):
    """What one assurance needs and costs, on the nodes of a quote."""

    assurance: Word
    audit_ppm: Count  # the rate its word needs
    expected_usd_micros: UsdMicros
    worst_usd_micros: UsdMicros


class PriceQuote(Message):
    """What a job would cost, on which nodes, and why not on the others."""

    chosen: list[NodeText]
    rejected: list[RejectedNode]
    offers: list[Offer]
    work_usd_micros: UsdMicros
    audit_usd_micros: UsdMicros
    escrow_usd_micros: UsdMicros
    audit_ppm: Count
    required_ppm: Count
    reveal_s: Count = int(REVEAL_S)  # the buyer's broker has so long for a beacon value
    kept_s: Count | None = None  # what a job made is kept so long after its end; None: for ever
    words: list[PricedWord]  # weakest first


class Submit(Signed):
    """POST /v1/jobs, with the header Idempotency-Key: the buyer's `job` envelope."""


class Progress(Message):
    """How far a job is."""

    round: Count  # how many rounds are done
    rounds: Count
    steps: Count = 0
    loss: Decimal | None = None
    heldout: Decimal | None = None  # held-out bits per byte


class JobNode(Message):
    """A node of a job."""

    node: NodeText
    operator: Shown
    lane: Lane
    state: Word
    task: TaskText | None = None


class JobEnding(Message):
    """How the program of a lane ended, as its node handed it in; pending until the job has its word."""

    lane: Lane
    ended: EndedText


class JobWait(Message):
    """One thing a job waits for: the stage of docs/course.md it is in, and what comes then."""

    subject: Name  # job, task, draw or audit
    stage: Word
    waits_for: Text
    then: Text
    until: Instant | None = None  # at least until then; absent where nothing ends it
    otherwise: Text = ""


class DisputeView(Message):
    """A bond that a job disputes, and what became of it."""

    node: NodeText
    operator: Shown
    task: TaskText
    stage: Word
    bond_usd_micros: Money
    opened_at: Instant
    until: Instant | None = None  # a hearing is offered until then at least
    is_ruled: bool = False  # its file can be had


class DisputeList(Message):
    """GET /v1/jobs/{job}/disputes: to the job's buyer and the market's operator."""

    disputes: list[DisputeView]


class JobView(Message):
    """A job as its buyer sees it."""

    id: JobText
    name: Name
    kind: Word
    status: Word
    verdict: Word
    settlement: Word
    reason: Text
    message: LongText
    progress: Progress
    escrow_usd_micros: UsdMicros
    paid_usd_micros: UsdMicros
    refunded_usd_micros: UsdMicros
    nodes: list[JobNode]
    submitted_at: Instant
    finished_at: Instant | None = None
    endings: list[JobEnding] | None = None  # of the lanes that are handed in, where that is part of a result
    waits: list[JobWait] | None = None  # what it waits for now; absent of one that has ended, or is not yet under way
    faults: list[Text] | None = None  # what was stored of this job and cannot be shown; absent where all can

    @property
    def has_rounds(self) -> bool:
        """Whether its work goes round by round."""
        rules = kinds.named(self.kind)
        return rules is not None and rules.merge is not None

    @property
    def is_program(self) -> bool:
        """Whether it tells by what it prints; a recipe does by its metrics."""
        rules = kinds.named(self.kind)
        return rules is not None and not rules.loads_recipe


class JobPage(Message):
    """GET /v1/jobs?limit&cursor. `next` is the cursor of the next page, absent at the end."""

    jobs: list[JobView]
    next: Name | None = None


class Event(Message):
    """One thing that happened to a job; `data` holds the numbers behind the message."""

    seq: Count
    at: Instant
    type: Name
    task: TaskText | None = None
    node: NodeText | None = None
    operator: Shown | None = None  # the node's
    message: LongText
    data: dict[str, Any]


class EventPage(Message):
    """GET /v1/jobs/{id}/events?after=SEQ&wait=S&limit. `next` is the `after` of the next request."""

    events: list[Event]
    next: Count


class LogLine(Message):
    """One line a task printed."""

    seq: Count
    at: Instant
    node: NodeText | None = None  # absent in the market's own notices
    task: TaskText | None = None
    stream: Word  # stdout | stderr | agent | market
    text: Annotated[str, Field(max_length=16 * 1024)]


class LogPage(Message):
    """GET /v1/jobs/{id}/logs?after=SEQ&tail=N&since=RFC3339&wait=S."""

    lines: list[LogLine]
    next: Count


class CostLine(Message):
    """One movement of escrow."""

    account: Name
    task: Text  # empty for what belongs to the whole job, such as the refund
    reason: Word
    usd_micros: UsdMicros


class CostSplit(Message):
    """Six disjoint parts of the paid time, hundredths of a per cent, sum 10,000."""

    useful: Count
    start: Count
    link: Count
    idle: Count
    audit: Count
    churn: Count


class Cost(Message):
    """GET /v1/jobs/{id}/cost. `split` is absent until something was paid."""

    lines: list[CostLine]
    escrow_usd_micros: UsdMicros
    paid_usd_micros: UsdMicros
    refunded_usd_micros: UsdMicros
    split: CostSplit | None = None


class OutputRef(Message):
    """A stored result."""

    name: OutputText
    digest: DigestText
    size_bytes: Count
    partial: bool = False  # what there was when it was stopped, or when a clock or a limit cut it


class Outputs(Message):
    """GET /v1/jobs/{id}/outputs."""

    outputs: list[OutputRef]
    gone_at: Instant | None = None  # since when the market keeps their bytes no longer
    gone_why: Text = ""


class BeaconRequest(Message):
    """GET /v1/jobs/{id}/beacon: reveal value `index` for this checkpoint, and for no other.

    The broker checks the note by the pinned market key and a witness cosignature, that `old_size`
    is the size it last revealed for (0 the first time) and that `consistency` joins the two trees,
    and that it has not revealed `index` for another checkpoint. It checks that the checkpoint covers
    the leaf of the candidates statement (`inclusion` at `candidates_index`): who may audit is fixed
    before the value is out. The market repeats one request until the reveal arrives; an index never
    moves to another checkpoint, nor to other candidates.
    """

    index: Epoch
    checkpoint: Annotated[str, Field(max_length=MAX_CHECKPOINT_CHARS)]
    old_size: Count
    consistency: Annotated[list[Hex32], Field(max_length=MAX_CONSISTENCY_HASHES)]
    candidates: DigestText
    candidates_index: Count
    inclusion: Annotated[list[Hex32], Field(max_length=MAX_CONSISTENCY_HASHES)]


class RevealSubmit(Signed):
    """POST /v1/jobs/{id}/beacon: the buyer's `reveal` envelope."""


class Accepted(Message):
    """A statement was logged. `log_index` is its leaf's place in the log."""

    log_index: Count


class ManifestFile(Message):
    """One file of the work directory."""

    path: PathText
    mode: Annotated[int, Field(ge=0, le=0o777)]
    digest: DigestText
    size_bytes: Count


class ManifestInput(Message):
    """One named input."""

    name: Name
    digest: DigestText
    size_bytes: Count


class JobManifest(Message):
    """GET /v1/jobs/{id}/manifest: all a node needs of a job. The signed spec inside decides."""

    job: Signed
    workdir: list[ManifestFile]
    inputs: list[ManifestInput]
    environment: DigestText | None = None
