"""Azure confidential VMs: a hardware report that vouches for a vTPM key, and that key's quote.

The chain of trust: AMD or Intel report -> SHA-256 of the HCL runtime claims in its report data ->
`HCLAkPub` in those claims -> vTPM quote. The hardware report is made once at boot: **freshness is
only in the vTPM quote**, and only where it carries the challenge; so the paravisor that owns the
vTPM is part of what is trusted (it runs at VMPL 0 and its measurement is a claim).

Evidence is JSON: `hcl_report`, `tpm_quote {message, signature, pcrs}`, and `vcek` or `td_quote`; older
collectors write `report`, `quote` and arrays of numbers. All three spellings are read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stannary.certify.anchor import report_data
from stannary.certify.evidence import quote as dcap
from stannary.certify.evidence import tpm as tpm_evidence
from stannary.certify.evidence import tpm_structures as tpm
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.evidence.cursor import Cursor
from stannary.certify.evidence.intel import IntelVerifier, check_guest, check_signatures
from stannary.certify.evidence.quote import EnclaveBody, TdBody
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.snp_report import REPORT_BYTES, parse_report
from stannary.certify.octets import unhex
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates
from stannary.certify.remedies import Code
from stannary.errors import FormatError, UnsupportedFormat
from stannary.formats import canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.quote import Quote
    from stannary.certify.evidence.snp_report import SnpReport
    from stannary.certify.evidence.tpm_structures import Attest, Signature
    from stannary.certify.pki.certificates import Certificate
    from stannary.formats.canonical import Json

MAX_EVIDENCE_BYTES = 1 << 20
MAX_RUNTIME_BYTES = 32 * 1024
_MAGIC = b"HCLA"
_REPORT_SNP, _REPORT_TDX = 2, 4
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
_VERSIONS = frozenset({1, 2})
_HEADER_BYTES, _CLAIMS_HEADER_BYTES = 32, 20
_REQUEST_REPORT = 2
# A TDREPORT (TDX module ABI): REPORTMACSTRUCT of 256 bytes, TEE_TCB_INFO of 239, 17 reserved, TDINFO of 512.
_MAC_BYTES, _TCB_INFO_BYTES, _TD_INFO_OFFSET, _TD_REPORT_BYTES = 256, 239, 512, 1024
_TD_REPORT_RESERVED = ((4, 16), (192, 224), (495, 512), (_TD_REPORT_BYTES, REPORT_BYTES))
_ATTESTATION_KEY = "HCLAkPub"


@dataclass(frozen=True, slots=True)
class HclReport:
    """The paravisor's report: hardware report, and the runtime claims it hashes."""

    hardware: bytes
    report_type: int
    hash_name: str
    runtime: bytes
    attestation_key: rsa.RSAPublicKey
    user_data: bytes  # what the guest asked the paravisor to hash along, empty if nothing

    @property
    def is_tdx(self) -> bool:
        """Whether the hardware report is a TD report."""
        return self.report_type == _REPORT_TDX

    @property
    def report_data(self) -> bytes:
        """REPORTDATA of a TD report."""
        return self.hardware[128:192]  # REPORTMACSTRUCT.REPORTDATA (TDX module ABI)


@dataclass(frozen=True, slots=True)
class AzureEvidence:
    """One composite."""

    hcl: HclReport
    snp: SnpReport | None
    td_quote: Quote | None
    endorsement: tuple[Certificate, ...]
    attest: Attest
    signature: Signature
    pcrs: dict[int, bytes]


class AzureVerifier:
    """Verifier of `azure-snp` or `azure-tdx` evidence."""

    places = frozenset({"cpu"})

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def parse(self, blob: bytes) -> AzureEvidence:
        """Read a composite of this verifier's hardware."""
        return parse_composite(blob, is_tdx=self.kind == "azure-tdx")

    def collateral_keys(self, parsed: AzureEvidence) -> tuple[CollateralKey, ...]:
        """Name what the hardware report needs."""
        if parsed.snp is not None:
            return SnpVerifier().collateral_keys(parsed.snp)
        return () if parsed.td_quote is None else IntelVerifier("tdx").collateral_keys(parsed.td_quote)

    def appraise(self, parsed: AzureEvidence, basis: Basis) -> Appraisal:
        """Check hardware report, binding and quote."""
        exam = Examination(self.kind)
        if parsed.snp is not None:
            carried = basis.collateral.with_certificates(*parsed.endorsement)
            layer = SnpVerifier().appraise(parsed.snp, replace(basis, bound=None, collateral=carried))
            exam.claims["snp"] = layer.claims
            exam.absorb(layer, "snp")
            self._check_binding(exam, parsed, parsed.snp.report_data)
        elif parsed.td_quote is not None:
            _check_td(exam, parsed.td_quote, basis)
            self._check_binding(exam, parsed, parsed.td_quote.body.report_data)
            exam.require(
                "td-report",
                _is_quoted(parsed.hcl.hardware, parsed.td_quote.body),
                Step.BINDING,
                Code.BINDING_MISMATCH,
                observed="HCL report and TD quote are of two different reports",
            )
        self._check_quote(exam, parsed, basis.bound)
        if basis.rules.golden_boots:
            quoted = parsed.attest.covered({"sha256": parsed.pcrs})
            tpm_evidence.check_golden(exam, None, quoted.get("sha256", {}), basis.rules)
        else:  # the launch measurement is the paravisor's: any system may run above it
            exam.waive("guest.measurement", "no reference boot given for the registers of the guest's vTPM")
        return exam.close()

    def _check_binding(self, exam: Examination, parsed: AzureEvidence, report_data: bytes) -> None:
        named = hashlib.new(parsed.hcl.hash_name, parsed.hcl.runtime).digest()
        exam.require(
            "runtime-claims",
            report_data == named.ljust(len(report_data), b"\0"),
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed=f"hardware vouches for {report_data[: len(named)].hex()}",
            expected=named.hex(),
        )

    def _check_quote(self, exam: Examination, parsed: AzureEvidence, bound: bytes | None) -> None:
        exam.require(
            "signature",
            tpm.verify(parsed.hcl.attestation_key, parsed.signature, parsed.attest.raw),
            Step.SIGNATURE,
            Code.SIGNATURE_INVALID,
            observed="vTPM quote is not signed by HCLAkPub",
        )
        tpm_evidence.check_registers(exam, parsed.attest, {"sha256": parsed.pcrs}, parsed.signature.digest)
        tpm_evidence.check_challenge(exam, parsed.attest, bound)
        # Freshness is the quote's; a collector of ours also has the hardware report made anew over the anchor.
        exam.claims["hardware_report_fresh"] = bound is not None and parsed.hcl.user_data == report_data(bound)
        exam.claims["reset_count"] = parsed.attest.reset_count
        exam.claims["pcrs"] = {str(index): value.hex() for index, value in sorted(parsed.pcrs.items()) if any(value)}


def _is_quoted(report: bytes, body: TdBody | EnclaveBody) -> bool:
    """Whether a TDREPORT is the one a quote was made of: its own hashes hold and it says what the quote says."""
    if not isinstance(body, TdBody) or any(any(report[start:end]) for start, end in _TD_REPORT_RESERVED):
        return False
    head = Cursor(report[:_MAC_BYTES], "TD report header")
    head.take(32)
    hashes, report_data = (head.take(48), head.take(48)), head.take(64)
    tcb_info = report[_MAC_BYTES : _MAC_BYTES + _TCB_INFO_BYTES]
    td_info = report[_TD_INFO_OFFSET:_TD_REPORT_BYTES]
    if hashes != (hashlib.sha384(tcb_info).digest(), hashlib.sha384(td_info).digest()):
        return False
    quoted_tcb = body.tee_tcb_svn + body.mr_seam + body.mr_signer_seam + body.seam_attributes
    quoted_td = body.td_attributes.to_bytes(8, "little") + body.xfam + body.mr_td + body.mr_config_id
    quoted_td += body.mr_owner + body.mr_owner_config + b"".join(body.rtmrs)
    return (
        report_data == body.report_data
        and tcb_info[8 : 8 + len(quoted_tcb)] == quoted_tcb
        and td_info[: len(quoted_td)] == quoted_td
    )


def _check_td(exam: Examination, parsed: Quote, basis: Basis) -> None:
    if basis.collateral.intel is not None:
        layer = IntelVerifier("tdx").appraise(parsed, replace(basis, bound=None))
        exam.claims["tdx"] = layer.claims
        exam.tcb_status = layer.tcb_status
        exam.absorb(layer, "tdx")
        return
    part = Examination("tdx")
    check_signatures(part, parsed, basis)
    check_guest(part, parsed)
    part.waive("tcb", "could not check: no Intel collateral carried")
    part.cap(
        "tcb",
        Step.TCB,
        1,
        observed="the platform's TCB status is unknown",
        expected="UpToDate",
        remedy="carry Intel's TCB info, QE identity and revocation lists",
    )
    exam.absorb(part.close(), "tdx")


def parse_composite(blob: bytes, *, is_tdx: bool) -> AzureEvidence:
    """Read any of the three JSON spellings."""
    members = canonical.decode_object(blob, max_bytes=MAX_EVIDENCE_BYTES)
    inner = members.get("evidence")
    if isinstance(inner, dict):
        members = inner
    hcl = parse_hcl(_octets(members.get("hcl_report", members.get("report")), "HCL report"))
    if hcl.report_type != (_REPORT_TDX if is_tdx else _REPORT_SNP):
        raise FormatError("HCL report is of other hardware", why=f"type {hcl.report_type}")
    quote = members.get("tpm_quote", members.get("quote"))
    if not isinstance(quote, dict):
        raise FormatError("Azure evidence lacks its vTPM quote")
    endorsement: tuple[Certificate, ...] = ()
    if not is_tdx and members.get("vcek") is not None:
        endorsement = certificates.load_bundle(_octets(members["vcek"], "VCEK"))
    signature = _octets(quote.get("signature"), "vTPM signature")
    return AzureEvidence(
        hcl=hcl,
        snp=None if is_tdx else parse_report(hcl.hardware),
        td_quote=dcap.parse_quote(_octets(members.get("td_quote"), "TD quote")) if is_tdx else None,
        endorsement=endorsement,
        attest=tpm.parse_attest(_octets(quote.get("message"), "vTPM quote")),
        signature=tpm.Signature(tpm.ALG_RSASSA, "sha256", (signature,)),
        pcrs=_pcrs(quote.get("pcrs")),
    )


def parse_hcl(data: bytes) -> HclReport:
    """Read the paravisor's report: header, hardware report, runtime data header and claims."""
    cursor = Cursor(data, "HCL report")
    if cursor.take(4) != _MAGIC:
        raise FormatError("not an HCL report", why="no HCLA magic")
    version, whole = cursor.little(4), cursor.little(4)
    request, status, reserved = cursor.little(4), cursor.little(4), cursor.take(12)
    if version not in _VERSIONS:
        raise UnsupportedFormat("HCL report version is not known", why=str(version))
    if request != _REQUEST_REPORT or status or any(reserved):
        raise FormatError("HCL report is not a report's answer", why=f"request {request}, status {status}")
    hardware = cursor.take(REPORT_BYTES)
    data_bytes, data_version = cursor.little(4), cursor.little(4)
    report_type, hash_type, size = cursor.little(4), cursor.little(4), cursor.little(4)
    if data_version != 1:
        raise UnsupportedFormat("HCL runtime data version is not known", why=str(data_version))
    # No signature covers these sizes: they are held to one another, so that nothing can ride along between them.
    if data_bytes != _CLAIMS_HEADER_BYTES + size or whole != _HEADER_BYTES + REPORT_BYTES + data_bytes:
        raise FormatError("HCL report's sizes do not agree", why=f"{whole}, {data_bytes} and {size} bytes")
    if report_type not in {_REPORT_SNP, _REPORT_TDX} or hash_type not in _HASHES:
        raise UnsupportedFormat("HCL report type is not known", why=f"type {report_type}, hash {hash_type}")
    if size > MAX_RUNTIME_BYTES:
        raise FormatError("HCL runtime claims too large", why=f"{size:,} bytes")
    runtime = cursor.take(size)
    if any(cursor.take(cursor.remaining)):
        raise FormatError("HCL report has trailing bytes")
    claims = canonical.decode_object(runtime, max_bytes=MAX_RUNTIME_BYTES)
    return HclReport(hardware, report_type, _HASHES[hash_type], runtime, _attestation_key(claims), _user_data(claims))


def _user_data(claims: dict[str, Json]) -> bytes:
    """Read what only ever adds a claim: spelled in another way it is as good as absent."""
    try:
        return unhex(claims.get("user-data"), "user data")
    except FormatError:
        return b""


def _attestation_key(claims: dict[str, Json]) -> rsa.RSAPublicKey:
    listed = claims.get("keys")
    found = [
        item
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and item.get("kid") == _ATTESTATION_KEY
    ]
    if len(found) != 1 or found[0].get("kty") != "RSA":
        raise FormatError("HCL runtime claims name no attestation key", why=f"{len(found)} of {_ATTESTATION_KEY}")
    modulus, exponent = _octets(found[0].get("n"), "modulus"), _octets(found[0].get("e"), "exponent")
    return tpm.rsa_key(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))


def _pcrs(listed: Json) -> dict[int, bytes]:
    if not isinstance(listed, list) or len(listed) > tpm.NUM_PCRS:
        raise FormatError("vTPM quote lacks its registers")
    found = {index: _octets(item, "register") for index, item in enumerate(listed)}
    if any(len(value) != 32 for value in found.values()):
        raise FormatError("vTPM register is not SHA-256")
    return found


def _octets(value: Json, what: str) -> bytes:
    """Read bytes written as hex, base64, base64url, PEM text or an array of numbers."""
    if isinstance(value, list):
        if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 255 for item in value):
            raise FormatError(f"{what} is not an array of octets")
        return bytes(item for item in value if isinstance(item, int))
    if not isinstance(value, str) or not value.isascii():
        raise FormatError(f"{what} is missing or not text")
    if value.startswith("-----BEGIN"):
        return value.encode("ascii")
    if len(value) % 2 == 0 and all(char in "0123456789abcdefABCDEF" for char in value):
        return bytes.fromhex(value)
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError(f"{what} is neither hex nor base64", why=str(err)) from err
