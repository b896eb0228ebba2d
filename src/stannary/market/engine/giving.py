"""Leases as their nodes are told, and what comes with every lease of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from stannary.formats import canonical, instants
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Role
from stannary.jobs.course.state import LeaseRow, Task
from stannary.wire import node as wire


def manifest_digests(spec: JobSpec) -> list[str]:
    """Return the blobs of a job's work directory and inputs."""
    files = [str(item.digest) for item in spec.workdir]
    return sorted({*files, *(str(item.digest) for item in spec.inputs.values())})


def view(lease: LeaseRow, task: Task) -> wire.Lease:
    """Return a lease as its node is told."""
    members = dict(lease.body)
    audit = None
    if lease.audit is not None:
        audit = wire.AuditRef(audit_id=lease.audit, role=Role(str(members["role"])))
    reveal = lease.type is LeaseType.REVEAL
    is_its = lease.type is LeaseType.WORK and task.epoch == lease.epoch
    return wire.Lease(
        lease_id=lease.lease,
        type=lease.type,
        epoch=lease.epoch,
        job=lease.job,
        task=lease.task,
        kind=task.kind,
        deadline_at=instants.spell(lease.deadline_at_ms / 1000),
        assignment=None if reveal else canonical.decode_object(task.assignment.encode()),
        audit=audit,
        salt=cast("str | None", members.get("salt")),
        step=cast("int | None", members.get("step")),
        committed=task.commitment if is_its else None,
        blobs=[wire.BlobRef(**cast("dict[str, str | int]", item)) for item in _listed(members.get("blobs"))],  # type: ignore[arg-type]  # checked by the model
    )


def _listed(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
