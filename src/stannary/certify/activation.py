"""Credential activation: proof that an attestation key and a certified EK are in one TPM.

`make_credential` is TPM2_MakeCredential without a TPM (TPM 2.0 Library, part 1, section 24): a
secret encrypted to the EK under the attestation key's *name*. Only a TPM that holds both keys
returns it.

Rules:
1. The key comes from the EK *certificate*, never from what the node says beside it.
2. Hash and cipher are those of the EK's template, and the templates of the EK Credential Profile 2.5
   (appendix B.3, B.4) give one pair for each kind of key: SHA-256 with AES-128 up to RSA 2048 and
   P-256, SHA-384 with AES-256 for RSA 3072, RSA 4096 and P-384, SHA-512 with AES-256 for P-521. A
   TPM whose EK follows another template refuses the credential; it never opens for a weaker one.
3. RSA keys get their seed by OAEP (part 1, annex B.10.4), ECC keys by one ephemeral Diffie-Hellman
   exchange and KDFe (annex C.6.4). Coordinates are padded to the field's size.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import UnsupportedFormat

if TYPE_CHECKING:
    from stannary.certify.pki.certificates import Certificate
    from stannary.certify.pki.keys import PublicKey

SECRET_BYTES = 32
LABEL_IDENTITY, LABEL_STORAGE, LABEL_INTEGRITY = b"IDENTITY", b"STORAGE", b"INTEGRITY"


@dataclass(frozen=True, slots=True)
class Suite:
    """What an EK's template says of credentials: the name hash and the AES key of its children."""

    digest: str
    algorithm: hashes.HashAlgorithm
    aes_bits: int

    @property
    def digest_bits(self) -> int:
        """Size of the hash: seeds and integrity keys have it."""
        return self.algorithm.digest_size * 8


_SHA256 = Suite("sha256", hashes.SHA256(), 128)
_SHA384 = Suite("sha384", hashes.SHA384(), 256)
_SHA512 = Suite("sha512", hashes.SHA512(), 256)
_RSA_SUITES = {2048: _SHA256, 3072: _SHA384, 4096: _SHA384}
_ECC_SUITES = {"secp256r1": _SHA256, "secp384r1": _SHA384, "secp521r1": _SHA512}


def suite_of(key: PublicKey) -> Suite:
    """Return the hash and cipher of the profile's template for a key of this kind."""
    found = None
    if isinstance(key, rsa.RSAPublicKey):
        found = _RSA_SUITES.get(key.key_size)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        found = _ECC_SUITES.get(key.curve.name)
    if found is None:
        raise UnsupportedFormat(
            "no credential can be made for this EK",
            why="its kind or size is in no template of the EK Credential Profile",
            hint="let the machine use its RSA 2048 or its P-384 EK",
        )
    return found


def make_credential(
    ek: Certificate,
    ak_name: bytes,
    secret: bytes | None = None,
    *,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[bytes, bytes]:
    """Return (credential, secret): `credential` is TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.

    `ephemeral` is the one-time key of an ECC exchange; made here unless a test brings its own.
    """
    key = ek.public_key()
    suite = suite_of(key)
    secret = os.urandom(SECRET_BYTES) if secret is None else secret
    if isinstance(key, rsa.RSAPublicKey):
        seed, encrypted_seed = _rsa_seed(key, suite)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        seed, encrypted_seed = _ecc_seed(key, suite, ephemeral or ec.generate_private_key(key.curve))
    else:  # suite_of accepts the two kinds above only
        raise UnsupportedFormat("no credential can be made for this EK")
    storage_key = kdfa(suite.digest, seed, LABEL_STORAGE, ak_name, suite.aes_bits)
    # AES-CFB with a zero IV is what the specification says; the key is used once.
    encryptor = Cipher(algorithms.AES(storage_key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity_key = kdfa(suite.digest, seed, LABEL_INTEGRITY, b"", suite.digest_bits)
    integrity = hmac.new(integrity_key, identity + ak_name, suite.digest).digest()
    return _sized(_sized(integrity) + identity) + _sized(encrypted_seed), secret


def is_for(credential: bytes, key: PublicKey) -> bool:
    """Whether a credential's encrypted seed has the shape that a key of this kind and size opens.

    A TPM with several EKs tells by it which of them a verifier chose: the seed is as long as an RSA
    modulus, or is a point of the curve.
    """
    cursor = Cursor(credential, "credential")
    cursor.sized_big()
    seed = cursor.sized_big()
    cursor.finish()
    if isinstance(key, rsa.RSAPublicKey):
        return len(seed) == key.key_size // 8
    return isinstance(key, ec.EllipticCurvePublicKey) and len(seed) == 2 * (2 + _field_bytes(key.curve))


def kdfa(digest: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return KDFa output (part 1, section 11.4.10.2): HMAC in counter mode, whole octets."""
    output, counter = b"", 0
    while len(output) < bits // 8:
        counter += 1
        message = struct.pack(">I", counter) + label + b"\0" + context + struct.pack(">I", bits)
        output += hmac.new(key, message, digest).digest()
    return output[: bits // 8]


def kdfe(digest: str, shared: bytes, label: bytes, parties: tuple[bytes, bytes], bits: int) -> bytes:
    """Return KDFe output (part 1, section 11.4.10.3): `parties` are the x-coordinates of U and V."""
    output, counter = b"", 0
    while len(output) < bits // 8:
        counter += 1
        message = struct.pack(">I", counter) + shared + label + b"\0" + parties[0] + parties[1]
        output += hashlib.new(digest, message).digest()
    return output[: bits // 8]


def _rsa_seed(key: rsa.RSAPublicKey, suite: Suite) -> tuple[bytes, bytes]:
    seed = os.urandom(suite.digest_bits // 8)
    scheme = padding.OAEP(padding.MGF1(suite.algorithm), suite.algorithm, LABEL_IDENTITY + b"\0")
    return seed, key.encrypt(seed, scheme)


def _ecc_seed(
    key: ec.EllipticCurvePublicKey, suite: Suite, ephemeral: ec.EllipticCurvePrivateKey
) -> tuple[bytes, bytes]:
    size = _field_bytes(key.curve)
    ours, theirs = ephemeral.public_key().public_numbers(), key.public_numbers()
    x, y = ours.x.to_bytes(size, "big"), ours.y.to_bytes(size, "big")
    shared = ephemeral.exchange(ec.ECDH(), key)  # the x-coordinate, padded to the field
    parties = (x, theirs.x.to_bytes(size, "big"))
    seed = kdfe(suite.digest, shared, LABEL_IDENTITY, parties, suite.digest_bits)
    return seed, _sized(x) + _sized(y)


def _field_bytes(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
