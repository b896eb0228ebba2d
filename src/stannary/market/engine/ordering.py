"""Canaries in the store: what is known of suspended nodes, read; what is ordered and decided, each in one transaction.

An order is a job that has ended before it begins: the engines never move it, and what is asked about its one unit is
asked like an appeal's. Whatever a crash interrupts is found undone, and done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.formats import digest, dsse, instants, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, LeaseType, NodeId, TaskId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Answer, Assignment, Canary, CanaryOutcome, Credential, Role, Verdict
from stannary.jobs.appealing import AskedHearer
from stannary.jobs.canary import CanaryRow, SuspendedNode
from stannary.jobs.course.asking import question_id
from stannary.jobs.course.draft import new_task
from stannary.jobs.course.state import ONE_PIECE, AuditOutcome, Grant, NewAudit, spell_assignment
from stannary.jobs.states import JobStatus, Settlement, TaskState
from stannary.market.engine import applying, ruling
from stannary.market.engine.giving import manifest_digests
from stannary.rules import canary as rule
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import INSURANCE
from stannary.store import (
    accounts,
    audits,
    blobs,
    canaries,
    envelopes,
    events,
    jobs,
    leases,
    ledger,
    nodes,
    standings,
    tasks,
)
from stannary.store.jobs import Submission
from stannary.store.transitions import Cause, move_job, move_settlement, move_verdict
from stannary.verify import canary as verdicts
from stannary.verify.canary import HeardCanary

BUYER = "the market"  # no account can have a name with a space
ORDERED = "the market's own order: one node is asked about its unit, and nothing else is done"


@dataclass(frozen=True, slots=True)
class CanaryOrder:
    """A canary to order."""

    node: str
    nonce: bytes
    job: JobId
    spec: JobSpec
    envelope: dsse.Envelope  # signed by a key of its own: a node cannot know whose it is
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class CanaryRuling:
    """What a canary came to."""

    outcome: CanaryOutcome
    reason: str


def suspended(connection: Connection) -> list[SuspendedNode]:
    """Return every suspended node and what was asked of it since, who was suspended first first."""
    found = []
    for node in standings.suspended(connection):
        since_ms = standings.read(connection, node).suspended_at_ms or 0
        asked = tuple(canaries.of_node(connection, node, since_ms=since_ms))
        own = {item.job for item in asked}
        held = leases.live_of_node(connection, node)
        has_room = not any(item.type in ONE_PIECE and item.job not in own for item in held)
        found.append(SuspendedNode(node, since_ms, asked, has_room))
    return sorted(found, key=lambda item: (item.since_ms, item.node))


def is_suspended(connection: Connection, node: str) -> bool:
    """Tell whether a node is suspended still."""
    return standings.read(connection, node).suspended_at_ms is not None


def open_(connection: Connection) -> list[CanaryRow]:
    """Return every canary that is not decided."""
    return canaries.open_(connection)


def insurance(connection: Connection) -> int:
    """Return what insurance holds."""
    return ledger.balances_of(connection, [INSURANCE]).get(INSURANCE, 0)


def restore(connection: Connection, node: str, now_ms: int) -> bool:
    """Restore a node that nobody could look at; tell whether it was suspended still."""
    return standings.consider(connection, node, now_ms, is_over=True) is not None


def order(connection: Connection, sign: applying.Sign, made: CanaryOrder, until_ms: int, now_ms: int) -> None:
    """Order a canary and ask its node, unless the node is not suspended any more."""
    if not is_suspended(connection, made.node):
        return
    written, (corpus,) = made.envelope.to_bytes(), made.spec.inputs.values()
    job_digest = digest.digest(made.envelope.payload)
    accounts.add_buyer(connection, BUYER, at_ms=now_ms)
    (answer,) = jobs.submit(
        connection,
        [
            Submission(
                job=made.job,
                buyer=BUYER,
                idempotency_key=job_digest,
                payload_digest=digest.digest(written),
                job_digest=job_digest,
                leaf=digest.from_raw(made.envelope.leaf()),
                name=made.spec.name,
                kind=made.spec.kind.value,
                verification=made.spec.trust.verify.value,
                envelope=written,
                escrow_usd_micros=0,  # insurance pays, when it is decided
                submitted_at_ms=now_ms,
            )
        ],
    )
    if isinstance(answer, StannaryError):
        raise answer
    cause = Cause(now_ms, Reason.CANCELLED, ORDERED)
    blobs.add(connection, corpus.digest, corpus.size_bytes, made.job, at_ms=now_ms)
    applying.post(connection, sign, ("assignment", made.assignment), made.job, now_ms)
    tasks.plan(connection, new_task(made.assignment, spell_assignment(made.assignment)), at_ms=now_ms)
    tasks.drop(connection, made.assignment.task, TaskState.ABANDONED, cause)
    move_job(connection, made.job, JobStatus.CANCELLING, cause)
    move_job(connection, made.job, JobStatus.CANCELLED, cause)
    row = CanaryRow(made.job, made.assignment.task, made.node, made.nonce.hex(), now_ms)
    canaries.add(connection, row)
    _tell(connection, row, "asked", f"{made.node} is asked a canary", now_ms)
    ask(connection, row, made.spec, [made.node], until_ms, now_ms)


def ask(
    connection: Connection, row: CanaryRow, spec: JobSpec, named: Sequence[str], until_ms: int, now_ms: int
) -> None:
    """Ask nodes about a canary's unit, as auditors."""
    nonce, task = bytes.fromhex(row.nonce), TaskId(row.task)
    question = rule.question_of(nonce, task)
    salt, number = question.salt.hex(), len(audits.of_job(connection, row.job))
    for at, node in enumerate(named, number):
        audit = rule.audit_of(nonce, task, node)
        new = NewAudit(audit, row.job, task, at, 0, False, salt, question.step, node, (node,), 0)
        audits.open_audit(connection, new, at_ms=now_ms)
        blobs.grant(connection, manifest_digests(spec), blobs.reader(row.job, node))
        body: dict[str, Json] = {"role": Role.AUDITOR.value, "salt": salt, "step": question.step}
        lease = question_id(audit, LeaseType.AUDIT, Role.AUDITOR, node)
        grant = Grant(lease, LeaseType.AUDIT, task, node, until_ms, audit, 0, body)
        cause = Cause(now_ms, Reason.ASKED, f"{task} is asked of {node}")
        leases.grant(connection, applying.with_inputs(connection, grant), cause)


def asked(connection: Connection, row: CanaryRow) -> list[AskedHearer]:
    """Return who was asked, the suspended node first, and what became of it."""
    names = [(item.auditor or "", item.audit) for item in audits.of_job(connection, row.job)]
    return ruling.asked(connection, row.task, sorted(names, key=lambda name: name[0] != row.node))[0]


def close(connection: Connection, over: Sequence[tuple[str, AuditOutcome]], now_ms: int) -> None:
    """Wait no longer for answers."""
    for audit, outcome in over:
        ruling.close(connection, audit, outcome, now_ms)


def ask_to_open(connection: Connection, row: CanaryRow, named: Sequence[str], until_ms: int, now_ms: int) -> None:
    """Ask nodes to open their answers."""
    for node in named:
        audit = rule.audit_of(bytes.fromhex(row.nonce), TaskId(row.task), node)
        ruling.ask_to_open(connection, TaskId(row.task), (node, audit), until_ms, now_ms)


def heard(connection: Connection, row: CanaryRow) -> list[HeardCanary]:
    """Return what was opened, in log order, with the credentials each was in force under since it was ordered."""
    found = []
    for kept in envelopes.of_job(connection, row.job, kind="answer"):
        if kept.log_index is None:
            continue
        answer = statement.read(dsse.from_bytes(kept.envelope).payload, "answer", Answer).predicate
        found.append(HeardCanary(answer, Digest(kept.leaf), _papers(connection, answer.node, row.asked_at_ms)))
    return found


def decide(
    connection: Connection, sign: applying.Sign, row: CanaryRow, spec: JobSpec, made: CanaryRuling, now_ms: int
) -> bool:
    """State what a canary came to, move its money, and restore a node that passed; tell whether it is restored."""
    given = heard(connection, row)
    paid = verdicts.agreeing(given, row.node, made.outcome, made.reason)
    due = verdicts.due(given, paid, spec)
    lines = rule.lines(due, min(sum(rule.prices(due)), insurance(connection)))
    said = Canary(
        job=JobId(row.job),
        task=TaskId(row.task),
        node=NodeId(row.node),
        nonce=row.nonce,
        outcome=made.outcome,
        reason=made.reason,
        heard=tuple(item.leaf for item in given),
        lines=lines,
        decided_at=instants.spell(now_ms / 1000),
    )
    leaf = applying.post(connection, sign, ("canary", said), row.job, now_ms)
    entry = escrow.probe(row.job, lines)
    if entry is not None:
        ledger.post(connection, entry, at_ms=now_ms)
    cause = Cause(now_ms, made.reason)
    canaries.decide(connection, row, made.outcome, cause, (leaf, [asdict(line) for line in lines]))
    for audit in audits.of_job(connection, row.job, only_open=True):
        is_paid = audit.auditor in paid
        is_heard = any(item.answer.node == audit.auditor for item in given)
        outcome = AuditOutcome.AGREED if is_paid else AuditOutcome.DISAGREED if is_heard else AuditOutcome.SILENT
        audits.close(connection, audit.audit, outcome, at_ms=now_ms)
    move_settlement(connection, row.job, Settlement.RELEASED, Cause(now_ms, Reason.SETTLED, "insurance has paid it"))
    move_verdict(connection, row.job, Verdict.UNVERIFIED, cause)
    _tell(connection, row, made.outcome.value, words(row, made), now_ms)
    if made.outcome is not CanaryOutcome.PASSED:
        return False
    is_restored = standings.consider(connection, row.node, now_ms, has_agreed=True) is not None
    if is_restored:
        message = f"{row.node} is restored: it passed a canary"
        events.append(connection, row.job, events.Happening("node.restored", message, now_ms, row.task, row.node))
    return is_restored


def words(row: CanaryRow, made: CanaryRuling) -> str:
    """Say what a canary came to."""
    return f"the canary of {row.node} is {made.outcome}: {made.reason}"


def _papers(connection: Connection, node: str, since_ms: int) -> tuple[Credential, ...]:
    """Return the credentials of a node that were in force since then, first issued first."""
    issued = nodes.credentials_of(connection, [node])
    before = [item for item in issued if item.issued_at_ms <= since_ms][-1:]
    kept = [*before, *(item for item in issued if item.issued_at_ms > since_ms)]
    return tuple(
        statement.read(dsse.from_bytes(item.envelope).payload, "credential", Credential).predicate for item in kept
    )


def _tell(connection: Connection, row: CanaryRow, what: str, message: str, now_ms: int) -> None:
    happening = events.Happening(f"canary.{what}", message, now_ms, row.task, row.node)
    events.append(connection, row.job, happening)
