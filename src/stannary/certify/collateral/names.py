"""How vendors name their collateral: paths, manifest ids, OCSP requests, all read from evidence.

Rules: what goes into a URL comes from evidence that nobody has checked yet, so it is matched against a
pattern and quoted, or there is no request. A responder named inside a certificate is asked only at a host
its vendor is known to use, or evidence could send the verifier's requests anywhere.

Sources: AMD 57230 (KDS), RFC 6960 section 4.1, RFC 5280 section 4.2.2.1. Manifest ids are spelled as NVIDIA's own
verifiers spell them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from stannary.certify.evidence import snp_report, spdm
from stannary.certify.pki import der, revocation
from stannary.certify.rules import Generation
from stannary.errors import FormatError

if TYPE_CHECKING:
    from stannary.certify.evidence.snp_report import SnpReport
    from stannary.certify.evidence.spdm import SpdmReport
    from stannary.certify.pki.certificates import Certificate

CHIP_INFO = 35  # opaque field of Blackwell reports: the chip's name
HOPPER = "GH100"
SWITCH_BOARD = "5612_0002_890"  # LS10 reports carry no project fields; NVIDIA's verifiers write this one
OCSP_HOSTS = frozenset({"ocsp.ndis.nvidia.com", "ocsp.attestation.nvidia.com"})
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN_URL = re.compile(r"https?://[a-z0-9.-]{1,100}(/[A-Za-z0-9._~/-]{0,200})?")
_AUTHORITY_INFO, _OCSP_ACCESS = "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.48.1"
_URI = 0x86  # GeneralName uniformResourceIdentifier


def product(generation: Generation) -> str:
    """Return AMD's product name of a generation."""
    return generation.value.capitalize()


def vcek_path(report: SnpReport, generation: Generation) -> str:
    """Return KDS's path of a chip's certificate: levels in decimal; Turin names a chip by 8 bytes and has FMC first."""
    level = snp_report.tcb(report.reported_tcb, generation)
    is_turin = generation is Generation.TURIN
    hwid = report.chip_id[:8] if is_turin else report.chip_id
    levels = [("blSPL", level.bootloader), ("teeSPL", level.tee), ("snpSPL", level.snp), ("ucodeSPL", level.microcode)]
    if is_turin:
        levels.insert(0, ("fmcSPL", level.fmc))
    query = "&".join(f"{label}={value:02d}" for label, value in levels)
    return f"vcek/v1/{product(generation)}/{hwid.hex()}?{query}"


def driver_rim_id(report: SpdmReport, chain: tuple[Certificate, ...]) -> str:
    """Return the id of the driver's manifest, empty if the report does not name one."""
    driver = report.text(spdm.DRIVER_VERSION)
    chip = chip_of(report, chain)
    if not all(_WORD.fullmatch(item) for item in (driver, chip)):
        return ""
    return f"NV_GPU_DRIVER_{chip}_{driver}" if chip == HOPPER else f"NV_GPU_CC_DRIVER_{chip}_{driver}"


def chip_of(report: SpdmReport, chain: tuple[Certificate, ...]) -> str:
    """Return the chip: as the report signs it (Blackwell on), else as the device's certificate is called."""
    return report.text(CHIP_INFO) or (chain[0].common_name().split(" ")[0] if chain else "")


def vbios_rim_id(report: SpdmReport, *, is_switch: bool) -> str:
    """Return the id of the VBIOS's manifest, empty if the report does not name one."""
    version = report.vbios.replace(".", "").upper()
    board = SWITCH_BOARD if is_switch else board_of(report)
    if not board or _WORD.fullmatch(version) is None:
        return ""
    return f"NV_SWITCH_BIOS_{board}_{version}" if is_switch else f"NV_GPU_VBIOS_{board}_{version}"


def board_of(report: SpdmReport) -> str:
    """Return project, project SKU and chip SKU as NVIDIA writes a board, empty if one is missing."""
    parts = [report.text(item) for item in (spdm.PROJECT, spdm.PROJECT_SKU, spdm.CHIP_SKU)]
    return "_".join(parts) if all(_WORD.fullmatch(item) for item in parts) else ""


def ocsp_request(subject: Certificate, issuer: Certificate) -> bytes:
    """Return a DER OCSPRequest for one certificate, without nonce: the answer is kept and judged by its window."""
    name_hash, key_hash = revocation.issuer_hashes(issuer, "sha384")
    try:
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name_hash, key_hash, subject.serial, hashes.SHA384()
        )
        return builder.build().public_bytes(Encoding.DER)
    except ValueError as err:
        raise FormatError("certificate's serial cannot be asked for", why=str(err)) from err


def responder(subject: Certificate) -> str:
    """Return the OCSP responder a certificate names, empty if none at an allowed host (rule 1)."""
    extension = subject.extensions.get(_AUTHORITY_INFO)
    if extension is None:
        return ""
    for access in der.sequence(extension.value, "authority information access"):
        fields = access.expect(der.SEQUENCE, "access description").children()
        if len(fields) == 2 and fields[0].oid("access method") == _OCSP_ACCESS and fields[1].tag == _URI:
            url = fields[1].body.decode("ascii", errors="replace")
            if _PLAIN_URL.fullmatch(url) and urlsplit(url).netloc in OCSP_HOSTS:
                return url
    return ""
