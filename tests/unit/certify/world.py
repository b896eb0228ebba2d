"""A vendor world in memory: certificate authorities, chips, devices, TPM keys, all made here.

Every test can bend it: another root, another chip, a stale list, a report signed by nobody.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseBuilder
from cryptography.x509.oid import NameOID, ObjectIdentifier

from stannary.certify.pki import certificates
from stannary.certify.pki.certificates import Anchors, Certificate
from stannary.certify.rules import Generation, Roots, SnpTcb

NOW = datetime(2026, 11, 22, tzinfo=UTC)
_DAY = timedelta(days=1)
_NAME_HASHES = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CPUID = {Generation.MILAN: (0x19, 1, 1), Generation.GENOA: (0x19, 0x11, 1), Generation.TURIN: (0x1A, 2, 1)}


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey
    built: x509.Certificate


def name(text: str) -> x509.Name:
    """A name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(
    subject: str,
    issuer: Issued | None = None,
    *,
    ca: bool = False,
    extensions: dict[str, bytes] | None = None,
    critical: bool = False,
    serial: int = 0,
    start: datetime = NOW - 30 * _DAY,
    end: datetime = NOW + 300 * _DAY,
    curve: ec.EllipticCurve | None = None,
    path_length: int | None = None,
    usages: tuple[str, ...] = (),
    digest: hashes.HashAlgorithm | None = None,
) -> Issued:
    """Issue a certificate; self-signed without an issuer."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer.built.subject if issuer else name(subject))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start.replace(tzinfo=None))
        .not_valid_after(end.replace(tzinfo=None))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ObjectIdentifier(item) for item in usages]), False)
    for oid, value in (extensions or {}).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(ObjectIdentifier(oid), value), critical)
    built = builder.sign(issuer.key if issuer else key, digest or hashes.SHA384())
    return Issued(certificates.parse(built.public_bytes(Encoding.DER)), key, built)


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    """r and s, big-endian, side by side."""
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(algorithm)))
    size = (key.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def crl(
    issuer: Issued,
    serials: tuple[int, ...] = (),
    *,
    at: datetime = NOW - _DAY,
    days: int = 30,
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A revocation list."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.built.subject)
        .last_update(at.replace(tzinfo=None))
        .next_update((at + days * _DAY).replace(tzinfo=None))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at.replace(tzinfo=None)).build()
        )
    return builder.sign(issuer.key, digest or hashes.SHA384()).public_bytes(Encoding.DER)


def ocsp(
    subject: Issued,
    issuer: Issued,
    *,
    revoked: bool = False,
    at: datetime = NOW - _DAY,
    days: int = 7,
    responder: Issued | None = None,
    reason: str = "certificate_hold",
    names: str = "sha1",
) -> bytes:
    """An OCSP answer by the issuer, or by a responder of his."""
    signer = responder or issuer
    builder = OCSPResponseBuilder().add_response(
        cert=subject.built,
        issuer=issuer.built,
        algorithm=_NAME_HASHES[names],
        cert_status=OCSPCertStatus.REVOKED if revoked else OCSPCertStatus.GOOD,
        this_update=at.replace(tzinfo=None),
        next_update=(at + days * _DAY).replace(tzinfo=None),
        revocation_time=at.replace(tzinfo=None) if revoked else None,
        revocation_reason=x509.ReasonFlags[reason] if revoked else None,
    )
    builder = builder.responder_id(x509.ocsp.OCSPResponderEncoding.NAME, signer.built)
    if responder is not None:
        builder = builder.certificates([responder.built])
    return builder.sign(signer.key, hashes.SHA384()).public_bytes(Encoding.DER)


@dataclass
class Amd:
    """A chip vendor of one generation."""

    generation: Generation = Generation.TURIN
    ark: Issued = field(default_factory=lambda: issue("ARK-Test", ca=True))

    def __post_init__(self) -> None:
        self.ask = issue("SEV-Test", self.ark, ca=True)

    @property
    def roots(self) -> Roots:
        """Roots with this vendor instead of AMD."""
        return Roots(amd=Anchors(certificates=(self.ark.certificate,)))

    def vcek(self, tcb: SnpTcb, hwid: bytes | None = bytes(range(8)), *, end: datetime = NOW + 300 * _DAY) -> Issued:
        """An endorsement key; without a hardware id it is a cloud's."""
        base = "1.3.6.1.4.1.3704.1."
        parts = {"3.1": tcb.bootloader, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.microcode}
        if self.generation is Generation.TURIN:
            parts["3.9"] = tcb.fmc
        extensions = {base + suffix: _der_integer(value) for suffix, value in parts.items()}
        extensions[base + "2"] = b"\x16" + bytes([len(self.generation.value)]) + self.generation.value.encode()
        extensions[base + ("4" if hwid else "5")] = hwid or b"\x16\x04test"
        # The serial number of AMD's endorsement keys is 0; our issuer cannot make one, the vectors have them.
        return issue("SEV-VCEK", self.ask, extensions=extensions, end=end)

    def report(self, vek: Issued, **changes: object) -> bytes:
        """A signed report; `changes` override its fields."""
        fields = {
            "version": 5, "policy": 0x30000, "vmpl": 0, "platform": 0x25, "flags": 0, "report_data": bytes(64),
            "measurement": b"\x11" * 48, "tcb": SnpTcb(1, 2, 3, 4, 5),
            "launch": None, "current": None, "committed": None, "chip": bytes(range(8)),
            "cpuid": _CPUID[self.generation],
        }  # fmt: skip
        fields.update(changes)
        word = self._word(fields["tcb"])
        blob = bytearray(1184)
        struct.pack_into("<II", blob, 0, fields["version"], 0)
        struct.pack_into("<Q", blob, 8, fields["policy"])
        struct.pack_into("<II", blob, 0x30, fields["vmpl"], 1)
        blob[0x38:0x40] = self._word(fields["current"] or fields["tcb"])
        struct.pack_into("<QI", blob, 0x40, fields["platform"], fields["flags"])
        blob[0x50:0x90] = fields["report_data"]
        blob[0x90:0xC0] = fields["measurement"]
        blob[0x180:0x188] = word
        blob[0x188:0x18B] = bytes(fields["cpuid"])
        blob[0x1A0 : 0x1A0 + len(fields["chip"])] = fields["chip"]
        blob[0x1E0:0x1E8] = self._word(fields["committed"] or fields["tcb"])
        blob[0x1F0:0x1F8] = self._word(fields["launch"] or fields["tcb"])
        signature = raw_signature(vek.key, bytes(blob[:0x2A0]), hashes.SHA384())
        blob[0x2A0 : 0x2A0 + 48] = signature[:48][::-1]
        blob[0x2A0 + 72 : 0x2A0 + 72 + 48] = signature[48:][::-1]
        return bytes(blob)

    def _word(self, tcb: SnpTcb) -> bytes:
        if self.generation is Generation.TURIN:
            return bytes([tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode])
        return bytes([tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode])


@dataclass
class Nvidia:
    """A device vendor."""

    root: Issued = field(default_factory=lambda: issue("Device Root", ca=True))

    def __post_init__(self) -> None:
        self.issuer = issue("Device ICA", self.root, ca=True)

    @property
    def roots(self) -> Roots:
        """Roots with this vendor instead of NVIDIA."""
        return Roots(nvidia_device=Anchors(certificates=(self.root.certificate,)))

    def device(self, subject: str = "GH100 A01 GSP FMC LF", *, firmware: bytes = b"\x77" * 48) -> Issued:
        """A device whose certificate names its firmware."""
        return issue(subject, self.issuer, extensions={"2.23.133.5.4.1": b"\x30\x32\x04\x30" + firmware})

    def chain(self, device: Issued) -> tuple[Certificate, ...]:
        """Its certificates, leaf first."""
        return (device.certificate, self.issuer.certificate, self.root.certificate)

    def report(
        self,
        device: Issued,
        nonce: bytes,
        *,
        values: dict[int, bytes] | None = None,
        feature: int | None = 0,
        firmware: bytes = b"\x77" * 48,
        board: tuple[str, ...] = (),
    ) -> bytes:
        """A signed SPDM exchange; `board` is project, project SKU and chip SKU."""
        measured = values or {index: bytes([index]) * 48 for index in range(1, 5)}
        record = b"".join(
            struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value for index, value in measured.items()
        )
        opaque = _tlv(3, b"580.95.05\0") + _tlv(20, firmware) + _tlv(6, bytes.fromhex("0074009620000000"))
        for kind, text in zip((17, 18, 15), board, strict=False):
            opaque += _tlv(kind, text.encode() + b"\0")
        if feature is not None:
            opaque += _tlv(34, b"\1\0\0\0") + _tlv(36, struct.pack("<I", feature))
        blob = b"\x11\xe0\x01\xff" + nonce + b"\0" + b"\x11\x60\0\0" + bytes([len(measured)])
        blob += len(record).to_bytes(3, "little") + record + b"\x42" * 32 + struct.pack("<H", len(opaque)) + opaque
        return blob + raw_signature(device.key, blob, hashes.SHA384())


@dataclass
class TpmKey:
    """A restricted signing key outside any TPM: what it signs is what a TPM would."""

    attributes: int = 0x00050472
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def public(self) -> bytes:
        """TPMT_PUBLIC."""
        numbers = self.key.public_key().public_numbers()
        point = (
            struct.pack(">H", 32)
            + numbers.x.to_bytes(32, "big")
            + struct.pack(">H", 32)
            + numbers.y.to_bytes(32, "big")
        )
        head = struct.pack(">HHIHHHHHH", 0x0023, 0x000B, self.attributes, 0, 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
        return head + point

    def quote(self, extra: bytes, pcrs: dict[int, bytes], *, reset: int = 7, restart: int = 0) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE."""
        bits = sum(1 << index for index in pcrs)
        digest = hashlib.sha256(b"".join(pcrs[index] for index in sorted(pcrs))).digest()
        attest = struct.pack(">IHH", 0xFF544347, 0x8018, 34) + b"\x00\x0b" + bytes(32)
        attest += struct.pack(">H", len(extra)) + extra + struct.pack(">QIIBQ", 1, reset, restart, 1, 2)
        attest += struct.pack(">IHB", 1, 0x000B, 3) + bits.to_bytes(3, "little") + struct.pack(">H", 32) + digest
        raw = raw_signature(self.key, attest, hashes.SHA256())
        return attest, struct.pack(">HHH", 0x0018, 0x000B, 32) + raw[:32] + struct.pack(">H", 32) + raw[32:]


def event_log(events: list[tuple[int, int, bytes]]) -> bytes:
    """A crypto-agile log with one SHA-256 bank."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HH", 0x000B, 32) + b"\0"
    log = bytearray(struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(head)) + head)
    for register, kind, data in events:
        log += struct.pack("<III", register, kind, 1) + struct.pack("<H", 0x000B) + hashlib.sha256(data).digest()
        log += struct.pack("<I", len(data)) + data
    return bytes(log)


def spki(issued: Issued) -> bytes:
    """A certificate's key."""
    return issued.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


def _der_integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(raw)]) + raw
