"""Which attempt of a merge stands in the result."""

from __future__ import annotations

from types import SimpleNamespace

from stannary.formats import digest, ids
from stannary.formats.ids import JobId
from stannary.formats.predicates import Output
from stannary.verify import lineage

JOB = JobId("j-0123456789ab")
THETA = digest.digest(b"theta")


def contributed(theta: digest.Digest) -> SimpleNamespace:
    return SimpleNamespace(predicate=SimpleNamespace(outputs=(Output("theta", theta, 5),)))


def test_the_newest_merge_with_the_weights_stands():
    """A merge redone after a silence has the same bytes: the redone one is in the result, not the silent one."""
    silent, redone, other = (ids.merge_task(JOB, 0, attempt) for attempt in (0, 1, 2))
    case = SimpleNamespace(
        job_id=JOB,
        attempts={silent: [silent, redone, other]},
        contributions={
            silent: contributed(THETA),
            redone: contributed(THETA),
            other: contributed(digest.digest(b"another")),
        },
    )
    assert lineage.merge_behind(case, 0, THETA) == redone
    assert lineage.merge_behind(case, 0, digest.digest(b"nobody's")) is None
