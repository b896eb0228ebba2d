"""Where the keys of an artifact come from: the owner's one secret, or a release.

Rules:
1. The owner keeps 32 bytes. Everything else is HKDF-SHA256 of them under a label: the Ed25519 signing
   key, the X-Wing key that releases are wrapped to, the P-256 key of model-signing bundles, the key of
   the private dedup index, and per artifact the manifest key and one key per group, salted with the
   artifact's random id. A backup of 32 bytes is therefore a backup of every model ever sealed.
2. Shard keys are random and lie in the manifest under their group's key: a release of one group opens
   its shards and the index, nothing else.
3. Secrets live in objects whose repr shows none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stannary.errors import AuthError, FormatError
from stannary.formats import digest, dsse
from stannary.formats.digest import Digest
from stannary.seal.head import Head

SECRET_BYTES = 32
MLKEM_SEED_BYTES = 64
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-5, SP 800-186


class KeyRing(Protocol):
    """Whoever can name the keys of an artifact."""

    def manifest_key(self, head: Head) -> bytes:
        """Return the key of the sealed manifest; raise AuthError if it is not held."""
        ...

    def group_key(self, head: Head, group: str) -> bytes:
        """Return the key of one group; raise AuthError if it is not held."""
        ...


@dataclass(frozen=True, slots=True)
class ReceivingKey:
    """An X-Wing key by its 96-byte seed: ML-KEM-768 seed, then X25519 scalar."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != MLKEM_SEED_BYTES + SECRET_BYTES:
            raise FormatError("not a receiving-key seed", why=f"{len(self.seed)} bytes")

    @property
    def private(self) -> MLKEM768X25519PrivateKey:
        """The key that opens wraps."""
        return MLKEM768X25519PrivateKey(*self._parts())

    @property
    def public(self) -> bytes:
        """The 1216 bytes others wrap to: ML-KEM-768, then X25519."""
        kem, curve = self._parts()
        return kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()

    def _parts(self) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
        kem, curve = self.seed[:MLKEM_SEED_BYTES], self.seed[MLKEM_SEED_BYTES:]
        return mlkem.MLKEM768PrivateKey.from_seed_bytes(kem), x25519.X25519PrivateKey.from_private_bytes(curve)


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """The owner's secret and what follows from it (rule 1)."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise FormatError("not an owner secret", why=f"{len(self.secret)} bytes, expected {SECRET_BYTES}")

    @property
    def signing(self) -> Ed25519PrivateKey:
        """The key that signs heads and blame records."""
        return Ed25519PrivateKey.from_private_bytes(self._derive(b"sign", SECRET_BYTES))

    @property
    def public(self) -> bytes:
        """The raw public half of `signing`: who the owner is."""
        return dsse.public_bytes(self.signing)

    @property
    def receiving(self) -> ReceivingKey:
        """The X-Wing key that others wrap releases to."""
        return ReceivingKey(self._derive(b"receive", MLKEM_SEED_BYTES + SECRET_BYTES))

    @property
    def model_signing(self) -> ec.EllipticCurvePrivateKey:
        """The P-256 key of model-signing bundles (that tool takes no Ed25519)."""
        # 64 bytes modulo a 256-bit order: bias below 2**-256 (FIPS 186-5 A.2.1).
        wide = int.from_bytes(self._derive(b"model-signing p256", 64), "big")
        return ec.derive_private_key(wide % (P256_ORDER - 1) + 1, ec.SECP256R1())

    @property
    def index_key(self) -> bytes:
        """The key of the private dedup index."""
        return self._derive(b"index", SECRET_BYTES)

    def manifest_key(self, head: Head) -> bytes:
        """Return the manifest key of an artifact of this owner."""
        self._check_owner(head)
        return self._derive(b"manifest", SECRET_BYTES, salt=bytes.fromhex(head.artifact))

    def group_key(self, head: Head, group: str) -> bytes:
        """Return one group key of an artifact of this owner."""
        self._check_owner(head)
        return self._derive(b"group " + group.encode("ascii"), SECRET_BYTES, salt=bytes.fromhex(head.artifact))

    def _check_owner(self, head: Head) -> None:
        if bytes.fromhex(head.owner) != self.public:
            raise AuthError(
                "sealed by another owner",
                why=f"owner {head.owner[:16]}, this key is {self.public.hex()[:16]}",
                hint="ask its owner for a wrap, then: stannary open ... --wrap FILE",
            )

    def _derive(self, label: bytes, length: int, *, salt: bytes | None = None) -> bytes:
        return HKDF(SHA256(), length, salt, b"stannary owner v1 " + label).derive(self.secret)


@dataclass(frozen=True, slots=True)
class Release:
    """Keys of one artifact that somebody was given: the manifest's and those of some groups."""

    artifact: Digest
    manifest: bytes = field(repr=False)
    groups: dict[str, bytes] = field(repr=False)

    def manifest_key(self, head: Head) -> bytes:
        """Return the manifest key if `head` is the artifact of this release."""
        self._check_artifact(head)
        return self.manifest

    def group_key(self, head: Head, group: str) -> bytes:
        """Return a group key if it was released."""
        self._check_artifact(head)
        if group not in self.groups:
            held = ", ".join(sorted(self.groups)) or "none"
            raise AuthError("key group was not released to you", why=f"group {group}, held: {held[:120]}")
        return self.groups[group]

    def _check_artifact(self, head: Head) -> None:
        observed = digest.digest(head.to_bytes())
        if observed != self.artifact:
            raise AuthError("keys of another artifact", why=f"released for {self.artifact}, asked for {observed}")


@dataclass(frozen=True, slots=True)
class KeyChain:
    """Several releases, one per artifact: what a reader of a delta and its parent holds."""

    releases: tuple[Release, ...]

    def manifest_key(self, head: Head) -> bytes:
        """Return the manifest key from the release for this artifact."""
        return self._find(head).manifest_key(head)

    def group_key(self, head: Head, group: str) -> bytes:
        """Return a group key from the release for this artifact."""
        return self._find(head).group_key(head, group)

    def _find(self, head: Head) -> Release:
        observed = digest.digest(head.to_bytes())
        for release in self.releases:
            if release.artifact == observed:
                return release
        raise AuthError(
            "no keys of this artifact are held",
            why=observed,
            hint="a difference needs the keys of the versions before it too: --wrap FILE for each",
        )
