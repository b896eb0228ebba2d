"""Every predicate that is signed, one frozen record each, in the order a job meets them (docs/receipt.md R6).

    kind                signed by   logged   says
    join                node        yes      I am this key, of this operator, under these terms
    credential          market      yes      this node may work here, at this tier, until then
    job                 buyer       yes      do this, for at most that; my beacon chain ends here
    placement           market      yes      these nodes were chosen; every other one lost because
    assignment          market      yes      the inputs of one task (all a round is a function of)
    commitment          node        yes      H(node, salt, root) of a result not yet shown
    contribution        node        yes      the result: root, outputs, units, time spent
    candidates          market      yes      who may audit what the next draw draws; fixed before its beacon
    reveal              buyer       yes      the next value of the beacon chain, for one checkpoint and its candidates
    draw                market      yes      what the beacon could draw from
    answer-commitment   node        yes      a blinded answer to an audit question
    answer              node        yes      the answer: recomputed root, H(audit salt, inner state)
    silence             market      yes      this party was asked then, had until then, and did not answer
    stopped             market      yes      the buyer stopped the job, and this reading is what was in hand until then
    verdict             market      yes      what the answers prove about one task
    reading             node        yes      cumulative meter of a node in a job (the last one is logged)
    receipt             market      yes      the whole: every leaf above, settlement, totals

Numbers are integers (micro-dollars, milliseconds, bytes, parts per million) or decimal strings; times RFC 3339 UTC
with whole seconds and `Z`; hex values lower case. What a node shows of its power is in shown.py.
"""

from __future__ import annotations

from enum import StrEnum

from stannary.formats import canonical, digest, record
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, JobId, KeyId, NodeId, TaskId, TaskKind
from stannary.formats.lean import dataclass
from stannary.formats.shown import GradeTest


class Tier(StrEnum):
    """How well a node is known, ordered as its text is (docs/tiers.md); a site's is the least of its members'."""

    T0 = "T0"
    T1 = "T1"
    T2 = "T2"
    T3 = "T3"
    T4 = "T4"


class Assurance(StrEnum):
    """What a buyer wants the check of the work to be worth (rules/assurance.py); weakest first."""

    SAMPLED = "sampled"
    VERIFIED = "verified"
    FULL = "full"


class Attestation(StrEnum):
    """What stands behind a credential. Software satisfies no hardware policy."""

    SOFTWARE = "software"


class NodeKind(StrEnum):
    """One machine, or a site whose members one agent speaks for."""

    MACHINE = "machine"
    SITE = "site"


class Verdict(StrEnum):
    """What is proven about a piece of work."""

    PENDING = "pending"
    VERIFIED = "verified"
    SAMPLED = "sampled"  # of a job only: cheating was a loss, no more is known
    ATTESTED = "attested"
    UNVERIFIED = "unverified"
    NOT_REPRODUCIBLE = "not-reproducible"  # of a job only: its program gives another result each time
    REFUTED = "refuted"


class Role(StrEnum):
    """Who answers an audit question."""

    PROVER = "prover"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of a site."""

    name: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Join:
    """A node's own words when it joins; `token` is the digest of the join token it used."""

    node: NodeId
    key: str  # base64 of the raw public key
    operator: str
    jurisdiction: str
    terms: Digest
    kind: NodeKind
    members: tuple[Member, ...]
    engine_class: str
    cpus: int
    memory_bytes: int
    ask_usd_micros_per_hour: int
    token: Digest
    joined_at: str
    bond_usd_micros: int | None = None  # what it puts at stake; without it no bond of its counts (rules/papers.py)


@dataclass(frozen=True, slots=True)
class Credential:
    """EAR-profiled appraisal result (draft-ietf-rats-ear): status `none` for software evidence."""

    node: NodeId
    key: str
    operator: str
    jurisdiction: str
    terms: Digest
    kind: NodeKind
    members: tuple[Member, ...]
    tier: Tier
    attestation: Attestation
    ear_status: str
    engine_class: str
    cpus: int
    memory_bytes: int
    ask_usd_micros_per_hour: int
    bond_usd_micros: int
    join: Digest  # log leaf of the join statement
    issued_at: str
    expires_at: str
    grade_ppm: int | None = None  # what its work is paid by (rules/grade.py); without tests a node counts as 10^6
    best_grade_ppm: int | None = None  # what time limits reckon with
    tests: tuple[GradeTest, ...] | None = None  # what both follow from, oldest first


@dataclass(frozen=True, slots=True)
class Job:
    """What a buyer asked for. The job digest is the SHA-256 of the statement that holds this."""

    spec: dict[str, Json]
    market: KeyId
    buyer: str  # base64 of the buyer's raw public key
    beacon_tip: str  # hex of SHA-256^length(seed)
    beacon_length: int
    nonce: str
    submitted_at: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A node that was not chosen, and the mask or price that decided."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes hold the lanes of a job, and why each other one does not."""

    job: JobId
    chosen: tuple[NodeId, ...]  # lane order; an auditor or aggregator may be any certified node of the job's class
    rejected: tuple[Rejection, ...]
    escrow_usd_micros: int
    work_usd_micros: int
    audit_usd_micros: int
    placed_at: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """One contribution admitted to a merge, in log-index order."""

    task: TaskId
    root: Digest
    log_index: int
    weight_ppm: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a task is a function of. The same bytes go to prover, successor and auditor."""

    job: JobId
    task: TaskId
    kind: TaskKind
    round: int
    lane: int
    num_steps: int  # inner steps (round), admitted contributions (merge), 1 (command): what a question draws from
    first_step: int  # global index of the first inner step
    tokens: int
    theta: Digest | None = None  # weights at the start of the round (absent: made from the recipe's seed)
    outer: Digest | None = None  # outer optimizer state, merges only
    admitted: tuple[Admitted, ...] | None = None  # merges only
    excluded: tuple[TaskId, ...] | None = None  # merges only: convicted, late or silent


@dataclass(frozen=True, slots=True)
class Used:
    """What a node's sandbox measured of one execution (run/sandbox/metering.py); rules/use.py makes a reading of it."""

    wall_ms: int  # from the request to the answer
    waited_ms: int  # its threads together, runnable without a processor
    cpu_ms: int  # processor time of all it started
    device_ms: int | None = None  # busy time of accelerators; absent: no spec can ask for one yet


@dataclass(frozen=True, slots=True)
class Commitment:
    """H(node, salt, root): a result claimed, and what it took, before anybody knows what will be audited."""

    job: JobId
    task: TaskId
    epoch: int
    node: NodeId
    commitment: str  # hex, see digests below
    used: Used | None = None  # of jobs that are paid by use


@dataclass(frozen=True, slots=True)
class Output:
    """One stored object of a contribution."""

    name: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds of one node, in disjoint phases."""

    start_ms: int
    compute_ms: int
    link_ms: int
    idle_ms: int
    audit_ms: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """A result, opened: `root` is the digest of the canonical list of outputs."""

    job: JobId
    task: TaskId
    epoch: int
    node: NodeId
    assignment: Digest  # digest of the assignment's canonical JSON
    salt: str
    root: Digest
    outputs: tuple[Output, ...]
    engine_class: str
    environment: Digest  # interpreter, requirements and sandbox the work ran in
    sandbox: str
    num_steps: int
    spent: Spent
    metrics: dict[str, Json]  # decimal strings: loss, heldout_bits_per_byte
    finished_at: str
    ended: str | None = None  # how its program ended (formats/ended.py); where that is part of a result


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may audit what a draw draws."""

    node: NodeId
    operator: str
    engine_class: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Nodes whose units a draw draws more often, and what insurance has put aside for that."""

    nodes: tuple[NodeId, ...]  # in node order
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Whom draw `index` of a job may rank, fixed in the log before the checkpoint its beacon is made of."""

    job: JobId
    index: int
    candidates: tuple[Candidate, ...]  # in node order: the beacon ranks them, nobody else
    left_out: tuple[Rejection, ...]  # nodes of the job's class that may not, or are not there, in node order
    fixed_at: str
    watch: Watch | None = None  # struck lately: their units are drawn more often (rules/stake.py)


@dataclass(frozen=True, slots=True)
class Reveal:
    """The next beacon value, bound to the checkpoint and the candidates it was revealed for: it serves them only."""

    job: JobId
    index: int
    value: str
    checkpoint_size: int
    checkpoint_root: Digest
    candidates: Digest  # leaf of the candidates statement, which the checkpoint covers


@dataclass(frozen=True, slots=True)
class Drawable:
    """A task whose commitment lies inside the checkpoint of a draw."""

    task: TaskId
    node: NodeId
    operator: str
    engine_class: str
    num_steps: int
    commitment_index: int
    audit_ppm: int | None = None  # its own rate, where pay is the stake (rules/stake.py); None: that of the job


@dataclass(frozen=True, slots=True)
class Draw:
    """Inputs of a draw; what it selects is recomputed from them (rules/draw.py), never read."""

    job: JobId
    index: int
    reveal: Digest  # leaf of the reveal statement, spelled as a digest
    checkpoint_size: int
    checkpoint_root: Digest
    drawable: tuple[Drawable, ...]
    candidates: Digest  # leaf of the candidates statement the reveal names


@dataclass(frozen=True, slots=True)
class AnswerCommitment:
    """A blinded answer: nobody sees another's answer before giving his own."""

    job: JobId
    audit: AuditId
    task: TaskId
    role: Role
    node: NodeId
    commitment: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An opened answer. An auditor adds the root it recomputed; it never saw the prover's."""

    job: JobId
    audit: AuditId
    task: TaskId
    role: Role
    node: NodeId
    blind: str
    answer: str  # hex of H(audit salt, state bytes at the drawn step)
    root: Digest
    outputs: tuple[Output, ...]
    spent: Spent
    answered_at: str
    used: Used | None = None  # of the recomputation: an auditor's, in jobs that are paid by use
    ended: str | None = None  # as in a contribution


class Awaited(StrEnum):
    """What a silent party owed."""

    COMMITMENT = "commitment"
    ANSWER = "answer"


class Absence(StrEnum):
    """Why a party is waited for no longer."""

    DEADLINE = "deadline"  # its time was over
    LOST = "lost"  # no sign of life of it for long
    REVOKED = "revoked"  # it may not work here any more
    HANDED_BACK = "handed-back"  # it said itself that it would not answer
    NOT_TAKEN = "not-taken"  # it had no room for the audit in all the time that an audit is waited for


@dataclass(frozen=True, slots=True)
class Silence:
    """The market's word that a party of an audit was asked and did not answer; his logged answer proves it false."""

    job: JobId
    audit: AuditId
    task: TaskId
    role: Role
    node: NodeId
    draw: Digest  # leaf of the draw that made it his to answer
    awaited: Awaited
    reason: Absence
    asked_at: str
    deadline_at: str
    ended_at: str
    taken_at: str | None = None  # when an auditor took it, under rules that let it wait for that


@dataclass(frozen=True, slots=True)
class Stopped:
    """The market's word that a node had a task in hand when its buyer stopped the job; its last reading pays it."""

    job: JobId
    task: TaskId
    node: NodeId
    reading: Digest  # leaf of the last reading it had sent
    since: str  # when it was given the task
    stopped_at: str


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """What the answers prove about one task; recomputed by rules/verdict.py."""

    job: JobId
    task: TaskId
    node: NodeId
    verdict: Verdict
    reason: str
    refuted: tuple[NodeId, ...]  # prover and/or auditors convicted by this decision
    odd: tuple[NodeId, ...] | None = None  # struck by it; of jobs in which nobody can be convicted, and of no other


@dataclass(frozen=True, slots=True)
class Reading:
    """Cumulative meter of a node in a job; `previous` chains the readings of one node."""

    job: JobId
    node: NodeId
    seq: int
    previous: str
    spent: Spent
    read_at: str


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One movement of escrow: who got how much, for which task, and why."""

    account: str  # operator:<name> | buyer | bond:<operator> | insurance
    task: str
    reason: str  # work | audit | merge | stopped | refund | redo | forfeit | void | withheld
    usd_micros: int


@dataclass(frozen=True, slots=True)
class Appeal:
    """A disputed bond is to be heard: who may hear it, said before anybody can know whom the draw takes."""

    job: JobId
    task: TaskId  # the unit whose verdict convicts
    node: NodeId  # whose bond is disputed
    receipt: Digest  # leaf of the job's receipt
    candidates: tuple[Candidate, ...]  # nodes of operators who had no part in the job, in node order
    opened_at: str


class RulingOutcome(StrEnum):
    """What becomes of a disputed bond."""

    FORFEITED = "forfeited"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What an appeal comes to, and how its money goes; its lines sum to nothing."""

    job: JobId
    task: TaskId
    node: NodeId
    appeal: Digest  # leaf
    checkpoint_size: int  # of the checkpoint the hearers were drawn by
    checkpoint_root: Digest
    outcome: RulingOutcome
    reason: str  # two-of-three | replayed | unheard | two-statements
    heard: tuple[Digest, ...]  # leaves of the answers it rests on, in log order; none where the market computed it
    lines: tuple[SettlementLine, ...]
    decided_at: str


class CanaryOutcome(StrEnum):
    """What a canary of a suspended node comes to."""

    PASSED = "passed"
    FAILED = "failed"
    UNANSWERED = "unanswered"
    UNCHECKED = "unchecked"  # nobody could tell


@dataclass(frozen=True, slots=True)
class Canary:
    """What a unit of the market's own order, asked of a suspended node, came to; its lines sum to nothing."""

    job: JobId
    task: TaskId
    node: NodeId  # who is suspended
    nonce: str  # hex of what all of the order follows from; SHA-256 of it is the order's tip
    outcome: CanaryOutcome
    reason: str  # replayed | agreed | two-recomputations-disagree | no-two-agree, or why nothing was answered
    heard: tuple[Digest, ...]  # leaves of the answers, in log order
    lines: tuple[SettlementLine, ...]
    decided_at: str


@dataclass(frozen=True, slots=True)
class Soundness:
    """The audit figures of a job; every one is recomputed by the verifier."""

    units: int
    drawn: int
    audited: int
    audit_ppm: int
    required_ppm: int
    gain_ppm: int
    detection_ppm: int
    stake_ppm: int  # slashable value in task prices, times a million
    escape: str  # probability that one cheated unit is never audited, decimal string
    independence: str  # declared | certified | buyer
    # of rules 3:
    assurance: Assurance | None = None  # what the buyer asked for
    checked: int | None = None  # drawn, and recomputed or left out of the result
    unheard: int | None = None  # drawn, and its auditor had no room for it
    escape_tenth: str | None = None  # probability that a tenth of the units, faked, is never found
    operators: int | None = None  # m: those who could be asked to audit
    accomplice_ppm: int | None = None  # how often the first of them asked is one that stands with the prover
    escape_accomplice: str | None = None  # the figures above, with one accomplice
    escape_tenth_accomplice: str | None = None
    saved_usd_micros: int | None = None  # what faking one unit saves where least is at stake
    lost_usd_micros: int | None = None  # what it costs there when it is found: the bond and the pay


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Where every paid second went: six disjoint parts in hundredths of a per cent, sum 10,000."""

    useful: int
    start: int
    link: int
    idle: int
    audit: int
    churn: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The end of a job. `evidence` lists every other logged leaf of the job in log order."""

    job: JobId
    job_digest: Digest
    status: str
    reason: str
    verdict: Verdict
    verification: str  # replay | rerun-compare | none
    evidence: tuple[Digest, ...]
    settlement: tuple[SettlementLine, ...]
    escrow_usd_micros: int
    paid_usd_micros: int
    refunded_usd_micros: int
    soundness: Soundness
    time_split: TimeSplit
    engine_classes: tuple[str, ...]
    witness: str  # "local, not independent", or the names of witnesses the market asks beside its own
    attestation: str  # "NOT hardware-attested" for software credentials
    started_at: str
    finished_at: str


def result_bytes(outputs: tuple[Output, ...], ended: str | None = None) -> bytes:
    """Return a result as it is signed: its outputs (name, digest, size) in name order, and how its program ended."""
    listed: list[Json] = [record.to_json(item) for item in sorted(outputs, key=lambda item: item.name)]
    return canonical.encode(listed if ended is None else {"ended": ended, "outputs": listed})


def result_root(outputs: tuple[Output, ...], ended: str | None = None) -> Digest:
    """Return the root of a result: the digest of its bytes (R9.1)."""
    return digest.digest(result_bytes(outputs, ended))


def assignment_digest(assignment: Assignment) -> Digest:
    """Return the digest a contribution names its inputs by."""
    return digest.digest(canonical.encode(record.to_json(assignment)))
