"""The AMD SEV-SNP attestation report (SEV-SNP ABI specification 56860, table "ATTESTATION_REPORT").

1184 bytes, little-endian. Versions 2 (Milan), 3 and 4 (CPUID), 5 (mitigation vectors). TCB version
words differ between generations: Turin puts FMC first. The layout is chosen by the generation that
the *endorsing chain* names; the report's own CPUID must agree with it where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.certify.evidence.cursor import Cursor
from stannary.certify.rules import Generation, SnpTcb
from stannary.errors import FormatError, UnsupportedFormat

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
VERSIONS = frozenset({2, 3, 4, 5})
ALGORITHM_ECDSA_P384 = 1

POLICY_MIGRATE_MA = 1 << 18
POLICY_DEBUG = 1 << 19
PLATFORM_CIPHERTEXT_HIDING = 1 << 4
PLATFORM_ALIAS_CHECK = 1 << 5
PLATFORM_BITS = {0: "smt", 1: "tsme", 2: "ecc", 3: "rapl-off", 4: "ciphertext-hiding", 5: "alias-check", 7: "tio"}

KEY_VCEK, KEY_VLEK, KEY_NONE = 0, 1, 7


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A report as signed; words that depend on the generation stay raw."""

    signed: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None  # family, model, stepping; version 3 and later
    chip_id: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    signature_r: bytes  # big-endian
    signature_s: bytes

    @property
    def signing_key(self) -> int:
        """Which key signed: 0 VCEK, 1 VLEK, 7 none (flags bits 2..4)."""
        return self.flags >> 2 & 7


def parse_report(data: bytes) -> SnpReport:
    """Read a report."""
    if len(data) != REPORT_BYTES:
        raise FormatError("not an SNP report", why=f"{len(data):,} bytes, expected {REPORT_BYTES}")
    cursor = Cursor(data, "SNP report")
    version = cursor.little(4)
    if version not in VERSIONS:
        raise UnsupportedFormat("SNP report version is not known", why=str(version))
    guest_svn, policy = cursor.little(4), cursor.little(8)
    family_id, image_id, vmpl = cursor.take(16), cursor.take(16), cursor.little(4)
    algorithm = cursor.little(4)
    if algorithm != ALGORITHM_ECDSA_P384:
        raise UnsupportedFormat("SNP signature algorithm is not known", why=str(algorithm))
    current_tcb, platform_info = cursor.take(8), cursor.little(8)
    flags, _reserved = cursor.little(4), cursor.take(4)
    report_data, measurement, host_data = cursor.take(64), cursor.take(48), cursor.take(32)
    id_key_digest, author_key_digest = cursor.take(48), cursor.take(48)
    report_id, _report_id_ma = cursor.take(32), cursor.take(32)
    reported_tcb = cursor.take(8)
    family, model, stepping = cursor.take(3)
    cursor.take(21)
    chip_id, committed_tcb = cursor.take(64), cursor.take(8)
    cursor.take(8)  # firmware build numbers, current and committed
    launch_tcb = cursor.take(8)
    cursor.take(SIGNED_BYTES - cursor.offset)
    r, s = cursor.take(72)[::-1], cursor.take(72)[::-1]
    if any(cursor.take(cursor.remaining)):
        raise FormatError("SNP report has bytes behind its signature", why="reserved, and covered by nothing")
    return SnpReport(
        signed=data[:SIGNED_BYTES],
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb,
        platform_info=platform_info,
        flags=flags,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        reported_tcb=reported_tcb,
        cpuid=(family, model, stepping) if version >= 3 else None,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        launch_tcb=launch_tcb,
        signature_r=r,
        signature_s=s,
    )


def tcb(word: bytes, generation: Generation) -> SnpTcb:
    """Read a TCB_VERSION word (ABI specification, "TCB_VERSION")."""
    if generation is Generation.TURIN:
        return SnpTcb(fmc=word[0], bootloader=word[1], tee=word[2], snp=word[3], microcode=word[7])
    return SnpTcb(bootloader=word[0], tee=word[1], snp=word[6], microcode=word[7])


def generation_of(cpuid: tuple[int, int, int]) -> Generation | None:
    """Return the generation of a CPUID family and model, None for one we do not know."""
    family, model, _ = cpuid
    if family == 0x19:
        if model <= 0x0F:
            return Generation.MILAN
        if 0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF:
            return Generation.GENOA
    if family == 0x1A and model <= 0x1F:
        return Generation.TURIN
    return None
