"""The public head of a sealed artifact: what anybody may see, and the owner's signature over it.

Rules:
1. The artifact digest is SHA-256 of the head's bytes. A reader starts from that digest and never
   from the bytes: whatever does not hash to it is refused, whatever it looks like (no sniffing, so no
   downgrade to plain).
2. The head is JCS and lists every ciphertext in order by BLAKE3 and length. Every recipient of a key
   could forge a shard that the AEAD accepts; only the owner can put it on this list.
3. The signature is an in-toto Statement in DSSE over the head's digest. It repeats the public facts of
   the head, and any disagreement is refused.

The head shows sizes (padded to 64 KiB) and counts, no name, shape, key or plaintext hash. Where head,
signature and shards lie in a store is in `stores/source.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError, LimitExceeded, Refuted
from stannary.formats import canonical, digest, dsse, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.statement import Subject

FORMAT = "seal/v1"
SUITE = "cobblestone-256+blake3"
KIND = "sealed-artifact"
SUBJECT_NAME = "seal/v1 head"

MAX_SHARDS = 131_072  # 1 TiB in shards of 8 MiB
MAX_HEAD_BYTES = 16 * 1024 * 1024  # MAX_SHARDS lines of 80 bytes, with room
MAX_ENVELOPE_BYTES = 64 * 1024
MAX_OBJECT_BYTES = 80 * 1024 * 1024  # the largest object is a manifest of MAX_SHARDS

_OBJECT = re.compile(r"b3:([0-9a-f]{64}):([1-9][0-9]{0,9})")
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_MEMBERS = {"artifact", "format", "manifest", "owner", "shards", "suite"}


@dataclass(frozen=True, slots=True)
class SealedObject:
    """A ciphertext by name: hex BLAKE3 and length in bytes. Spelled `b3:<hex>:<length>`."""

    blake3: str
    length: int

    def spell(self) -> str:
        """Return the spelling used in the head."""
        return f"b3:{self.blake3}:{self.length}"


@dataclass(frozen=True, slots=True)
class Head:
    """The public part of an artifact, parsed."""

    artifact: str  # 32 random bytes in hex: the salt of every key derivation of this artifact
    owner: str  # raw Ed25519 public key in hex
    manifest: SealedObject
    shards: tuple[SealedObject, ...]
    parent: Digest | None = None

    def to_bytes(self) -> bytes:
        """Return the canonical bytes; their SHA-256 is the artifact digest."""
        members: dict[str, Json] = {
            "format": FORMAT,
            "suite": SUITE,
            "artifact": self.artifact,
            "owner": self.owner,
            "manifest": self.manifest.spell(),
            "shards": [item.spell() for item in self.shards],
        }
        if self.parent is not None:
            members["parent"] = self.parent
        return canonical.encode(members)


@dataclass(frozen=True, slots=True)
class SealingClaim:
    """The predicate the owner signs: the public facts of the head named by the subject."""

    format: str
    suite: str
    artifact: str
    num_shards: int
    sealed_bytes: int
    parent: Digest | None = None


def sign(head: Head, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Sign a head as its owner."""
    subject = Subject(SUBJECT_NAME, digest.digest(head.to_bytes()))
    return statement.sign(KIND, _claim(head), (subject,), key)


def check(head_bytes: bytes, envelope_bytes: bytes, expected: Digest) -> Head:
    """Return the head that `expected` names, if its owner signed it.

    Raises:
        Refuted: the bytes hash to another digest, or the signature is not the owner's over this head.
        FormatError, LimitExceeded: bytes of the right digest that are not a seal/v1 head.
    """
    observed = digest.digest(head_bytes)
    if observed != digest.parse(expected):
        raise Refuted("this is another artifact", why=f"the head hashes to {observed}, asked for {expected}")
    head = parse(head_bytes)
    if len(envelope_bytes) > MAX_ENVELOPE_BYTES:
        raise LimitExceeded("head signature too large", why=f"{len(envelope_bytes):,} bytes")
    envelope = dsse.from_bytes(envelope_bytes)
    if envelope.to_bytes() != envelope_bytes:
        raise FormatError("head signature is not canonical JSON")
    signed = statement.open_envelope(envelope, KIND, SealingClaim, bytes.fromhex(head.owner))
    if signed.subjects != (Subject(SUBJECT_NAME, observed),) or signed.predicate != _claim(head):
        raise Refuted("the owner signed another head", why=f"asked for {expected}")
    return head


def parse(data: bytes) -> Head:
    """Read head bytes strictly: canonical, known members, limits."""
    members = canonical.decode_object(data, max_bytes=MAX_HEAD_BYTES)
    if set(members) - {"parent"} != _MEMBERS:
        raise FormatError("head has missing or unknown members", why=", ".join(sorted(members))[:200])
    if members["format"] != FORMAT or members["suite"] != SUITE:
        raise FormatError("not a seal/v1 head", why=f"{members['format']!r:.40}, suite {members['suite']!r:.40}")
    shards = members["shards"]
    if not isinstance(shards, list):
        raise FormatError("head shards is not a list")
    if len(shards) > MAX_SHARDS:
        raise LimitExceeded("too many shards", why=f"{len(shards):,}, limit {MAX_SHARDS:,}")
    head = Head(
        artifact=_hex32(members["artifact"], "artifact"),
        owner=_hex32(members["owner"], "owner"),
        manifest=parse_object(members["manifest"]),
        shards=tuple(parse_object(item) for item in shards),
        parent=digest.parse(members["parent"]) if "parent" in members else None,
    )
    if head.to_bytes() != data:
        raise FormatError("head is not canonical JSON")
    return head


def parse_object(value: Json) -> SealedObject:
    """Read `b3:<hex>:<length>`."""
    match = _OBJECT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FormatError("not the name of a sealed object", why=f"{value!r:.100}")
    length = int(match[2])
    if length > MAX_OBJECT_BYTES:
        raise LimitExceeded("sealed object too large", why=f"{length:,} bytes, limit {MAX_OBJECT_BYTES:,}")
    return SealedObject(match[1], length)


def _claim(head: Head) -> SealingClaim:
    sealed = head.manifest.length + sum(item.length for item in head.shards)
    return SealingClaim(FORMAT, SUITE, head.artifact, len(head.shards), sealed, head.parent)


def _hex32(value: Json, what: str) -> str:
    if not isinstance(value, str) or _HEX_32.fullmatch(value) is None:
        raise FormatError(f"head {what} is not 32 bytes in hex", why=f"{value!r:.80}")
    return value
