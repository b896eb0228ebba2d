"""Disputed bonds in the store: what an appeal rests on, read; what is decided about one, written in one transaction.

What is posted, paid and noted of a ruling is one transaction with the stage it leaves: whatever a crash interrupts is
found undone, and done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError, NotFound
from stannary.formats import canonical, dsse, note, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import LeaseType, NodeId, TaskId
from stannary.formats.predicates import Answer, Appeal, Credential, Receipt, Role, Ruling
from stannary.formats.quantity import dollars
from stannary.formats.receipt import MAX_RECEIPT_BYTES, EarlierCheckpoint, LoggedEnvelope
from stannary.formats.ruling import RulingFile
from stannary.jobs.appealing import AskedHearer, DisputeRow
from stannary.jobs.course.asking import question_id
from stannary.jobs.course.state import AuditOutcome, Grant, JobOrder, NewAudit, Task
from stannary.jobs.states import DisputeStage, is_terminal
from stannary.market.engine import applying, loading
from stannary.rules.appeal import Due, Sentence
from stannary.rules.reasons import Reason
from stannary.settle import escrow
from stannary.settle.ledger import INSURANCE, operator_bond
from stannary.store import audits, blobs, disputes, envelopes, jobs, leases, ledger, nodes, readings, tasks
from stannary.store.envelopes import Kept
from stannary.store.transitions import Cause
from stannary.tlog import proof
from stannary.tlog.log import Log
from stannary.verify.case import Case
from stannary.verify.ruling import DisputedBond, Heard

NUMBER = 1000  # of the first audit of an appeal: behind all that the job asked about a task


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended job, as its receipt tells it."""

    order: JobOrder
    case: Case
    receipt: Receipt
    leaf: Digest


@dataclass(frozen=True, slots=True)
class Money:
    """What a ruling moves, but for what bonds hold by then."""

    sentence: Sentence
    due: tuple[Due, ...]
    redo_usd_micros: int


def waiting(connection: Connection) -> list[DisputeRow]:
    """Return disputes of ended jobs that are not decided."""
    return [row for row in disputes.waiting(connection) if is_terminal(jobs.get(connection, row.job).status)]


def ended(connection: Connection, job: str) -> Ended | None:
    """Return an ended job by its receipt, None where it has none."""
    kept = envelopes.receipt_of(connection, job)
    if kept is None:
        return None
    return Ended(loading.order(connection, job), *loading.told(connection, job, kept))


def asked(connection: Connection, task: str, names: Sequence[tuple[str, str]]) -> tuple[list[AskedHearer], Task]:
    """Return who was offered an appeal, and the unit; `names` are nodes with their audits, in rank order."""
    known = {row.audit: row for row in audits.of_job(connection, task.partition("/")[0])}
    found = []
    for node, audit in names:
        if audit not in known:
            continue
        given = next((row for row in audits.answers_of(connection, audit) if row.node == node), None)
        ids = (question_id(audit, kind, Role.AUDITOR, node) for kind in (LeaseType.AUDIT, LeaseType.REVEAL))
        granted = {item.lease: item for item in leases.of_audit(connection, audit)}
        lease, opening = (granted.get(name) for name in ids)
        found.append(AskedHearer(known[audit], lease, given, opening))
    return found, tasks.get(connection, task)


def heard(connection: Connection, asked_: Sequence[AskedHearer]) -> list[Heard]:
    """Return what was opened, in log order, with the credential each heard under."""
    leaves = [
        item.given.answer_leaf for item in asked_ if item.given is not None and item.given.answer_leaf is not None
    ]
    found = []
    for kept in sorted(envelopes.some(connection, leaves), key=lambda item: item.log_index or 0):
        answer = statement.read(dsse.from_bytes(kept.envelope).payload, "answer", Answer).predicate
        paper = _spoken(connection, answer)[-1]
        said = statement.read(dsse.from_bytes(paper.envelope).payload, "credential", Credential).predicate
        found.append(Heard(answer, said, Digest(kept.leaf)))
    return found


def _spoken(connection: Connection, answer: Answer) -> tuple[Kept, Kept]:
    """Return a hearer's blinded answer, and its credential in force there (R6.24)."""
    (given,) = (item for item in audits.answers_of(connection, answer.audit) if item.node == answer.node)
    (blinded,) = envelopes.some(connection, [given.commitment_leaf])
    index = blinded.log_index
    assert index is not None  # its opening is logged
    issued = [item.leaf for item in nodes.credentials_of(connection, [answer.node])]
    papers = [item for item in envelopes.some(connection, issued) if item.log_index is not None]
    return blinded, max(
        (item for item in papers if (item.log_index or 0) < index), key=lambda item: item.log_index or 0
    )


@dataclass(frozen=True, slots=True)
class Dossier:
    """What a ruling file is made of."""

    row: DisputeRow
    ruling: Kept
    index: int  # of the ruling, in the log
    receipt_blob: Digest
    evidence: tuple[Kept, ...]  # in log order


def stated(connection: Connection, job: str, node: str) -> Digest | None:
    """Return the leaf of the ruling about a node in a job, None before there is one."""
    rows = [item for item in disputes.of_job(connection, job) if item.node == node and item.ruling is not None]
    return Digest(rows[0].ruling or "") if rows else None


def dossier(connection: Connection, job: str, node: str, index: int | None) -> Dossier:
    """Return what the file of a ruling is made of; `index` is its place in the log, None before it has one.

    Raises:
        NotFound: no bond of this node is disputed in the job, or nothing is ruled yet.
    """
    row = next((item for item in disputes.of_job(connection, job) if item.node == node), None)
    if row is None:
        raise NotFound("no bond of this node is disputed in this job", why=f"{node}, {job}")
    receipt = jobs.get(connection, job).receipt
    said = envelopes.get(connection, row.ruling) if row.ruling is not None else None
    if said is None or index is None or receipt is None:
        raise NotFound(
            "nothing is ruled yet", why=f"the dispute about {node} is {row.stage}", hint=f"stannary rulings {job}"
        )
    ruled = statement.read(dsse.from_bytes(said.envelope).payload, "ruling", Ruling).predicate
    kept = {item.leaf: item for item in envelopes.some(connection, [ruled.appeal, *ruled.heard])}
    for leaf in ruled.heard:
        answer = statement.read(dsse.from_bytes(kept[leaf].envelope).payload, "answer", Answer).predicate
        kept |= {item.leaf: item for item in _spoken(connection, answer)}
    evidence = sorted(kept.values(), key=lambda item: item.log_index or 0)
    return Dossier(row, said, index, Digest(receipt), tuple(evidence))


def file_bytes(made: Dossier, receipt_file: bytes, log: Log) -> bytes:
    """Assemble a ruling file against the newest checkpoint (formats/ruling.py)."""
    shown = log.proof(made.index)
    size = note.parse_checkpoint(note.parse(shown[shown.index("\n\n") + 2 :]).text).size
    receipt = canonical.decode_object(receipt_file, max_bytes=MAX_RECEIPT_BYTES)
    old, drawn = (
        note.parse_checkpoint(note.parse(text).text).size
        for text in (proof.parse(str(receipt["proof"])).note, made.row.checkpoint or "")
    )
    return RulingFile(
        receipt=receipt,
        consistency=tuple(log.consistency(old, size)),
        ruling=dsse.from_bytes(made.ruling.envelope),
        proof=shown,
        drawn=EarlierCheckpoint(made.row.checkpoint or "", tuple(log.consistency(drawn, size))),
        evidence=tuple(
            LoggedEnvelope(dsse.from_bytes(item.envelope), index, tuple(log.inclusion(index, size)))
            for item in made.evidence
            if (index := item.log_index) is not None
        ),
    ).to_bytes()


def open_(connection: Connection, row: DisputeRow, sign: applying.Sign, made: Appeal, now_ms: int) -> None:
    """State who may hear a dispute."""
    leaf = applying.post(connection, sign, ("appeal", made), row.job, now_ms)
    disputes.note_appeal(connection, row, leaf)


def opened(connection: Connection, leaf: str) -> Appeal:
    """Return the statement that says who may hear a dispute."""
    kept = envelopes.get(connection, leaf)
    return statement.read(dsse.from_bytes(kept.envelope).payload, "appeal", Appeal).predicate


def begin(
    connection: Connection, row: DisputeRow, to: DisputeStage, checkpoint: str, why: tuple[Reason, str], now_ms: int
) -> None:
    """Begin to hear or to compute."""
    disputes.move(connection, row, to, Cause(now_ms, *why), checkpoint=checkpoint, begun_at_ms=now_ms)


def offer(connection: Connection, order: JobOrder, dispute: DisputedBond, name: tuple[str, str], now_ms: int) -> None:
    """Offer a node to compute a disputed unit again, as an audit."""
    (node, audit), question = name, dispute.question
    number = NUMBER + sum(item.task == dispute.task for item in audits.of_job(connection, order.job))
    new = NewAudit(audit, order.job, dispute.task, number, 0, False, question.salt, question.step, node, (node,), 0)
    audits.open_audit(connection, new, at_ms=now_ms)


def close(connection: Connection, audit: str, outcome: AuditOutcome, now_ms: int) -> None:
    """Wait no longer for an answer.

    Raises:
        ConflictError: it has been taken meanwhile.
    """
    if outcome is not AuditOutcome.SILENT and leases.of_audit(connection, audit):
        raise ConflictError("this hearing has been taken", why=audit)
    audits.close(connection, audit, outcome, at_ms=now_ms)


def ask_to_open(connection: Connection, task: TaskId, name: tuple[str, str], until_ms: int, now_ms: int) -> None:
    """Ask a hearer to open its answer."""
    node, audit = name
    lease = question_id(audit, LeaseType.REVEAL, Role.AUDITOR, node)
    grant = Grant(lease, LeaseType.REVEAL, task, node, until_ms, audit, 0, {"role": Role.AUDITOR.value})
    leases.grant(connection, grant, Cause(now_ms, Reason.ASKED, f"{node} is asked to open its answer"))


def rule_on(
    connection: Connection, row: DisputeRow, sign: applying.Sign, ended_: Ended, money: Money, said: Ruling, now_ms: int
) -> list[str]:
    """State a ruling and move its money, once; return the nodes whose standing it changes."""
    made = money.sentence
    dispute = DisputedBond(ended_.case, ended_.receipt, TaskId(row.task), NodeId(row.node))
    left = {node: _left(connection, dispute, node) for node in made.losers}
    insured = ledger.balances_of(connection, [INSURANCE]).get(INSURANCE, 0)
    lines = dispute.lines(made, money.due, money.redo_usd_micros, left, insured)
    ruled = Ruling(**{**{name: getattr(said, name) for name in Ruling.__slots__}, "lines": lines})
    leaf = applying.post(connection, sign, ("ruling", ruled), row.job, now_ms)
    entry = escrow.rule(row.job, row.node, ended_.order.buyer, lines)
    if entry is not None:
        ledger.post(connection, entry, at_ms=now_ms)
    cause = Cause(now_ms, said.reason, words(row, ruled))
    written = [asdict(line) for line in lines]
    decided = {"ruling": leaf, "lines": written, "checkpoint": row.checkpoint}
    disputes.move(connection, row, DisputeStage(said.outcome.value), cause, **decided)
    for node in made.losers:
        nodes.convict(connection, node, at_ms=now_ms)
        if nodes.get(connection, node).revoked_at_ms is None:
            nodes.revoke(connection, node, f"lost an appeal in {row.job}", at_ms=now_ms)
    return [row.node, *made.losers]


def let_go(connection: Connection, row: DisputeRow, now_ms: int) -> None:
    """Release a bond of a job the market could not conclude: it states nothing, and takes nothing."""
    cause = Cause(now_ms, Reason.MARKET_FAULT, f"the bond of {row.node} is released: the job has no receipt")
    disputes.move(connection, row, DisputeStage.RELEASED, cause)


def note_listened(connection: Connection, row: DisputeRow, listened_s: int) -> None:
    """Note how much of its window has passed."""
    disputes.note_listened(connection, row, listened_s)


def begin_replay(connection: Connection, row: DisputeRow, digests: Sequence[str]) -> None:
    """Count that the market begins to compute a unit again, and let everybody have what it computes it from."""
    blobs.grant(connection, digests, blobs.PUBLIC)
    disputes.begin_replay(connection, row)


def words(row: DisputeRow, said: Ruling) -> str:
    """Say what became of a bond, to the micro-dollar."""
    got = {line.account.partition(":")[0]: line.usd_micros for line in said.lines if line.reason == "redo"}
    rest = sum(line.usd_micros for line in said.lines if (line.account, line.reason) == ("insurance", "forfeit"))
    lost = -sum(line.usd_micros for line in said.lines if line.account.startswith("bond:"))
    if said.outcome.value == DisputeStage.FORFEITED:
        ways = f"{dollars(got.get('buyer', 0))} to the buyer for work done again, {dollars(rest)} to insurance"
        return f"{row.node} loses {dollars(lost)} of its bond of {dollars(row.bond_usd_micros)}: {ways}"
    by = f"; who accused it loses {dollars(lost)}" if lost else ""
    return f"the bond of {row.node}, {dollars(row.bond_usd_micros)}, is released{by}"


def _left(connection: Connection, dispute: DisputedBond, node: NodeId) -> int:
    """Return what may be taken of a bond still: other jobs, and other rulings of this one, may have taken (R18.5)."""
    case = dispute.case
    gone = readings.forfeited(connection, node, before="") + disputes.forfeited(connection, node)
    account = operator_bond(case.credential(node).operator)
    there = ledger.balances_of(connection, [account]).get(account, 0)
    may_go = dispute.most(node) - disputes.forfeited(connection, node, case.job_id)
    return max(min(case.bond(node) - gone, there, may_go), 0)
