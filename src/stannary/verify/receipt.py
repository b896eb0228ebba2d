"""Verifying a receipt: bytes in, report out, with keys from the pinned store and from nowhere else.

The order of trust (docs/receipt.md R5, R16, R17):
1. The final checkpoint must be signed by a pinned log key and cosigned by a witness pinned with it. A log that is
   not pinned ends the verification: `unknown log`, exit 4. Nothing in the file can vouch for the file.
2. The receipt statement and every statement in evidence must stand in that log (inclusion), each by the key its kind
   demands: market statements by the log's key; the buyer's by the key in the job statement, whose digest the receipt
   and every id are bound to; a node's by the key in its market-signed credential.
3. Evidence is exactly the list the receipt names, in log order; earlier checkpoints are exactly those the draws used,
   cosigned and consistent with the final one. Nothing may ride along unread.
4. The course of the job, its attempts and merges, the trial of its work and what the market says of silences must
   follow the rules (course.py, attempts.py, trial.py, silence.py, outsiders.py).
5. All the receipt states is computed again from the evidence (conclusion.py) and must be equal, member by member.

`now` only bounds times from above; a receipt does not expire. No clock, disk, network, market or torch is used.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from stannary.errors import StannaryError, UnsupportedFormat
from stannary.formats import canonical, digest, dsse, instants, note, statement
from stannary.formats import receipt as receipt_format
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import Verification
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Receipt, Verdict
from stannary.formats.receipt import ReceiptFile
from stannary.formats.statement import Statement
from stannary.rules import assurance
from stannary.rules.clocks import CLOCK_SKEW_S
from stannary.tlog import proof, tree
from stannary.verify import attempts, conclusion, course, outsiders, silence, stopping, trial
from stannary.verify.case import Case, Logged
from stannary.verify.case import read as read_statement
from stannary.verify.conclusion import Ending
from stannary.verify.course import Witnessed
from stannary.verify.report import SUCCEEDED, Claims, Findings, Report
from stannary.verify.trust import TrustedMarket, TrustStore, names_in

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.note import Checkpoint
    from stannary.verify.policy import Requirements

BY_MARKET = frozenset({"credential", "placement", "assignment", "candidates", "draw", "silence", "stopped", "verdict"})
BY_BUYER = frozenset({"job", "reveal"})


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the reader asks for beyond truth."""

    allow_unverified: bool = False  # accept work nobody checked (`verify: none`)
    job_digest: Digest | None = None  # the job the reader submitted, if it is his own
    requirements: Requirements | None = None  # floors (policy.py)

    @property
    def accepts_unverified(self) -> bool:
        """Return whether unverified work may do: by the reader's word now, or his policy's."""
        return self.allow_unverified or (self.requirements is not None and self.requirements.allow_unverified)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A receipt file whose log is trusted: the market, the final checkpoint and when it was witnessed."""

    file: ReceiptFile
    market: TrustedMarket
    final: Checkpoint
    witnessed_at: int
    witnesses: frozenset[str]  # the pinned ones that have cosigned the final checkpoint
    roots: dict[int, Digest]
    witnessed: Witnessed

    @property
    def independent(self) -> tuple[str, ...]:
        """Return who has cosigned of those the reader pinned as not run by the market."""
        return tuple(name for name in self.market.independent if name in self.witnesses)


def verify_receipt(data: bytes, trust: TrustStore, now: int, policy: Expectations | None = None) -> Report:
    """Verify the bytes of a receipt file.

    Args:
        data: the file.
        trust: the pinned store; trust comes from here alone.
        now: POSIX seconds; nothing may have been witnessed later than this (and some skew).
        policy: what the reader asks for.

    Returns:
        A report with every finding; exit code 0, 3 (refuted), 4 (below policy, unknown log) or 100 (not reproducible).

    Raises:
        LimitExceeded: larger or deeper than any receipt; refused before it is read.
        FormatError: not JSON.
    """
    findings = Findings()
    value = canonical.decode(data, max_bytes=receipt_format.MAX_RECEIPT_BYTES)
    try:
        return _verify(receipt_format.read(value), trust, now, policy or Expectations(), findings)
    except UnsupportedFormat as err:  # an honest receipt of its time, perhaps; what is asked for now it cannot show
        findings.below_policy("receipt.version", "receipt", str(err), f"a receipt of {receipt_format.FORMAT}", err.hint)
        return Report(Verdict.UNVERIFIED, tuple(findings.items), None)
    except StannaryError as err:
        findings.refute("receipt.malformed", "receipt", str(err), "a receipt as the market writes it", err.hint)
        return Report(Verdict.REFUTED, tuple(findings.items), None)


def _verify(file: ReceiptFile, trust: TrustStore, now: int, policy: Expectations, findings: Findings) -> Report:
    market = _find_market(file, trust, findings)
    if market is None:
        return Report(Verdict.UNVERIFIED, tuple(findings.items), None)
    opened = _open_log(file, market, now, findings, decides=policy.requirements is not None)
    said = _open_receipt(opened, findings)
    case = _open_evidence(opened, said.predicate, findings)
    if findings.refuted:  # what is not in the log, or not signed, is not worth judging further
        return Report(Verdict.REFUTED, tuple(findings.items), None)
    selections = conclusion.selections_of(case)
    course.check(case, selections, opened.witnessed, findings)
    attempts.check(case, findings)
    trial.check(case, opened.roots, selections, findings)
    silence.check(case, selections, opened.witnessed, findings)
    stopping.check(case, said.predicate.reason, opened.witnessed, findings)
    outsiders.check(case, selections, findings)
    _check_checkpoints_used(case, opened, findings)
    _compare(case, opened, said, findings)
    _check_witnesses(said.predicate, opened, findings)
    _apply_policy(case, said.predicate, policy, findings)
    if policy.requirements is not None and not findings.refuted:
        from stannary.verify import policy as policies

        policies.apply(policy.requirements, case, said.predicate, opened.independent, findings)
    claims = Claims(
        market=market.name,
        log_size=opened.final.size,
        witnessed_at=opened.witnessed_at,
        job_name=case.spec.name,
        buyer=case.job.predicate.buyer,
        receipt=said.predicate,
        results=said.subjects,
        convictions=tuple(item.predicate for item in case.verdicts if item.predicate.refuted),
        left_out=conclusion.left_out(case),
        operators=dict(case.operators),
        case=case,
    )
    verdict = Verdict.REFUTED if findings.refuted else said.predicate.verdict
    return Report(verdict, tuple(findings.items), claims)


# --- the log (rules 1 and 3) ---


def _find_market(file: ReceiptFile, trust: TrustStore, findings: Findings) -> TrustedMarket | None:  # R5.3
    signed = note.parse(proof.parse(file.proof).note)
    first = signed.signatures[0]
    market = trust.market(first.name, first.key_hash)
    if market is None:
        findings.below_policy(
            "log.unknown",
            "checkpoint",
            f"unknown log {first.name}",
            "a log whose key is pinned here",
            "if you know its key from the market itself: stannary trust add KEY",
        )
    return market


def _open_log(file: ReceiptFile, market: TrustedMarket, now: int, findings: Findings, *, decides: bool) -> _Opened:
    """Open the log's checkpoints (R5.4 to R5.7); with `decides` a policy says how many witnesses are enough."""
    final_note = proof.parse(file.proof).note
    final = note.verify_checkpoint(final_note, market.vkey)
    witnesses, witnessed_at = witnessed_by(final_note, market, "final checkpoint", findings)
    for name in sorted({note.parse_vkey(vkey).name for vkey in market.witnesses} - witnesses):
        _say_missing(name, "pinned here", findings, is_short=not decides and name in market.independent)
    if witnessed_at is not None and witnessed_at > now + CLOCK_SKEW_S:
        say_clock_behind(witnessed_at, now, findings)
    seen: list[tuple[Checkpoint, int]] = []
    for item in file.checkpoints:
        checkpoint = note.verify_checkpoint(item.note, market.vkey)
        name = f"checkpoint {checkpoint.size}"
        tree.verify_consistency(checkpoint.size, checkpoint.root, final.size, final.root, item.consistency)
        _, time = witnessed_by(item.note, market, name, findings)
        if seen and checkpoint.size <= seen[-1][0].size:
            findings.refute("checkpoint.order", name, checkpoint.size, f"more than {seen[-1][0].size}")
        if seen and time is not None and time < seen[-1][1]:
            findings.refute("checkpoint.time", name, time, f"not before {seen[-1][1]}")
        seen.append((checkpoint, time or 0))
    if seen and seen[-1][0].size >= final.size:
        findings.refute("checkpoint.order", "final checkpoint", final.size, f"more than {seen[-1][0].size}")
    if seen and witnessed_at is not None and witnessed_at < seen[-1][1]:
        findings.refute("checkpoint.time", "final checkpoint", witnessed_at, f"not before {seen[-1][1]}")
    roots = {checkpoint.size: digest.from_raw(checkpoint.root) for checkpoint, _ in seen}
    witnessed = Witnessed((), ())
    if market.witnesses:  # without a witness nothing bounds the nodes' own times
        sizes = [checkpoint.size for checkpoint, _ in seen] + [final.size]
        witnessed = Witnessed(sizes, [time for _, time in seen] + [witnessed_at or 0])
    return _Opened(file, market, final, witnessed_at or 0, witnesses, roots, witnessed)


def say_clock_behind(witnessed_at: int, now: int, findings: Findings) -> None:
    """Add a finding: nobody can tell a slow clock of the reader from a witness that is ahead, so nothing is refuted."""
    findings.below_policy(
        "witness.future",
        "final checkpoint",
        f"witnessed at {instants.spell(witnessed_at)}; your clock is {instants.span(witnessed_at - now)} behind that",
        f"not later than now, by your clock {instants.spell(now)}",
        "set this machine's clock and verify again, or name the time: stannary verify --now TIME",
    )


def _say_missing(name: str, known: str, findings: Findings, *, is_short: bool) -> None:
    what = f"witness {name}, {known}, has not cosigned it"
    if is_short:
        findings.below_policy("witness.missing", "final checkpoint", what, "all of them", "ask the market's operator")
    else:
        findings.notice("witness.missing", "final checkpoint", what)


def witnessed_by(text: str, market: TrustedMarket, name: str, findings: Findings) -> tuple[frozenset[str], int | None]:
    """Return which pinned witnesses have cosigned, and when the last of them had.

    Signature lines nobody here can check are refused (rule 3).

    Raises:
        Refuted: none of them has, or a cosignature does not hold.
    """
    for stray in note.unchecked_signatures(text, [market.vkey, *market.witnesses]):
        if any(item.id == "witness.unknown" and item.subject == stray for item in findings.items):
            continue  # said once, whichever checkpoints it stands under
        findings.below_policy(
            "witness.unknown",
            stray,
            f"the key of witness {stray} is not pinned here, so its cosignatures ({name}) cannot be checked",
            "the keys of all who signed",
            f"get it from the operator of {market.name}, as you got the market's key, then: "
            f"stannary trust add {market.vkey} --witness KEY",
        )
    signed = {(line.name, line.key_hash) for line in note.parse(text).signatures}
    keys = [note.parse_vkey(item) for item in market.witnesses]
    came = [key for key in keys if (key.name, key.key_hash) in signed]
    times = [note.verify_cosignature(text, key) for key in came or keys]  # where nobody came, the first says so
    return frozenset(key.name for key in came), max(times, default=None)


# --- statements (rule 2) ---


def _open_receipt(opened: _Opened, findings: Findings) -> Statement[Receipt]:  # R5.9
    envelope = opened.file.receipt
    market = opened.market
    proof.verify(opened.file.proof, envelope.leaf(), market.vkey)
    said = statement.open_envelope(envelope, "receipt", Receipt, market.public_key)
    last = opened.file.evidence[-1].index if opened.file.evidence else -1
    if proof.parse(opened.file.proof).index <= last:
        findings.refute("receipt.order", "receipt", "evidence logged after it", "a receipt logged last")
    return said


def _open_evidence(opened: _Opened, said: Receipt, findings: Findings) -> Case:  # R5.10 to R5.12
    file, final = opened.file, opened.final
    leaves = [item.envelope.leaf() for item in file.evidence]
    listed = tuple(digest.from_raw(leaf) for leaf in leaves)
    if listed != said.evidence:
        findings.refute("evidence.list", "receipt", f"{len(listed)} statements", "exactly those the receipt names")
    statements: list[Logged[DataclassInstance]] = []
    inclusion = tree.InclusionChecker(final.size, final.root)
    for item, leaf, spelled in zip(file.evidence, leaves, listed, strict=True):
        inclusion.verify(leaf, item.index, item.path)
        statements.append(read_statement(item.index, item.envelope, spelled))
    case = Case(statements)
    for item, read in zip(file.evidence, statements, strict=True):
        try:
            dsse.verify(item.envelope, _signer(case, read, opened.market))
        except StannaryError as err:
            findings.refute(
                "signature", f"{read.kind} at log index {read.index}", str(err), "signed as its kind demands"
            )
    findings.expect("receipt.version", "receipt", file.format, case.edition.receipt_format)
    findings.expect("receipt.job", "receipt", (said.job, said.job_digest), (case.job_id, case.job_digest))
    findings.expect("job.market", "job", case.job.predicate.market, opened.market.key_id)
    return case


def _signer(case: Case, read: Logged[DataclassInstance], market: TrustedMarket) -> bytes:
    """Return the only key that may have signed this statement (R5.11)."""
    if read.kind in BY_MARKET:
        return market.public_key
    if read.kind in BY_BUYER:
        return dsse.decode_base64(case.job.predicate.buyer, "buyer key")
    node: NodeId = read.predicate.node  # type: ignore[attr-defined]  # every node-signed predicate names its node
    return dsse.decode_base64(case.credential(node).key, "credential key")


# --- comparison (rules 3 and 5) ---


def _check_checkpoints_used(case: Case, opened: _Opened, findings: Findings) -> None:  # R5.13
    used = {item.predicate.checkpoint_size for item in case.reveals}
    for size in opened.roots:
        if size not in used:
            findings.refute("checkpoint.unused", f"checkpoint {size}", "no draw was made for it", "nothing unread")


def _compare(case: Case, opened: _Opened, said: Statement[Receipt], findings: Findings) -> None:
    """Compute the receipt again and compare every member (R16.1, R16.3)."""
    stated = said.predicate
    concluded = conclusion.conclude(case, status=stated.status, reason=stated.reason)
    # Whom a market asks is its own word: what stands under the checkpoint is checked instead (_check_witnesses).
    ending = Ending(stated.status, stated.reason, stated.witness, stated.started_at, stated.finished_at)
    computed = conclusion.compose(case, concluded, ending, stated.evidence)
    for field in fields(Receipt):
        observed, expected = getattr(stated, field.name), getattr(computed, field.name)
        if observed != expected:
            findings.refute(f"receipt.{field.name}", "receipt", observed, expected)
    for task, high, low in concluded.costs.far_apart():
        findings.notice("use.apart", task, f"{high / 1e6:,.1f} s of work beside {low / 1e6:,.1f} s: the lower is paid")
    expected_subjects = concluded.lineage.subjects if stated.status == SUCCEEDED else ()
    findings.expect("receipt.subject", "receipt", said.subjects, expected_subjects)
    complete = concluded.lineage.complete
    if stated.status == SUCCEEDED and not complete:
        findings.refute("receipt.status", "receipt", stated.status, "a result every part of which is in evidence")
    _check_span(case, stated, opened, findings)


def _check_span(case: Case, stated: Receipt, opened: _Opened, findings: Findings) -> None:  # R16.4
    submitted = instants.parse(case.job.predicate.submitted_at)
    started, finished = instants.parse(stated.started_at), instants.parse(stated.finished_at)
    if not submitted - CLOCK_SKEW_S <= started <= finished:
        span = f"{stated.started_at} to {stated.finished_at}"
        findings.refute("receipt.span", "receipt", span, f"after {case.job.predicate.submitted_at}, in order")
    if opened.market.witnesses and finished > opened.witnessed_at + CLOCK_SKEW_S:
        findings.refute("receipt.span", "receipt", stated.finished_at, "not after its witness saw it")


def _check_witnesses(stated: Receipt, opened: _Opened, findings: Findings) -> None:
    """Compare the witnesses a receipt names with those under its checkpoint, and say whether one is independent."""
    named = names_in(stated.witness)
    signed = {line.name for line in note.parse(proof.parse(opened.file.proof).note).signatures}
    pinned = {note.parse_vkey(vkey).name for vkey in opened.market.witnesses}
    for name in sorted(set(named) - signed - pinned):
        _say_missing(name, "named by the receipt", findings, is_short=True)
    if opened.independent:
        return
    if not named:
        findings.notice("witness.local", "final checkpoint", "the only witness is the market's own machine")
    else:
        what = "no witness has cosigned that is pinned here as one the market does not run"
        findings.notice("witness.local", "final checkpoint", what)


def _apply_policy(case: Case, stated: Receipt, policy: Expectations, findings: Findings) -> None:  # R16.5, R16.6
    if policy.job_digest is not None and stated.job_digest != policy.job_digest:
        findings.refute("receipt.other-job", "receipt", stated.job_digest, policy.job_digest)
    if findings.refuted:
        return
    figures, remedy = stated.soundness, "accept it knowingly: stannary verify RECEIPT --allow-unverified"
    if stated.verdict is Verdict.REFUTED:
        findings.refute("receipt.verdict", "receipt", "the result contains convicted work", "a result without it")
    elif policy.accepts_unverified or stated.verdict is Verdict.NOT_REPRODUCIBLE:
        return  # that is the verdict, and no work of anybody's is at fault
    elif stated.verdict is Verdict.UNVERIFIED:
        is_unasked = stated.verification == Verification.NONE and stated.status == SUCCEEDED
        if is_unasked and case.edition.takes_unasked and policy.requirements is None:
            return
        why = f"job {stated.status}"
        if stated.verification == Verification.NONE:
            why = "the buyer asked for no verification"
        elif figures.audit_ppm < figures.required_ppm:
            why = f"audited {figures.audit_ppm} ppm, cheating pays below {figures.required_ppm} ppm"
        elif figures.unheard:
            why = f"{figures.unheard} of {figures.drawn} drawn units were not audited: their auditors had no room"
        findings.below_policy("receipt.unverified", "receipt", why, "a verified result", remedy)
    elif figures.assurance is not None:
        is_full = figures.checked == figures.units
        if assurance.falls_short(figures.assurance, stated.verdict, is_full=is_full):
            observed = f"{stated.verdict}: {figures.checked} of {figures.units} units checked"
            findings.below_policy("receipt.assurance", "receipt", observed, figures.assurance, remedy)
