"""How each kind of vector case is appraised: which members it reads, and by which verifier.

A file that does not parse raises FormatError, which the runner turns into malformed evidence; collateral that
does not parse is invalid collateral. A root a case names stands in place of the pinned one, so a root that
does not read raises SpecError: without it nothing was checked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stannary.certify.evidence import ccel, event_log, quote, rim, tpm_forms
from stannary.certify.evidence import tpm as tpm_evidence
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import EMPTY, Collateral, IntelCollateral, signed_member
from stannary.certify.evidence.ear import read_jwk
from stannary.certify.evidence.intel_collateral import read_intel_collateral
from stannary.certify.evidence.kinds import VERIFIERS
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


def appraise(case: Case, now: datetime | None) -> Appraisal:
    """Appraise a case by its kind.

    Raises:
        FormatError: evidence, certificate, manifest or log does not parse.
        SpecError: the manifest is at fault, not the evidence.
    """
    kind = case.text("kind")
    if kind not in _ROOTS:
        raise SpecError("vectors kind is not known", why=f"{kind[:60]}, known: {', '.join(_ROOTS)}")
    try:
        carried = _carried(case)
    except FormatError as err:
        exam = Examination(kind)
        exam.require("collateral", False, Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=err)
        return exam.close()
    basis = Basis(
        bound=case.bound(),
        collateral=replace(carried, certificates=case.bundle("vek", "chain")),
        now=now,
        rules=_rules(case, _ROOTS[kind]),
        believes_nonce=True,
    )
    own = _OWN_WAY.get(kind)
    return examine(VERIFIERS[kind], case.evidence(), basis) if own is None else own(case, basis)


def _rules(case: Case, names: tuple[str, ...]) -> Rules:
    """Return plain rules with the case's root in place of the pinned ones it stands for, and its reference boot."""
    roots = Roots()
    if "root" in case.members:
        try:
            anchors = Anchors(certificates=case.bundle("root"))
        except FormatError as err:
            raise SpecError("manifest case's root does not read", why=str(err)) from err
        roots = replace(roots, **dict.fromkeys(names, anchors))
    return Rules(roots=roots, golden_boots=_golden(case))


def _carried(case: Case) -> Collateral:
    jwk = case.part("jwk")
    return Collateral(
        crls=tuple(revocation.parse_crl(case.file(path)) for path in case.paths("crl")),
        ocsp=tuple(revocation.parse_ocsp(case.file(path)) for path in case.paths("ocsp")),
        intel=_intel_collateral(case),
        jwk=None if jwk is None else read_jwk(jwk),
    )


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


def _event_log(case: Case, _: Basis) -> Appraisal:
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


def _nvrim_match(case: Case, basis: Basis) -> Appraisal:
    exam = Examination("nvrim-match")
    report = VERIFIERS["nvgpu"].parse(limit(case.evidence(), "device report"))
    for path in case.paths("rim"):
        manifest = rim.parse_manifest(case.file(path))
        rim.check_signed(exam, manifest, basis)
        rim.check_match(exam, manifest, report)
    if not exam.checks:
        exam.require("rim", False, Step.REFERENCE, Code.EVIDENCE_MISSING, observed="absent", expected="a manifest")
    return exam.close()


def _tpm(case: Case, basis: Basis) -> Appraisal:
    """Our form and other tools', and the files of `tpm2_quote`, which carry their certificates themselves."""
    blob = case.evidence()
    if not boot_files.is_quote(blob):
        return examine(VERIFIERS["tpm"], blob, basis)
    parts = {name: case.file(case.text(name)) for name in _BOOT_PARTS if name in case.members}
    endorsed = tuple(case.file(path) for name in ("ek_certificate", "chain") for path in case.paths(name))
    parsed = boot_files.read_boot(blob, parts, endorsed if "ek_certificate" in case.members else ())
    return VERIFIERS["tpm"].appraise(parsed, replace(basis, collateral=EMPTY))


def _golden(case: Case) -> tuple[GoldenBoot, ...]:
    """The registers of a reference boot: those that firmware, loader and kernel are measured into."""
    listed = case.part("reference_pcrs")
    if listed is None:
        return ()
    registers = boot_files.read_registers(listed).get("sha256", {})
    wanted = {index: value for index, value in registers.items() if index < tpm_evidence.NUM_LOGGED_PCRS}
    return (GoldenBoot(case.text("reference_pcrs"), wanted),)


# Which pinned roots a case's own root stands for.
_ROOTS: dict[str, tuple[str, ...]] = {
    "snp": ("amd",),
    "tdx": ("intel",),
    "sgx": ("intel",),
    "eventlog": (),
    "nvgpu": ("nvidia_device",),
    "nvgpu-json": ("nvidia_device",),
    "nvrim": ("nvidia_rim",),
    "nvrim-match": ("nvidia_rim",),
    "nitro": ("nitro",),
    "azure-snp": ("amd", "intel"),
    "azure-tdx": ("amd", "intel"),
    "tpm": ("tpm", "tpm_ak"),
    "ear": (),
}
# Kinds that are more than one piece of evidence and its collateral.
_OWN_WAY: dict[str, Callable[[Case, Basis], Appraisal]] = {
    "eventlog": _event_log,
    "nvrim-match": _nvrim_match,
    "tpm": _tpm,
}
