"""What a market reads when it starts: all that was open when it stopped, from one snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.store import audits, envelopes, jobs, leases, nodes, tasks
from stannary.store.audits import AuditRow, DrawRow
from stannary.store.envelopes import Kept
from stannary.store.jobs import JobRow
from stannary.store.leases import LeaseRow
from stannary.store.nodes import NodeRow
from stannary.store.tasks import TaskRow


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Everything unfinished. Tasks are all tasks of the open jobs, closed ones included: a round is decided by both."""

    jobs: tuple[JobRow, ...]
    tasks: tuple[TaskRow, ...]
    leases: tuple[LeaseRow, ...]
    audits: tuple[AuditRow, ...]
    draws: tuple[DrawRow, ...]
    nodes: tuple[NodeRow, ...]
    unlogged: tuple[Kept, ...]


def open_work(connection: Connection) -> OpenWork:
    """Read everything a restarted market goes on with."""
    open_jobs = jobs.open_jobs(connection)
    names = [row.job for row in open_jobs]
    return OpenWork(
        jobs=tuple(open_jobs),
        tasks=tuple(task for job in names for task in tasks.of_job(connection, job)),
        leases=tuple(leases.live(connection)),
        audits=tuple(audit for job in names for audit in audits.of_job(connection, job)),
        draws=tuple(draw for job in names for draw in audits.draws_of_job(connection, job)),
        nodes=tuple(nodes.all_nodes(connection)),
        unlogged=tuple(envelopes.unlogged(connection)),
    )
