"""Appraise a node's whole evidence: every layer, one anchor, one tier.

Rules:
1. The anchor is computed from the verifier's own challenge and the key the node binds. Every layer
   must carry it (devices: the nonce derived from it), so layers of two machines do not mix.
2. A layer the policy or the claims ask for and the node did not send is a refused layer.
3. One hardware identity appears once, in this evidence and in the registry the caller gives.
4. The node's own hints can only lower: a node that says its GPU runs in DevTools mode is believed.
5. Accelerators are counted by their own signed reports, one identity each; the names in the power test are the
   node's words. Accelerators used in the power test are evidence that is asked for, whatever the hints say.

Pure: challenge, time, policy, references and registry are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stannary.certify import layers, references, revocation_notice
from stannary.certify.anchor import anchor, device_nonce
from stannary.certify.claims import check_claims, read_claims
from stannary.certify.collateral.join import joined
from stannary.certify.evidence import ccel, rim
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.verifier import examine_parsed
from stannary.certify.layers import Layer, Unread
from stannary.certify.moments import parse_moment
from stannary.certify.outcomes import Appraisal, Examination, Step, missing, unreadable
from stannary.certify.remedies import Code, remedy
from stannary.certify.tiers import TierDecision, decide
from stannary.errors import FormatError
from stannary.formats.predicates import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from stannary.certify.challenge import Challenge, Memory
    from stannary.certify.collateral.items import Item
    from stannary.certify.envelope import Evidence, Part
    from stannary.certify.grade.scu import Grade
    from stannary.certify.policy import Policy
    from stannary.certify.rules import Rules
    from stannary.certify.withdrawals import Withdrawal
    from stannary.formats import dsse


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the verifier brings to an appraisal."""

    now: datetime
    policy: Policy
    memory: Memory | None = None
    references: tuple[dsse.Envelope, ...] = ()
    vouchers: tuple[dsse.Envelope, ...] = ()
    notices: tuple[dsse.Envelope, ...] = ()  # revocation notices
    withdrawals: tuple[Withdrawal, ...] = ()  # of notices believed already
    items: Mapping[tuple[str, str], Item] = field(default_factory=dict)  # collateral fetched beside the evidence
    registry: frozenset[str] = frozenset()  # identities of *other* nodes
    denied: frozenset[str] = frozenset()
    spent: bool = False  # the challenge was answered before
    claims: str = ""  # what the seller claims, e.g. "8xH200"


@dataclass(frozen=True, slots=True)
class Result:
    """An appraised machine."""

    parts: dict[str, Appraisal]
    decision: TierDecision
    identities: tuple[str, ...]
    grade: Grade | None
    accepted: bool
    reason: str
    elapsed_s: float  # from the challenge's issue to the evaluation time, both by the verifier's clock


def appraise(evidence: Evidence, challenge: Challenge, context: Context) -> Result:
    """Appraise every layer and decide the tier."""
    expected = anchor(challenge.nonce_bytes, evidence.key_hash)
    golden = references.golden_boots(context.references, context.policy)
    believed = revocation_notice.believe(context.notices, context.policy)
    rules = context.policy.rules(golden, context.denied, (*believed.withdrawals, *context.withdrawals))
    parts: dict[str, Appraisal] = {
        "challenge": _challenge(evidence, challenge, context),
        "revocations": believed.appraisal,
    }
    for name, part in evidence.parts.items():
        parts[name] = _layer(name, part, expected, context, rules)
    for name in _expected_layers(context):
        if not any(key == name or key.startswith(f"{name}/") for key in evidence.parts):
            parts[name] = missing(name, f"{name} evidence")
    parts["host"] = _host(evidence, context.policy.tier)
    identities = tuple(item for appraisal in parts.values() for item in appraisal.identities)
    parts["identity"] = _collisions(identities, context)
    elapsed_s = (context.now - parse_moment(challenge.issued_at)).total_seconds()
    grade, parts["bench"] = _grade(evidence, expected, context, elapsed_s)
    claimed = read_claims(context.claims)
    if claimed:
        parts["claims"] = check_claims(claimed, parts, grade)
    named = bool(set(identities) & set(context.policy.designated))
    vouchers = references.count_vouchers(context.vouchers, identities, context.policy, context.now)
    decision = decide(parts, num_vouchers=vouchers, min_vouchers=context.policy.vouch.minimum, named=named)
    accepted = not decision.refused and decision.tier >= context.policy.tier
    reason = f"{decision.limiting.layer}: {decision.limiting.reason}"
    return Result(parts, decision, identities, grade, accepted, reason, elapsed_s)


def _challenge(evidence: Evidence, challenge: Challenge, context: Context) -> Appraisal:
    """Rule 1, and single use: the evidence's own nonce only helps to say which question it answers."""
    exam = Examination("challenge")
    problem = challenge.window_problem(context.now)
    exam.require("window", not problem, Step.NONCE, Code.NONCE_MISMATCH, observed=problem, expected="an open challenge")
    exam.require(
        "single-use", not context.spent, Step.NONCE, Code.NONCE_MISMATCH, observed="this challenge was answered before"
    )
    exam.require(
        "answers",
        evidence.challenge == challenge.id,
        Step.NONCE,
        Code.NONCE_MISMATCH,
        observed=f"evidence answers challenge {evidence.challenge[:32]}",
        expected=challenge.id,
    )
    return exam.close()


def _layer(name: str, part: Part, expected: bytes, context: Context, rules: Rules) -> Appraisal:
    layer = layers.read(name, part)
    if isinstance(layer, Unread):
        return unreadable(part.kind, layer.problem)
    try:
        collateral = joined(layer, context.items)
    except FormatError as err:
        exam = Examination(part.kind)
        exam.refuse("collateral", Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=err)
        return exam.close()
    ueid = name.partition("/")[2]
    basis = Basis(
        bound=device_nonce(expected, ueid) if ueid else expected,
        collateral=collateral,
        now=context.now,
        rules=rules,
        activation=context.memory.activation() if context.memory else None,
        session=context.memory.session() if context.memory else None,
    )
    appraisal = examine_parsed(layer.verifier, layer.parsed, basis)
    if part.kind == "nvgpu":
        return _with_manifests(name, appraisal, layer, basis)
    return _with_log(appraisal, layer) if part.kind == "tdx" else appraisal


def _with_manifests(name: str, appraisal: Appraisal, layer: Layer, basis: Basis) -> Appraisal:
    """Compare a device with the reference manifests carried for it."""
    exam = Examination.reopen(appraisal)
    ueid = appraisal.claims.get("ueid")
    exam.require(
        "name",
        name.partition("/")[2] == ueid,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=f"device {ueid}",
        expected=name,
    )
    # A switch signs no feature flag, so one shown as a GPU would skip the check of confidential mode.
    exam.require(
        "place",
        (name.partition("/")[0] == "nvswitch") == appraisal.claims.get("switch", False),
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=f"{appraisal.claims.get('device')} in {name.partition('/')[0]}",
    )
    if not basis.collateral.rims:
        exam.waive("golden", "no reference manifests carried")
        return exam.close()
    versions: set[str] = set()
    for number, data in enumerate(basis.collateral.rims):
        try:
            manifest = rim.parse_manifest(data)
        except FormatError as err:
            exam.refuse(f"rim{number}", Step.PARSE, Code.MALFORMED, observed=err)
            continue
        rim.check_signed(exam, manifest, basis)
        rim.check_match(exam, manifest, layer.parsed)
        versions.add(manifest.version.upper())
    # One of the two matching says nothing of the other: a changed VBIOS would pass beside a good driver.
    wanted = ("vbios",) if appraisal.claims.get("switch") else ("driver", "vbios")
    for image in wanted:
        version = str(appraisal.claims.get(image, ""))
        if version.upper() not in versions:
            exam.waive(f"{image}.golden", f"no reference manifest carried for {image} {version}")
    return exam.close()


def _with_log(appraisal: Appraisal, layer: Layer) -> Appraisal:
    """Replay a TD's event log to the runtime registers of its quote."""
    exam = Examination.reopen(appraisal)
    if not layer.part.log:
        exam.waive("rtmr", "no CCEL event log carried")
        return exam.close()
    try:
        ccel.check_replay(exam, ccel.parse_ccel(layer.part.log), layer.parsed)
    except FormatError as err:
        exam.refuse("rtmr", Step.REPLAY, Code.MALFORMED, observed=err)
    return exam.close()


def _expected_layers(context: Context) -> list[str]:
    """Rule 2: what policy and claims ask for."""
    wanted, claimed = list(context.policy.required), read_claims(context.claims)
    if context.policy.gpu.required or any(not item.is_switch for item in claimed):
        wanted.append("gpu")
    if any(item.is_switch for item in claimed):
        wanted.append("nvswitch")
    return list(dict.fromkeys(wanted))


def _names_accelerators(evidence: Evidence) -> bool:
    """Whether the node names accelerators, in its hints or in the power test (rule 5)."""
    listed, chains = evidence.host.get("gpus"), evidence.bench.get("chains")
    names = [item.get("device") for item in chains if isinstance(item, dict)] if isinstance(chains, list) else []
    return (isinstance(listed, list) and bool(listed)) or any("cuda" in str(name) for name in names)


def _host(evidence: Evidence, asked: Tier) -> Appraisal:
    """Rules 4 and 5: what a node says against itself, and accelerators it names but does not attest.

    Where the policy asks for nothing above T0, a plain accelerator is what T0 is for: it caps and does not
    refuse, or the honest node would fare worse than one that keeps silent.
    """
    exam = Examination("host")
    listed = evidence.host.get("gpus")
    for number, device in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(device, dict):
            continue
        if device.get("devtools") is True:
            observed = f"GPU {number} runs in DevTools mode"
            exam.refuse(f"gpu{number}-devtools", Step.GUEST_POLICY, Code.DEBUG_DEVICE, observed=observed)
        if device.get("cc") is False:
            observed = f"GPU {number}: confidential computing is off"
            _cap_or_refuse(exam, f"gpu{number}-cc", Code.CC_OFF, observed, asked)
    if _names_accelerators(evidence) and not any(name.startswith("gpu/") for name in evidence.parts):
        _cap_or_refuse(exam, "gpu-evidence", Code.EVIDENCE_MISSING, "accelerators without signed evidence", asked)
    if not exam.findings:
        exam.not_applicable("hints", "the host's own words raise nothing")
    return exam.close()


def _cap_or_refuse(exam: Examination, check: str, code: Code, observed: str, asked: Tier) -> None:
    if asked > Tier.T0:
        exam.refuse(check, Step.GUEST_POLICY, code, observed=observed)
    else:
        exam.cap(check, Step.GUEST_POLICY, 0, observed=observed, expected="attested devices", remedy=remedy(code))


def _collisions(identities: tuple[str, ...], context: Context) -> Appraisal:
    exam = Examination("identity")
    doubled = sorted({item for item in identities if identities.count(item) > 1})
    elsewhere = sorted(set(identities) & context.registry)
    exam.require("once-here", not doubled, Step.BINDING, Code.IDENTITY_COLLISION, observed=", ".join(doubled)[:200])
    exam.require(
        "once-anywhere",
        not elsewhere,
        Step.BINDING,
        Code.IDENTITY_COLLISION,
        observed=f"registered to another node: {', '.join(elsewhere)[:160]}",
    )
    denied = sorted(set(identities) & context.denied)
    exam.require("not-denied", not denied, Step.TCB, Code.REVOKED, observed=", ".join(denied)[:200])
    return exam.close()


def _grade(evidence: Evidence, expected: bytes, context: Context, elapsed_s: float) -> tuple[Grade | None, Appraisal]:
    """Verify the power test; a transcript that does not verify refuses, an absent one is `not measured`."""
    from stannary.certify.grade.transcript import verify_bench

    exam, policy = Examination("bench"), context.policy.grade
    if not evidence.bench:
        if policy.required:
            return None, missing("bench", "power test transcript")
        exam.waive("transcript", "not measured: no power test carried")
        return None, exam.close()
    try:
        grade = verify_bench(evidence.bench, expected)
    except FormatError as err:
        return None, unreadable("bench", err)
    step, code = Step.SIGNATURE, Code.SIGNATURE_INVALID
    if not exam.require("transcript", not grade.problem, step, code, observed=grade.problem):
        return None, exam.close()
    exam.waive("network", "not measured: needs a second party")
    exam.waive("passes", "memory and disk rates are by the node's own clock")
    gops = grade.int8_tops(elapsed_s) * 1000
    if elapsed_s <= 0:  # --now at the challenge's own moment
        exam.waive("power", "could not check: by the evaluation time nothing passed since the challenge was issued")
    if gops < policy.min_int8_gops:
        exam.cap(
            "power",
            Step.REFERENCE,
            0,
            observed=f"{gops:.1f} int8 GOP/s",
            expected=f">= {policy.min_int8_gops}",
            remedy="free the machine of other work and test again",
        )
    return grade, exam.close()
