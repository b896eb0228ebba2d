"""A toy deterministic computation in place of torch: same inputs, same bytes, cheap, and a state at every step.

A round's state at step s is SHA-256 of the state before it and the step's global index; a merge's state
after k contributions is SHA-256 of the state before it and the k-th delta. Commands hash their own line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from stannary.formats import digest, predicates
from stannary.formats.ended import WELL
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assignment, Output
from stannary.rules import ending

Blobs = Mapping[str, bytes]  # by the names of the lease: theta, outer, task ids


def state(assignment: Assignment, step: int, blobs: Blobs, run: str = "") -> bytes:
    """Return the state bytes after `step` inner steps (1..num_steps)."""
    if assignment.kind is TaskKind.COMMAND:
        return _hash(b"command", run.encode(), str(assignment.lane).encode())
    current = _hash(b"theta", blobs.get("theta", b"seed"))
    if assignment.kind is TaskKind.ROUND:
        current = _hash(current, assignment.job.encode(), str(assignment.lane).encode())
        for index in range(step):
            current = _hash(current, str(assignment.first_step + index).encode())
        return current
    for admitted in (assignment.admitted or ())[:step]:
        current = _hash(current, blobs[admitted.task], str(admitted.weight_ppm).encode())
    return current


def outputs(assignment: Assignment, blobs: Blobs, run: str = "") -> dict[str, bytes]:
    """Return the named results of a task."""
    final = state(assignment, assignment.num_steps, blobs, run)
    if assignment.kind is TaskKind.ROUND:
        return {"delta": b"delta " + final}
    if assignment.kind is TaskKind.MERGE:
        return {"theta": b"theta " + final, "outer": b"outer " + _hash(blobs.get("outer", b""), final)}
    return {"out.txt": b"out " + final}


def listed(results: Mapping[str, bytes]) -> tuple[Output, ...]:
    """Return the outputs as a contribution lists them."""
    return tuple(Output(name, digest.digest(data), len(data)) for name, data in sorted(results.items()))


def root(results: Mapping[str, bytes], ended: str | None = None) -> digest.Digest:
    """Return the root of results."""
    return predicates.result_root(listed(results), ended)


def ended(spec: JobSpec, kind: TaskKind) -> str | None:
    """Return how a task's program ends, where that is part of its result: well."""
    return WELL if ending.is_stated(spec, kind) else None


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
