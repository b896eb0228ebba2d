"""Where the third-party vectors are, and one way to run a changed case."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from stannary.certify.vectors import cases, runner
from stannary.certify.vectors.cases import Case
from stannary.certify.vectors.runner import CaseResult

FOLDER = Path(os.environ.get("STANNARY_VECTORS", str(Path(__file__).parents[4] / "shared" / "vectors")))
needs_vectors = pytest.mark.skipif(
    not (FOLDER / "manifest.json").is_file(),
    reason=f"no attestation vectors in {FOLDER}: set STANNARY_VECTORS to their folder",
)


def case(name: str) -> Case:
    """Return the manifest case `name`."""
    return next(item for item in cases.load(FOLDER) if item.members["id"] == name)


@dataclass(frozen=True)
class Changed(Case):
    """A case whose evidence is replaced."""

    blob: bytes = b""

    def evidence(self) -> bytes:
        """Return the replacement."""
        return self.blob


def outcome(name: str, blob: bytes | None = None, **members: object) -> str:
    """Run a case with its evidence or members replaced and return the outcome."""
    return result(name, blob, **members).observed


def result(name: str, blob: bytes | None = None, **members: object) -> CaseResult:
    """Run a case with its evidence or members replaced."""
    original = case(name)
    merged = {key: value for key, value in {**original.members, **members}.items() if value is not None}
    changed = Changed(original.folder, merged, original.evidence() if blob is None else blob)
    return runner.run_case(changed)


def flip(blob: bytes, bit: int) -> bytes:
    """Return `blob` with one bit changed."""
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
