"""The forms in which TPM evidence is exchanged, read into one.

| form | written by | lacks |
|---|---|---|
| JSON with `attest`, `signature`, `ak_public`, ... in hex | `stannary node check` | nothing |
| JSON `ak_public`, `tpm_quote {message, ...}` in base64 | Trustee's guest components | the key's attributes |
| JSON `AK`, `Quote`, `Log` in base64 | go-attestation | an EK certificate |
| protobuf `Attestation` | go-tpm-tools | an EK certificate; it may carry one of the quoting key |

Where a form carries a quote a bank, the SHA-256 one is judged, else the strongest. A register listed twice,
of another size than its bank's, or above 23 is malformed. A nonce inside evidence is the sender's word:
`claimed_nonce` serves recorded vectors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.evidence import event_log, protobuf
from stannary.certify.evidence import tpm_structures as tpm
from stannary.certify.octets import unhex
from stannary.certify.pki import certificates, der, keys
from stannary.errors import FormatError
from stannary.formats import canonical, dsse

if TYPE_CHECKING:
    from stannary.certify.evidence.event_log import EventLog
    from stannary.certify.evidence.tpm_structures import Attest, PublicArea, Registers, Signature
    from stannary.certify.pki.certificates import Certificate
    from stannary.formats.canonical import Json

MAX_QUOTES = 8
_BANK_OF_BYTES = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_BANK_MEMBERS = {"pcrs_sha1": "sha1", "pcrs_sha256": "sha256", "pcrs_sha384": "sha384", "pcrs_sha512": "sha512"}
_PREFERENCE = ("sha256", "sha384", "sha512", "sha1")  # reference boots are SHA-256
_HEX_NAMES = {
    "attest": ("attest_hex", "attest"),
    "signature": ("signature_tpmt_hex", "signature"),
    "ak": ("ak_pub_tpmt_hex", "ak_public"),
    "name": ("ak_name_hex", "ak_name"),
    "ek": ("ek_pub_tpmt_hex", "ek_public"),
    "ak_certificate": ("ak_cert_hex", "ak_certificate"),
    "certificate": ("ek_cert_hex", "ek_certificate_hex", "ek_cert_der_hex", "ek_certificate"),
    "log": ("event_log_hex", "event_log"),
    "secret": ("activation_secret_hex", "activation_secret"),
    "nonce": ("nonce_hex", "nonce"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmEvidence:
    """Parsed evidence of one TPM."""

    attest: Attest
    signature: Signature
    banks: Registers
    ak: PublicArea | None = None
    ak_name: bytes = b""  # as its sender writes it; the name that counts is the public area's own
    bare_key: keys.PublicKey | None = None  # a quoting key sent without its TPM attributes
    ek: PublicArea | None = None
    ek_chain: tuple[Certificate, ...] = ()
    ak_chain: tuple[Certificate, ...] = ()  # of a quoting key that its provider certifies itself, leaf first
    log: EventLog | None = None
    activation_secret: bytes = b""
    claimed_nonce: bytes | None = None

    @property
    def pcrs(self) -> dict[int, bytes]:
        """The SHA-256 registers."""
        return self.banks.get("sha256", {})


def parse(blob: bytes) -> TpmEvidence:
    """Read evidence in any of the forms."""
    if blob.lstrip()[:1] != b"{":
        return parse_attestation(blob)
    members = canonical.decode_object(blob)
    if "tpm_quote" in members:
        return parse_bare(members)
    return parse_dump(members) if "Quote" in members else parse_evidence(members)


def parse_evidence(members: dict[str, Json]) -> TpmEvidence:
    """Read evidence members: hex strings, registers as objects of index to hex."""
    values = {name: _member(members, spellings) for name, spellings in _HEX_NAMES.items()}
    for name in ("attest", "signature"):
        if not values[name]:
            raise FormatError("TPM evidence lacks a part", why=name)
    return TpmEvidence(
        attest=tpm.parse_attest(values["attest"]),
        signature=tpm.parse_signature(values["signature"]),
        banks=read_banks(members),
        ak=read_public(values["ak"]),
        ak_name=values["name"],
        ek=read_public(values["ek"]),
        ek_chain=_chain(values["certificate"], members, "ek_chain"),
        ak_chain=_chain(values["ak_certificate"], members, "ak_chain"),
        log=_log(values["log"]),
        activation_secret=values["secret"],
        claimed_nonce=values["nonce"] if "nonce_hex" in members else None,
    )


def parse_bare(members: dict[str, Json]) -> TpmEvidence:
    """Read `ak_public` (a SubjectPublicKeyInfo) and `tpm_quote {message, signature, pcrs}` in base64.

    Such evidence says nothing of the key's attributes: it can never show that the key is restricted.
    """
    quote = _object(members, "tpm_quote")
    listed = quote.get("pcrs")
    if not isinstance(listed, list):
        raise FormatError("TPM evidence lacks its registers")
    return TpmEvidence(
        attest=tpm.parse_attest(dsse.decode_base64(quote.get("message"), "quote")),
        signature=tpm.parse_signature(dsse.decode_base64(quote.get("signature"), "signature")),
        banks=_sized({str(index): value for index, value in enumerate(listed)}),
        bare_key=keys.load(dsse.decode_base64(members.get("ak_public"), "attestation key")),
    )


def parse_dump(members: dict[str, Json]) -> TpmEvidence:
    """Read go-attestation's dump of a machine: `AK`, `Quote`, and `Log` with registers, all in base64."""
    ak, quote, log = (_object(members, name) for name in ("AK", "Quote", "Log"))
    listed = log.get("PCRs")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise FormatError("TPM evidence lacks its registers")
    banks: Registers = {}
    for item in listed:
        if isinstance(item, dict):
            _add(banks, item.get("Index"), dsse.decode_base64(item.get("Digest"), "register"))
    return TpmEvidence(
        attest=tpm.parse_attest(dsse.decode_base64(quote.get("Quote"), "quote")),
        signature=tpm.parse_signature(dsse.decode_base64(quote.get("Signature"), "signature")),
        banks=banks,
        ak=read_public(dsse.decode_base64(ak.get("Public"), "attestation key")),
        log=_log(dsse.decode_base64(log.get("Raw"), "event log")),
        claimed_nonce=dsse.decode_base64(quote["Nonce"], "nonce") if isinstance(quote.get("Nonce"), str) else None,
    )


def parse_attestation(blob: bytes) -> TpmEvidence:
    """Read go-tpm-tools' `Attestation`: ak_pub 1, quotes 2 (quote 1, raw_sig 2, pcrs 3), event_log 3, ak_cert 6, 7."""
    whole = protobuf.read(blob, "TPM attestation")
    quotes = [protobuf.read(item, "TPM quote") for item in protobuf.octets(whole, 2)]
    if not 1 <= len(quotes) <= MAX_QUOTES:
        raise FormatError("TPM attestation carries no quotes or too many", why=str(len(quotes)))
    by_bank: dict[str, protobuf.Fields] = {}
    for item in quotes:
        bank = tpm.BANKS.get(protobuf.integer(protobuf.read(protobuf.single(item, 3), "registers"), 1))
        if bank is None or bank in by_bank:
            raise FormatError("TPM attestation quotes an unknown bank, or one twice", why=str(bank))
        by_bank[bank] = item
    judged = next(by_bank[bank] for bank in _PREFERENCE if bank in by_bank)
    return TpmEvidence(
        attest=tpm.parse_attest(protobuf.single(judged, 1)),
        signature=tpm.parse_signature(protobuf.single(judged, 2)),
        banks=_map(protobuf.read(protobuf.single(judged, 3), "registers")),
        ak=read_public(protobuf.single(whole, 1)),
        ak_chain=_certificates([protobuf.single(whole, 6), *protobuf.octets(whole, 7)]),
        log=_log(protobuf.single(whole, 3)),
    )


def _map(fields: protobuf.Fields) -> Registers:
    banks: Registers = {}
    for entry in protobuf.octets(fields, 2):
        pair = protobuf.read(entry, "register")
        _add(banks, protobuf.integer(pair, 1), protobuf.single(pair, 2))
    return banks


def read_banks(members: dict[str, Json]) -> Registers:
    """Read `pcrs_<bank>` objects, or `pcrs`, whose bank its values' size tells. None at all cover no quote."""
    found: Registers = {}
    for name in ("pcrs", *_BANK_MEMBERS):
        if name not in members:
            continue
        listed = members[name]
        if not isinstance(listed, dict):
            raise FormatError("TPM evidence's registers are not an object", why=name)
        for bank, values in _sized(listed).items():
            if bank in found or bank != _BANK_MEMBERS.get(name, bank):
                raise FormatError("TPM registers of another size or listed twice", why=f"{bank} in {name}")
            found[bank] = values
    return found


def _sized(listed: dict[str, Json]) -> Registers:
    banks: Registers = {}
    for index, value in listed.items():
        if not index.isascii() or not index.isdigit() or len(index) > 2:
            raise FormatError("TPM evidence names an unknown register", why=repr(index)[:40])
        _add(banks, int(index), unhex(value, "register"))
    if len(banks) > 1:
        raise FormatError("TPM registers of one list are of several sizes", why=", ".join(sorted(banks)))
    return banks


def _add(banks: Registers, index: Json, value: bytes) -> None:
    bank = _BANK_OF_BYTES.get(len(value))
    if bank is None:
        raise FormatError("TPM register is of no bank's size", why=f"{len(value)} bytes")
    registers = banks.setdefault(bank, {})
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < tpm.NUM_PCRS or index in registers:
        raise FormatError("TPM evidence names an unknown register, or one twice", why=f"{index!r:.40}")
    registers[index] = value


def read_public(data: bytes) -> PublicArea | None:
    """Read a TPMT_PUBLIC, or one inside TPM2B_PUBLIC as TPM2_ReadPublic returns it."""
    if int.from_bytes(data[:2], "big") == len(data) - 2:
        data = data[2:]
    return tpm.parse_public(data) if data else None


def _log(data: bytes) -> EventLog | None:
    return event_log.parse_log(data) if data else None


def _chain(leaf: bytes, members: dict[str, Json], name: str) -> tuple[Certificate, ...]:
    issuers = members.get(name, [])
    if not isinstance(issuers, list):
        raise FormatError("TPM evidence's issuers are not a list", why=name)
    return _certificates([leaf, *(unhex(item, "issuer") for item in issuers)])


def _certificates(carried: list[bytes]) -> tuple[Certificate, ...]:
    if len(carried) > certificates.MAX_PATH + 1:
        raise FormatError("TPM evidence carries too many certificates", why=str(len(carried)))
    return tuple(certificates.parse(_without_padding(item)) for item in carried if item)


def _without_padding(data: bytes) -> bytes:
    """Cut what fills the rest of an NV index behind a certificate: TPMs return the whole index."""
    if not data.rstrip(data[-1:]) or data[-1] not in {0x00, 0xFF}:
        return data
    first = der.first(data)
    return first if not data[len(first) :].strip(data[-1:]) else data


def _object(members: dict[str, Json], name: str) -> dict[str, Json]:
    value = members.get(name)
    if not isinstance(value, dict):
        raise FormatError("TPM evidence lacks a part", why=name)
    return value


def _member(members: dict[str, Json], spellings: tuple[str, ...]) -> bytes:
    for name in spellings:
        if name in members:
            return unhex(members[name], name)
    return b""
