"""The receipt file, `JOB.receipt.json`: everything needed to check a job offline, in one document.

    format        "stannary.receipt/v3"
    receipt       the market's `receipt` statement (DSSE envelope)
    proof         C2SP tlog-proof of the receipt statement; its checkpoint is the *final* one
    evidence      every other logged statement of the job, and the credentials of the nodes named in them,
                  in log order: {envelope, index, path}, paths lead to the final checkpoint
    checkpoints   those that draws were made for, smallest first: {note, consistency}, proofs lead to the final one

Rules (docs/receipt.md R5.1):
1. Everything is covered or absent: unknown members are refused at every level, indexes and sizes must rise strictly
   (no order of the file is free), base64 must be canonical.
2. White space and member order carry no meaning: a file that was re-serialised is the same receipt.
3. Size and count are bounded before anything is built from them.

Version 2 is of jobs under rules 2 (rules/edition.py), else the same. Version 1 differed in what its statements prove:
nothing in it fixed the candidates of a draw before the beacon was known, and a silence was nobody's statement
(docs/adr/0007-the-draw-is-committed.md). It is recognised, and not read.

What it proves is judged in verify/receipt.py, with keys that never come from this file.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat
from stannary.formats import canonical, dsse
from stannary.formats.canonical import Json
from stannary.formats.digest import SIZE_BYTES
from stannary.formats.dsse import Envelope, decode_base64, encode_base64
from stannary.formats.lean import dataclass
from stannary.formats.quantity import PPM

FORMAT = "stannary.receipt/v3"
FORMATS = ("stannary.receipt/v2", FORMAT)  # which of them follows from the rules its job is under (rules/edition.py)
EARLIER_FORMATS = ("stannary.receipt/v1",)
MAX_RECEIPT_BYTES = 64 * 1024 * 1024  # 20,000 statements (record.MAX_ITEMS) of about 2 KiB, and room
MAX_EVIDENCE = 20_000
MAX_CHECKPOINTS = 5_000  # one per draw; draws are batched
MAX_PATH = 63
STATEMENTS_OF_UNIT = 3  # assignment, commitment, contribution
STATEMENTS_OF_AUDIT = 5  # two blinded answers, two opened ones, a verdict
STATEMENTS_OF_DRAW = 3  # candidates, reveal, draw
DRAWS_OF_ROUND = 2  # its lanes, its merge
OPENED_OF_UNIT = 5  # contribution, the prover's answer, three auditors': those that list outputs
LEAST_OPENED_BYTES = 8 * 1024  # a round's or merge's, with every metric and name at its longest
MOST_OPENED_BYTES = 1024 * 1024
KEPT_HASHES = 1024  # decoded ones: paths of neighbours differ in their first few


@dataclass(frozen=True, slots=True)
class LoggedEnvelope:
    """A signed statement, its place in the log, and its audit path to the final checkpoint."""

    envelope: Envelope
    index: int
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as it stands in a file."""
        return {"envelope": self.envelope.to_json(), "index": self.index, "path": hash_texts(self.path)}


@dataclass(frozen=True, slots=True)
class EarlierCheckpoint:
    """A checkpoint note and its consistency proof to the final checkpoint."""

    note: str
    consistency: tuple[bytes, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as it stands in a file."""
        return {"note": self.note, "consistency": hash_texts(self.consistency)}


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """The parsed file; nothing in it is believed yet."""

    receipt: Envelope
    proof: str
    evidence: tuple[LoggedEnvelope, ...]
    checkpoints: tuple[EarlierCheckpoint, ...]
    format: str = FORMAT

    def to_bytes(self) -> bytes:
        """Return the file's canonical JSON."""
        return canonical.encode(
            {
                "format": self.format,
                "receipt": self.receipt.to_json(),
                "proof": self.proof,
                "evidence": [item.to_json() for item in self.evidence],
                "checkpoints": [item.to_json() for item in self.checkpoints],
            }
        )


def num_statements(num_rounds: int, num_units: int, audit_ppm: int) -> int:
    """Return how many statements the receipt of a job lists at least, if nothing is done twice."""
    audits = num_units * audit_ppm // PPM
    draws = DRAWS_OF_ROUND * num_rounds
    return num_units * STATEMENTS_OF_UNIT + audits * STATEMENTS_OF_AUDIT + draws * STATEMENTS_OF_DRAW


def opened_bytes(num_units: int) -> int:
    """Return how long the payload of a contribution or answer may be, so that all of a job's fit into one receipt.

    Base64 adds a third; half of the file is left to everything else, and to what is done again.
    """
    room = MAX_RECEIPT_BYTES * 3 // 8 // (OPENED_OF_UNIT * num_units)
    return min(max(room, LEAST_OPENED_BYTES), MOST_OPENED_BYTES)


def build(
    receipt: Envelope,
    proof: str,
    evidence: Sequence[LoggedEnvelope],
    checkpoints: Sequence[EarlierCheckpoint] = (),
    *,
    file_format: str = FORMAT,
) -> bytes:
    """Assemble the file's bytes; `evidence` in log order, `checkpoints` by size, both without repeats.

    Raises:
        FormatError: evidence out of order, which no verifier would accept.
    """
    check_rising([item.index for item in evidence])
    return ReceiptFile(receipt, proof, tuple(evidence), tuple(checkpoints), file_format).to_bytes()


def read(value: Json) -> ReceiptFile:
    """Read a receipt file from decoded JSON members."""
    members = read_members(value, {"format", "receipt", "proof", "evidence", "checkpoints"}, "receipt file")
    if members["format"] in EARLIER_FORMATS:
        why = f"{members['format']}: nothing in it shows that its auditors were fixed before the beacon was known"
        raise UnsupportedFormat("a receipt of an earlier release", why=why, hint="verify it with that release")
    file_format = members["format"]
    if not isinstance(file_format, str) or file_format not in FORMATS:
        raise FormatError("not a receipt of this format", why=f"{file_format!r:.80}, expected {FORMAT!r}")
    proof = members["proof"]
    if not isinstance(proof, str):
        raise FormatError("receipt proof is not text", why=f"a {type(proof).__name__}")
    evidence = tuple(read_evidence(item) for item in read_list(members["evidence"], "evidence", MAX_EVIDENCE))
    check_rising([item.index for item in evidence])
    checkpoints = tuple(
        read_checkpoint(item) for item in read_list(members["checkpoints"], "checkpoints", MAX_CHECKPOINTS)
    )
    return ReceiptFile(dsse.parse(members["receipt"]), proof, evidence, checkpoints, file_format)


def read_evidence(value: Json) -> LoggedEnvelope:
    """Read a logged statement of a file."""
    members = read_members(value, {"envelope", "index", "path"}, "evidence")
    index = members["index"]
    if type(index) is not int or index < 0:
        raise FormatError("evidence index is not a number", why=f"{index!r:.40}")
    return LoggedEnvelope(dsse.parse(members["envelope"]), index, read_hashes(members["path"], "path"))


def read_checkpoint(value: Json) -> EarlierCheckpoint:
    """Read an earlier checkpoint of a file."""
    members = read_members(value, {"note", "consistency"}, "checkpoint")
    note = members["note"]
    if not isinstance(note, str):
        raise FormatError("checkpoint note is not text", why=f"a {type(note).__name__}")
    return EarlierCheckpoint(note, read_hashes(members["consistency"], "consistency"))


def read_hashes(value: Json, what: str) -> tuple[bytes, ...]:
    """Read a proof."""
    return tuple(_hash(item if isinstance(item, str) else None, what) for item in read_list(value, what, 2 * MAX_PATH))


@functools.lru_cache(maxsize=KEPT_HASHES)
def _hash(text: str | None, what: str) -> bytes:
    """Decode one hash of a path; neighbours in the log share most of theirs."""
    data = decode_base64(text, what)
    if len(data) != SIZE_BYTES:
        raise FormatError(f"{what} holds what is no hash")
    return data


def hash_texts(hashes: Sequence[bytes]) -> list[Json]:
    """Spell a proof."""
    return [encode_base64(item) for item in hashes]


def check_rising(indexes: Sequence[int]) -> None:
    """Refuse statements that are not in log order."""
    for first, second in itertools.pairwise(indexes):
        if first >= second:
            raise FormatError("evidence is not in log order", why=f"index {second} after {first}")


def read_list(value: Json, what: str, limit: int) -> list[Json]:
    """Return a list of at most `limit` items."""
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a list", why=f"a {type(value).__name__}")
    if len(value) > limit:
        raise LimitExceeded(f"{what} is too long", why=f"{len(value):,} items, limit {limit:,}")
    return value


def read_members(value: Json, names: set[str], what: str) -> dict[str, Json]:
    """Return an object of exactly these members."""
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object", why=f"a {type(value).__name__}")
    if set(value) != names:
        raise FormatError(f"{what} has missing or unknown members", why=", ".join(sorted(set(value) ^ names))[:200])
    return value
