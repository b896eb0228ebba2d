"""The kinds of job: what each plans, and when it is done. The one place where a job's kind is asked.

To add a kind, see the checklist in docs/course.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stannary.formats.jobspec import JobKind, JobSpec
from stannary.jobs.course.draft import Draft


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is after planning."""

    first_open: int  # the first round that is not settled for good
    current: int  # the last round that has tasks
    finished: bool


class Kind(Protocol):
    """One kind of job."""

    def plan(self, draft: Draft) -> Progress:
        """Plan what is wanted now, and drop what is void."""
        ...


def of(spec: JobSpec) -> Kind:
    """Return the kind of a job."""
    from stannary.jobs.course.kinds.command import Command
    from stannary.jobs.course.kinds.train import Train

    kinds: dict[JobKind, Kind] = {JobKind.COMMAND: Command(), JobKind.TRAIN: Train()}
    return kinds[spec.kind]
