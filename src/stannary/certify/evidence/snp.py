"""AMD SEV-SNP evidence: a report endorsed by a VCEK (one chip) or a VLEK (one cloud).

Checks, in the order of the trust path: endorsement chain to AMD's root key of the generation; the
report's signature; revocation list; the endorsement names this chip and this TCB; the challenge;
guest policy (debug, migration, VMPL); four TCB floors; the launch measurement.

What a valid report does not show: that nobody with an interposer reads memory (TEE.fail), and on
Milan that the report came from the chip at all (arXiv 2605.12990): Milan is said in the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stannary.certify.evidence import snp_report
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.outcomes import Appraisal, Examination, Qualifier, Step
from stannary.certify.pki import certificates, der, keys
from stannary.certify.remedies import Code
from stannary.certify.rules import AMD_ROOTS, Generation, Rules, SnpTcb
from stannary.errors import FormatError

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.collateral import Collateral
    from stannary.certify.evidence.snp_report import SnpReport
    from stannary.certify.pki.certificates import Certificate
    from stannary.formats.canonical import Json

# VCEK and VLEK extensions (AMD 57230, table "VCEK certificate extensions").
_OID = "1.3.6.1.4.1.3704.1."
_OID_PRODUCT, _OID_HWID, _OID_CSP = _OID + "2", _OID + "4", _OID + "5"
_OID_TCB = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
HWID_BYTES = frozenset({8, 64})  # Turin names a chip with 8 bytes, older generations with 64


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What a VCEK or VLEK certificate says about the platform."""

    product: str
    tcb: SnpTcb
    hwid: bytes | None
    csp: str


class SnpVerifier:
    """Verifier of `snp` evidence: the 1184-byte report; VEK and chain come as collateral."""

    kind = "snp"
    places = frozenset({"cpu"})

    def parse(self, blob: bytes) -> SnpReport:
        """Read a report."""
        return snp_report.parse_report(blob)

    def collateral_keys(self, parsed: SnpReport) -> tuple[CollateralKey, ...]:
        """Name the endorsement key, its chain and its revocation list."""
        vek = "amd-vlek" if parsed.signing_key == snp_report.KEY_VLEK else "amd-vcek"
        name = f"{parsed.chip_id.hex()}/{parsed.reported_tcb.hex()}"
        return (CollateralKey(vek, name), CollateralKey("amd-chain", ""), CollateralKey("amd-crl", ""))

    def appraise(self, parsed: SnpReport, basis: Basis) -> Appraisal:
        """Check a report against its endorsement."""
        exam = Examination(self.kind)
        exam.claims.update(_claims(parsed))
        rules = basis.rules
        vek = _find_vek(basis.collateral)
        if vek is None:
            exam.refuse("vek", Step.CHAIN, Code.COLLATERAL_MISSING, observed="no VCEK or VLEK carried")
        else:
            _check_endorsed(exam, parsed, vek, basis)
        exam.require_nonce(parsed.report_data, basis.report_data)
        _check_guest(exam, parsed, rules)
        if rules.measurements:
            exam.require(
                "measurement",
                parsed.measurement.hex() in rules.measurements,
                Step.REFERENCE,
                Code.REFERENCE_MISMATCH,
                observed=parsed.measurement.hex(),
                expected="a signed launch digest",
            )
        else:
            exam.waive("measurement", "no launch digest given")
        return exam.close()


def _claims(report: SnpReport) -> dict[str, Json]:
    return {
        "version": report.version,
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "policy": f"{report.policy:#x}",
        "vmpl": report.vmpl,
        "platform": [name for bit, name in snp_report.PLATFORM_BITS.items() if report.platform_info >> bit & 1],
        "key": {snp_report.KEY_VCEK: "vcek", snp_report.KEY_VLEK: "vlek"}.get(report.signing_key, "none"),
    }


def _find_vek(collateral: Collateral) -> Certificate | None:
    """The endorsement is the one certificate that is no CA."""
    leaves = [item for item in collateral.certificates if not item.is_ca]
    return leaves[0] if leaves else None


def _check_endorsed(exam: Examination, report: SnpReport, vek: Certificate, basis: Basis) -> None:
    path = certificates.find_path(vek, basis.collateral.certificates, basis.rules.roots.amd, basis.now)
    if basis.now is None:
        exam.waive("chain-time", "no evaluation time given")
    exam.require_path("chain", path)
    exam.require(
        "signature", _signed(report, vek), Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="not made by this VEK"
    )
    if path.root is not None:
        _check_crl(exam, path.certificates, basis)
    generation = _generation(report, vek, path.root)
    if generation is None:
        exam.refuse("generation", Step.BINDING, Code.UNSUPPORTED, observed=f"CPUID {report.cpuid}")
        return
    _check_generation(exam, report, path.root, generation, basis.rules)
    try:
        endorsement = read_endorsement(vek)
    except FormatError as err:
        exam.refuse("endorsement", Step.CHAIN, Code.CHAIN_INVALID, observed=err)
        return
    _check_names(exam, report, endorsement, generation)
    _check_floors(exam, report, generation, basis.rules)


def _signed(report: SnpReport, vek: Certificate) -> bool:
    try:
        key = vek.public_key()
    except FormatError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        return False
    return keys.verify_ecdsa_raw(key, report.signature_r, report.signature_s, report.signed, hashes.SHA384())


def _generation(report: SnpReport, vek: Certificate, root: Certificate | None) -> Generation | None:
    """The generation AMD's root key names; without a chain, CPUID or product name for the findings' sake."""
    if root is not None and root.key_pin in AMD_ROOTS:
        return AMD_ROOTS[root.key_pin]
    if report.cpuid is not None:
        return snp_report.generation_of(report.cpuid)
    for generation in Generation:
        if generation.value in vek.common_name().lower() or generation.value in _product(vek).lower():
            return generation
    return None


def _check_generation(
    exam: Examination, report: SnpReport, root: Certificate | None, generation: Generation, rules: Rules
) -> None:
    exam.claims["generation"] = generation.value
    if report.cpuid is None:
        exam.not_applicable("cpuid", "report version 2 carries no CPUID")
    elif root is not None:
        named = snp_report.generation_of(report.cpuid)
        if named is None:
            exam.note("cpuid", Step.BINDING, observed=f"CPUID {report.cpuid} is new to this release")
        exam.require(
            "cpuid",
            named in {None, generation},
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed=f"CPUID {report.cpuid} is {named}",
            expected=generation.value,
        )
    if generation.value in rules.denied or report.chip_id.hex() in rules.denied:
        exam.refuse("denied", Step.TCB, Code.TCB_NOT_ALLOWED, observed=f"{generation.value} is on the deny list")
    if generation is Generation.MILAN:
        exam.qualifiers.add(Qualifier.MILAN)
        exam.cap(
            "milan",
            Step.TCB,
            1,
            observed="EPYC Milan: its endorsement seed can be extracted in software (arXiv 2605.12990)",
            expected="Genoa or later",
            remedy="use an EPYC 9004 or later machine",
        )


def read_endorsement(vek: Certificate) -> Endorsement:
    """Read the AMD extensions of a VCEK or VLEK."""
    parts = {name: _integer(vek, _OID + suffix) for name, suffix in _OID_TCB.items() if _OID + suffix in vek.extensions}
    missing = {"bootloader", "tee", "snp", "microcode"} - set(parts)
    if missing:
        raise FormatError("endorsement lacks a TCB extension", why=", ".join(sorted(missing)))
    csp = vek.extensions.get(_OID_CSP)
    return Endorsement(
        product=_product(vek),
        tcb=SnpTcb(**parts),
        hwid=_hwid(vek),
        csp="" if csp is None else der.read(csp.value, "CSP id").body.decode("ascii", errors="replace"),
    )


def _integer(vek: Certificate, oid: str) -> int:
    return der.read(vek.extensions[oid].value, "TCB extension").integer("TCB extension")


def _product(vek: Certificate) -> str:
    extension = vek.extensions.get(_OID_PRODUCT)
    if extension is None:
        return ""
    return der.read(extension.value, "product name").body.decode("ascii", errors="replace")


def _hwid(vek: Certificate) -> bytes | None:
    """Chip id: raw bytes (as AMD issues it) or wrapped in an OCTET STRING (older encoding)."""
    extension = vek.extensions.get(_OID_HWID)
    if extension is None:
        return None
    value = extension.value
    if len(value) not in HWID_BYTES:
        value = der.read(value, "chip id").expect(der.OCTET_STRING, "chip id").body
    if len(value) not in HWID_BYTES:
        raise FormatError("endorsement's chip id has another length", why=f"{len(value)} bytes")
    return value


def _check_names(exam: Examination, report: SnpReport, endorsement: Endorsement, generation: Generation) -> None:
    is_vlek = endorsement.hwid is None
    key = report.signing_key
    exam.require(
        "signing-key",
        key == (snp_report.KEY_VLEK if is_vlek else snp_report.KEY_VCEK),
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=f"report names key {key}",
        expected="1 (VLEK)" if is_vlek else "0 (VCEK)",
    )
    reported = snp_report.tcb(report.reported_tcb, generation)
    exam.require(
        "endorsed-tcb",
        endorsement.tcb == reported,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=f"report {reported}",
        expected=f"endorsement {endorsement.tcb}",
    )
    if endorsement.hwid is None or not any(report.chip_id):
        exam.qualifiers.add(Qualifier.NO_IDENTITY)
        exam.not_applicable("chip-id", f"endorsed for {endorsement.csp or 'a masked chip'}: names no machine")
        exam.cap(
            "chip-id",
            Step.BINDING,
            2,
            observed="no chip id",
            expected="a VCEK and an unmasked chip id",
            remedy="ask the operator for VCEK endorsement without MASK_CHIP_ID",
        )
        return
    hwid = endorsement.hwid
    names = report.chip_id[: len(hwid)] == hwid  # Turin writes 8 octets; what follows them is not the chip's name
    exam.require(
        "chip-id",
        names,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=report.chip_id.hex(),
        expected=hwid.hex(),
    )
    exam.identities.append(f"snp:{hwid.hex()}")


def _check_crl(exam: Examination, path: tuple[Certificate, ...], basis: Basis) -> None:
    """AMD's CRL is issued by the ARK and may withdraw the ASK or ASVK; VCEKs are never listed."""
    root, below = path[-1], path[1:-1]
    listed = [item for item in basis.collateral.crls if item.issuer == root.subject]
    if not listed:
        if basis.rules.require_revocation:
            exam.refuse("crl", Step.COLLATERAL, Code.COLLATERAL_MISSING, observed="no AMD revocation list carried")
        else:
            exam.waive("crl", "no AMD revocation list carried")
        return
    newest = max(listed, key=lambda item: item.this_update)
    problem = newest.problem(root, basis.now)
    if not exam.require("crl", not problem, Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=problem):
        return
    revoked = [item.common_name() for item in below if item.serial in newest.serials]
    exam.require("not-revoked", not revoked, Step.COLLATERAL, Code.REVOKED, observed=", ".join(revoked))


def _check_guest(exam: Examination, report: SnpReport, rules: Rules) -> None:
    """Guest policy: what the host may do to this guest."""
    debug, migrate = report.policy & snp_report.POLICY_DEBUG, report.policy & snp_report.POLICY_MIGRATE_MA
    step, code = Step.GUEST_POLICY, Code.GUEST_POLICY
    exam.require("debug", not debug, step, code, observed="DEBUG is allowed: the host can read the guest")
    exam.require("migration", not migrate, step, code, observed="a migration agent is allowed")
    most = rules.snp_max_vmpl
    exam.require("vmpl", report.vmpl <= most, step, code, observed=report.vmpl, expected=f"<= {most}")
    if not report.platform_info & snp_report.PLATFORM_ALIAS_CHECK:
        observed, expected = "ALIAS_CHECK_COMPLETE is clear (BadRAM)", "platform info bit 5"
        if rules.snp_require_alias_check:
            exam.refuse("alias-check", Step.TCB, Code.TCB_NOT_ALLOWED, observed=observed, expected=expected)
        else:
            exam.cap(
                "alias-check", Step.TCB, 1, observed=observed, expected=expected, remedy="update the BIOS (AMD-SB-3015)"
            )
    if not report.platform_info & snp_report.PLATFORM_CIPHERTEXT_HIDING:
        exam.note("ciphertext-hiding", Step.TCB, observed="off", expected="on", remedy="EPYC 9005 can switch it on")


def _check_floors(exam: Examination, report: SnpReport, generation: Generation, rules: Rules) -> None:
    """Four values, because each can lag: a host may report high and run low, or launch before an update."""
    words = {
        "reported": report.reported_tcb,
        "current": report.current_tcb,
        "committed": report.committed_tcb,
        "launch": report.launch_tcb,
    }
    levels = {name: snp_report.tcb(word, generation) for name, word in words.items()}
    exam.claims["tcb"] = {name: str(level) for name, level in levels.items()}
    # SNP_CONFIG and SNP_COMMIT (ABI specification, section 8) let neither value pass the firmware that runs.
    above = [name for name in ("reported", "committed") if not levels["current"].covers(levels[name])]
    exam.require(
        "tcb-order",
        not above,
        Step.TCB,
        Code.TCB_NOT_ALLOWED,
        observed=f"{' and '.join(above)} above current {levels['current']}",
        expected="no firmware claims more than what runs",
    )
    floor = rules.snp_floors.get(generation)
    if floor is None:
        exam.waive("tcb-floor", f"no floor set for {generation.value}")
        return
    for name, level in levels.items():
        exam.require(
            f"tcb-{name}",
            level.covers(floor),
            Step.TCB,
            Code.TCB_NOT_ALLOWED,
            observed=f"{name} {level}",
            expected=f">= {floor}",
        )
