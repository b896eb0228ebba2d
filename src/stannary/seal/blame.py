"""Signed records of mirrors that served wrong bytes.

A record names the mirror, the object asked for by hash and what came instead. Anybody with the signer's
public key can check who said it; that it is true needs the signer's word, since the mirror signs
nothing. Records of independent readers about one mirror add up, which is what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.formats import dsse, statement
from stannary.formats.digest import Digest
from stannary.formats.statement import Subject

KIND = "mirror-blame"


@dataclass(frozen=True, slots=True)
class Blame:
    """One wrong answer of one mirror."""

    artifact: Digest
    mirror: str
    object: str  # name in the store
    expected: str  # b3:<hex>:<length>, or a sha256 digest for a head
    observed: str  # hex hash of what came
    at: str  # RFC 3339 UTC


def sign(blame: Blame, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Sign a record as the reader who saw it."""
    return statement.sign(KIND, blame, (Subject(blame.object, blame.artifact),), key)


def check(envelope: dsse.Envelope, public_key: bytes) -> Blame:
    """Return the record if `public_key` signed it."""
    return statement.open_envelope(envelope, KIND, Blame, public_key).predicate
