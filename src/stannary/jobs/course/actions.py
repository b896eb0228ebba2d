"""What the core can decide: one frozen record an action. The shell carries them out in order, in one transaction.

Place           the lanes are these nodes'               Judge       this is proven about a task
Plan            a task is wanted                         Convict     a node of this job lied
Drop            a task is not wanted any more            SaySilent   a party was asked and did not answer
FixCandidates   who may audit what a draw draws          EndLease    a node's time for something is over
RequestDraw     the buyer owes a beacon value            Settle      a round is settled for good
MakeDraw        the value is there: what it draws from   BeginEnd    fail or cancel, once all is judged
Pass            what the draw said of a task             Conclude    nothing is open: make the receipt
OpenAudit, Ask, CloseAudit   an audit on its way        ReportTask  an operator says that a task cannot run
SayStopped      the buyer stopped what it has in hand
Strike          a node stood alone in the buyer's code   Print       what its node says of it
OpenQuestion, CloseQuestion   whether the program can be recomputed at all

Of a job of which nothing is open (concluding.py):
PostReading, Verify   everything goes to the log         Revoke      who is refuted works here no more
StateReceipt, Pay     what is shown is stated and paid   Publish     the receipt has its file: the job ends
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.formats.digest import Digest
from stannary.formats.predicates import (
    Assignment,
    Candidates,
    Placement,
    Receipt,
    SettlementLine,
    Silence,
    TaskVerdict,
    Verdict,
)
from stannary.formats.predicates import Draw as DrawRecord
from stannary.formats.statement import Subject
from stannary.jobs.course.state import AuditOutcome, EarlyEnd, Grant, NewAudit
from stannary.jobs.states import LeaseState, Settlement, TaskState
from stannary.rules.reasons import Reason


@dataclass(frozen=True, slots=True)
class Place:
    """State the placement and let the job run."""

    placement: Placement
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """State an assignment and plan its task."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Drop:
    """Supersede or abandon a task, and take back whatever leases it has."""

    task: str
    to: TaskState
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FixCandidates:
    """State who may audit what a draw draws."""

    made: Candidates


@dataclass(frozen=True, slots=True)
class RequestDraw:
    """Show the buyer the checkpoint his next value is for."""

    number: int
    old_size: int  # of the checkpoint he saw before
    candidates_index: int


@dataclass(frozen=True, slots=True)
class MakeDraw:
    """State what a revealed value draws from, and what its watched units cost insurance at most."""

    made: DrawRecord
    extra_usd_micros: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """Note what a draw said of a handed-in task: audited, or passed over."""

    task: str
    number: int
    is_drawn: bool


@dataclass(frozen=True, slots=True)
class OpenAudit:
    """Begin an audit."""

    new: NewAudit


@dataclass(frozen=True, slots=True)
class Ask:
    """Give a party of an audit its question."""

    grant: Grant
    message: str


@dataclass(frozen=True, slots=True)
class CloseAudit:
    """End an audit."""

    audit: str
    outcome: AuditOutcome


@dataclass(frozen=True, slots=True)
class SayStopped:
    """State that a node has a task in hand of a job its buyer stops, with the last reading it has sent, if any."""

    task: str
    node: str
    granted_at_ms: int


@dataclass(frozen=True, slots=True)
class SaySilent:
    """State that a party was asked and did not answer."""

    said: Silence


@dataclass(frozen=True, slots=True)
class Judge:
    """Set a task's verdict; `stated` where answers prove it."""

    task: str
    verdict: Verdict
    reason: str
    message: str
    stated: TaskVerdict | None = None


@dataclass(frozen=True, slots=True)
class Convict:
    """Note that a node of this job lied; `bond_usd_micros` is what it loses, once, and nothing where it is disputed."""

    node: str
    task: str
    reason: str
    bond_usd_micros: int


@dataclass(frozen=True, slots=True)
class Dispute:
    """Note that the bond of a convicted node is disputed: behind the job an appeal says whether it is lost."""

    node: str
    task: str
    bond_usd_micros: int


@dataclass(frozen=True, slots=True)
class Strike:
    """Note that a node stood alone in the buyer's own code: it does no more of this job."""

    node: str
    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """Note that it is asked whether the program of this job can be recomputed; nothing new is begun meanwhile."""

    task: str
    message: str


@dataclass(frozen=True, slots=True)
class CloseQuestion:
    """Note what the question came to; of a program that is not reproducible, strikes are taken back."""

    task: str
    outcome: Reason
    message: str


@dataclass(frozen=True, slots=True)
class SayChecked:
    """Note that a job's first check has begun, or ended and why; what it was decides nothing."""

    task: str
    message: str
    reason: str = ""  # of the verdict that ended it


@dataclass(frozen=True, slots=True)
class EndLease:
    """End a lease; work without a result goes back to planned."""

    lease: str
    to: LeaseState
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ReportTask:
    """Note that an operator says that a task cannot run."""

    task: str
    operator: str


@dataclass(frozen=True, slots=True)
class Print:
    """Keep what a node says of a task in the job's log."""

    task: str
    node: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """Note the first round that is not settled for good, and the last that has tasks."""

    first_open: int
    round: int


@dataclass(frozen=True, slots=True)
class BeginEnd:
    """Begin the end of a job that fails or is cancelled; said again of one that ends, it changes why."""

    ending: EarlyEnd


@dataclass(frozen=True, slots=True)
class Conclude:
    """Nothing is open any more: the receipt can be made."""


@dataclass(frozen=True, slots=True)
class PostReading:
    """Let the log have the last reading of a node."""

    envelope: bytes


@dataclass(frozen=True, slots=True)
class Verify:
    """All work of a running job is judged: it waits for its receipt."""


@dataclass(frozen=True, slots=True)
class StateReceipt:
    """State the receipt of a job, once."""

    receipt: Receipt
    subjects: tuple[Subject, ...]


@dataclass(frozen=True, slots=True)
class Pay:
    """Divide what is held for a job by the lines of its receipt."""

    lines: tuple[SettlementLine, ...]
    to: Settlement
    message: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """Let a node work here no more."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Name the stored file of a receipt, and end the job; `verdict` where it has none yet."""

    file: Digest
    size_bytes: int
    verdict: Verdict | None
    end: EarlyEnd


Action = (
    Place
    | Plan
    | Drop
    | FixCandidates
    | RequestDraw
    | MakeDraw
    | Pass
    | OpenAudit
    | Ask
    | CloseAudit
    | SaySilent
    | Judge
    | Convict
    | Dispute
    | Strike
    | OpenQuestion
    | CloseQuestion
    | SayChecked
    | EndLease
    | ReportTask
    | Print
    | Settle
    | BeginEnd
    | Conclude
    | SayStopped
    | PostReading
    | Verify
    | StateReceipt
    | Pay
    | Revoke
    | Publish
)
STANDS_STILL = (Settle, RequestDraw, Ask, Conclude)  # nothing was handed in, drawn or judged
