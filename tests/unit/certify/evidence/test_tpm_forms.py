"""TPM evidence in every form, bank, key kind and signature scheme: the outcome and its code."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.certify import forge, world

from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.pki import certificates
from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import GoldenBoot, Roots, Rules

BOUND = b"\x44" * 48
_CODES = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_CURVES = {"secp256r1": (3, 32), "secp384r1": (4, 48), "secp521r1": (5, 66)}
RSASSA, RSAPSS, ECDSA = 0x14, 0x16, 0x18
RSA_KEY = rsa.generate_private_key(65537, 2048)


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@dataclass
class Key:
    """A restricted key of any kind outside a TPM."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    scheme: int = ECDSA
    digest: str = "sha256"
    name_digest: str = "sha256"
    attributes: int = 0x00050472

    @property
    def public(self) -> bytes:
        """TPMT_PUBLIC."""
        head = struct.pack(">HI", _CODES[self.name_digest], self.attributes) + b"\0\0"
        scheme = struct.pack(">HHH", 0x10, self.scheme, _CODES[self.digest])
        if isinstance(self.key, rsa.RSAPrivateKey):
            modulus = self.key.public_key().public_numbers().n.to_bytes(self.key.key_size // 8, "big")
            return b"\0\1" + head + scheme + struct.pack(">HI", self.key.key_size, 0) + _sized(modulus)
        code, size = _CURVES[self.key.curve.name]
        point = self.key.public_key().public_numbers()
        return (
            b"\0\x23"
            + head
            + scheme
            + struct.pack(">HH", code, 0x10)
            + b"".join(_sized(value.to_bytes(size, "big")) for value in (point.x, point.y))
        )

    def sign(self, message: bytes) -> bytes:
        """TPMT_SIGNATURE."""
        head, algorithm = struct.pack(">HH", self.scheme, _CODES[self.digest]), _HASHES[self.digest]
        if isinstance(self.key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
            return head + _sized(
                self.key.sign(message, pss if self.scheme == RSAPSS else padding.PKCS1v15(), algorithm)
            )
        raw = world.raw_signature(self.key, message, algorithm)
        return head + _sized(raw[: len(raw) // 2]) + _sized(raw[len(raw) // 2 :])

    def quote(self, banks: dict[str, dict[int, bytes]], extra: bytes = BOUND, *, kind: int = 0x8018) -> bytes:
        """TPMS_ATTEST over the given registers, bank after bank."""
        name = struct.pack(">H", _CODES[self.name_digest]) + hashlib.new(self.name_digest, b"parent").digest()
        body = (
            struct.pack(">IH", 0xFF544347, kind) + _sized(name) + _sized(extra) + struct.pack(">QIIBQ", 1, 7, 0, 1, 2)
        )
        body += struct.pack(">I", len(banks))
        covered = b""
        for bank, registers in banks.items():
            bits = sum(1 << index for index in registers)
            body += struct.pack(">HB", _CODES[bank], 3) + bits.to_bytes(3, "little")
            covered += b"".join(registers[index] for index in sorted(registers))
        return body + _sized(hashlib.new(self.digest, covered).digest())


def _log(events: list[tuple[int, int, bytes]], banks: tuple[str, ...]) -> bytes:
    """A crypto-agile log with several banks."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    head += b"".join(struct.pack("<HH", _CODES[bank], hashlib.new(bank).digest_size) for bank in banks) + b"\0"
    log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(head)) + head
    for register, kind, data in events:
        log += struct.pack("<III", register, kind, len(banks))
        log += b"".join(struct.pack("<H", _CODES[bank]) + hashlib.new(bank, data).digest() for bank in banks)
        log += struct.pack("<I", len(data)) + data
    return log


def _registers(bank: str, events: list[tuple[int, int, bytes]]) -> dict[int, bytes]:
    found = {index: bytes(hashlib.new(bank).digest_size) for index in range(8)}
    for index, _, data in events:
        found[index] = hashlib.new(bank, found[index] + hashlib.new(bank, data).digest()).digest()
    return found


EVENTS = [(0, 8, b"firmware"), (4, 0x80000003, b"loader")]


def _members(key: Key, banks: dict[str, dict[int, bytes]], **changes: object) -> dict[str, object]:
    attest = key.quote(banks)
    members: dict[str, object] = {
        "attest": attest.hex(), "signature": key.sign(attest).hex(), "ak_public": key.public.hex(),
    }  # fmt: skip
    for bank, values in banks.items():
        members[f"pcrs_{bank}"] = {str(index): value.hex() for index, value in values.items()}
    return {**members, **changes}


def _outcome(members: dict[str, object] | bytes, *, bound: bytes | None = BOUND, rules: Rules | None = None) -> str:
    blob = members if isinstance(members, bytes) else json.dumps(members).encode()
    found = examine(
        TpmVerifier(), blob, Basis(bound=bound, collateral=Collateral(), now=world.NOW, rules=rules or Rules())
    )
    return found.outcome


@pytest.mark.parametrize(
    "key",
    [
        Key(),
        Key(ec.generate_private_key(ec.SECP384R1()), digest="sha384", name_digest="sha384"),
        Key(ec.generate_private_key(ec.SECP521R1()), digest="sha512", name_digest="sha512"),
        Key(RSA_KEY, RSASSA),
        Key(RSA_KEY, RSAPSS),
        Key(RSA_KEY, RSAPSS, digest="sha384", name_digest="sha384"),
    ],
    ids=["P-256", "P-384", "P-521", "RSASSA", "RSAPSS", "RSAPSS SHA-384"],
)
def test_every_key_and_scheme_quotes(key):
    """A quote by any accepted kind of key is valid; another quote's signature, or another scheme's, is not."""
    banks = {"sha256": _registers("sha256", EVENTS)}
    assert _outcome(_members(key, banks)) == "valid"
    other = key.sign(key.quote(banks, b"\x45" * 48))
    assert _outcome(_members(key, banks, signature=other.hex())) == "refuse:signature-invalid"
    right = key.sign(key.quote(banks))
    swapped = {ECDSA: RSASSA, RSASSA: RSAPSS, RSAPSS: RSASSA}[key.scheme]
    if key.scheme != ECDSA:
        renamed = struct.pack(">H", swapped) + right[2:]
        assert _outcome(_members(key, banks, signature=renamed.hex())) == "refuse:signature-invalid"
    stranger = Key(scheme=ECDSA) if key.scheme != ECDSA else Key(RSA_KEY, RSASSA)
    foreign = stranger.sign(key.quote(banks))
    assert _outcome(_members(key, banks, signature=foreign.hex())) == "refuse:signature-invalid"


@pytest.mark.parametrize("quoted", [("sha256",), ("sha384",), ("sha512",), ("sha256", "sha384"), ("sha384", "sha256")])
def test_registers_and_log_are_judged_in_every_quoted_bank(quoted):
    """A changed register of any quoted bank is no longer what the quote covers; the log must replay in each."""
    key, banks = Key(), {bank: _registers(bank, EVENTS) for bank in quoted}
    log = _log(EVENTS, tuple(sorted(quoted)))
    assert _outcome(_members(key, banks, event_log=log.hex())) == "valid"
    for bank in quoted:
        members = _members(key, banks, event_log=log.hex())
        members[f"pcrs_{bank}"] = {**members[f"pcrs_{bank}"], "4": "11" * hashlib.new(bank).digest_size}
        assert _outcome(members) == "refuse:binding-mismatch"
        partly = {**banks, bank: {**banks[bank], 4: hashlib.new(bank, b"other").digest()}}
        assert _outcome(_members(key, partly, event_log=log.hex())) == "refuse:replay-mismatch"
    other = _log(EVENTS, ("sha1",))
    assert _outcome(_members(key, banks, event_log=other.hex())) == "refuse:replay-mismatch"


def test_reference_boots_are_not_satisfied_by_another_bank():
    """Golden SHA-256 registers beside a quote of the SHA-384 bank alone are not what was quoted."""
    key, golden = Key(), GoldenBoot("image", {4: _registers("sha256", EVENTS)[4]})
    rules = Rules(golden_boots=(golden,))
    both = {bank: _registers(bank, EVENTS) for bank in ("sha256", "sha384")}
    assert _outcome(_members(key, both), rules=rules) == "valid"
    beside = _members(key, {"sha384": both["sha384"]})
    beside["pcrs_sha256"] = {str(index): value.hex() for index, value in both["sha256"].items()}
    assert _outcome(beside, rules=rules) == "refuse:reference-mismatch"


def test_registers_not_given_are_not_covered():
    """Evidence without the registers, or without one of them, is a quote over nothing we know."""
    key, banks = Key(), {"sha256": _registers("sha256", EVENTS)}
    members = _members(key, banks)
    assert _outcome({name: value for name, value in members.items() if name != "pcrs_sha256"}) == (
        "refuse:binding-mismatch"
    )
    fewer = {index: value for index, value in members["pcrs_sha256"].items() if index != "3"}
    assert _outcome({**members, "pcrs_sha256": fewer}) == "refuse:binding-mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"pcrs_sha256": {"0": "11" * 48}},
        {"pcrs_sha256": {"24": "11" * 32}},
        {"pcrs_sha256": {"-1": "11" * 32}},
        {"pcrs_sha256": {"0": "11" * 31}},
        {"pcrs_sha256": {"0": "11" * 32, "00": "11" * 32}},
        {"pcrs": {"0": "11" * 32, "1": "11" * 48}},
        {"pcrs": {"0": "11" * 32}},
        {"pcrs_sha256": []},
    ],
)
def test_registers_that_do_not_read_are_malformed(changes):
    """Sizes of another bank, indices nobody has, lists of two sizes and registers listed twice are malformed."""
    assert _outcome(_members(Key(), {"sha256": _registers("sha256", EVENTS)}, **changes)) == "refuse:malformed"


def test_structures_are_read_whole_and_big_endian():
    """Trailing bytes, cut bytes and the other byte order are malformed; another attestation type is unsupported."""
    key, banks = Key(), {"sha256": _registers("sha256", EVENTS)}
    attest = key.quote(banks)
    for damaged in (attest + b"\0", attest[:-1], attest[3::-1] + attest[4:], b"\xff" * len(attest)):
        assert _outcome(_members(key, banks, attest=damaged.hex())) == "refuse:malformed"
    certify = key.quote(banks, kind=0x8017)
    assert _outcome(_members(key, banks, attest=certify.hex(), signature=key.sign(certify).hex())) == (
        "refuse:unsupported"
    )
    for name, data in (("signature", key.sign(attest)), ("ak_public", key.public)):
        assert _outcome(_members(key, banks, **{name: (data + b"\0").hex()})) == "refuse:malformed"
        assert _outcome(_members(key, banks, **{name: data[:-1].hex()})) == "refuse:malformed"
    weak = struct.pack(">HH", ECDSA, _CODES["sha1"]) + key.sign(attest)[4:]
    assert _outcome(_members(key, banks, signature=weak.hex())) == "refuse:unsupported"


def test_public_area_may_come_in_its_envelope():
    """TPM2_ReadPublic returns TPM2B_PUBLIC: the size in front changes nothing."""
    key, banks = Key(), {"sha256": _registers("sha256", EVENTS)}
    assert _outcome(_members(key, banks, ak_public=_sized(key.public).hex())) == "valid"
    open_key = Key(attributes=0x00040472)
    assert _outcome(_members(open_key, banks, ak_public=_sized(open_key.public).hex())) == "refuse:ak-not-restricted"


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found, value = found + bytes([0x80 | value & 0x7F]), value >> 7
    return found + bytes([value])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _protobuf(key: Key, banks: dict[str, dict[int, bytes]], *more: bytes, log: bytes = b"") -> bytes:
    """go-tpm-tools' Attestation, one quote a bank."""
    blob = _field(1, key.public)
    for bank, registers in banks.items():
        attest = key.quote({bank: registers})
        listed = _field(1, _CODES[bank])
        listed += b"".join(_field(2, _field(1, index) + _field(2, value)) for index, value in registers.items())
        blob += _field(2, _field(1, attest) + _field(2, key.sign(attest)) + _field(3, listed))
    return blob + (_field(3, log) if log else b"") + b"".join(more)


def test_attestation_of_go_tpm_tools_is_read():
    """A protobuf attestation with several quotes and a log is judged by its SHA-256 quote; unknown fields are not."""
    key, banks = Key(), {bank: _registers(bank, EVENTS) for bank in ("sha1", "sha256", "sha384")}
    log = _log(EVENTS, ("sha1", "sha256", "sha384"))
    blob = _protobuf(key, banks, _field(99, b"new"), _field(98, 7), b"\xfd\x02" + bytes(4), log=log)
    assert _outcome(blob) == "valid"
    assert _outcome(blob, bound=b"\x45" * 48) == "refuse:nonce-mismatch"
    wrong = {**banks, "sha256": {**banks["sha256"], 4: bytes(32)}}
    assert _outcome(_protobuf(key, wrong, log=log)) == "refuse:replay-mismatch"
    assert _outcome(_protobuf(Key(attributes=0x00040472), banks, log=log)) == "refuse:ak-not-restricted"


def test_attestation_that_contradicts_itself_is_malformed():
    """Two quotes of one bank, no quote, a register twice, cut or open-ended fields are malformed."""
    key, banks = Key(), {"sha256": _registers("sha256", EVENTS)}
    blob = _protobuf(key, banks)
    second = _protobuf(key, banks)[len(_field(1, key.public)) :]
    doubled = {"sha256": {0: bytes(32)}}
    attest = key.quote(doubled)
    twice = _field(1, _CODES["sha256"]) + 2 * _field(2, _field(2, bytes(32)))
    registers = _field(1, key.public) + _field(2, _field(1, attest) + _field(2, key.sign(attest)) + _field(3, twice))
    for damaged in (blob + second, _field(1, key.public), registers, blob[:-1], blob + b"\xff" * 11, blob + b"\x0b"):
        assert _outcome(damaged) == "refuse:malformed"


def test_dump_of_go_attestation_is_read():
    """The JSON dump with AK, Quote and Log is judged like our own form, its nonce never believed."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    key, registers = Key(RSA_KEY, RSASSA), _registers("sha256", EVENTS)
    attest = key.quote({"sha256": registers})
    listed = [{"Index": index, "Digest": text(value), "DigestAlg": 5} for index, value in registers.items()]
    dump = {
        "Static": {"TPMVersion": 2}, "AK": {"Public": text(key.public)},
        "Quote": {"Nonce": text(BOUND), "Quote": text(attest), "Signature": text(key.sign(attest))},
        "Log": {"PCRs": listed, "Raw": text(_log(EVENTS, ("sha256",)))},
    }  # fmt: skip
    assert _outcome(dump) == "valid"
    assert _outcome(dump, bound=b"\x45" * 48) == "refuse:nonce-mismatch"
    assert _outcome({**dump, "Log": {**dump["Log"], "PCRs": [*listed, listed[0]]}}) == "refuse:malformed"
    assert _outcome({**dump, "Log": {**dump["Log"], "PCRs": listed[1:]}}) == "refuse:binding-mismatch"


@pytest.fixture
def endorsed():
    """A TPM maker that certified an RSA endorsement key under id-RSAES-OAEP, as makers do."""
    maker, ek = forge.Party("TPM maker"), rsa.generate_private_key(65537, 2048)
    plain = ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bits = plain[plain.index(b"\x03\x82") :]
    oaep = forge.tlv(0x30, forge.tlv(0x30, forge.oid("1.2.840.113549.1.1.7"), forge.tlv(0x30)), bits)
    usage = forge.extension(certificates.EXTENDED_KEY_USAGE, forge.tlv(0x30, forge.oid("2.23.133.8.1")))
    top = forge.parsed(maker.certify(maker, *forge.AUTHORITY))
    return top, maker.certify(forge.Party(""), usage, serial=0, spki=oaep), Key(ek, RSASSA)


def test_endorsement_certificate_names_its_key_however_it_is_written(endorsed):
    """The certified EK is compared as a key; padding behind the certificate is cut; another EK is refused."""
    top, certificate, ek = endorsed
    rules = Rules(roots=Roots(tpm=Anchors(certificates=(top,))))
    banks = {"sha256": _registers("sha256", EVENTS)}
    for padding_octets in (b"", b"\xff" * 100, bytes(100)):
        members = _members(Key(), banks, ek_public=ek.public.hex(), ek_certificate=(certificate + padding_octets).hex())
        assert _outcome(members, rules=rules) == "valid"
    other = _members(Key(), banks, ek_public=Key(RSA_KEY).public.hex(), ek_certificate=certificate.hex())
    assert _outcome(other, rules=rules) == "refuse:binding-mismatch"
    assert _outcome(other) == "refuse:binding-mismatch"  # even where the rules name no root to follow it to
    trailing = _members(Key(), banks, ek_certificate=(certificate + b"\0\1\0").hex())
    assert _outcome(trailing, rules=rules) == "refuse:malformed"


def test_certificate_for_something_else_is_no_endorsement(endorsed):
    """A certificate of the maker without the EK usage, or of another maker, endorses nothing."""
    top, _, _ = endorsed
    maker = forge.Party("TPM maker")
    usage = forge.extension(certificates.EXTENDED_KEY_USAGE, forge.tlv(0x30, forge.oid("1.3.6.1.5.5.7.3.1")))
    own = forge.parsed(maker.certify(maker, *forge.AUTHORITY))
    banks = {"sha256": _registers("sha256", EVENTS)}
    members = _members(Key(), banks, ek_certificate=maker.certify(forge.Party("TLS"), usage).hex())
    for root in (top, own):
        rules = Rules(roots=Roots(tpm=Anchors(certificates=(root,))))
        assert _outcome(members, rules=rules) == "refuse:chain-invalid"
    authority = _members(Key(), banks, ek_certificate=own.raw.hex())
    assert _outcome(authority, rules=Rules(roots=Roots(tpm=Anchors(certificates=(own,))))) == "refuse:chain-invalid"
    assert _outcome(authority) == "refuse:chain-invalid"


def test_certificate_of_the_quoting_key_is_followed_and_compared():
    """A cloud certifies its virtual TPM's quoting key: another root, time or key refuses, and no cap is lifted."""
    cloud, other = forge.Party("EK/AK CA Root"), forge.Party("EK/AK CA Root")
    middle, key = forge.Party("EK/AK CA Intermediate"), Key()
    top = forge.parsed(cloud.certify(cloud, *forge.AUTHORITY))
    issuer = cloud.certify(middle, *forge.AUTHORITY)
    leaf = middle.certify(forge.Party("218557372616137117", key.key))
    banks = {"sha256": _registers("sha256", EVENTS)}
    rules = Rules(roots=Roots(tpm_ak=Anchors(certificates=(top,))))
    members = _members(key, banks, ak_certificate=leaf.hex(), ak_chain=[issuer.hex(), top.raw.hex()])
    blob = _protobuf(key, banks, _field(6, leaf), _field(7, issuer), _field(7, top.raw))
    foreign = Rules(roots=Roots(tpm_ak=Anchors(certificates=(forge.parsed(other.certify(other, *forge.AUTHORITY)),))))
    for evidence in (members, blob):
        assert _outcome(evidence, rules=rules) == "valid"
        assert _outcome(evidence) == "refuse:chain-invalid"  # under Google's pinned root
        assert _outcome(evidence, rules=foreign) == "refuse:chain-invalid"
    alone = _members(key, banks, ak_certificate=leaf.hex())
    assert _outcome(alone) == "valid"  # nobody carried its issuer and no root was named: could not check
    assert _outcome(alone, rules=rules) == "refuse:chain-invalid"
    stranger = _members(Key(), banks, ak_certificate=leaf.hex(), ak_chain=[issuer.hex()])
    assert _outcome(stranger, rules=rules) == "refuse:binding-mismatch"
    assert _outcome({**members, "ak_chain": [issuer.hex()] * 9}, rules=rules) == "refuse:malformed"
    found = examine(
        TpmVerifier(),
        json.dumps(members).encode(),
        Basis(bound=BOUND, collateral=Collateral(), now=world.NOW, rules=rules),
    )
    assert {item.cap for item in found.findings} == {0}
