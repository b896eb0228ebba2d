"""Leases: who is given which task or question, with which inputs, until when.

Rules:
- Work is pulled: a node that asks gets its own lane's task first, then merges, then what another did not
  do. A node with work or an audit in hand gets no second piece.
- Questions are pushed, under ids made from what they ask, so that asking twice is impossible and "was
  it ever asked" is a look-up, also after a crash.
- With a lease goes, and ends, the right to read exactly its inputs; the job's manifest comes with every lease of it.
- An auditor is never told the prover's root: the lease holds the assignment and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy.engine import Connection

from stannary.errors import NotFound
from stannary.formats import canonical, digest, instants
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType, TaskKind
from stannary.formats.predicates import Role, Verdict
from stannary.jobs.states import LeaseState
from stannary.market.engine import pricing
from stannary.market.engine.frame import JobFrame, World, fits, read_assignment
from stannary.market.engine.planning import expected_s
from stannary.rules.pace import CEILING_FACTOR, LAST_RESORT_FACTOR, Pace, Progress, answer_s, deadline_s, limit_s
from stannary.rules.reasons import Reason
from stannary.store import blobs, jobs, leases, nodes, tasks
from stannary.store.audits import AuditRow
from stannary.store.leases import Grant, LeaseRow
from stannary.store.nodes import NodeRow
from stannary.store.tasks import TaskRow
from stannary.store.transitions import Cause
from stannary.wire import node as wire

ONE_PIECE = frozenset({LeaseType.WORK, LeaseType.AUDIT})
FAILURES = "failures"  # progress member of a job: task -> operators who reported that it cannot run (failing.py)


def grant_work(connection: Connection, frames: Mapping[str, JobFrame], world: World, node: str) -> LeaseRow | None:
    """Give `node` the piece of work it should do next; None if there is none for it."""
    row = nodes.get(connection, node)
    credential = nodes.credential_of(connection, node)
    if node not in world.live or credential is None or credential.expires_at_ms <= world.now_ms:
        return None
    if any(lease.type in ONE_PIECE for lease in leases.live_of_node(connection, node)):
        return None
    choice = _choose(connection, frames, world, row)
    if choice is None:
        return None
    frame, task = choice
    deadline_ms = world.now_ms + int(1000 * CEILING_FACTOR * expected_s(frame, world, task))
    grant = Grant(
        lease="w-" + secrets.token_hex(12),
        type=LeaseType.WORK,
        task=task.task,
        node=node,
        deadline_at_ms=deadline_ms,
        price_usd_micros=pricing.task_price(frame, task.num_steps, row.ask_usd_micros_per_hour),
        body={"blobs": _inputs(connection, task)},
    )
    _allow(connection, frame, grant)
    return leases.grant(connection, grant, Cause(world.now_ms, Reason.LEASED, f"{task.task} to {node}"))


@dataclass(frozen=True, slots=True)
class Party:
    """Who is asked what about an audit."""

    kind: LeaseType
    role: Role
    node: str


def is_wanted(connection: Connection, frames: Mapping[str, JobFrame], world: World, node: str) -> bool:
    """Tell whether there is work for `node`; spares a write for every poll that finds none."""
    return node in world.live and _choose(connection, frames, world, nodes.get(connection, node)) is not None


def ask(
    connection: Connection, frame: JobFrame, world: World, about: tuple[AuditRow, TaskRow], party: Party
) -> LeaseRow:
    """Return the lease of a question, granted now if it never was."""
    (audit, task), kind, role, node = about, party.kind, party.role, party.node
    name = question_id(audit.audit, kind, role, node)
    try:
        return leases.get(connection, name)
    except NotFound:
        pass
    timing = world.settings.timing
    expected, agreed = expected_s(frame, world, task), frame.shape.agreed_s(task.num_steps)
    given_s = answer_s(expected, agreed, floor_s=timing.answer_floor_s, factor=timing.answer_factor)
    body: dict[str, Json] = {"role": role.value}
    if kind is not LeaseType.REVEAL:
        body |= {"blobs": _inputs(connection, task), "salt": audit.salt, "step": audit.step}
    grant = Grant(
        lease=name,
        type=kind,
        task=task.task,
        node=node,
        deadline_at_ms=world.now_ms + int(1000 * given_s),
        audit=audit.audit,
        price_usd_micros=audit.price_usd_micros if kind is LeaseType.AUDIT else 0,
        body=body,
    )
    _allow(connection, frame, grant)
    return leases.grant(connection, grant, Cause(world.now_ms, Reason.ASKED, f"{kind} about {task.task} to {node}"))


def question_id(audit: str, kind: LeaseType, role: Role, node: str) -> str:
    """Return the id of a question's lease."""
    parts = (audit.encode(), kind.value.encode(), role.value.encode(), node.encode())
    return f"{kind.value[0]}-" + digest.hash_parts("stannary question v1", *parts).hex()[:24]


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


@dataclass(frozen=True, slots=True)
class Lateness:
    """What tells a slow task from a lost one: the frames of open jobs, and what each lease reported."""

    frames: Mapping[str, JobFrame]
    progress: Mapping[str, Progress]
    now_s: float  # on the steady clock that the reports were heard by


def overdue(connection: Connection, world: World, late: Lateness) -> list[tuple[LeaseRow, str]]:
    """Return leases to be taken back, with the reason; those in `world.answering` are being handed in right now."""
    found = []
    for lease in leases.live(connection):
        reason = "" if lease.lease in world.answering else _lapse(connection, world, late, lease)
        if reason:
            found.append((lease, reason))
    return found


def end_overdue(connection: Connection, world: World, late: Lateness) -> list[LeaseRow]:
    """Expire overdue leases; their tasks go to other nodes, in the next epoch."""
    ended = []
    for lease, reason in overdue(connection, world, late):
        cause = Cause(world.now_ms, reason, f"{lease.type} lease of {lease.task} at {lease.node}: {reason}")
        ended.append(leases.end(connection, lease.lease, LeaseState.EXPIRED, cause))
    return ended


def _lapse(connection: Connection, world: World, late: Lateness, lease: LeaseRow) -> str:
    if _is_over(connection, world, late, lease):
        return Reason.DEADLINE
    if lease.node in world.lost:
        return Reason.NODE_LOST
    if nodes.get(connection, lease.node).revoked_at_ms is not None:
        return Reason.NODE_REVOKED
    frame = late.frames.get(lease.job)
    if frame is None or lease.type is not LeaseType.WORK:
        return ""
    return Reason.LATE if _is_late(connection, frame, world, late, lease) else ""


def _is_over(connection: Connection, world: World, late: Lateness, lease: LeaseRow) -> bool:
    """Tell whether a lease's time is over: the one it was given, and the one its reports earned it since."""
    waited_ms = world.waited_ms(lease.granted_at_ms)
    if waited_ms < lease.deadline_at_ms - lease.granted_at_ms:
        return False
    reported, frame = late.progress.get(lease.lease), late.frames.get(lease.job)
    if reported is None or frame is None:
        return True
    if waited_ms >= 1000 * limit_s(frame.spec.resources.wall_s, _moved_bytes(frame, lease)):
        return True
    return late.now_s >= reported.allowed_until_s(tasks.get(connection, lease.task).num_steps)


def _moved_bytes(frame: JobFrame, lease: LeaseRow) -> int:
    """Return the most bytes a node has to fetch and hand in for a lease."""
    spec = frame.spec
    inputs = [item.size_bytes for item in spec.inputs.values()]
    given = [cast("int", cast("dict[str, Json]", item)["size_bytes"]) for item in _listed(lease.body.get("blobs"))]
    return spec.workdir_bytes + sum(inputs) + sum(given) + spec.output_bytes


def _is_late(connection: Connection, frame: JobFrame, world: World, late: Lateness, lease: LeaseRow) -> bool:
    """Tell whether a task takes longer than median + K MAD of its round, and says nothing of its progress."""
    task = tasks.get(connection, lease.task)
    reported = late.progress.get(lease.lease)
    if task.kind is not TaskKind.ROUND:
        return False
    patience_s = world.settings.timing.progress_s
    if reported is not None and not reported.is_silent(late.now_s, patience_s, task.num_steps):
        return False
    beside = tasks.of_job(connection, lease.job, round_index=task.round)
    times_s = [
        world.passed_ms(row.leased_at_ms, row.contributed_at_ms) / 1000
        for row in beside
        if row.kind is TaskKind.ROUND and row.contributed_at_ms is not None and row.leased_at_ms is not None
    ]
    if not times_s:
        return False
    pace = Pace(frame.shape.num_lanes, expected_s(frame, world, task))
    return world.waited_ms(lease.granted_at_ms) / 1000 > deadline_s(times_s, pace)


def manifest_digests(frame: JobFrame) -> list[str]:
    """Return the blobs of a job's work directory and inputs."""
    files = [str(item.digest) for item in frame.spec.workdir]
    return sorted({*files, *(str(item.digest) for item in frame.spec.inputs.values())})


def _choose(
    connection: Connection, frames: Mapping[str, JobFrame], world: World, node: NodeRow
) -> tuple[JobFrame, TaskRow] | None:
    best: tuple[int, JobFrame, TaskRow] | None = None
    barred: dict[str, bool] = {}
    failures: dict[str, Mapping[str, list[str]]] = {}
    for task in tasks.planned(connection):
        frame = frames.get(task.job)
        if frame is None:
            continue
        if task.job not in barred:
            barred[task.job] = is_barred(connection, frame, node)
            failures[task.job] = _failures(connection, task.job)
        if barred[task.job]:
            continue
        has_failed = node.operator in failures[task.job].get(task.task, [])
        if has_failed:  # he had his chance when it was leased to him last, however long ago it was planned
            rank = _last_resort(world, leases.last_end_ms(connection, task.task) or task.planned_at_ms)
        else:
            rank = _rank(connection, world, task, node.node)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, frame, task)
    return (best[1], best[2]) if best is not None else None


def is_barred(connection: Connection, frame: JobFrame, node: NodeRow) -> bool:
    """Tell whether a node may not do a job's work, whatever the task."""
    placed = jobs.placed(connection, frame.job)
    classes = {nodes.get(connection, name).engine_class for name in placed[:1]}
    return (
        bool(fits(node, frame))
        or node.engine_class not in classes
        or node.node in pricing.convicted(connection, frame.job)
    )


def _rank(connection: Connection, world: World, task: TaskRow, node: str) -> int | None:
    """Return how much a task is this node's (0 most), None if it must wait for another."""
    waited_s = world.waited_ms(task.planned_at_ms) / 1000
    patient = waited_s > world.settings.timing.start_link_s
    if node in _silent(connection, task):
        return _last_resort(world, task.planned_at_ms)
    if task.kind is TaskKind.MERGE:
        return 1 if task.node != node or patient else None
    placed = jobs.placed(connection, task.job)
    own = task.lane < len(placed) and placed[task.lane] == node
    if task.epoch == 0 and own:
        return 0
    if task.epoch > 0 and task.node != node:
        return 2
    return 3 if patient or _is_orphan(connection, world, task, placed) else None


def _last_resort(world: World, since_ms: int) -> int | None:
    """Return the rank of who has had his chance at a task: after everybody else, when nobody else came."""
    waited_s = world.waited_ms(since_ms) / 1000
    return 4 if waited_s > LAST_RESORT_FACTOR * world.settings.timing.start_link_s else None


def _failures(connection: Connection, job: str) -> Mapping[str, list[str]]:
    return cast("dict[str, list[str]]", jobs.get(connection, job).progress.get(FAILURES, {}))


def _is_orphan(connection: Connection, world: World, task: TaskRow, placed: Sequence[str]) -> bool:
    """Tell whether the lane's own node cannot take its task now: gone, convicted, or at another piece."""
    if task.lane >= len(placed) or placed[task.lane] not in world.live:
        return True
    own = placed[task.lane]
    if own in pricing.convicted(connection, task.job) or own in _silent(connection, task):
        return True
    return any(lease.type in ONE_PIECE for lease in leases.live_of_node(connection, own))


def _silent(connection: Connection, task: TaskRow) -> frozenset[str]:
    """Return who handed in an earlier attempt at this task and did not answer for it.

    Given the next attempt too it would be silent again: audits eat the escrow, and the job never ends.
    """
    if task.attempt == 0:
        return frozenset()
    beside = tasks.of_job(connection, task.job, round_index=task.round)
    unit = (task.kind, task.lane)
    earlier = (row for row in beside if (row.kind, row.lane) == unit and row.verdict is Verdict.UNVERIFIED)
    return frozenset(row.node for row in earlier if row.node is not None)


def _inputs(connection: Connection, task: TaskRow) -> list[Json]:
    assignment = read_assignment(task.assignment)
    wanted: list[tuple[str, str]] = []
    if assignment.theta is not None:
        wanted.append(("theta", assignment.theta))
    if assignment.outer is not None:
        wanted.append(("outer", assignment.outer))
    for item in assignment.admitted or ():
        outputs = tasks.get(connection, item.task).outputs or ()
        wanted.extend((str(item.task), str(output["digest"])) for output in outputs if output["name"] == "delta")
    return [{"name": name, "digest": blob, "size_bytes": blobs.size_of(connection, blob) or 0} for name, blob in wanted]


def _allow(connection: Connection, frame: JobFrame, grant: Grant) -> None:
    """Let a node read the job's manifest; the inputs stand in the lease itself (store/blobs.py)."""
    blobs.grant(connection, manifest_digests(frame), blobs.reader(frame.job, grant.node))


def _listed(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
