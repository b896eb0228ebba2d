"""What a kind of job is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stannary.jobs.course.draft import CourseDraft


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is after planning."""

    first_open: int  # the first round that is not settled for good
    current: int  # the last round that has tasks
    finished: bool


class Kind(Protocol):
    """One kind of job."""

    def plan(self, draft: CourseDraft) -> Progress:
        """Plan what is wanted now, and drop what is void."""
        ...
