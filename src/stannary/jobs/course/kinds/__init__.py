"""The kinds of job: what each plans, and when it is done. The one place where the core asks a job's kind.

To add a kind, see the checklist in docs/course.md.
"""

from __future__ import annotations

from stannary.formats.jobspec import JobKind, JobSpec
from stannary.jobs.course.kinds.command import CommandKind
from stannary.jobs.course.kinds.kind import Kind
from stannary.jobs.course.kinds.train import TrainKind

_KINDS: dict[JobKind, Kind] = {JobKind.COMMAND: CommandKind(), JobKind.TRAIN: TrainKind()}


def of(spec: JobSpec) -> Kind:
    """Return the kind of a job."""
    return _KINDS[spec.kind]
