"""Verifying a ruling file: bytes in, report out, with keys from the pinned store and from nowhere else (R18.7).

The order of trust:
1. The receipt is verified as any (receipt.py), by the same pins; that its own result is refuted work is no fault here.
2. The file's final checkpoint, the one the appeal was drawn from and the receipt's are of one log, in this order, and
   cosigned. The ruling and all evidence stand in it, each signed by the one key its kind demands.
3. What was said in which order: receipt, appeal, the checkpoint that draws, every blinded answer, every answer, ruling.
4. The ruling is what follows from these (ruling.py).

Whoever has the blobs may compute the unit again (`recomputed`): then no ruling need be believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stannary.errors import Refuted, StannaryError
from stannary.formats import canonical, commitments, digest, dsse, ids, note, predicates, statement
from stannary.formats import ruling as ruling_format
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Answer, AnswerCommitment, Appeal, Credential, Role, Ruling, RulingOutcome
from stannary.formats.ruling import RulingFile
from stannary.rules.clocks import CLOCK_SKEW_S
from stannary.rules.reasons import Reason
from stannary.tlog import proof, tree
from stannary.verify import ruling
from stannary.verify.case import Logged
from stannary.verify.receipt import Expectations, say_clock_behind, verify_receipt, witnessed_by
from stannary.verify.recomputation import Found, Outcome
from stannary.verify.report import Claims, Finding, Findings, Report, Severity
from stannary.verify.ruling import DisputedBond, Heard, Papers

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.note import Checkpoint
    from stannary.verify.trust import TrustedMarket, TrustStore

KINDS: dict[str, type[DataclassInstance]] = {
    "appeal": Appeal,
    "credential": Credential,
    "answer-commitment": AnswerCommitment,
    "answer": Answer,
}
BY_MARKET = frozenset({"appeal", "credential"})
OWN_WORD = "receipt.verdict"  # of a receipt: its result holds convicted work, which is what the dispute is about


@dataclass(frozen=True, slots=True)
class RulingReport:
    """The outcome of verifying one ruling."""

    receipt: Report  # of the job's receipt
    findings: tuple[Finding, ...]  # of both
    ruling: Ruling | None = None  # as stated; meaningless beside a `refuted` finding
    dispute: DisputedBond | None = None

    @property
    def exit_code(self) -> int:
        """Return 0, 3 or 4 (errors.py)."""
        severities = {item.severity for item in self.findings}
        if Severity.REFUTED in severities:
            return 3
        return 4 if Severity.POLICY in severities else 0

    def with_(self, added: Sequence[Finding]) -> RulingReport:
        """Return the report with findings added."""
        return replace(self, findings=(*self.findings, *added))


def verify_ruling(data: bytes, trust: TrustStore, now: int) -> RulingReport:
    """Verify the bytes of a ruling file; arguments and errors are those of `verify_receipt`."""
    value = canonical.decode(data, max_bytes=ruling_format.MAX_RULING_BYTES)
    findings = Findings()
    receipt: Report | None = None
    try:
        file = ruling_format.read(value)
        receipt = verify_receipt(canonical.encode(file.receipt), trust, now, Expectations(allow_unverified=True))
        findings.items += [item for item in receipt.findings if item.id != OWN_WORD]
        if receipt.claims is None or findings.refuted:
            return RulingReport(receipt, tuple(findings.items))
        said, dispute = _verify(file, receipt.claims, trust, now, findings)
        return RulingReport(receipt, tuple(findings.items), said, dispute)
    except StannaryError as err:
        findings.refute("ruling.malformed", "ruling", str(err), "a ruling as the market writes it", err.hint)
        none = Report(predicates.Verdict.REFUTED, (), None)
        return RulingReport(receipt if receipt is not None else none, tuple(findings.items))


def recomputed(said: Ruling, found: Found) -> tuple[Finding, ...]:
    """Return what computing the disputed unit again adds: a ruling that it contradicts is refuted."""
    if found.outcome is Outcome.UNCHECKED:
        remedy = "replay it on a machine of the unit's engine class"
        return (Finding("replay.unchecked", Severity.POLICY, said.task, found.detail, "", remedy),)
    outcome = RulingOutcome.FORFEITED if found.outcome is Outcome.DIFFERENT else RulingOutcome.RELEASED
    if said.reason in (Reason.UNHEARD, Reason.TWO_STORIES) or outcome is said.outcome:
        return ()
    observed = f"{said.outcome}, and computed again the unit is {found.outcome}: {found.detail}".rstrip(": ")
    remedy = "keep the file and the blobs: whoever has them can show the same"
    return (Finding("ruling.replay", Severity.REFUTED, said.task, observed, outcome.value, remedy),)


def _verify(
    file: RulingFile, claims: Claims, trust: TrustStore, now: int, findings: Findings
) -> tuple[Ruling, DisputedBond | None]:
    receipt_proof = proof.parse(str(file.receipt["proof"]))
    first = note.parse(receipt_proof.note).signatures[0]
    market = trust.market(first.name, first.key_hash)
    assert market is not None  # by it the receipt was verified
    final, drawn = _open_log(file, receipt_proof.note, market, now, findings)
    said = statement.open_envelope(file.ruling, "ruling", Ruling, market.public_key).predicate
    proof.verify(file.proof, file.ruling.leaf(), market.vkey)
    logged = _open_evidence(file, final, market, findings)
    appeals = [item for item in logged if isinstance(item.predicate, Appeal)]
    if len(appeals) != 1:
        raise Refuted("a ruling file holds one appeal", why=f"{len(appeals)}")
    (opened,) = appeals
    made = opened.predicate
    assert isinstance(made, Appeal)
    own = dsse.parse(file.receipt["receipt"]).leaf()
    findings.expect("appeal.receipt", "appeal", made.receipt, digest.from_raw(own))
    drawn_at = (drawn.size, digest.from_raw(drawn.root))
    findings.expect("ruling.checkpoint", "ruling", (said.checkpoint_size, said.checkpoint_root), drawn_at)
    hearing = _hearing(logged, findings)
    if not _is_ordered(hearing, (receipt_proof.index, opened.index, drawn.size), proof.parse(file.proof).index):
        findings.refute("ruling.order", "ruling", "another order", "receipt, appeal, draw, blinded answers, answers")
    case = claims.case
    dispute = DisputedBond(case, claims.receipt, said.task, said.node)
    convicted = {node for item in case.verdicts_of.get(said.task, ()) for node in item.predicate.refuted}
    is_convicted = said.task in case.contributions and said.node in convicted
    if not (is_convicted or dispute.is_by_stories):
        wanted = "a node the receipt convicts, or shows to have told two stories"
        findings.refute("appeal.dispute", "ruling", f"{said.node} and {said.task}", wanted)
        return said, None
    for fault in ruling.faults(dispute, Papers(made, opened.leaf, hearing.heard), said):
        findings.refute(fault, "ruling", f"of {said.node} about {said.task}", f"docs/receipt.md R18, {fault}")
    return said, dispute


def _is_ordered(hearing: _Heard, before: tuple[int, int, int], ruled: int) -> bool:
    """Tell whether all was said in its order; `before` are the receipt, the appeal, and the size that draws."""
    receipt, appeal, size = before
    first, last = min(hearing.blinded, default=ruled), max(hearing.blinded, default=size - 1)
    opened, ended = min(hearing.answered, default=ruled), max(hearing.answered, default=last)
    return receipt < appeal < size <= first and last < opened and ended < ruled


def _open_log(
    file: RulingFile, of_receipt: str, market: TrustedMarket, now: int, findings: Findings
) -> tuple[Checkpoint, Checkpoint]:
    """Return the final checkpoint and the one the appeal was drawn by."""
    text = proof.parse(file.proof).note
    final, drawn = (note.verify_checkpoint(item, market.vkey) for item in (text, file.drawn.note))
    before = note.verify_checkpoint(of_receipt, market.vkey)
    for earlier, path in ((before, file.consistency), (drawn, file.drawn.consistency)):
        tree.verify_consistency(earlier.size, earlier.root, final.size, final.root, path)
    _, witnessed_at = witnessed_by(text, market, "final checkpoint", findings)
    witnessed_by(file.drawn.note, market, f"checkpoint {drawn.size}", findings)
    if witnessed_at is not None and witnessed_at > now + CLOCK_SKEW_S:
        say_clock_behind(witnessed_at, now, findings)
    return final, drawn


def _open_evidence(
    file: RulingFile, final: Checkpoint, market: TrustedMarket, findings: Findings
) -> list[Logged[DataclassInstance]]:
    logged = []
    inclusion = tree.InclusionChecker(final.size, final.root)
    for item in file.evidence:
        leaf = item.envelope.leaf()
        inclusion.verify(leaf, item.index, item.path)
        read = statement.read_any(item.envelope.payload, KINDS)
        kept = Logged(item.index, digest.from_raw(leaf), item.envelope.payload, read.kind, read.predicate)
        logged.append(kept)
        try:
            dsse.verify(item.envelope, market.public_key if read.kind in BY_MARKET else _key(logged, kept))
        except StannaryError as err:
            findings.refute(
                "signature", f"{read.kind} at log index {item.index}", str(err), "signed as its kind demands"
            )
    return logged


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was heard, and the log indexes of what was said blinded and opened."""

    heard: tuple[Heard, ...]
    blinded: tuple[int, ...]
    answered: tuple[int, ...]


def _hearing(logged: Sequence[Logged[DataclassInstance]], findings: Findings) -> _Heard:
    """Return what was heard; nothing unread may lie beside it."""
    committed = {
        item.predicate.audit: (item.predicate, item.index)
        for item in logged
        if isinstance(item.predicate, AnswerCommitment) and item.predicate.role is Role.AUDITOR
    }
    answers = [(item, item.predicate) for item in logged if isinstance(item.predicate, Answer)]
    heard, blinded, read = [], [], {item.index for item in logged if isinstance(item.predicate, Appeal)}
    for item, answer in answers:
        commitment, index = committed.get(answer.audit, (None, 0))
        if commitment is None or commitment.node != answer.node:
            raise Refuted("an answer has no commitment", why=answer.audit)
        opens = commitments.answer_commitment_hash(answer.node, answer.blind, answer.answer, answer.root)
        findings.expect("answer.opening", answer.audit, commitment.commitment, opens)
        root = predicates.result_root(answer.outputs, answer.ended)
        findings.expect("answer.root", answer.audit, answer.root, root)
        paper = _credential(logged, answer.node, index)
        heard.append(Heard(answer, paper.predicate, item.leaf))
        blinded.append(index)
        read |= {item.index, index, paper.index}
    beside = [item for item in logged if item.index not in read]
    if beside:
        what = f"{beside[0].kind} at log index {beside[0].index}"
        findings.refute("evidence.list", "ruling", what, "what the ruling rests on alone")
    return _Heard(tuple(heard), tuple(blinded), tuple(item.index for item, _ in answers))


def _credential(logged: Sequence[Logged[DataclassInstance]], node: NodeId, index: int) -> Logged[Credential]:
    """Return the last credential of a node below an index."""
    found: Logged[Credential] | None = None
    for item in logged:
        said = item.predicate
        if isinstance(said, Credential) and said.node == node and item.index < index:
            found = Logged(item.index, item.leaf, item.payload, item.kind, said)
    if found is None or ids.node_id(dsse.decode_base64(found.predicate.key, "credential key")) != node:
        raise Refuted("a hearer has no credential of its own", why=node)
    return found


def _key(logged: Sequence[Logged[DataclassInstance]], said: Logged[DataclassInstance]) -> bytes:
    node: NodeId = said.predicate.node  # type: ignore[attr-defined]  # both kinds that nodes sign name their node
    return dsse.decode_base64(_credential(logged, node, said.index).predicate.key, "credential key")
