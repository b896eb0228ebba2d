"""Orders and checkpoints as the core sees them, read from what is stored."""

from __future__ import annotations

from stannary.formats import dsse, jobspec, note, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId
from stannary.jobs.course.state import CosignedCheckpoint, JobOrder
from stannary.store.jobs import JobRow


def order_of(row: JobRow, envelope: bytes) -> JobOrder:
    """Read the order of a stored job (its envelope was verified when it was admitted)."""
    payload = dsse.from_bytes(envelope).payload
    predicate = statement.read(payload, "job", predicates.Job).predicate
    spec = jobspec.from_canonical(predicate.spec)
    return JobOrder(JobId(row.job), Digest(row.job_digest), row.leaf, row.buyer, predicate, spec)


def read_checkpoint(text: str) -> CosignedCheckpoint:
    """Read our own published checkpoint."""
    body = note.parse_checkpoint(note.parse(text).text)
    return CosignedCheckpoint(text, body.size, Digest("sha256:" + body.root.hex()))
