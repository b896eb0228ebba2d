"""The ruling file, `JOB.NODE.ruling.json`: everything needed to check what became of a disputed bond, offline.

    format        "stannary.ruling/v1"
    receipt       the receipt file of the job the dispute is from, as an object (formats/receipt.py)
    consistency   the proof that its final checkpoint leads to this file's
    ruling        the market's `ruling` statement (DSSE envelope)
    proof         C2SP tlog-proof of the ruling; its checkpoint is this file's *final* one
    drawn         the checkpoint the appeal was drawn from: {note, consistency}, its proof leads to the final one
    evidence      the appeal; and of each heard answer it, its blinded commitment, and the credential its node heard
                  under; in log order: {envelope, index, path}, paths lead to the final checkpoint

Rules (docs/receipt.md R18.7): those of the receipt file. What it proves is judged in verify/appealed.py.
"""

from __future__ import annotations

from stannary.errors import FormatError
from stannary.formats import canonical, dsse
from stannary.formats.canonical import Json
from stannary.formats.dsse import Envelope
from stannary.formats.lean import dataclass
from stannary.formats.receipt import (
    MAX_RECEIPT_BYTES,
    EarlierCheckpoint,
    LoggedEnvelope,
    check_rising,
    hash_texts,
    read_checkpoint,
    read_evidence,
    read_hashes,
    read_list,
    read_members,
)

FORMAT = "stannary.ruling/v1"
MAX_RULING_BYTES = MAX_RECEIPT_BYTES + 32 * 1024 * 1024  # the receipt, and what is below
MAX_EVIDENCE = 64  # three are heard, of three statements each; a list of candidates may be long, but it is one
_MEMBERS = {"format", "receipt", "consistency", "ruling", "proof", "drawn", "evidence"}


@dataclass(frozen=True, slots=True)
class RulingFile:
    """The parsed file; nothing in it is believed yet."""

    receipt: dict[str, Json]
    consistency: tuple[bytes, ...]
    ruling: Envelope
    proof: str
    drawn: EarlierCheckpoint
    evidence: tuple[LoggedEnvelope, ...]

    def to_bytes(self) -> bytes:
        """Return the file's canonical JSON."""
        return canonical.encode(
            {
                "format": FORMAT,
                "receipt": self.receipt,
                "consistency": hash_texts(self.consistency),
                "ruling": self.ruling.to_json(),
                "proof": self.proof,
                "drawn": self.drawn.to_json(),
                "evidence": [item.to_json() for item in self.evidence],
            }
        )


def is_ruling(value: Json) -> bool:
    """Tell whether decoded JSON says that it is a ruling file."""
    return isinstance(value, dict) and value.get("format") == FORMAT


def read(value: Json) -> RulingFile:
    """Read a ruling file from decoded JSON members."""
    members = read_members(value, _MEMBERS, "ruling file")
    receipt, proof = members["receipt"], members["proof"]
    if members["format"] != FORMAT or not isinstance(receipt, dict) or not isinstance(proof, str):
        raise FormatError("not a ruling file", why=f"format {members['format']!r:.80}, expected {FORMAT!r}")
    evidence = tuple(read_evidence(item) for item in read_list(members["evidence"], "evidence", MAX_EVIDENCE))
    check_rising([item.index for item in evidence])
    return RulingFile(
        receipt,
        read_hashes(members["consistency"], "consistency"),
        dsse.parse(members["ruling"]),
        proof,
        read_checkpoint(members["drawn"]),
        evidence,
    )
