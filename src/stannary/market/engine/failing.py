"""Reports that a task cannot run: whose they are, and when they are the job's failure rather than a node's.

Rules:
- A report is one of a node to which the market leased the task, under that lease; one operator is heard once a task.
- Two operators who agree end the job only where no third is free to try: one whose node is there, fits, and has no
  work in hand. Otherwise he is asked, and three must agree. So two who lie together waste a buyer's time only while
  everybody else is busy; a broken job costs one more start.
- Whoever reported a task is not given it again while another may take it.
- The message names the operators: a buyer who doubts them leaves them out of his next job (`exclude_operators`).
"""

from __future__ import annotations

from typing import cast

from sqlalchemy.engine import Connection

from stannary.formats.canonical import Json
from stannary.jobs.states import JobStatus, LeaseState
from stannary.market.engine import leasing, pricing
from stannary.market.engine import step as stepping
from stannary.market.engine.frame import JobFrame, World, fits
from stannary.store import jobs, leases, loglines, nodes
from stannary.store.leases import LeaseRow, LeaseType
from stannary.store.loglines import NewLine, Source
from stannary.store.transitions import Cause
from stannary.wire import node as wire

AGREEING = 2  # operators who must report a failure before it is the job's
AGREEING_OF_MORE = 3  # where another is free to try


def fail(connection: Connection, frame: JobFrame | None, world: World, lease: str, failure: wire.Failure) -> str:
    """End a lease its node cannot fulfil; return its job. What enough operators report is the job's failure."""
    message = f"{failure.reason}: {failure.message}"
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
        stepping.end(connection, row.job, world.now_ms, JobStatus.FAILED, failure.reason, named)
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
    able: set[str] = set()
    free: set[str] = set()
    for node in nodes.all_nodes(connection):
        if fits(node, frame) or node.engine_class not in classes or node.node in convicted:
            continue
        if node.operator in reported or node.node not in world.live:
            continue
        able.add(node.operator)
        if not any(held.type in leasing.ONE_PIECE for held in leases.live_of_node(connection, node.node)):
            free.add(node.operator)
    if len(reported) < AGREEING:
        return AGREEING if able else len(reported)  # nobody else could ever say otherwise
    return AGREEING_OF_MORE if free else AGREEING
