"""Endorsement keys as TPM makers provision them: where they are and from which template they grow.

Source: TCG EK Credential Profile for TPM 2.0, version 2.5: NV indices and handles in section 2.2.1,
templates L-1 and L-2 in appendix B.3, H-1 to H-7 in B.4. Low-range keys answer to a policy only, with
unique fields of zeros; high-range keys also to their own, empty, password, with empty unique fields,
and their hash and cipher grow with the key.

A maker may put another template into NV memory. Nothing here is believed: a key is used where it is the
one that the EK certificate names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ALG_RSA, _ALG_ECC, _ALG_AES, _ALG_CFB, _ALG_NULL = 0x0001, 0x0023, 0x0006, 0x0043, 0x0010
_SHA256, _SHA384, _SHA512 = 0x000B, 0x000C, 0x000D
_P256, _P384, _P521 = 0x0003, 0x0004, 0x0005
# fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt; the high range adds userWithAuth.
_LOW_ATTRIBUTES, _HIGH_ATTRIBUTES = 0x000300B2, 0x000300F2
USER_WITH_AUTH = 1 << 6

# PolicySecret(TPM_RH_ENDORSEMENT): section B.6.2.
POLICY_A_SHA256 = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
# PolicyOR(PolicyA, PolicyAuthorizeNV): section B.6.6, one value for each hash.
POLICY_B = {
    _SHA256: bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"),
    _SHA384: bytes.fromhex(
        "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
    ),
    _SHA512: bytes.fromhex(
        "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4"
        "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
    ),
}


@dataclass(frozen=True, slots=True)
class EkProfile:
    """One key of the profile: its name for people, handle, NV indices and default template."""

    name: str
    handle: int
    certificate_index: int
    template_index: int
    fixed: bytes  # TPMT_PUBLIC up to the unique field
    unique: bytes

    @property
    def template(self) -> bytes:
        """The default template."""
        return self.fixed + self.unique

    def is_default(self, public: bytes) -> bool:
        """Whether a public area is of a key made by the default template."""
        return public.startswith(self.fixed)


def _rsa(bits: int, hash_code: int, aes_bits: int, *, low: bool = False) -> tuple[bytes, bytes]:
    unique = bytes(bits // 8) if low else b""
    parameters = struct.pack(">HHHHHI", _ALG_AES, aes_bits, _ALG_CFB, _ALG_NULL, bits, 0)
    return _head(_ALG_RSA, hash_code, low) + parameters, _sized(unique)


def _ecc(curve: int, hash_code: int, aes_bits: int, *, low: bool = False) -> tuple[bytes, bytes]:
    unique = bytes(32) if low else b""
    parameters = struct.pack(">HHHHHH", _ALG_AES, aes_bits, _ALG_CFB, _ALG_NULL, curve, _ALG_NULL)
    return _head(_ALG_ECC, hash_code, low) + parameters, _sized(unique) * 2


def _head(kind: int, hash_code: int, low: bool) -> bytes:
    policy = POLICY_A_SHA256 if low else POLICY_B[hash_code]
    return struct.pack(">HHI", kind, hash_code, _LOW_ATTRIBUTES if low else _HIGH_ATTRIBUTES) + _sized(policy)


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _high(name: str, offset: int, template: tuple[bytes, bytes]) -> EkProfile:
    """In the high range an even index is a certificate, the next one its template if it is not the default."""
    return EkProfile(name, 0x81010000 + offset, 0x01C00000 + offset, 0x01C00001 + offset, *template)


RSA_2048 = EkProfile("rsa-2048", 0x81010001, 0x01C00002, 0x01C00004, *_rsa(2048, _SHA256, 128, low=True))
ECC_P256 = EkProfile("ecc-p256", 0x81010002, 0x01C0000A, 0x01C0000C, *_ecc(_P256, _SHA256, 128, low=True))
ECC_P384 = _high("ecc-p384", 0x16, _ecc(_P384, _SHA384, 256))
# In the order they are tried: what every TPM has first, so that a machine keeps the identity it began with.
PROFILES = (
    RSA_2048,
    ECC_P256,
    _high("rsa-2048-high", 0x12, _rsa(2048, _SHA256, 128)),
    _high("ecc-p256-high", 0x14, _ecc(_P256, _SHA256, 128)),
    ECC_P384,
    _high("ecc-p521", 0x18, _ecc(_P521, _SHA512, 256)),
    _high("rsa-3072", 0x1C, _rsa(3072, _SHA384, 256)),
    _high("rsa-4096", 0x1E, _rsa(4096, _SHA384, 256)),
)
