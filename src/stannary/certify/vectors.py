"""The vectors runner: a manifest of evidence with expected outcomes, one line a case.

The manifest is `version` and `cases[]`, each `id kind evidence now expect` and members by kind; paths
are relative to it and may not leave its folder. Evidence is appraised under `Rules()`: what is true
of it without a policy, and what revocation notices say (the packaged one unless it is left out). A case
that cannot run is a mismatch, never skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stannary.certify import certificates, revocation
from stannary.certify.certificates import Anchors
from stannary.certify.collateral import Collateral, IntelCollateral, signed_member, unhex
from stannary.certify.evidence import ccel, quote, rim
from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.ear import EarVerifier
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.nvidia import DeviceVerifier, FleetVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.intel_collateral import read_intel_collateral
from stannary.certify.moments import parse_moment
from stannary.certify.outcomes import Appraisal, Examination, Step, unreadable
from stannary.certify.remedies import Code
from stannary.certify.revocation_notice import judge_identities, packaged
from stannary.certify.rules import Roots, Rules
from stannary.errors import FormatError, NotFound, StannaryError, UnsupportedFormat
from stannary.formats import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from stannary.certify.revocation_notice import Withdrawal
    from stannary.formats.canonical import Json

MAX_FILE_BYTES = 11 * 1024 * 1024  # one MiB above the evidence limit, so that the limit itself is reached
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a case gave beside what it should have given."""

    id: str
    kind: str
    expected: str
    observed: str
    detail: str
    appraisal: Appraisal | None

    @property
    def matches(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.observed == self.expected


@dataclass(frozen=True, slots=True)
class Case:
    """One case with its files' folder."""

    folder: Path
    members: dict[str, Json]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text member."""
        value = self.members.get(name, default)
        if not isinstance(value, str):
            raise FormatError("manifest case lacks a member", why=f"{name} in {self.members.get('id')!r:.60}")
        return value

    def file(self, path: str) -> bytes:
        """Read a file of the case."""
        target = (self.folder / path).resolve()
        if not target.is_relative_to(self.folder.resolve()):
            raise FormatError("manifest path leaves its folder", why=path[:120])
        try:
            with target.open("rb") as stream:
                return stream.read(MAX_FILE_BYTES)
        except OSError as err:
            raise NotFound("vector file cannot be read", why=f"{path}: {err.strerror}") from err

    def evidence(self) -> bytes:
        """Read the evidence file."""
        return self.file(self.text("evidence"))

    def bundle(self, *names: str) -> tuple[certificates.Certificate, ...]:
        """Read certificates from the files that members name, a path or a list of paths."""
        found: list[certificates.Certificate] = []
        for name in names:
            value = self.members.get(name, [])
            for path in value if isinstance(value, list) else [value]:
                if not isinstance(path, str):
                    raise FormatError("manifest path is not text", why=name)
                found.extend(certificates.load_bundle(self.file(path)))
        return tuple(found)

    def now(self, override: datetime | None) -> datetime | None:
        """Return the evaluation time; an override replaces it only where the case has one."""
        text = self.text("now", "-")
        return None if text == "-" else override or parse_moment(text)

    def bound(self) -> bytes | None:
        """Return the bytes the evidence must bind, where the case says so."""
        value = self.members.get("nonce")
        return None if value is None else unhex(value, "nonce")


def load(folder: Path) -> tuple[Case, ...]:
    """Read a manifest, `folder` being its folder or its own path."""
    path = folder / "manifest.json" if folder.is_dir() else folder
    try:
        data = path.read_bytes()
    except OSError as err:
        raise NotFound(
            "no vectors manifest", why=f"{path}: {err.strerror}", hint="stannary certify vectors DIR"
        ) from err
    manifest = canonical.decode_object(data, max_bytes=MAX_MANIFEST_BYTES)
    if manifest.get("version") != 1:
        raise UnsupportedFormat("vectors manifest version is not known", why=f"{manifest.get('version')!r:.40}")
    listed = manifest.get("cases")
    if not isinstance(listed, list) or not listed:
        raise FormatError("vectors manifest holds no cases")
    if not all(isinstance(item, dict) for item in listed):
        raise FormatError("vectors manifest case is not an object")
    return tuple(Case(path.parent, item) for item in listed if isinstance(item, dict))


def run(
    cases: tuple[Case, ...], now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] | None = None
) -> Iterator[CaseResult]:
    """Run cases one by one; `withdrawals` default to the packaged notice's."""
    for case in cases:
        yield run_case(case, now, withdrawals)


def run_case(case: Case, now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] | None = None) -> CaseResult:
    """Appraise one case; what cannot run is reported as such, never as a pass."""
    name, kind, expected = case.text("id"), case.text("kind"), case.text("expect")
    try:
        appraisal = appraise(case, now, packaged().entries if withdrawals is None else withdrawals)
    except StannaryError as err:
        return CaseResult(name, kind, expected, f"could not check: {err}", "", None)
    refusal = appraisal.refusal
    detail = "" if refusal is None else f"{refusal.id}: {refusal.observed}"
    return CaseResult(name, kind, expected, appraisal.outcome, detail[:160], appraisal)


def appraise(case: Case, now: datetime | None = None, withdrawals: tuple[Withdrawal, ...] = ()) -> Appraisal:
    """Appraise one case under the plain rules and what notices say."""
    kind = case.text("kind")
    runner = _RUNNERS.get(kind)
    if runner is None:
        raise UnsupportedFormat("vectors kind is not known", why=kind[:60])
    moment = case.now(now)
    return judge_identities(runner(case, moment), withdrawals, moment)


def _with_root(case: Case, *names: str) -> Rules:
    """Return plain rules with the case's root in place of the pinned ones it stands for."""
    if "root" not in case.members:
        return Rules()
    anchors = Anchors(certificates=case.bundle("root"))
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


def _snp(case: Case, now: datetime | None) -> Appraisal:
    crls = tuple(revocation.parse_crl(case.file(path)) for path in _paths(case, "crl"))
    carried = Collateral(certificates=case.bundle("vek", "chain"), crls=crls)
    return _appraise(SnpVerifier(), case, now, collateral=carried, rules=_with_root(case, "amd"))


def _paths(case: Case, name: str) -> list[str]:
    value = case.members.get(name, [])
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _intel(case: Case, now: datetime | None) -> Appraisal:
    rules = _with_root(case, "intel")
    try:
        collateral = Collateral(intel=_intel_collateral(case))
    except FormatError as err:
        return _broken_collateral(case, err)
    return _appraise(IntelVerifier(case.text("kind")), case, now, collateral=collateral, rules=rules)


def _broken_collateral(case: Case, err: FormatError) -> Appraisal:
    exam = Examination(case.text("kind"))
    exam.refuse("collateral", Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=err)
    return exam.close()


def _intel_collateral(case: Case) -> IntelCollateral | None:
    if "collateral" in case.members:
        return read_intel_collateral(case.file(case.text("collateral")))
    parts = case.members.get("collateral_parts")
    if not isinstance(parts, dict):
        return None
    files = {name: case.file(path) for name, path in parts.items() if isinstance(path, str)}
    missing = {"tcb_info", "qe_identity", "pck_crl", "root_crl", "tcb_chain", "qe_chain"} - set(files)
    if missing:
        return None  # a part withheld is collateral missing, like all of it
    return IntelCollateral(
        tcb_info=signed_member(files["tcb_info"], "tcbInfo", certificates.load_bundle(files["tcb_chain"])),
        qe_identity=signed_member(files["qe_identity"], "enclaveIdentity", certificates.load_bundle(files["qe_chain"])),
        pck_crl=files["pck_crl"],
        root_crl=files["root_crl"],
        pck_crl_chain=(),
    )


def _event_log(case: Case, _now: datetime | None) -> Appraisal:
    exam = Examination("eventlog")
    try:
        log = ccel.parse_ccel(case.evidence())
        parsed = quote.parse_quote(case.file(case.text("quote")))
    except FormatError as err:
        return unreadable("eventlog", err)
    ccel.check_replay(exam, log, parsed)
    return exam.close()


def _nvgpu(case: Case, now: datetime | None) -> Appraisal:
    carried = Collateral(certificates=case.bundle("chain"), ocsp=_ocsp(case))
    return _appraise(DeviceVerifier(), case, now, collateral=carried, rules=_with_root(case, "nvidia_device"))


def _nvgpu_json(case: Case, now: datetime | None) -> Appraisal:
    carried = Collateral(ocsp=_ocsp(case))
    return _appraise(
        FleetVerifier(believes_nonce=True), case, now, collateral=carried, rules=_with_root(case, "nvidia_device")
    )


def _ocsp(case: Case) -> tuple[revocation.OcspResponse, ...]:
    return tuple(revocation.parse_ocsp(case.file(path)) for path in _paths(case, "ocsp"))


def _nvrim(case: Case, now: datetime | None) -> Appraisal:
    carried = Collateral(ocsp=_ocsp(case))
    return _appraise(rim.RimVerifier(), case, now, collateral=carried, rules=_with_root(case, "nvidia_rim"))


def _nvrim_match(case: Case, now: datetime | None) -> Appraisal:
    exam = Examination("nvrim-match")
    try:
        report = DeviceVerifier().parse(case.evidence())
        manifest = rim.parse_manifest(case.file(case.text("rim")))
    except FormatError as err:
        return unreadable("nvrim-match", err)
    rim.check_signed(exam, manifest, (Collateral(), now, _with_root(case, "nvidia_rim")))
    rim.check_match(exam, manifest, report)
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
    rules = _with_root(case, "tpm")
    carried = Collateral(certificates=case.bundle("ek_certificate", "chain"))
    return _appraise(TpmVerifier(believes_nonce=True), case, now, collateral=carried, rules=rules)


def _ear(case: Case, now: datetime | None) -> Appraisal:
    jwk = canonical.decode_object(case.file(case.text("jwk"))) if "jwk" in case.members else None
    return _appraise(EarVerifier(jwk), case, now)


_RUNNERS: dict[str, Callable[[Case, datetime | None], Appraisal]] = {
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
