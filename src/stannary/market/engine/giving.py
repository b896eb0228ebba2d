"""Leases as they are given: with a lease goes, and ends, the right to read exactly its inputs.

The job's manifest comes with every lease of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sqlalchemy.engine import Connection

from stannary.errors import ConflictError
from stannary.formats import canonical, instants
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Role
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.state import Grant, JobOrder, LeaseRow, Node, Task, World
from stannary.jobs.states import JobStatus
from stannary.rules.kinds import DELTA, OUTER, THETA
from stannary.rules.pace import CEILING_FACTOR
from stannary.rules.price import price_of
from stannary.rules.reasons import Reason
from stannary.store import blobs, jobs, leases, nodes, tasks
from stannary.store.transitions import Cause
from stannary.wire import node as wire


def give(connection: Connection, order: JobOrder, task: Task, node: Node, world: World) -> LeaseRow:
    """Give a waiting task to a node.

    Raises:
        ConflictError: the task is not to be had any more, or the node has work already, or may not work any more.
    """
    if jobs.get(connection, order.job).status is not JobStatus.RUNNING:
        raise ConflictError("this job gives out no work any more", why=order.job)
    row = nodes.get(connection, node.node)
    if row.revoked_at_ms is not None or row.convicted_at_ms is not None:
        raise ConflictError("this node does no work here any more", why=node.node)
    grant = Grant(
        lease="w-" + secrets.token_hex(12),
        type=LeaseType.WORK,
        task=task.task,
        node=node.node,
        deadline_at_ms=world.now_ms + int(1000 * CEILING_FACTOR * expected_s(order, world, task.num_steps)),
        price_usd_micros=price_of(task.num_steps, order.shape.step_ms, node.ask_usd_micros_per_hour),
    )
    allow(connection, order, node.node)
    cause = Cause(world.now_ms, Reason.LEASED, f"{task.task} to {node.node}")
    return leases.grant(connection, with_inputs(connection, grant), cause)


def with_inputs(connection: Connection, grant: Grant) -> Grant:
    """Return a grant that names what its task is a function of."""
    assignment = tasks.get(connection, grant.task).assigned
    wanted: list[tuple[str, str]] = []
    if assignment.theta is not None:
        wanted.append((THETA, assignment.theta))
    if assignment.outer is not None:
        wanted.append((OUTER, assignment.outer))
    for item in assignment.admitted or ():
        outputs = tasks.get(connection, item.task).outputs or ()
        wanted.extend((str(item.task), str(output["digest"])) for output in outputs if output["name"] == DELTA)
    listed: list[Json] = [
        {"name": name, "digest": blob, "size_bytes": blobs.size_of(connection, blob) or 0} for name, blob in wanted
    ]
    return replace(grant, body={**grant.body, "blobs": listed})


def allow(connection: Connection, order: JobOrder, node: str) -> None:
    """Let a node read the job's manifest; the inputs stand in the lease itself (store/blobs.py)."""
    blobs.grant(connection, manifest_digests(order.spec), blobs.reader(order.job, node))


def manifest_digests(spec: JobSpec) -> list[str]:
    """Return the blobs of a job's work directory and inputs."""
    files = [str(item.digest) for item in spec.workdir]
    return sorted({*files, *(str(item.digest) for item in spec.inputs.values())})


def view(connection: Connection, lease: LeaseRow) -> wire.Lease:
    """Return a lease as its node is told."""
    task = tasks.get(connection, lease.task)
    members = dict(lease.body)
    audit = None
    if lease.audit is not None:
        audit = wire.AuditRef(audit_id=lease.audit, role=Role(str(members["role"])))
    reveal = lease.type is LeaseType.REVEAL
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
        blobs=[wire.BlobRef(**cast("dict[str, str | int]", item)) for item in _listed(members.get("blobs"))],  # type: ignore[arg-type]  # checked by the model
    )


def _listed(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
