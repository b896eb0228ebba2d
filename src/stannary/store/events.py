"""The append-only history of each job: what happened, in one order, with its reason.

A sequence number is given once and without gaps, so a reader who asks for everything after the last
one it saw misses nothing. State changes come through transitions.py, which is the only caller that
may announce one.

A job's first event is its row: it says all that `job.queued` says of a submit, which so writes it once. (Of jobs that
were submitted before this was so it stands here too.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import NotFound
from stannary.formats.canonical import Json
from stannary.jobs.states import JobStatus
from stannary.store.schema import events, jobs, nodes

MAX_MESSAGE = 2_000  # characters; longer texts belong into the log
MAX_PAGE = 1_000  # events of one answer


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history."""

    seq: int
    at_ms: int
    type: str
    task: str | None
    node: str | None
    message: str
    data: Mapping[str, Json]
    operator: str | None  # the node's


@dataclass(frozen=True, slots=True)
class Happening:
    """What to write: `type` is `<subject>.<state>` for a state change, else a word of the market's."""

    type: str
    message: str
    at_ms: int
    task: str | None = None
    node: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)


def append(connection: Connection, job: str, happening: Happening) -> int:
    """Write the next event of `job` and return its sequence number."""
    seq = connection.execute(_NEXT, {"key": job}).scalar_one_or_none()
    if seq is None:
        raise NotFound("no such job", why=job)
    connection.execute(
        _INSERT,
        {
            "job": job,
            "seq": seq,
            "at_ms": happening.at_ms,
            "type": happening.type,
            "task": happening.task,
            "node": happening.node,
            "message": happening.message[:MAX_MESSAGE],
            "data": dict(happening.data),
        },
    )
    return int(seq)


def after(connection: Connection, job: str, seq: int, *, limit: int = MAX_PAGE) -> list[Event]:
    """Return the events of `job` behind `seq`, oldest first."""
    size = min(limit, MAX_PAGE)
    rows = connection.execute(_AFTER, {"key": job, "seq": seq, "limit": size})
    found = [Event(**row) for row in rows.mappings()]
    if seq < 1 and not (found and found[0].seq == 1):
        return [*_first(connection, job), *found][:size]
    return found


def _first(connection: Connection, job: str) -> list[Event]:
    """Return what a job's row says of its submit, nothing where there is no such job."""
    at_ms = connection.execute(sa.select(jobs.c.submitted_at_ms).where(jobs.c.job == job)).scalar_one_or_none()
    if at_ms is None:
        return []
    queued = f"job.{JobStatus.QUEUED}"
    return [Event(1, at_ms, queued, None, None, "submitted", {"reason": "submitted"}, operator=None)]


_NEXT = (
    sa.update(jobs)
    .where(jobs.c.job == sa.bindparam("key"))
    .values(num_events=jobs.c.num_events + 1)
    .returning(jobs.c.num_events)
)
_INSERT = sa.insert(events)
_AFTER = (
    sa.select(
        *(events.c[name] for name in ("seq", "at_ms", "type", "task", "node", "message", "data")), nodes.c.operator
    )
    .outerjoin(nodes, nodes.c.node == events.c.node)
    .where(events.c.job == sa.bindparam("key"), events.c.seq > sa.bindparam("seq"))
    .order_by(events.c.seq)
    .limit(sa.bindparam("limit"))
)
