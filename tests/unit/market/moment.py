"""A job's frame and a moment of the world, for tests of single engine steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.integration.market.fake_buyer import train_spec

from stannary.formats import digest, jobspec
from stannary.formats.ids import JobId, KeyId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Job
from stannary.market.engine.frame import Checkpoint, JobFrame, World
from stannary.market.settings import Settings

JOB = JobId("j-00000000000a")
NOW_MS = 1_700_000_000_000
ROOT = digest.digest(b"checkpoint")


def frame(spec: JobSpec | None = None) -> JobFrame:
    """Return the job's frame; nobody looks at who signed it here."""
    spec = spec if spec is not None else train_spec()
    order = Job(jobspec.to_canonical(spec), KeyId("k"), "", "", 16, "", "2026-11-22T00:00:00Z")
    return JobFrame(JOB, digest.digest(b"job"), "leaf", "buyer", order, spec)


def world(**changes: Any) -> World:
    """Return a moment; proofs and signatures, which these steps need none of, are refused."""

    def nothing(*_: Any) -> Any:
        raise AssertionError("this step needs neither proofs nor signatures")

    made = World(
        now_ms=NOW_MS,
        settings=Settings(Path("unused")),
        live=frozenset(),
        lost=frozenset(),
        answering=frozenset(),
        checkpoint=Checkpoint("", 0, ROOT),
        consistency=nothing,
        inclusion=nothing,
        sign=nothing,
    )
    return replace(made, **changes)
