"""Intel DCAP quotes, versions 3 (SGX), 4 and 5 (SGX and TDX).

Layout: header 48 bytes, body, signature section (Intel TDX DCAP Quoting Library API, appendix A).
Version 5 puts a body type and size before the body. The PCK chain of the platform is inside.
The quote ends where its signature section says (section A.3): hosts hand out fixed-size buffers, and what lies
behind the quote is not part of it. No signature covers it and nothing here reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.certify.evidence.cursor import Cursor
from stannary.certify.octets import unhex
from stannary.certify.pki import certificates, der
from stannary.certify.pki.certificates import Certificate
from stannary.errors import FormatError, UnsupportedFormat
from stannary.formats import dsse

MAX_QUOTE_BYTES = 64 * 1024
HEADER_BYTES, ENCLAVE_BYTES, TD10_BYTES, TD15_BYTES, TD15_EXTENDED_BYTES = 48, 384, 584, 648, 885
TEE_SGX, TEE_TDX = 0x00, 0x81
KEY_ECDSA_P256 = 2
CERTIFICATION_PCK_CHAIN, CERTIFICATION_QE_REPORT = 5, 6
# Versions 3 to 5 with an ECDSA P-256 attestation key, as octets, hex and base64.
_STARTS = frozenset(bytes([version, 0, KEY_ECDSA_P256, 0]) for version in (3, 4, 5))
_HEX_STARTS = frozenset({b"0300", b"0400", b"0500"})
_BASE64_STARTS = frozenset({b"AwACA", b"BAACA", b"BQACA"})
FMSPC_BYTES = 6
_SGX_EXTENSIONS, _FMSPC = "1.2.840.113741.1.13.1", "1.2.840.113741.1.13.1.4"
BODY_SGX, BODY_TD10, BODY_TD15, BODY_TD15_EXTENDED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class TdBody:
    """A TD report as quoted (TDREPORT 1.0; 1.5 adds two fields at the end, its extended form others)."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes = b""  # TCB of the TDX module that runs now, after a live update
    mr_service_td: bytes = b""


@dataclass(frozen=True, slots=True)
class EnclaveBody:
    """An SGX enclave report."""

    cpu_svn: bytes
    attributes: int
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote: what is signed, by what, and the chain of the platform."""

    raw: bytes  # without what lies behind it
    version: int
    body: TdBody | EnclaveBody
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain: tuple[Certificate, ...]

    @property
    def is_tdx(self) -> bool:
        """Whether the body is a trust domain's."""
        return isinstance(self.body, TdBody)


def binary(blob: bytes) -> bytes:
    """Return the quote's bytes; tools also exchange it as hex text, with or without 0x, and as base64, in lines too."""
    text = b"".join(blob.split()).removeprefix(b"0x")
    if text[:4] in _HEX_STARTS:
        return unhex(text.decode("ascii", errors="replace"), "quote")
    if text[:5] in _BASE64_STARTS:
        return dsse.decode_base64(text.decode("ascii", errors="replace"), "quote")
    return blob


def is_quote(blob: bytes) -> bool:
    """Whether bytes start like a quote of a version we know."""
    text = blob.strip().removeprefix(b"0x")
    return text[:4] in _HEX_STARTS or text[:5] in _BASE64_STARTS or blob[:4] in _STARTS


def parse_quote(data: bytes) -> Quote:
    """Read a quote."""
    if len(data) > MAX_QUOTE_BYTES:
        raise FormatError("quote too large", why=f"{len(data):,} bytes, limit {MAX_QUOTE_BYTES:,}")
    cursor = Cursor(data, "quote")
    version, key_type, tee = cursor.little(2), cursor.little(2), cursor.little(4)
    if version not in {3, 4, 5}:
        raise UnsupportedFormat("quote version is not known", why=str(version))
    if key_type != KEY_ECDSA_P256:
        raise UnsupportedFormat("quote's attestation key type is not known", why=str(key_type))
    if tee not in {TEE_SGX, TEE_TDX} or (version == 3 and tee != TEE_SGX):
        raise UnsupportedFormat("quote's TEE type is not known", why=f"{tee:#x} in version {version}")
    cursor.take(HEADER_BYTES - cursor.offset)
    body = _body(cursor, version, tee)
    signed = data[: cursor.offset]
    section = cursor.sized_little()
    raw = data[: cursor.offset]
    part = Cursor(section, "quote signature section")
    signature, attestation_key = part.take(64), part.take(64)
    if version > 3:
        kind = part.little(2)
        if kind != CERTIFICATION_QE_REPORT:
            raise UnsupportedFormat("quote's certification data is not known", why=f"type {kind}")
        inner = part.sized_little()
        part.finish()
        part = Cursor(inner, "quote certification data")
    qe_report, qe_signature = part.take(ENCLAVE_BYTES), part.take(64)
    qe_auth_data = part.sized_little(2)
    kind, chain = part.little(2), part.sized_little()
    part.finish()
    if kind != CERTIFICATION_PCK_CHAIN:
        raise UnsupportedFormat("quote does not carry its PCK chain", why=f"certification type {kind}")
    return Quote(
        raw=raw,
        version=version,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_signature=qe_signature,
        qe_auth_data=qe_auth_data,
        pck_chain=certificates.load_bundle(chain.rstrip(b"\0")),
    )


def parse_enclave(data: bytes) -> EnclaveBody:
    """Read a 384-byte enclave report (SGX SDM, REPORT body)."""
    cursor = Cursor(data, "enclave report")
    cpu_svn = cursor.take(16)
    cursor.take(32)  # MISCSELECT, reserved, ISVEXTPRODID
    attributes = int.from_bytes(cursor.take(16)[:8], "little")
    mr_enclave, _, mr_signer = cursor.take(32), cursor.take(32), cursor.take(32)
    cursor.take(96)  # reserved, CONFIGID
    isv_prod_id, isv_svn = cursor.little(2), cursor.little(2)
    cursor.take(60)  # CONFIGSVN, reserved, ISVFAMILYID
    report_data = cursor.take(64)
    cursor.finish()
    return EnclaveBody(cpu_svn, attributes, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data)


def parse_td(data: bytes) -> TdBody:
    """Read a TD report body of 584, 648 or 885 bytes."""
    cursor = Cursor(data, "TD report")
    tee_tcb_svn, mr_seam, mr_signer_seam = cursor.take(16), cursor.take(48), cursor.take(48)
    seam_attributes, td_attributes, xfam = cursor.take(8), cursor.little(8), cursor.take(8)
    mr_td, config_id, owner, owner_config = (cursor.take(48) for _ in range(4))
    rtmrs = (cursor.take(48), cursor.take(48), cursor.take(48), cursor.take(48))
    report_data = cursor.take(64)
    # TDREPORT 1.5. What follows it in the extended form (service TDs at launch and now, device information)
    # is signed like all of this; nothing in it widens what a TD may be trusted with.
    tee_tcb_svn2, service_td = (cursor.take(16), cursor.take(48)) if cursor.remaining else (b"", b"")
    return TdBody(
        tee_tcb_svn=tee_tcb_svn,
        mr_seam=mr_seam,
        mr_signer_seam=mr_signer_seam,
        seam_attributes=seam_attributes,
        td_attributes=td_attributes,
        xfam=xfam,
        mr_td=mr_td,
        mr_config_id=config_id,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmrs=rtmrs,
        report_data=report_data,
        tee_tcb_svn2=tee_tcb_svn2,
        mr_service_td=service_td,
    )


def _body(cursor: Cursor, version: int, tee: int) -> TdBody | EnclaveBody:
    if version < 5:
        return parse_td(cursor.take(TD10_BYTES)) if tee == TEE_TDX else parse_enclave(cursor.take(ENCLAVE_BYTES))
    kind, size = cursor.little(2), cursor.little(4)
    expected = {
        (BODY_SGX, TEE_SGX): ENCLAVE_BYTES,
        (BODY_TD10, TEE_TDX): TD10_BYTES,
        (BODY_TD15, TEE_TDX): TD15_BYTES,
        (BODY_TD15_EXTENDED, TEE_TDX): TD15_EXTENDED_BYTES,
    }.get((kind, tee))
    if expected is None:
        raise UnsupportedFormat("quote body type is not known", why=f"{kind} for TEE {tee:#x}")
    if size != expected:
        raise FormatError("quote body has another size", why=f"{size:,} bytes, expected {expected}")
    body = cursor.take(size)
    return parse_enclave(body) if kind == BODY_SGX else parse_td(body)


def fmspc(pck: Certificate) -> str:
    """Return the platform's family code from a PCK certificate (Intel SGX PCK Certificate profile), hex."""
    extension = pck.extensions.get(_SGX_EXTENSIONS)
    for pair in () if extension is None else der.sequence(extension.value, "SGX extensions"):
        fields = pair.expect(der.SEQUENCE, "SGX extension").children()
        if len(fields) == 2 and fields[0].oid("SGX extension") == _FMSPC:
            code = fields[1].expect(der.OCTET_STRING, "FMSPC").body
            if len(code) == FMSPC_BYTES:
                return code.hex()
    raise FormatError("PCK certificate names no FMSPC")
