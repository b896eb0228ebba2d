"""An Intel of our own: PCK chains, quotes of every version, TCB info, identities and lists, all under a test root."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.certify import forge, world

from stannary.certify.evidence.collateral import IntelCollateral, SignedJson
from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import Roots

FMSPC = bytes.fromhex("90c06f000000")
TDX_QE = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
SGX_QE = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
ATTRIBUTES = 1 << 28  # SEPT_VE_DISABLE
SVN = bytes([6, 1, 3, *bytes(13)])  # TDX module 1.5, ISVSVN 6
_SGX = "1.2.840.113741.1.13.1"


@dataclass
class Intel:
    """The vendor, one platform of it, and what it publishes at `now`."""

    now: datetime = world.NOW
    root: world.Issued = field(
        default_factory=lambda: world.issue("Intel SGX Root CA", ca=True, curve=ec.SECP256R1(), digest=hashes.SHA256())
    )
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        made = {"curve": ec.SECP256R1(), "digest": hashes.SHA256()}
        self.platform = world.issue("Intel SGX PCK Platform CA", self.root, ca=True, path_length=0, **made)
        self.signer = world.issue("Intel SGX TCB Signing", self.root, **made)
        self.pck = world.issue("Intel SGX PCK Certificate", self.platform, extensions={_SGX: _sgx_extension()}, **made)

    @property
    def roots(self) -> Roots:
        """Roots with this vendor instead of Intel."""
        return Roots(intel=Anchors(certificates=(self.root.certificate,)))

    @property
    def chain(self) -> bytes:
        """The platform's chain in PEM."""
        return b"".join(item.built.public_bytes(Encoding.PEM) for item in (self.pck, self.platform, self.root))

    def quote(  # what a test may bend
        self,
        *,
        version: int = 4,
        attributes: int = ATTRIBUTES,
        svn: bytes = SVN,
        rtmrs: tuple[bytes, ...] = (bytes(48),) * 4,
        report_data: bytes = bytes(64),
        tail: bytes = b"",
        kind: int | None = None,
        auth_data: bytes = bytes(32),
        outer: int = 6,
        inner: int = 5,
        qe: dict[str, object] | None = None,
        chain: bytes | None = None,
        enclave: bytes | None = None,
    ) -> bytes:
        """A quote of a TD, or of an enclave where one is given; `tail` is what TD 1.5 reports add."""
        body = svn + bytes(96) + bytes(8) + struct.pack("<Q", attributes) + bytes(8) + b"\x01" * 48
        body = (body + bytes(144) + b"".join(rtmrs) + report_data + tail) if enclave is None else enclave
        head = struct.pack("<HHIHH", version, 2, 0x81 if enclave is None else 0, 0, 0)
        head += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
        if version == 5:
            kind = kind or (1 if enclave is not None else 3 if tail else 2)
            head += struct.pack("<HI", kind, len(body))
        signed = head + body
        point = self.key.public_key().public_numbers()
        public = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
        report = self.qe_report(public + auth_data, **{"is_tdx": enclave is None, **(qe or {})})
        pem = self.chain if chain is None else chain
        certified = report + world.raw_signature(self.pck.key, report, hashes.SHA256())
        certified += struct.pack("<H", len(auth_data)) + auth_data + struct.pack("<HI", inner, len(pem)) + pem
        if version > 3:
            certified = struct.pack("<HI", outer, len(certified)) + certified
        section = world.raw_signature(self.key, signed, hashes.SHA256()) + public + certified
        return signed + struct.pack("<I", len(section)) + section

    def qe_report(
        self, named: bytes, *, is_tdx: bool = True, attributes: int = 0x11, signer: bytes | None = None
    ) -> bytes:
        """The quoting enclave's report over an attestation key."""
        signer = signer or (TDX_QE if is_tdx else SGX_QE)
        report = bytes(48) + struct.pack("<QQ", attributes, 3) + bytes(32) + bytes(32) + signer + bytes(96)
        report += struct.pack("<HH", 2 if is_tdx else 1, 8) + bytes(60)
        return report + hashlib.sha256(named).digest() + bytes(32)

    def collateral(self, *, is_tdx: bool = True, **changes: object) -> IntelCollateral:
        """What the provisioning service answers; `changes` override members of the TCB info."""
        info = copy.deepcopy(_TCB_INFO)
        info.update({"id": "TDX" if is_tdx else "SGX", **self._window(), **changes})
        identity = {
            "id": "TD_QE" if is_tdx else "QE", "version": 2, **self._window(), "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000", "miscselectMask": "FFFFFFFF", "attributes": "11" + "00" * 15,
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": (TDX_QE if is_tdx else SGX_QE).hex().upper(), "isvprodid": 2 if is_tdx else 1,
            "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": "UpToDate"}],
        }  # fmt: skip
        if not is_tdx:
            for name in ("tdxModule", "tdxModuleIdentities"):
                del info[name]
        return IntelCollateral(
            tcb_info=self.sign(info),
            qe_identity=self.sign(identity),
            pck_crl=self.crl(self.platform),
            root_crl=self.crl(self.root),
            pck_crl_chain=(self.platform.certificate, self.root.certificate),
        )

    def crl(self, issuer: world.Issued, *serials: int) -> bytes:
        """A revocation list of an issuer."""
        return world.crl(issuer, serials, at=self.now - timedelta(days=1), digest=hashes.SHA256())

    def sign(self, members: dict[str, object]) -> SignedJson:
        """Sign a document as the provisioning service does."""
        text = json.dumps(members, separators=(",", ":"))
        signature = world.raw_signature(self.signer.key, text.encode(), hashes.SHA256())
        return SignedJson(text, signature, (self.signer.certificate, self.root.certificate))

    def _window(self) -> dict[str, str]:
        form = "%Y-%m-%dT%H:%M:%SZ"
        start, end = self.now - timedelta(days=1), self.now + timedelta(days=29)
        return {"issueDate": start.strftime(form), "nextUpdate": end.strftime(form)}


def enclave(*, attributes: int = 0x05, report_data: bytes = bytes(64)) -> bytes:
    """An enclave's report."""
    return (
        bytes(48) + struct.pack("<QQ", attributes, 3) + bytes(192) + struct.pack("<HH", 0, 0) + bytes(60) + report_data
    )


def _sgx_extension() -> bytes:
    def item(suffix: str, value: bytes) -> bytes:
        return forge.tlv(0x30, forge.oid(f"{_SGX}.{suffix}"), value)

    def octets(value: bytes) -> bytes:
        return forge.tlv(0x04, value)

    components = [item(f"2.{index}", forge.integer(9)) for index in range(1, 17)]
    tcb = forge.tlv(0x30, *components, item("2.17", forge.integer(13)), item("2.18", octets(b"\x09" * 16)))
    return forge.tlv(
        0x30, item("1", octets(b"\x77" * 16)), item("2", tcb), item("3", octets(bytes(2))),
        item("4", octets(FMSPC)), item("5", forge.tlv(0x0A, b"\x01")),
    )  # fmt: skip


def _level(module: int, status: str) -> dict[str, object]:
    components = [{"svn": module}, {"svn": 0}, {"svn": 3}, *({"svn": 0} for _ in range(13))]
    tcb = {"sgxtcbcomponents": [{"svn": 3}] * 16, "pcesvn": 13, "tdxtcbcomponents": components}
    return {"tcb": tcb, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": status}


_MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
_TCB_INFO: dict[str, object] = {
    "id": "TDX", "version": 3, "fmspc": FMSPC.hex(), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 18,
    "tdxModule": _MODULE,
    "tdxModuleIdentities": [
        {"id": "TDX_01", **_MODULE,
         "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": "UpToDate"}]},
    ],
    "tcbLevels": [_level(5, "UpToDate"), _level(3, "OutOfDate"), _level(2, "Revoked")],
}  # fmt: skip
