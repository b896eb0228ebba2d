"""AWS Nitro Enclaves attestation documents: COSE_Sign1 (RFC 9052) over a CBOR map.

Rules: ES384 by the certificate inside the document, whose chain (`cabundle`, root first) ends in
AWS's pinned root; leaf certificates live three hours, so the evaluation time is the document's own
hour or it is refused; the timestamp may not lie in the future; PCR 0-2 all zero mean a debug
enclave. Identity is the instance's, not a machine's: AWS places it where it likes.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from stannary.certify.evidence import cbor
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.evidence.verifier import limit
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, keys
from stannary.certify.remedies import Code
from stannary.errors import FormatError, UnsupportedFormat

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.certify.pki.certificates import Certificate
    from stannary.certify.rules import Rules
    from stannary.formats.canonical import Json

MAX_DOCUMENT_BYTES = 64 * 1024  # AWS: at most 16 KiB, plus base64 and certificates
COSE_SIGN1_TAG = 18
ES384 = -35
_COSE_CRITICAL = 2  # header parameters that must be understood (RFC 9052 section 3.1)
CLOCK_SKEW = timedelta(minutes=5)
MAX_PCRS = 32
_MAX_TIMESTAMP_MS = 1 << 47  # the year 6429; beyond 9999 a time cannot be compared
PCR_BYTES = frozenset({32, 48, 64})


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A parsed document and what is signed."""

    to_be_signed: bytes
    signature: bytes
    module_id: str
    timestamp: datetime
    pcrs: dict[int, bytes]
    certificate: Certificate
    bundle: tuple[Certificate, ...]
    public_key: bytes
    user_data: bytes
    nonce: bytes


class NitroVerifier:
    """Verifier of `nitro` evidence."""

    kind = "nitro"
    places = frozenset({"cpu"})

    def parse(self, blob: bytes) -> NitroDocument:
        """Read a document, binary or base64 text."""
        return parse_document(blob)

    def collateral_keys(self, parsed: NitroDocument) -> tuple[CollateralKey, ...]:
        """Nothing: the chain is inside and the root is pinned."""
        return ()

    def appraise(self, parsed: NitroDocument, basis: Basis) -> Appraisal:
        """Check a document."""
        exam = Examination(self.kind)
        exam.claims.update(_claims(parsed))
        now, roots = basis.now, basis.rules.roots.nitro
        pool = (*parsed.bundle, *basis.collateral.certificates)
        path = certificates.find_path(parsed.certificate, pool, roots, now)
        exam.require_path("chain", path)
        spki, message = parsed.certificate.spki, parsed.to_be_signed
        signed = keys.is_signed_raw(spki, parsed.signature, message, hashes.SHA384(), "secp384r1")
        exam.require("signature", signed, Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="not by its certificate")
        if now is None:
            exam.waive("timestamp", "no evaluation time given")
        else:
            exam.require(
                "timestamp",
                parsed.timestamp - CLOCK_SKEW <= now,
                Step.CHAIN,
                Code.CHAIN_INVALID,
                observed=f"document is of {parsed.timestamp:%Y-%m-%d %H:%M:%S}",
                expected=f"at most {now:%Y-%m-%d %H:%M:%S}",
            )
        exam.require_nonce(parsed.nonce, basis.bound)
        _check_pcrs(exam, parsed, basis.rules)
        exam.cap(
            "identity",
            Step.BINDING,
            2,
            observed="names an instance, not a machine",
            expected="a hardware identity",
            remedy="none at this provider: the enclave moves between machines",
        )
        return exam.close()


def parse_document(blob: bytes) -> NitroDocument:
    """Read COSE_Sign1, tagged or not."""
    data = _binary(limit(blob, "attestation document", MAX_DOCUMENT_BYTES))
    item = cbor.read(data, "attestation document")
    if isinstance(item, cbor.Tagged):
        if item.tag != COSE_SIGN1_TAG:
            raise UnsupportedFormat("COSE structure is not Sign1", why=f"tag {item.tag}")
        item = item.value
    if not isinstance(item, list) or len(item) != 4:
        raise FormatError("not a COSE_Sign1 structure")
    protected, unprotected, payload, signature = item
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise FormatError("COSE_Sign1 parts are not byte strings")
    if unprotected != {}:
        raise FormatError("COSE_Sign1 has unprotected headers", why="nothing may ride along unsigned")
    header = cbor.read(protected, "COSE header")
    if not isinstance(header, dict):
        raise FormatError("COSE header is not a map")
    if header.get(1) != ES384 or _COSE_CRITICAL in header:
        raise UnsupportedFormat("COSE algorithm is not ES384, or critical headers", why=f"{header!r:.80}")
    members = cbor.read(payload, "attestation document body", indefinite=True)
    if not isinstance(members, dict):
        raise FormatError("attestation document body is not a map")
    parts = (cbor.encode_text("Signature1"), cbor.encode_bytes(protected), b"\x40", cbor.encode_bytes(payload))
    return _document(members, b"\x84" + b"".join(parts), signature)


def _document(members: dict[int | str, cbor.Cbor], to_be_signed: bytes, signature: bytes) -> NitroDocument:
    module_id, digest, timestamp = members.get("module_id"), members.get("digest"), members.get("timestamp")
    if not isinstance(module_id, str) or not module_id or not isinstance(digest, str):
        raise FormatError("attestation document lacks module id or digest")
    if digest != "SHA384":
        raise UnsupportedFormat("attestation document's registers are not SHA-384", why=digest[:40])
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or not 0 < timestamp < _MAX_TIMESTAMP_MS:
        raise FormatError("attestation document lacks its timestamp")
    bundle = members.get("cabundle")
    if not isinstance(bundle, list) or len(bundle) > certificates.MAX_CERTIFICATES:
        raise FormatError("attestation document lacks its certificate bundle")
    return NitroDocument(
        to_be_signed=to_be_signed,
        signature=signature,
        module_id=module_id,
        timestamp=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp),
        pcrs=_pcrs(members.get("pcrs")),
        certificate=certificates.parse(_octets(members.get("certificate"), "certificate")),
        bundle=tuple(certificates.parse(_octets(item, "bundle certificate")) for item in bundle),
        public_key=_optional(members, "public_key"),
        user_data=_optional(members, "user_data"),
        nonce=_optional(members, "nonce"),
    )


def _optional(members: dict[int | str, cbor.Cbor], name: str) -> bytes:
    """Return a byte string that may be absent or null, as the security module writes it."""
    value = members.get(name)
    return b"" if value is None else _octets(value, name)


def _octets(value: cbor.Cbor, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError(f"attestation document's {what} is not a byte string")
    return value


def _pcrs(value: cbor.Cbor) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_PCRS:
        raise FormatError("attestation document lacks its PCRs")
    found: dict[int, bytes] = {}
    for index, register in value.items():
        if not isinstance(index, int) or not 0 <= index < MAX_PCRS:
            raise FormatError("attestation document names an unknown PCR", why=repr(index)[:40])
        found[index] = _octets(register, "PCR")
        if len(found[index]) not in PCR_BYTES:
            raise FormatError("attestation document's PCR has another length", why=f"{len(found[index])} bytes")
    return found


def _claims(parsed: NitroDocument) -> dict[str, Json]:
    return {
        "module_id": parsed.module_id,
        "timestamp": parsed.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "pcrs": {str(index): value.hex() for index, value in sorted(parsed.pcrs.items()) if any(value)},
        "user_data": parsed.user_data.hex()[:2048],
    }


def _check_pcrs(exam: Examination, parsed: NitroDocument, rules: Rules) -> None:
    boot = [parsed.pcrs.get(index, b"") for index in range(3)]
    exam.require(
        "debug",
        all(any(value) for value in boot),
        Step.GUEST_POLICY,
        Code.GUEST_POLICY,
        observed="PCR 0-2 are zero or absent: the enclave runs in debug mode",
    )
    if not rules.measurements:
        exam.waive("measurement", "no enclave measurement given")
        return
    exam.require(
        "measurement",
        boot[0].hex() in rules.measurements,
        Step.REFERENCE,
        Code.REFERENCE_MISMATCH,
        observed=boot[0].hex(),
        expected="a signed enclave measurement",
    )


def _binary(blob: bytes) -> bytes:
    """Return the document's bytes: CBOR arrays and tags start with 0x84 or 0xD2, base64 does not."""
    if blob[:1] in {b"\x84", b"\xd2"}:
        return blob
    try:
        return base64.b64decode(b"".join(blob.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError("attestation document is neither CBOR nor base64", why=str(err)) from err
