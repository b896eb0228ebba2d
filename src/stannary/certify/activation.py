"""Credential activation: proof that an attestation key and a certified EK are in one TPM.

`make_credential` is TPM2_MakeCredential without a TPM (TPM 2.0 Library, part 1, section 24): a
secret encrypted to the EK under the attestation key's *name*. Only a TPM that holds both keys
returns it. RSA EKs with SHA-256 and AES-128, as template L-1 makes them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from stannary.errors import UnsupportedFormat

if TYPE_CHECKING:
    from stannary.certify.certificates import Certificate

SECRET_BYTES = 32
_SEED_BYTES = 32


def make_credential(ek: Certificate, ak_name: bytes, secret: bytes | None = None) -> tuple[bytes, bytes]:
    """Return (credential, secret): `credential` is TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET."""
    key = ek.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise UnsupportedFormat("EK is not RSA", why="credentials are made for RSA endorsement keys")
    secret = os.urandom(SECRET_BYTES) if secret is None else secret
    seed = os.urandom(_SEED_BYTES)
    encrypted_seed = key.encrypt(seed, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0"))
    storage_key = kdfa(seed, b"STORAGE", ak_name, 128)
    # AES-CFB with a zero IV is what the specification says; the key is used once.
    encryptor = Cipher(algorithms.AES(storage_key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(struct.pack(">H", len(secret)) + secret) + encryptor.finalize()
    integrity_key = kdfa(seed, b"INTEGRITY", b"", 256)
    integrity = hmac.new(integrity_key, identity + ak_name, hashlib.sha256).digest()
    blob = struct.pack(">H", len(integrity)) + integrity + identity
    return struct.pack(">H", len(blob)) + blob + struct.pack(">H", len(encrypted_seed)) + encrypted_seed, secret


def kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return KDFa output (part 1, section 11.4.10.2), SHA-256, at most one block a round."""
    output, counter = b"", 0
    while len(output) < bits // 8:
        counter += 1
        message = struct.pack(">I", counter) + label + b"\0" + context + struct.pack(">I", bits)
        output += hmac.new(key, message, hashlib.sha256).digest()
    return output[: bits // 8]
