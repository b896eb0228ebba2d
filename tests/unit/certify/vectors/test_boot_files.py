"""Recorded boots as tpm2-tools leaves them, made here: parts of one boot fit, parts of two do not."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.certify import world

from stannary.certify.evidence import event_log
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.tpm_structures import parse_public
from stannary.certify.rules import Rules
from stannary.certify.vectors import boot_files
from stannary.errors import FormatError

LOG = world.event_log([(0, 8, b"firmware"), (4, 0x80000003, b"loader")])
KEY = world.TpmKey(0x00050072)


def _pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _registers() -> dict[int, bytes]:
    return {index: bytes(32) for index in range(10)} | event_log.parse_log(LOG).replay("sha256")


def _text(registers: dict[int, bytes], *, heading: str = "sha256:\n") -> bytes:
    return (
        heading + "".join(f"  {index:<2}: 0x{value.hex().upper()}\n" for index, value in registers.items())
    ).encode()


def _parts(**changes: bytes) -> tuple[bytes, dict[str, bytes]]:
    attest, signature = KEY.quote(b"nonce", _registers())
    parts = {"signature": signature, "ak": KEY.public, "pcrs": _text(_registers()), "log": LOG}
    return attest, {**parts, **changes}


def _outcome(**changes: bytes) -> str:
    return _judged(*_parts(**changes))


def _judged(attest: bytes, parts: dict[str, bytes]) -> str:
    parsed = boot_files.read_boot(attest, {name: data for name, data in parts.items() if data})
    return (
        TpmVerifier().appraise(parsed, Basis(bound=None, collateral=Collateral(), now=world.NOW, rules=Rules())).outcome
    )


def test_parts_of_one_boot_fit():
    """A quote with its signature, key, registers and log is valid; each part of another boot has its code."""
    assert _outcome() == "valid"
    other_attest, other_signature = KEY.quote(b"other", _registers())
    assert boot_files.is_quote(other_attest)
    assert _outcome(signature=other_signature) == "refuse:signature-invalid"
    assert _outcome(pcrs=_text({**_registers(), 4: b"\1" * 32})) == "refuse:binding-mismatch"
    assert _outcome(log=world.event_log([(0, 8, b"other")])) == "refuse:replay-mismatch"
    assert _outcome(pcrs=b"", log=b"") == "refuse:binding-mismatch"
    assert _outcome(ak=b"") == "refuse:signature-invalid"


def test_pem_key_needs_the_name_that_its_attributes_give():
    """A PEM key shows no attributes; with the name a restricted key has, they are shown, with another they are not."""
    name = parse_public(KEY.public).name
    assert _outcome(ak=_pem(KEY.key), ak_name=name) == "valid"
    assert _outcome(ak=_pem(KEY.key)) == "refuse:ak-not-restricted"
    open_name = parse_public(world.TpmKey(0x00040072, KEY.key).public).name
    assert _outcome(ak=_pem(KEY.key), ak_name=open_name) == "refuse:ak-not-restricted"
    assert _outcome(ak=_pem(rsa.generate_private_key(65537, 2048))) == "refuse:signature-invalid"


@pytest.mark.parametrize("bits", [2048, 3072])
@pytest.mark.parametrize("scheme", [0x0014, 0x0016], ids=["rsassa", "rsapss"])
@pytest.mark.parametrize("attributes", [0x00050072, 0x00050472])
def test_pem_keys_of_rsa_are_shown_by_their_name_too(bits, scheme, attributes):
    """tpm2_createak makes RSA keys unless told otherwise: their names show the same attributes."""
    key = rsa.generate_private_key(65537, bits)

    def named(attributes: int) -> bytes:
        modulus = key.public_key().public_numbers().n.to_bytes(bits // 8, "big")
        area = struct.pack(">HHIHHHHHI", 1, 11, attributes, 0, 0x10, scheme, 11, bits, 0)
        return parse_public(area + struct.pack(">H", len(modulus)) + modulus).name

    attest, parts = _parts(ak=_pem(key), ak_name=named(attributes))
    hashed, padded = hashes.SHA256(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signed = key.sign(attest, padded if scheme == 0x0016 else padding.PKCS1v15(), hashed)
    parts["signature"] = struct.pack(">HHH", scheme, 11, len(signed)) + signed
    assert _judged(attest, parts) == "valid"
    for other in (attributes & ~0x10000, attributes | 0x20000, attributes & ~2):
        assert _judged(attest, {**parts, "ak_name": named(other)}) == "refuse:ak-not-restricted"


@pytest.mark.parametrize(
    "data",
    [
        b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
        b"-----BEGIN PRIVATE KEY-----\nMFkw\n-----END PRIVATE KEY-----",
        _pem(ed448.Ed448PrivateKey.generate()),
        _pem(rsa.generate_private_key(65537, 1024)),
        _pem(ec.generate_private_key(ec.SECP256R1())).replace(b"MFkwEwYHKoZI", b"MFkwEwYHKoZJ"),
        b"\0\1\2",
    ],
)
def test_keys_that_do_not_load_are_our_errors(data):
    """Empty, cut, private, foreign and weak keys, and keys of unknown algorithms, are FormatError."""
    with pytest.raises(FormatError):
        boot_files.read_boot(*_parts(ak=data))


def test_registers_are_read_in_every_form_of_the_tools():
    """A bank's heading, several banks, no heading, and JSON say the same registers."""
    registers = _registers()
    listed = {"sha256": registers}
    assert boot_files.read_registers(_text(registers)) == listed
    assert boot_files.read_registers(_text(registers, heading="")) == listed
    assert boot_files.read_registers(b'{"pcrs_sha256": {"0": "%s"}}' % (b"00" * 32)) == {"sha256": {0: bytes(32)}}
    wide = {index: bytes(48) for index in range(3)}
    both = boot_files.read_registers(_text(registers) + _text(wide, heading="sha384:\n"))
    assert both == {"sha256": registers, "sha384": wide}


@pytest.mark.parametrize(
    "text",
    [
        b"sha256:\n 0 : 0x00\n", b"sha256:\n 24 : 0x" + b"00" * 32, b"sha256:\n zero\n", b"\xff\xff", b"{",
        _text({0: bytes(32)}) * 2, b"sha256:\n" + _text({0: bytes(32)}, heading="") * 2,
        _text({0: bytes(48)}), _text({0: bytes(32)}) + b" " * (64 * 1024),
    ],
)  # fmt: skip
def test_registers_that_do_not_read(text):
    """Other sizes, indices, words, doubled banks and registers, and 64 KiB of text are FormatError."""
    with pytest.raises(FormatError):
        boot_files.read_registers(text)


def test_only_a_quote_starts_a_boot():
    """Evidence in one file is not taken for a bare quote."""
    assert not boot_files.is_quote(b'{"attest": ""}')
    assert not boot_files.is_quote(struct.pack("<I", 0xFF544347))
