"""Rows of the store as the wire's messages: what a buyer sees of his job.

Rules:
1. What comes in is checked where it comes in (formats/bounds.py). What is stored is shown whatever it is: a market
   before that table took words and numbers no message holds, and one bad row must hide neither itself nor another.
2. A word or number no message holds becomes the nearest one that does, and `faults` of the job names it.
3. Words of strangers leave here harmless: no control, no bidi mark. No screen behind has to know who wrote them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.formats import bounds, dsse, instants, jobspec, statement
from stannary.formats import ended as words
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Job, Receipt, Verdict
from stannary.jobs.course.waiting import Wait
from stannary.jobs.rounds import ADMISSIBLE
from stannary.jobs.states import JobStatus, Settlement, TaskState
from stannary.rules import ending, kinds
from stannary.rules.kinds import MODEL, TASKS, THETA
from stannary.rules.shape import shape_of
from stannary.settle.escrow import settle_key
from stannary.settle.ledger import buyer_available
from stannary.store import claims, envelopes, events, jobs, leases, ledger, loglines, nodes, readings, tasks
from stannary.store.jobs import JobRow, Submission
from stannary.wire import buyer as wire

MAX_TEXT_CHARS, MAX_LINE_CHARS = 4096, 16 * 1024  # of wire.message.Text, and of a log line
BAD_ROW = (StannaryError, ValueError, TypeError, LookupError)  # what reading and showing a stored row may raise

log = logging.getLogger("stannary.market")


def job(connection: Connection, row: JobRow) -> wire.JobView:
    """Return a job as its buyer sees it; one that cannot be read is shown with what its row says alone."""
    try:
        return _job(connection, row)
    except BAD_ROW as err:
        log.exception("job %s cannot be shown whole", row.job)
        return _bare(row, f"what is stored of this job cannot be read: {err}")


def _job(connection: Connection, row: JobRow) -> wire.JobView:
    spec = _spec_of(connection, row)
    settled = ledger.find(connection, settle_key(row.job))
    refunded = 0
    if settled is not None:
        refunded = sum(item.usd_micros for item in settled.postings if item.account == buyer_available(row.buyer))
    faults: list[str] = []
    rounds = shape_of(spec).num_rounds
    done = _within(row.round, bounds.COUNT, 0, ("progress.round", faults))
    progress = wire.Progress(
        round=rounds if row.status is JobStatus.SUCCEEDED else min(done, rounds),
        rounds=rounds,
        loss=_within(row.loss, bounds.DECIMAL, None, ("progress.loss", faults)),
        heldout=_within(row.heldout, bounds.DECIMAL, None, ("progress.heldout", faults)),
    )
    paid = row.escrow_usd_micros - refunded if settled is not None else 0
    return wire.JobView(
        **_own_members(row, faults),
        progress=progress,
        paid_usd_micros=paid,
        refunded_usd_micros=refunded,
        nodes=_nodes(connection, row),
        endings=_endings(connection, row, spec),
    )


def _endings(connection: Connection, row: JobRow, spec: JobSpec) -> list[wire.JobEnding] | None:
    """Return how programs ended, at once: others compute them again meanwhile."""
    if not ending.is_stated(spec, kinds.of(spec).lane):
        return None
    newest = {item.lane: item.ended for item in tasks.of_job(connection, row.job)}
    said = [(lane, ended) for lane, ended in sorted(newest.items()) if ended is not None and bounds.ENDED.fits(ended)]
    return [wire.JobEnding(lane=lane, ended=ended) for lane, ended in said] or None


def _bare(row: JobRow, fault: str) -> wire.JobView:
    nothing = wire.Progress(round=0, rounds=1)
    return wire.JobView(
        **_own_members(row, [fault]), progress=nothing, paid_usd_micros=0, refunded_usd_micros=0, nodes=[]
    )


def _own_members(row: JobRow, faults: list[str]) -> dict[str, Any]:
    """Return what a job's own row says."""
    return {
        "id": row.job,
        "name": bounds.shown(row.name),
        "kind": row.kind,
        "status": row.status.value,
        "verdict": row.verdict.value,
        "settlement": row.settlement.value,
        "reason": _text(row.reason),
        "message": _text(row.message),
        "escrow_usd_micros": row.escrow_usd_micros,
        "submitted_at": instants.spell(row.submitted_at_ms / 1000),
        "finished_at": instants.spell(row.finished_at_ms / 1000) if row.finished_at_ms is not None else None,
        "faults": [_text(item) for item in faults] or None,
    }


V = TypeVar("V")


def _within(value: object, bound: bounds.Bound, instead: V, fault: tuple[str, list[str]]) -> V:
    """Return a stored value a message holds, else `instead`, and note it."""
    if value is None or bound.fits(value):
        return cast("V", instead if value is None else value)
    name, faults = fault
    faults.append(f"{name} is {bounds.shown(value)}, not {bound.expected}")
    return instead


def _text(said: str) -> str:
    return bounds.printable(said)[:MAX_TEXT_CHARS]


def waits(listed: Iterable[Wait]) -> list[wire.JobWait] | None:
    """Return what a job waits for as its buyer sees it."""
    return [
        wire.JobWait(
            subject=bounds.shown(item.subject),
            stage=item.stage,
            waits_for=_text(item.waits_for),
            then=item.then,
            until=instants.spell(item.until_ms / 1000) if item.until_ms is not None else None,
            otherwise=item.otherwise,
        )
        for item in listed
    ] or None


def submitted(item: Submission, spec: JobSpec) -> wire.JobView:
    """Return a job that was accepted this moment, as `job` would: nothing has happened to it yet."""
    return wire.JobView(
        id=item.job,
        name=item.name,
        kind=item.kind,
        status=JobStatus.QUEUED.value,
        verdict=Verdict.PENDING.value,
        settlement=Settlement.HELD.value,
        reason="",
        message="",
        progress=wire.Progress(round=0, rounds=shape_of(spec).num_rounds),
        escrow_usd_micros=item.escrow_usd_micros,
        paid_usd_micros=0,
        refunded_usd_micros=0,
        nodes=[],
        submitted_at=instants.spell(item.submitted_at_ms / 1000),
    )


def event(row: events.Event) -> wire.Event:
    """Return one event."""
    return wire.Event(
        seq=row.seq,
        at=instants.spell(row.at_ms / 1000),
        type=bounds.shown(row.type),
        task=_known(row.task, bounds.TASK),
        node=_known(row.node, bounds.NODE),
        operator=bounds.shown(row.operator) if row.operator is not None else None,
        message=_text(row.message),
        data=dict(row.data),
    )


def line(row: loglines.Line) -> wire.LogLine:
    """Return one log line."""
    return wire.LogLine(
        seq=row.seq,
        at=instants.spell(row.at_ms / 1000),
        node=_known(row.node, bounds.NODE),
        task=_known(row.task, bounds.TASK),
        stream=_known(row.stream, bounds.WORD) or "unknown",
        text=bounds.printable(row.text)[:MAX_LINE_CHARS],
    )


def _known(name: str | None, bound: bounds.Words) -> str | None:
    """Return the name of a thing, None for what is none."""
    return name if name and bound.fits(name) else None


def cost(connection: Connection, row: JobRow) -> wire.Cost:
    """Return what a job cost, and for what."""
    lines = readings.settlement(connection, row.job)
    kept = envelopes.receipt_of(connection, row.job)
    if kept is None:
        return wire.Cost(lines=[], escrow_usd_micros=row.escrow_usd_micros, paid_usd_micros=0, refunded_usd_micros=0)
    stated = statement.read(dsse.from_bytes(kept.envelope).payload, "receipt", Receipt).predicate
    split = {
        name: bounds.COUNT.clamp(getattr(stated.time_split, name)) for name in stated.time_split.__dataclass_fields__
    }
    return wire.Cost(
        lines=[
            wire.CostLine(account=bounds.shown(i.account), task=_text(i.task), reason=i.reason, usd_micros=i.usd_micros)
            for i in lines
        ],
        escrow_usd_micros=row.escrow_usd_micros,
        paid_usd_micros=stated.paid_usd_micros,
        refunded_usd_micros=row.escrow_usd_micros - stated.paid_usd_micros,
        split=wire.CostSplit(**split),
    )


def outputs(connection: Connection, row: JobRow) -> wire.Outputs:
    """Return a job's results, as far as there are any, and since when their bytes are gone, if they are."""
    gone = claims.gone(connection, row)
    if gone is None:
        return wire.Outputs(outputs=_outputs(connection, row))
    at = instants.spell(gone.at_ms / 1000)
    return wire.Outputs(outputs=_outputs(connection, row), gone_at=at, gone_why=_text(gone.message))


def _outputs(connection: Connection, row: JobRow) -> list[wire.OutputRef]:
    """Return the newest merged weights, or each lane's outputs."""
    spec = _spec_of(connection, row)
    shape = shape_of(spec)
    if shape.kind.merge is not None:
        return _model(connection, row, shape.num_rounds)
    found: list[wire.OutputRef] = []
    newest = {item.lane: item for item in tasks.of_job(connection, row.job)}
    for lane, item in sorted(newest.items()):
        prefix = f"l{lane}/" if spec.num_nodes > 1 else ""
        is_partial = words.is_partial(item.ended)
        if item.state in ADMISSIBLE or item.state is TaskState.UNVERIFIED or is_partial:
            found.extend(
                _ref(prefix + str(output["name"]), output, is_partial=is_partial) for output in item.outputs or ()
            )
    return found


def _spec_of(connection: Connection, row: JobRow) -> JobSpec:
    return _spec_in(envelopes.order_of(connection, row.job))


@functools.lru_cache(maxsize=256)  # a watched job is asked about again and again
def _spec_in(envelope: bytes) -> JobSpec:
    return jobspec.from_canonical(statement.read(dsse.from_bytes(envelope).payload, "job", Job).predicate.spec)


def _model(connection: Connection, row: JobRow, rounds: int) -> list[wire.OutputRef]:
    for index in range(min(row.round, rounds - 1), -1, -1):
        merges = [item for item in tasks.of_job(connection, row.job, round_index=index) if TASKS[item.kind].is_merge]
        for merge in reversed(merges):
            if merge.state in ADMISSIBLE:
                is_partial = index < rounds - 1
                listed = (output for output in merge.outputs or () if output["name"] == THETA)
                return [_ref(MODEL, output, is_partial=is_partial) for output in listed]
    return []


def _ref(name: str, output: object, *, is_partial: bool) -> wire.OutputRef:
    members = cast("dict[str, str | int]", output)
    spelled = bounds.printable(name)[: bounds.PATH_CHARS]
    size_bytes = int(members["size_bytes"])
    return wire.OutputRef(name=spelled, digest=str(members["digest"]), size_bytes=size_bytes, partial=is_partial)


def _nodes(connection: Connection, row: JobRow) -> list[wire.JobNode]:
    held = {lease.node: lease for lease in leases.live_of_job(connection, row.job)}
    convicted = jobs.convicted(connection, row.job)
    views = []
    for lane, name in enumerate(jobs.placed(connection, row.job)):
        lease = held.get(name)
        state = "convicted" if name in convicted else lease.type.value if lease is not None else "idle"
        operator = bounds.shown(nodes.get(connection, name).operator)
        task = lease.task if lease is not None else None
        views.append(wire.JobNode(node=name, operator=operator, lane=lane, state=state, task=task))
    return views
