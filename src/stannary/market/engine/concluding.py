"""The end of a job: verdict, money and receipt, in three steps a crash may part.

    1. close    the last readings go to the log; the job is `verifying` (or `cancelling`)
    2. settle   everything is logged: verify/conclusion.py computes all the receipt states; the receipt
                statement is posted, and the money moved, in one transaction
    3. publish  the receipt statement is logged: the file is assembled, stored, and the job ends

What has been done is seen in the store (a receipt statement, a settlement), so each step is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from stannary.formats import dsse, instants, note, receipt, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Candidates, Credential, Placement, Receipt, SettlementLine, Verdict
from stannary.formats.receipt import EarlierCheckpoint, LoggedEnvelope
from stannary.jobs.course.state import JobOrder
from stannary.jobs.states import JobStatus, Settlement
from stannary.market.engine.applying import Sign, post
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import FEES, INSURANCE
from stannary.store import audits, blobs, envelopes, jobs, ledger, nodes, readings
from stannary.store.envelopes import Incoming, Kept
from stannary.store.jobs import JobRow
from stannary.store.transitions import Cause, move_job, move_settlement, move_verdict
from stannary.verify import case, conclusion
from stannary.verify.case import Case
from stannary.verify.conclusion import Conclusion, Ending

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECEIPT = "receipt"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The logged statements of a job and the credentials behind them, in log order."""

    kept: tuple[Kept, ...]
    case: Case

    @property
    def leaves(self) -> tuple[Digest, ...]:
        """Return the leaves a receipt lists."""
        return tuple(Digest(item.leaf) for item in self.kept)


@dataclass(frozen=True, slots=True)
class Concluded:
    """A conclusion and the statement made of it."""

    evidence: Evidence
    conclusion: Conclusion
    receipt: Receipt


def close(connection: Connection, order: JobOrder, now_ms: int) -> bool:
    """Post the last reading of every node; tell whether everything of the job is logged."""
    row = jobs.get(connection, order.job)
    last: dict[str, readings.ReadingRow] = {}
    for reading in readings.of_job(connection, order.job):
        last[reading.node] = reading
    for reading in last.values():
        envelope = dsse.from_bytes(reading.envelope)
        leaf = "sha256:" + envelope.leaf().hex()
        envelopes.add(connection, Incoming(leaf, "reading", reading.envelope, now_ms, order.job))
    if row.status is JobStatus.RUNNING:
        move_job(connection, order.job, JobStatus.VERIFYING, Cause(now_ms, Reason.COMPLETE, "all work is judged"))
    return all(item.log_index is not None for item in envelopes.of_job(connection, order.job))


def posted_receipt(connection: Connection, job: str) -> Kept | None:
    """Return the receipt statement of a job, once it is posted."""
    found = envelopes.of_job(connection, job, kind=RECEIPT)
    return found[0] if found else None


def conclude(connection: Connection, order: JobOrder, now_ms: int, witness: str) -> Concluded:
    """Compute the receipt of a job whose statements are all logged (reads only)."""
    row = jobs.get(connection, order.job)
    gathered = _gather(connection, order.job)
    status, reason = _ending(row)
    made = conclusion.conclude(gathered.case, status=status, reason=reason)
    ending = Ending(
        status=status,
        reason=reason,
        witness=witness,
        started_at=instants.spell((row.started_at_ms or row.submitted_at_ms) / 1000),
        finished_at=instants.spell(now_ms / 1000),
    )
    return Concluded(gathered, made, conclusion.compose(gathered.case, made, ending, gathered.leaves))


def settle(connection: Connection, order: JobOrder, now_ms: int, sign: Sign, concluded: Concluded) -> list[str]:
    """Post the receipt statement and move the money; return the refuted nodes. Does nothing the second time."""
    if posted_receipt(connection, order.job) is not None:
        return []
    row = jobs.get(connection, order.job)
    subjects = concluded.conclusion.lineage.subjects if concluded.receipt.status == conclusion.SUCCEEDED else ()
    post(connection, sign, (RECEIPT, concluded.receipt), order.job, now_ms, subjects)
    pay(connection, row, concluded.receipt.settlement, now_ms)
    to = Settlement.RELEASED if concluded.receipt.paid_usd_micros else Settlement.REFUNDED
    cause = Cause(now_ms, Reason.SETTLED, f"${concluded.receipt.paid_usd_micros / 1e6:.6f} paid")
    move_settlement(connection, order.job, to, cause)
    refuted = sorted({node for item in concluded.conclusion.decisions.values() for node in item.refuted})
    for node in refuted:
        if nodes.get(connection, node).revoked_at_ms is None:
            nodes.revoke(connection, node, f"refuted in {order.job}", at_ms=now_ms)
    return [str(node) for node in refuted]


def pay(connection: Connection, row: JobRow, lines: Sequence[SettlementLine], now_ms: int) -> None:
    """Move the money of a job. What bonds, insurance and fees hold is every job's: it is read in this transaction."""
    readings.settle(connection, row.job, lines)
    forfeited = {node: readings.forfeited(connection, node, before=row.job) for node in escrow.forfeiting(lines)}
    balances = ledger.balances_of(connection, [INSURANCE, FEES])
    held = escrow.Escrow(row.job, row.buyer, row.escrow_usd_micros)
    entry = escrow.settle(held, lines, forfeited, balances)
    if entry is not None:
        ledger.post(connection, entry, at_ms=now_ms)


def file_bytes(
    connection: Connection,
    order: JobOrder,
    proof: str,
    inclusion: Callable[[int, int], list[bytes]],
    consistency: Callable[[int, int], list[bytes]],
) -> bytes:
    """Assemble the receipt file against the checkpoint in `proof` (reads only)."""
    gathered = _gather(connection, order.job)
    kept = posted_receipt(connection, order.job)
    assert kept is not None
    size = note.parse_checkpoint(note.parse(proof[proof.index("\n\n") + 2 :]).text).size
    logged = [
        LoggedEnvelope(dsse.from_bytes(item.envelope), index, tuple(inclusion(index, size)))
        for item in gathered.kept
        if (index := item.log_index) is not None
    ]
    checkpoints = [
        EarlierCheckpoint(row.checkpoint, tuple(consistency(row.checkpoint_size, size)))
        for row in audits.draws_of_job(connection, order.job)
        if row.reveal is not None
    ]
    return receipt.build(dsse.from_bytes(kept.envelope), proof, logged, checkpoints)


def publish(connection: Connection, order: JobOrder, now_ms: int, name: Digest, size_bytes: int) -> None:
    """Name the stored receipt file and end the job."""
    row = jobs.get(connection, order.job)
    kept = posted_receipt(connection, order.job)
    assert kept is not None
    stated = statement.read(dsse.from_bytes(kept.envelope).payload, RECEIPT, Receipt).predicate
    blobs.add(connection, name, size_bytes, f"buyer:{order.buyer}", at_ms=now_ms)
    jobs.set_receipt(connection, order.job, name)
    if row.verdict is Verdict.PENDING:
        cause = Cause(now_ms, Reason.CONCLUDED, f"the job is {stated.verdict}")
        move_verdict(connection, order.job, stated.verdict, cause)
    ending = row.ending
    message = ending.message if ending is not None and ending.message else f"{stated.status}, {stated.verdict}"
    move_job(connection, order.job, JobStatus(stated.status), Cause(now_ms, stated.reason, message))


def _ending(row: JobRow) -> tuple[str, str]:
    ending = row.ending
    return (ending.status, ending.reason) if ending is not None else (conclusion.SUCCEEDED, Reason.COMPLETE)


def _gather(connection: Connection, job: str) -> Evidence:
    """Return the evidence: all of the job but its receipt, and joins and credentials of the nodes it names."""
    kept = [item for item in envelopes.of_job(connection, job) if item.kind != RECEIPT and item.log_index is not None]
    statements = [case.read(item.log_index or 0, dsse.from_bytes(item.envelope)) for item in kept]
    for node in sorted(_named(statements)):
        for leaf in _papers(connection, node):
            kept.append(envelopes.get(connection, leaf))
    kept.sort(key=lambda item: item.log_index or 0)
    return Evidence(tuple(kept), Case(case.read(item.log_index or 0, dsse.from_bytes(item.envelope)) for item in kept))


def _papers(connection: Connection, node: str) -> list[str]:
    """Return the leaves of a node's credentials and their joins: work before a renewal was done under the old one."""
    found: list[str] = []
    for held in nodes.credentials_of(connection, node):
        payload = dsse.from_bytes(held.envelope).payload
        found += [statement.read(payload, "credential", Credential).predicate.join, held.leaf]
    return list(dict.fromkeys(found))


def _named(statements: Sequence[case.Logged[DataclassInstance]]) -> set[NodeId]:
    found: set[NodeId] = set()
    for item in statements:
        predicate = item.predicate
        if isinstance(predicate, Placement):
            found.update(predicate.chosen)
        elif isinstance(predicate, Candidates):
            found.update(entry.node for entry in predicate.candidates)
        elif isinstance(node := getattr(predicate, "node", None), str):
            found.add(NodeId(node))
    return found
