"""C2SP tlog-proof: one text that shows, offline, that a leaf is in a log (docs/receipt.md R3.8).

    c2sp.org/tlog-proof@v1
    index <n>
    <base64 hash>            one line each, from the leaf upwards
    <empty line>
    <checkpoint note>

The optional `extra` line is refused: it is not authenticated, and nothing of ours needs it.
"""

from __future__ import annotations

import re

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import note
from stannary.formats.dsse import decode_base64, encode_base64
from stannary.formats.lean import dataclass
from stannary.formats.note import Checkpoint, VerifierKey
from stannary.tlog import tree

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PATH = 63  # a tree of 2**63 leaves

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a leaf stands, its path, and the checkpoint note the path leads to."""

    index: int
    path: tuple[bytes, ...]
    note: str

    def to_text(self) -> str:
        """Return the proof file's text."""
        lines = [HEADER, f"index {self.index}", *(encode_base64(item) for item in self.path), ""]
        return "\n".join(lines) + "\n" + self.note


def parse(text: str) -> Proof:
    """Read a tlog-proof without judging it."""
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) < 2 or lines[0] != HEADER:
        raise FormatError("not a tlog-proof", why=f"starts with {text[:40]!r}")
    match = _INDEX.fullmatch(lines[1])
    if match is None:
        raise FormatError("tlog-proof has no index", why=f"{lines[1]!r:.80}")
    if len(lines) - 2 > MAX_PATH:
        raise LimitExceeded("tlog-proof is too long", why=f"{len(lines) - 2} hashes, limit {MAX_PATH}")
    return Proof(int(match[1]), tuple(read_hash(line) for line in lines[2:]), checkpoint)


def verify(text: str, leaf: bytes, log_key: str | VerifierKey) -> Checkpoint:
    """Check signature and path; return the checkpoint that covers `leaf`.

    Raises:
        Refuted: not this log's checkpoint, or the leaf is not under it.
    """
    proof = parse(text)
    checkpoint = note.verify_checkpoint(proof.note, log_key)
    tree.verify_inclusion(leaf, proof.index, checkpoint.size, proof.path, checkpoint.root)
    return checkpoint


def read_hash(text: object) -> bytes:
    """Read one base64 hash of a path."""
    if not isinstance(text, str):
        raise FormatError("proof hash is not a string", why=f"a {type(text).__name__}")
    data = decode_base64(text, "proof hash")
    if len(data) != tree.HASH_BYTES:
        raise FormatError("proof hash is not a hash", why=f"{len(data)} bytes")
    return data
