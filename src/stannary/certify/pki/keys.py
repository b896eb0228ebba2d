"""Public keys and signatures named by X.509 algorithm identifiers.

Rules: the algorithm comes from the signed structure and must fit the key; SHA-1 and RSA below 2048
bits are refused (NIST SP 800-131A); RSA-PSS parameters are read, not assumed (RFC 4055). A key
that cannot be loaded raises FormatError, a signature that does not hold is `False`.
"""

from __future__ import annotations

import functools

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from stannary.certify.pki import der
from stannary.errors import FormatError, UnsupportedFormat

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # above it a verification is a denial of service
_HASH_OIDS: dict[str, hashes.HashAlgorithm] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_ECDSA: dict[str, hashes.HashAlgorithm] = {
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
}
_RSA_PKCS1: dict[str, hashes.HashAlgorithm] = {
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}
_RSA_PSS = "1.2.840.113549.1.1.10"
_RSA_OAEP = "1.2.840.113549.1.1.7"
_RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
_ED25519 = "1.3.101.112"


@functools.lru_cache(maxsize=1024)
def load(spki: bytes) -> PublicKey:
    """Load a DER SubjectPublicKeyInfo."""
    try:
        key = load_der_public_key(_plain_rsa(spki))
    except (ValueError, UnsupportedAlgorithm, OverflowError) as err:
        raise FormatError("public key does not load", why=str(err)[:160]) from err
    if isinstance(key, rsa.RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise UnsupportedFormat("RSA key of this size is not accepted", why=f"{key.key_size} bits")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise UnsupportedFormat("public key of this kind is not accepted", why=type(key).__name__)
    return key


def _plain_rsa(spki: bytes) -> bytes:
    """Return a key certified under id-RSAES-OAEP (RFC 4055 section 4.1) under rsaEncryption, others as they are.

    TPM makers certify endorsement keys so, and the library does not read it. The key inside is the same.
    """
    fields = der.sequence(spki, "public key")
    algorithm = fields[0].expect(der.SEQUENCE, "key algorithm").children() if fields else []
    if len(fields) != 2 or not algorithm or algorithm[0].oid("key algorithm") != _RSA_OAEP:
        return spki
    body = _RSA_ENCRYPTION + fields[1].raw
    if len(body) > 0xFFFF:
        raise UnsupportedFormat("RSA key of this size is not accepted", why=f"{len(body):,} bytes")
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def from_point(curve: ec.EllipticCurve, x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    """Load an elliptic curve point from its big-endian coordinates."""
    size = (curve.key_size + 7) // 8
    if len(x) > size or len(y) > size:
        raise FormatError("elliptic curve point too long", why=f"{len(x)} and {len(y)} bytes, limit {size}")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\4" + x.rjust(size, b"\0") + y.rjust(size, b"\0"))
    except ValueError as err:
        raise FormatError("elliptic curve point is not on its curve", why=curve.name) from err


def verify_x509(key: PublicKey, algorithm: bytes, signature: bytes, message: bytes) -> bool:
    """Verify a signature under a DER AlgorithmIdentifier (RFC 5280 section 4.1.1.2)."""
    fields = der.sequence(algorithm, "signature algorithm")
    if not fields:
        raise FormatError("signature algorithm is empty")
    oid = fields[0].oid("signature algorithm")
    if oid in _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
        return verify_ecdsa(key, signature, message, _ECDSA[oid])
    if oid in _RSA_PKCS1 and isinstance(key, rsa.RSAPublicKey):
        return verify_rsa(key, signature, message, _RSA_PKCS1[oid], padding.PKCS1v15())
    if oid == _RSA_PSS and isinstance(key, rsa.RSAPublicKey):
        algorithm_hash, scheme = _pss(fields[1] if len(fields) > 1 else None)
        return verify_rsa(key, signature, message, algorithm_hash, scheme)
    if oid == _ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
        return verify_ed25519(key, signature, message)
    raise UnsupportedFormat("signature algorithm does not fit the key or is not accepted", why=oid)


def verify_ecdsa(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    """Verify a DER-encoded ECDSA signature."""
    try:
        key.verify(signature, message, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def verify_ecdsa_raw(
    key: ec.EllipticCurvePublicKey, r: bytes, s: bytes, message: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    """Verify an ECDSA signature given as two big-endian integers."""
    encoded = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    return verify_ecdsa(key, encoded, message, algorithm)


def is_signed_raw(
    spki: bytes, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm, curve: str = ""
) -> bool:
    """Whether a certified key made a signature given as two integers of its size, one after the other.

    A key that does not load, or is not of the curve asked for, signed nothing.
    """
    try:
        key = load(spki)
    except FormatError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve not in {"", key.curve.name}:
        return False
    half = (key.key_size + 7) // 8
    if len(signature) != 2 * half:
        return False
    return verify_ecdsa_raw(key, signature[:half], signature[half:], message, algorithm)


def verify_rsa(
    key: rsa.RSAPublicKey,
    signature: bytes,
    message: bytes,
    algorithm: hashes.HashAlgorithm,
    scheme: padding.PKCS1v15 | padding.PSS,
) -> bool:
    """Verify an RSA signature."""
    try:
        key.verify(signature, message, scheme, algorithm)
    except InvalidSignature:
        return False
    return True


def verify_ed25519(key: ed25519.Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Verify an Ed25519 signature."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _pss(parameters: der.Element | None) -> tuple[hashes.HashAlgorithm, padding.PSS]:
    """Read RSASSA-PSS-params (RFC 4055 section 3.1); its SHA-1 defaults are refused."""
    members: dict[int, der.Element] = {}
    if parameters is not None:
        for item in parameters.expect(der.SEQUENCE, "PSS parameters").children():
            inner = item.children()
            if len(inner) != 1 or item.tag in members:
                raise FormatError("PSS parameters are not one value each")
            members[item.tag] = inner[0]
    if 0xA0 not in members or 0xA1 not in members:
        raise UnsupportedFormat("RSA-PSS with SHA-1 is not accepted")
    digest = _hash_named(members[0xA0])
    mask = members[0xA1].expect(der.SEQUENCE, "mask generation").children()
    if len(mask) != 2 or mask[0].oid("mask generation") != "1.2.840.113549.1.1.8":
        raise UnsupportedFormat("mask generation function is not MGF1")
    salt_bytes = members[0xA2].integer("salt length") if 0xA2 in members else 20
    if not 0 <= salt_bytes <= digest.digest_size:
        raise UnsupportedFormat("RSA-PSS salt length is not accepted", why=str(salt_bytes))
    return digest, padding.PSS(padding.MGF1(_hash_named(mask[1])), salt_bytes)


def _hash_named(element: der.Element) -> hashes.HashAlgorithm:
    fields = element.expect(der.SEQUENCE, "hash algorithm").children()
    oid = fields[0].oid("hash algorithm") if fields else ""
    if oid not in _HASH_OIDS:
        raise UnsupportedFormat("hash algorithm is not accepted", why=oid)
    return _HASH_OIDS[oid]
