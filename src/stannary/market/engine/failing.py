"""Reports that a task cannot run: whose they are, and when they are the job's failure rather than a node's.

Rules:
- A report is one of a node to which the market leased the task, under that lease; one operator is heard once a task.
- Three operators who agree end the job, fewer only where nobody else could try: no other operator's node is there and
  fits, busy or not. So two who lie together end no job that an honest third could do; a broken job costs one more
  start, and waits for the third to come free.
- Whoever reported a task is not given it again while another may take it.
- The message names the operators: a buyer who doubts them leaves them out of his next job (`exclude_operators`).
- A node's reason is a word of its own: one that decides about money or is the market's to say counts as `run-failed`.
"""

from __future__ import annotations

from typing import cast

from sqlalchemy.engine import Connection

from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.jobs.states import JobStatus, LeaseState
from stannary.market.engine import leasing, pricing
from stannary.market.engine import step as stepping
from stannary.market.engine.frame import JobFrame, World, fits
from stannary.rules.reasons import OWN, Reason
from stannary.store import jobs, leases, loglines, nodes
from stannary.store.leases import LeaseRow
from stannary.store.loglines import NewLine, Source
from stannary.store.transitions import Cause
from stannary.wire import node as wire

AGREEING = 3  # operators who must report a failure before it is the job's, where so many could try


def fail(connection: Connection, frame: JobFrame | None, world: World, lease: str, failure: wire.Failure) -> str:
    """End a lease its node cannot fulfil; return its job. What enough operators report is the job's failure."""
    message = failure.message or failure.reason
    cause = Cause(world.now_ms, failure.reason, message[:1000])
    row = leases.end(connection, lease, LeaseState.RELEASED, cause)
    lines = [NewLine(world.now_ms, "agent", text) for text in failure.log_tail.splitlines()]
    source = Source(row.job, row.task, row.node)
    loglines.append(connection, source, [*lines, NewLine(world.now_ms, "agent", message)])
    if row.type is not LeaseType.WORK or frame is None:
        return row.job
    reported = _report(connection, row)
    if len(reported) >= _needed(connection, frame, world, reported):
        named = f"{message} (reported by {', '.join(reported)})"
        reason = Reason.RUN_FAILED if failure.reason in OWN else failure.reason
        stepping.end(connection, row.job, world.now_ms, JobStatus.FAILED, reason, named)
    return row.job


def _report(connection: Connection, lease: LeaseRow) -> list[str]:
    """Note who reported a task; return every operator who did."""
    progress = dict(jobs.get(connection, lease.job).progress)
    failures = dict(cast("dict[str, Json]", progress.get(leasing.FAILURES, {})))
    known = cast("list[str]", failures.get(lease.task, []))
    reported = sorted({*known, nodes.get(connection, lease.node).operator})
    failures[lease.task] = [*reported]
    jobs.set_progress(connection, lease.job, {**progress, leasing.FAILURES: failures})
    return reported


def _needed(connection: Connection, frame: JobFrame, world: World, reported: list[str]) -> int:
    """Return how many operators must have reported a task before its job has failed."""
    placed = jobs.placed(connection, frame.job)
    classes = {nodes.get(connection, node).engine_class for node in placed[:1]}
    convicted = pricing.convicted(connection, frame.job)
    able = any(
        node.operator not in reported
        and node.node in world.live
        and not fits(node, frame)
        and node.engine_class in classes
        and node.node not in convicted
        for node in nodes.all_nodes(connection)
    )
    return AGREEING if able else len(reported)  # nobody else could ever say otherwise
