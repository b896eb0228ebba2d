"""Appraise a node's whole evidence: every layer, one anchor, one tier.

Rules:
1. The anchor is computed from the verifier's own challenge and the key the node binds. Every layer
   must carry it (devices: the nonce derived from it), so layers of two machines do not mix.
2. A layer the policy or the claims ask for and the node did not send is a refused layer.
3. One hardware identity appears once, in this evidence and in the registry the caller gives.
4. The node's own hints can only lower: a node that says its GPU runs in DevTools mode is believed.

Pure: challenge, time, policy, references and registry are arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stannary.certify import references
from stannary.certify.anchor import anchor, device_nonce
from stannary.certify.evidence import ccel, rim
from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.nvidia import DeviceVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.moments import parse_moment
from stannary.certify.outcomes import Appraisal, Examination, Step, missing, unreadable
from stannary.certify.remedies import Code
from stannary.certify.tiers import Decision, decide
from stannary.errors import FormatError, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from stannary.certify.challenge import Challenge, Memory
    from stannary.certify.envelope import Evidence, Part
    from stannary.certify.grade.scu import Grade
    from stannary.certify.policy import Policy
    from stannary.formats import dsse
    from stannary.formats.canonical import Json

_CLAIM = re.compile(r"(\d{1,3})\s*x\s*([A-Za-z0-9 ]{2,40})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the verifier brings to an appraisal."""

    now: datetime
    policy: Policy
    memory: Memory | None = None
    references: tuple[dsse.Envelope, ...] = ()
    vouchers: tuple[dsse.Envelope, ...] = ()
    registry: frozenset[str] = frozenset()  # identities of *other* nodes
    denied: frozenset[str] = frozenset()
    spent: bool = False  # the challenge was answered before
    claims: str = ""  # what the seller claims, e.g. "8xH200"


@dataclass(frozen=True, slots=True)
class Result:
    """An appraised machine."""

    parts: dict[str, Appraisal]
    decision: Decision
    identities: tuple[str, ...]
    grade: Grade | None
    accepted: bool
    reason: str
    elapsed_s: float  # from challenge to appraisal, by the verifier's clock


def appraise(evidence: Evidence, challenge: Challenge, context: Context) -> Result:
    """Appraise every layer and decide the tier."""
    expected = anchor(challenge.nonce_bytes, evidence.key_hash)
    golden = references.golden_boots(context.references, context.policy)
    rules = context.policy.rules(golden, context.denied)
    parts: dict[str, Appraisal] = {"challenge": _challenge(evidence, challenge, context)}
    for name, part in evidence.parts.items():
        parts[name] = _layer(name, part, expected, (context, rules))
    for name in _expected_layers(evidence, context):
        if not any(key == name or key.startswith(f"{name}/") for key in evidence.parts):
            parts[name] = missing(name, f"{name} evidence")
    parts["host"] = _host(evidence.host)
    identities = tuple(item for appraisal in parts.values() for item in appraisal.identities)
    parts["identity"] = _collisions(identities, context)
    elapsed_s = (context.now - parse_moment(challenge.issued_at)).total_seconds()
    grade, parts["bench"] = _grade(evidence, expected, context, elapsed_s)
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


def _layer(name: str, part: Part, expected: bytes, context: tuple[Context, Any]) -> Appraisal:
    outer, rules = context
    try:
        verifier, bound = _verifier(name, part, expected, outer)
        collateral = part.collateral()
    except FormatError as err:
        return unreadable(part.kind, err)
    appraisal = examine(verifier, part.evidence, bound=bound, collateral=collateral, now=outer.now, rules=rules)
    if part.kind == "nvgpu":
        return _with_manifests(name, appraisal, part, (collateral, outer, rules))
    return _with_log(appraisal, part) if part.kind == "tdx" else appraisal


def _verifier(name: str, part: Part, expected: bytes, context: Context) -> tuple[Any, bytes]:
    place, _, ueid = name.partition("/")
    memory = context.memory
    made: dict[tuple[str, str], Callable[[], Any]] = {
        ("tpm", "tpm"): lambda: TpmVerifier(memory.activation(), memory.session()) if memory else TpmVerifier(),
        ("cpu", "snp"): SnpVerifier,
        ("cpu", "nitro"): NitroVerifier,
        ("cpu", "tdx"): lambda: IntelVerifier("tdx"),
        ("cpu", "sgx"): lambda: IntelVerifier("sgx"),
        ("cpu", "azure-snp"): lambda: AzureVerifier("azure-snp"),
        ("cpu", "azure-tdx"): lambda: AzureVerifier("azure-tdx"),
        ("gpu", "nvgpu"): DeviceVerifier,
        ("nvswitch", "nvgpu"): DeviceVerifier,
    }
    maker = made.get((place, part.kind))
    if maker is None:
        raise UnsupportedFormat("submodule does not hold this kind of evidence", why=f"{part.kind[:40]} in {name}")
    return maker(), device_nonce(expected, ueid) if ueid else expected


def _with_manifests(name: str, appraisal: Appraisal, part: Part, context: tuple[Any, Context, Any]) -> Appraisal:
    """Compare a device with the reference manifests carried for it."""
    collateral, outer, rules = context
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
    if not part.rims:
        exam.waive("golden", "no reference manifests carried")
        return exam.close()
    report = DeviceVerifier().parse(part.evidence)
    for number, data in enumerate(part.rims):
        try:
            manifest = rim.parse_manifest(data)
        except FormatError as err:
            exam.refuse(f"rim{number}", Step.PARSE, Code.MALFORMED, observed=err)
            continue
        rim.check_signed(exam, manifest, (collateral, outer.now, rules))
        rim.check_match(exam, manifest, report)
    return exam.close()


def _with_log(appraisal: Appraisal, part: Part) -> Appraisal:
    """Replay a TD's event log to the runtime registers of its quote."""
    exam = Examination.reopen(appraisal)
    if not part.log:
        exam.waive("rtmr", "no CCEL event log carried")
        return exam.close()
    try:
        ccel.check_replay(exam, ccel.parse_ccel(part.log), IntelVerifier("tdx").parse(part.evidence))
    except FormatError as err:
        exam.refuse("rtmr", Step.REPLAY, Code.MALFORMED, observed=err)
    return exam.close()


def claimed_devices(claims: str) -> tuple[int, str]:
    """Read a seller's claim such as `8xH200`; (0, "") where none is made."""
    match = _CLAIM.search(claims)
    return (0, "") if match is None else (int(match.group(1)), match.group(2).strip())


def _expected_layers(evidence: Evidence, context: Context) -> list[str]:
    wanted = list(context.policy.required)
    listed = evidence.host.get("gpus")
    if context.policy.gpu.required or claimed_devices(context.claims)[0] or (isinstance(listed, list) and listed):
        wanted.append("gpu")
    return list(dict.fromkeys(wanted))


def _host(host: dict[str, Json]) -> Appraisal:
    """Rule 4: what a node says against itself."""
    exam = Examination("host")
    listed = host.get("gpus")
    for number, device in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(device, dict):
            continue
        if device.get("devtools") is True:
            observed = f"GPU {number} runs in DevTools mode"
            exam.refuse(f"gpu{number}-devtools", Step.GUEST_POLICY, Code.DEBUG_DEVICE, observed=observed)
        if device.get("cc") is False:
            observed = f"GPU {number} runs with confidential computing off"
            exam.refuse(f"gpu{number}-cc", Step.GUEST_POLICY, Code.CC_OFF, observed=observed)
    if not exam.findings:
        exam.not_applicable("hints", "the host's own words raise nothing")
    return exam.close()


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
    _count_devices(exam, grade, context)
    gops = grade.int8_tops(elapsed_s) * 1000
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


def _count_devices(exam: Examination, grade: Grade, context: Context) -> None:
    """All claimed accelerators answer at once, or the claim is refused: one card cannot play eight."""
    claimed, model = claimed_devices(context.claims)
    shown = sum("cuda" in item.device for item in grade.powers)
    if not claimed:
        exam.not_applicable("devices", "no accelerators are claimed")
        return
    exam.require(
        "devices",
        shown >= claimed,
        Step.REFERENCE,
        Code.EVIDENCE_MISSING,
        observed=f"{shown} accelerators in the power test",
        expected=f"{claimed} x {model}",
    )
