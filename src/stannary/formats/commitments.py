"""What binds a node before it shows anything: hashes of a result, and of the answer about one (docs/receipt.md R9)."""

from __future__ import annotations

import hashlib

from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId


def commitment_hash(node: NodeId, salt: str, root: Digest) -> str:
    """Return H(node, salt, root) in hex; the node id keeps another from handing it in as his own (R9.2)."""
    return digest.hash_parts("stannary commitment v1", node.encode(), digest.unhex(salt), digest.raw(root)).hex()


def answer_hash(audit_salt: bytes, state: bytes) -> str:
    """Return H(audit salt, state bytes at the drawn inner step) in hex (R9.4)."""
    hashed = answer_before(audit_salt, len(state))
    hashed.update(state)
    return hashed.hexdigest()


def answer_before(audit_salt: bytes, num_state_bytes: int) -> hashlib._Hash:
    """Return the hash of an answer up to a state of this length, for a state that is never held whole."""
    return digest.hash_before("stannary answer v1", audit_salt, num_last_bytes=num_state_bytes)


def answer_commitment_hash(node: NodeId, blind: str, answer: str, root: Digest) -> str:
    """Return the blinded commitment of an answer in hex (R9.5)."""
    parts = (node.encode(), digest.unhex(blind), digest.unhex(answer), digest.raw(root))
    return digest.hash_parts("stannary answer commitment v1", *parts).hex()
