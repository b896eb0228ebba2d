"""How each kind of vector case is appraised: which members it reads, and by which verifier.

A file that does not parse raises FormatError, which the runner turns into malformed evidence; collateral that
does not parse is invalid collateral. A root a case names stands in place of the pinned one, so a root that
does not read raises SpecError: without it nothing was checked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stannary.certify.evidence import ccel, ear, event_log, quote, rim, tpm_forms
from stannary.certify.evidence import tpm as tpm_evidence
from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.collateral import Collateral, IntelCollateral, signed_member
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.intel_collateral import read_intel_collateral
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.nvidia import DeviceVerifier, FleetVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine, limit
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, revocation
from stannary.certify.pki.certificates import Anchors
from stannary.certify.remedies import Code
from stannary.certify.rules import GoldenBoot, Roots, Rules
from stannary.certify.vectors import boot_files
from stannary.errors import FormatError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from stannary.certify.evidence.tpm_structures import Registers
    from stannary.certify.vectors.cases import Case

_INTEL_PARTS = frozenset({"tcb_info", "qe_identity", "pck_crl", "root_crl", "tcb_chain", "qe_chain"})
_BOOT_PARTS = ("signature", "ak", "ak_name", "pcrs", "log")


def _with_root(case: Case, *names: str) -> Rules:
    """Return plain rules with the case's root in place of the pinned ones it stands for."""
    if "root" not in case.members:
        return Rules()
    try:
        anchors = Anchors(certificates=case.bundle("root"))
    except FormatError as err:
        raise SpecError("manifest case's root does not read", why=str(err)) from err
    return Rules(roots=replace(Roots(), **dict.fromkeys(names, anchors)))


def _appraise(
    verifier: Any, case: Case, now: datetime | None, *, collateral: Collateral | None = None, rules: Rules | None = None
) -> Appraisal:
    return examine(
        verifier,
        case.evidence(),
        bound=case.bound(),
        collateral=collateral or Collateral(),
        now=now,
        rules=rules or Rules(),
    )


def _broken_collateral(case: Case, err: FormatError) -> Appraisal:
    exam = Examination(case.text("kind"))
    exam.require("collateral", False, Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=err)
    return exam.close()


def _snp(case: Case, now: datetime | None) -> Appraisal:
    try:
        crls = tuple(revocation.parse_crl(case.file(path)) for path in case.paths("crl"))
    except FormatError as err:
        return _broken_collateral(case, err)
    carried = Collateral(certificates=case.bundle("vek", "chain"), crls=crls)
    return _appraise(SnpVerifier(), case, now, collateral=carried, rules=_with_root(case, "amd"))


def _intel(case: Case, now: datetime | None) -> Appraisal:
    rules = _with_root(case, "intel")
    try:
        collateral = Collateral(intel=_intel_collateral(case))
    except FormatError as err:
        return _broken_collateral(case, err)
    return _appraise(IntelVerifier(case.text("kind")), case, now, collateral=collateral, rules=rules)


def _intel_collateral(case: Case) -> IntelCollateral | None:
    whole = case.part("collateral")
    if whole is not None:
        return read_intel_collateral(whole)
    parts = case.members.get("collateral_parts")
    if not isinstance(parts, dict):
        return None
    files = {name: case.file(path) for name, path in parts.items() if isinstance(path, str)}
    if _INTEL_PARTS - set(files):
        return None  # a part withheld is collateral missing, like all of it
    return IntelCollateral(
        tcb_info=signed_member(files["tcb_info"], "tcbInfo", certificates.load_bundle(files["tcb_chain"])),
        qe_identity=signed_member(files["qe_identity"], "enclaveIdentity", certificates.load_bundle(files["qe_chain"])),
        pck_crl=revocation.crl_der(files["pck_crl"]),
        root_crl=revocation.crl_der(files["root_crl"]),
        pck_crl_chain=(),
    )


def _event_log(case: Case, _now: datetime | None) -> Appraisal:
    """Replay a log against a TD's quote, or against a TPM's quoted registers."""
    exam = Examination("eventlog")
    log = ccel.parse_ccel(limit(case.evidence(), "event log"))
    quoted, registers = case.part("quote"), case.part("pcrs")
    if quoted is not None and quote.is_quote(quoted):
        ccel.check_replay(exam, log, quote.parse_quote(quote.binary(quoted)))
    elif quoted is not None:
        parsed = tpm_forms.parse(quoted)
        _check_registers(exam, log, parsed.attest.covered(parsed.banks))
    elif registers is not None:
        _check_registers(exam, log, boot_files.read_registers(registers))
    else:
        exam.require(
            "registers", False, Step.REPLAY, Code.EVIDENCE_MISSING, observed="absent", expected="quoted registers"
        )
    return exam.close()


def _check_registers(exam: Examination, log: event_log.EventLog, registers: Registers) -> None:
    tpm_evidence.check_log(exam, log, registers)
    if not any(row.id.endswith("-replay") and row.state == "checked" for row in exam.checks) and not exam.findings:
        exam.refuse("registers", Step.REPLAY, Code.EVIDENCE_MISSING, observed="no register of this log is given")


def _nvgpu(case: Case, now: datetime | None) -> Appraisal:
    try:
        answers = _ocsp(case)
    except FormatError as err:
        return _broken_collateral(case, err)
    carried = Collateral(certificates=case.bundle("chain"), ocsp=answers)
    return _appraise(DeviceVerifier(), case, now, collateral=carried, rules=_with_root(case, "nvidia_device"))


def _nvgpu_json(case: Case, now: datetime | None) -> Appraisal:
    try:
        carried = Collateral(ocsp=_ocsp(case))
    except FormatError as err:
        return _broken_collateral(case, err)
    verifier = FleetVerifier(believes_nonce=True)
    return _appraise(verifier, case, now, collateral=carried, rules=_with_root(case, "nvidia_device"))


def _ocsp(case: Case) -> tuple[revocation.OcspResponse, ...]:
    return tuple(revocation.parse_ocsp(case.file(path)) for path in case.paths("ocsp"))


def _nvrim(case: Case, now: datetime | None) -> Appraisal:
    try:
        carried = Collateral(ocsp=_ocsp(case))
    except FormatError as err:
        return _broken_collateral(case, err)
    return _appraise(rim.RimVerifier(), case, now, collateral=carried, rules=_with_root(case, "nvidia_rim"))


def _nvrim_match(case: Case, now: datetime | None) -> Appraisal:
    exam = Examination("nvrim-match")
    report = DeviceVerifier().parse(limit(case.evidence(), "device report"))
    for path in case.paths("rim"):
        manifest = rim.parse_manifest(case.file(path))
        rim.check_signed(exam, manifest, (Collateral(), now, _with_root(case, "nvidia_rim")))
        rim.check_match(exam, manifest, report)
    if not exam.checks:
        exam.require("rim", False, Step.REFERENCE, Code.EVIDENCE_MISSING, observed="absent", expected="a manifest")
    return exam.close()


def _nitro(case: Case, now: datetime | None) -> Appraisal:
    return _appraise(NitroVerifier(), case, now, rules=_with_root(case, "nitro"))


def _azure(case: Case, now: datetime | None) -> Appraisal:
    """The binding is the case here: the generation cap and a masked chip are matters of tier."""
    rules = _with_root(case, "amd", "intel")
    try:
        intel = _intel_collateral(case)
    except FormatError as err:
        return _broken_collateral(case, err)
    carried = Collateral(certificates=case.bundle("vek", "chain"), intel=intel)
    return _appraise(AzureVerifier(case.text("kind")), case, now, collateral=carried, rules=rules)


def _tpm(case: Case, now: datetime | None) -> Appraisal:
    rules = _golden(case, _with_root(case, "tpm", "tpm_ak"))
    verifier = TpmVerifier(believes_nonce=True)
    blob = case.evidence()
    if not boot_files.is_quote(blob):
        carried = Collateral(certificates=case.bundle("chain"))
        return examine(verifier, blob, bound=case.bound(), collateral=carried, now=now, rules=rules)
    parts = {name: case.file(case.text(name)) for name in _BOOT_PARTS if name in case.members}
    endorsed = tuple(case.file(path) for name in ("ek_certificate", "chain") for path in case.paths(name))
    parsed = boot_files.read_boot(blob, parts, endorsed if "ek_certificate" in case.members else ())
    return verifier.appraise(parsed, bound=case.bound(), collateral=Collateral(), now=now, rules=rules)


def _golden(case: Case, rules: Rules) -> Rules:
    """Add the registers of a reference boot: those that firmware, loader and kernel are measured into."""
    listed = case.part("reference_pcrs")
    if listed is None:
        return rules
    registers = boot_files.read_registers(listed).get("sha256", {})
    wanted = {index: value for index, value in registers.items() if index < tpm_evidence.NUM_LOGGED_PCRS}
    return replace(rules, golden_boots=(GoldenBoot(case.text("reference_pcrs"), wanted),))


def _ear(case: Case, now: datetime | None) -> Appraisal:
    key = case.part("jwk")
    try:
        jwk = None if key is None else ear.read_jwk(key)
    except FormatError as err:
        return _broken_collateral(case, err)
    return _appraise(ear.EarVerifier(jwk), case, now)


KINDS: dict[str, Callable[[Case, datetime | None], Appraisal]] = {
    "snp": _snp,
    "tdx": _intel,
    "sgx": _intel,
    "eventlog": _event_log,
    "nvgpu": _nvgpu,
    "nvgpu-json": _nvgpu_json,
    "nvrim": _nvrim,
    "nvrim-match": _nvrim_match,
    "nitro": _nitro,
    "azure-snp": _azure,
    "azure-tdx": _azure,
    "tpm": _tpm,
    "ear": _ear,
}
