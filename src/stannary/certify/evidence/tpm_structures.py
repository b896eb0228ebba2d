"""TPM 2.0 structures (TPM 2.0 Library, part 2): public areas, quotes, signatures. Big-endian.

Only what appraisal needs; every structure is read whole and nothing may trail.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from stannary.certify.evidence.cursor import Cursor
from stannary.certify.pki import keys
from stannary.errors import FormatError, UnsupportedFormat

MAGIC = 0xFF544347  # TPM_GENERATED_VALUE: a restricted key signs nothing else that starts so
ST_QUOTE = 0x8018
ALG_RSA, ALG_NULL, ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA, ALG_ECC = 0x0001, 0x0010, 0x0014, 0x0016, 0x0018, 0x0023
HASHES = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
BANKS = {0x0004: "sha1", **HASHES}
CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
Registers = dict[str, dict[int, bytes]]  # by bank, then by index
_CRYPTOGRAPHY: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

# TPMA_OBJECT (part 2, section 8.3).
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
NUM_PCRS = 24


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A TPMT_PUBLIC."""

    raw: bytes
    kind: int
    name_algorithm: str
    attributes: int
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    @property
    def name(self) -> bytes:
        """The object's name: algorithm and hash of the public area."""
        algorithm = next(code for code, name in HASHES.items() if name == self.name_algorithm)
        return algorithm.to_bytes(2, "big") + hashlib.new(self.name_algorithm, self.raw).digest()

    @property
    def is_attestation_key(self) -> bool:
        """Whether the key signs only what its own TPM made (restricted, fixedTPM, sign, not decrypt)."""
        wanted = RESTRICTED | FIXED_TPM | SIGN
        return self.attributes & wanted == wanted and not self.attributes & DECRYPT


@dataclass(frozen=True, slots=True)
class Attest:
    """A TPMS_ATTEST of type quote."""

    raw: bytes
    qualified_signer: bytes
    extra_data: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    selections: tuple[tuple[str, tuple[int, ...]], ...]
    pcr_digest: bytes

    def covered(self, banks: Registers) -> Registers:
        """Return the registers that this quote selects; what it does not select is nobody's word."""
        found: Registers = {}
        for bank, indices in self.selections:
            given = banks.get(bank, {})
            found.setdefault(bank, {}).update({index: given[index] for index in indices if index in given})
        return found


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE, or a raw one of a known scheme."""

    scheme: int
    digest: str
    parts: tuple[bytes, ...]


def parse_public(data: bytes) -> PublicArea:
    """Read a TPMT_PUBLIC of an RSA or ECC key."""
    cursor = Cursor(data, "TPM public area")
    kind, name_algorithm, attributes = cursor.big(2), cursor.big(2), cursor.big(4)
    if name_algorithm not in HASHES:
        raise UnsupportedFormat("TPM name algorithm is not accepted", why=f"{name_algorithm:#06x}")
    cursor.sized_big()  # authPolicy
    if kind == ALG_RSA:
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = _rsa(cursor)
    elif kind == ALG_ECC:
        key = _ecc(cursor)
    else:
        raise UnsupportedFormat("TPM key type is not accepted", why=f"{kind:#06x}")
    cursor.finish()
    return PublicArea(data, kind, HASHES[name_algorithm], attributes, key)


def parse_attest(data: bytes) -> Attest:
    """Read a quote."""
    cursor = Cursor(data, "TPM quote")
    magic, kind = cursor.big(4), cursor.big(2)
    if magic != MAGIC:
        raise FormatError("not made by a TPM", why=f"magic {magic:#010x}, expected {MAGIC:#010x}")
    if kind != ST_QUOTE:
        raise UnsupportedFormat("TPM attestation is not a quote", why=f"type {kind:#06x}")
    signer, extra_data = cursor.sized_big(), cursor.sized_big()
    clock_ms, reset_count, restart_count = cursor.big(8), cursor.big(4), cursor.big(4)
    safe, firmware = cursor.big(1), cursor.big(8)
    count = cursor.big(4)
    if count > 8:
        raise FormatError("TPM quote selects too many banks", why=str(count))
    selections = tuple(_selection(cursor) for _ in range(count))
    pcr_digest = cursor.sized_big()
    cursor.finish()
    return Attest(
        raw=data,
        qualified_signer=signer,
        extra_data=extra_data,
        clock_ms=clock_ms,
        reset_count=reset_count,
        restart_count=restart_count,
        safe=safe == 1,
        firmware=firmware,
        selections=selections,
        pcr_digest=pcr_digest,
    )


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE."""
    cursor = Cursor(data, "TPM signature")
    scheme, algorithm = cursor.big(2), cursor.big(2)
    if algorithm not in HASHES:
        raise UnsupportedFormat("TPM signature hash is not accepted", why=f"{algorithm:#06x}")
    if scheme == ALG_ECDSA:
        parts: tuple[bytes, ...] = (cursor.sized_big(), cursor.sized_big())
    elif scheme in {ALG_RSASSA, ALG_RSAPSS}:
        parts = (cursor.sized_big(),)
    else:
        raise UnsupportedFormat("TPM signature scheme is not accepted", why=f"{scheme:#06x}")
    cursor.finish()
    return Signature(scheme, HASHES[algorithm], parts)


def verify(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, signature: Signature, message: bytes) -> bool:
    """Verify a TPM signature; a scheme that does not fit the key verifies nothing."""
    algorithm = _CRYPTOGRAPHY[signature.digest]
    if isinstance(key, ec.EllipticCurvePublicKey):
        if signature.scheme != ALG_ECDSA:
            return False
        return keys.verify_ecdsa_raw(key, signature.parts[0], signature.parts[1], message, algorithm)
    if signature.scheme == ALG_RSASSA:
        return keys.verify_rsa(key, signature.parts[0], message, algorithm, padding.PKCS1v15())
    if signature.scheme == ALG_RSAPSS:
        scheme = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
        return keys.verify_rsa(key, signature.parts[0], message, algorithm, scheme)
    return False


def pcr_digest(attest: Attest, pcrs: dict[int, bytes], digest: str) -> bytes | None:
    """Return the digest over the selected SHA-256 registers; None where one is not given or of another bank."""
    return banks_digest(attest, {"sha256": pcrs}, digest)


def banks_digest(attest: Attest, banks: Registers, digest: str) -> bytes | None:
    """Return the digest over the selected registers, in the quote's order of banks; None where one is not given."""
    state = hashlib.new(digest)
    for bank, indices in attest.selections:
        for index in indices:
            value = banks.get(bank, {}).get(index)
            if value is None:
                return None
            state.update(value)
    return state.digest()


def _selection(cursor: Cursor) -> tuple[str, tuple[int, ...]]:
    algorithm = cursor.big(2)
    bitmap = cursor.sized_big(1)
    if algorithm not in BANKS or not 1 <= len(bitmap) <= 4:
        raise UnsupportedFormat("TPM quote selects an unknown bank", why=f"{algorithm:#06x}")
    bits = int.from_bytes(bitmap, "little")
    return BANKS[algorithm], tuple(index for index in range(8 * len(bitmap)) if bits >> index & 1)


def _skip_symmetric(cursor: Cursor) -> None:
    if cursor.big(2) != ALG_NULL:
        cursor.take(4)  # key bits, mode


def _skip_scheme(cursor: Cursor) -> None:
    if cursor.big(2) != ALG_NULL:
        cursor.take(2)  # hash


def _rsa(cursor: Cursor) -> rsa.RSAPublicKey:
    _skip_symmetric(cursor)
    _skip_scheme(cursor)
    bits, exponent, modulus = cursor.big(2), cursor.big(4) or 65537, cursor.sized_big()
    if bits != 8 * len(modulus) or not keys.MIN_RSA_BITS <= bits <= keys.MAX_RSA_BITS:
        raise UnsupportedFormat("TPM RSA key of this size is not accepted", why=f"{bits} bits")
    return rsa_key(int.from_bytes(modulus, "big"), exponent)


def rsa_key(modulus: int, exponent: int) -> rsa.RSAPublicKey:
    """Load an RSA public key from its numbers."""
    if not keys.MIN_RSA_BITS <= modulus.bit_length() <= keys.MAX_RSA_BITS:
        raise UnsupportedFormat("RSA key of this size is not accepted", why=f"{modulus.bit_length()} bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as err:
        raise FormatError("RSA key does not load", why=str(err)[:120]) from err


def _ecc(cursor: Cursor) -> ec.EllipticCurvePublicKey:
    _skip_symmetric(cursor)
    _skip_scheme(cursor)
    curve = cursor.big(2)
    _skip_scheme(cursor)  # kdf
    x, y = cursor.sized_big(), cursor.sized_big()
    if curve not in CURVES:
        raise UnsupportedFormat("TPM curve is not accepted", why=f"{curve:#06x}")
    return keys.from_point(CURVES[curve], x, y)
