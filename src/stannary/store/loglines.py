"""What jobs print, kept by the market so that logs outlive their node.

A job keeps at most MAX_LINES lines and MAX_BYTES bytes. What comes later is counted, not kept, and a
notice with that count is the last thing a reader sees: nothing is dropped without saying so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.errors import NotFound
from stannary.store.schema import jobs, log_lines

MAX_LINES = 100_000  # per job
MAX_BYTES = 32 * 2**20  # per job
MAX_LINE = 8_192  # characters; the rest of a line is cut, visibly
MAX_PAGE = 2_000
CUT = " ... [cut]"


@dataclass(frozen=True, slots=True)
class NewLine:
    """One line as the agent sends it."""

    at_ms: int
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line as kept. The drop notice has seq `num_log_lines + 1` and stream `market`."""

    seq: int
    at_ms: int
    node: str
    task: str
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class LineSource:
    """Who printed."""

    job: str
    task: str
    node: str


def append(connection: Connection, source: LineSource, lines: Sequence[NewLine]) -> int:
    """Keep what still fits of `lines`, count the rest; return how many were kept."""
    row = connection.execute(
        sa.select(jobs.c.num_log_lines, jobs.c.num_log_bytes).where(jobs.c.job == source.job)
    ).one_or_none()
    if row is None:
        raise NotFound("no such job", why=source.job)
    kept: list[dict[str, object]] = []
    num_bytes = row.num_log_bytes
    for line in lines[: max(0, MAX_LINES - row.num_log_lines)]:
        text = line.text if len(line.text) <= MAX_LINE else line.text[:MAX_LINE] + CUT
        num_bytes += len(text.encode())
        if num_bytes > MAX_BYTES:
            break
        kept.append(
            {
                "job": source.job,
                "seq": row.num_log_lines + len(kept) + 1,
                "at_ms": line.at_ms,
                "node": source.node,
                "task": source.task,
                "stream": line.stream,
                "text": text,
            }
        )
    if kept:
        connection.execute(sa.insert(log_lines), kept)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.job == source.job)
        .values(
            num_log_lines=jobs.c.num_log_lines + len(kept),
            num_log_bytes=num_bytes if len(kept) == len(lines) else MAX_BYTES,
            num_dropped_log_lines=jobs.c.num_dropped_log_lines + len(lines) - len(kept),
        )
    )
    return len(kept)


def after(
    connection: Connection, job: str, seq: int, *, limit: int = MAX_PAGE, since_ms: int | None = None
) -> list[Line]:
    """Return lines of `job` behind `seq`, oldest first, and the drop notice at the end if there is one."""
    query = _SELECT.where(log_lines.c.job == job, log_lines.c.seq > seq).order_by(log_lines.c.seq)
    if since_ms is not None:
        query = query.where(log_lines.c.at_ms >= since_ms)
    limit = min(limit, MAX_PAGE)
    found = [Line(**row) for row in connection.execute(query.limit(limit)).mappings()]
    if len(found) < limit:
        found.extend(_notice(connection, job, seq))
    return found


def tail_start(connection: Connection, job: str, num_lines: int) -> int:
    """Return the seq behind which the last `num_lines` lines of `job` lie."""
    last = connection.execute(sa.select(jobs.c.num_log_lines).where(jobs.c.job == job)).scalar()
    return max(0, int(last or 0) - num_lines)


def _notice(connection: Connection, job: str, seq: int) -> list[Line]:
    columns = (jobs.c.num_log_lines, jobs.c.num_dropped_log_lines)
    row = connection.execute(sa.select(*columns).where(jobs.c.job == job)).one_or_none()
    if row is None or row.num_dropped_log_lines == 0 or seq > row.num_log_lines:
        return []
    at_ms = connection.execute(sa.select(sa.func.max(log_lines.c.at_ms)).where(log_lines.c.job == job)).scalar()
    limit = f"{MAX_LINES:,} lines or {MAX_BYTES // 2**20} MiB"
    text = f"{row.num_dropped_log_lines:,} later lines were not kept: a job keeps {limit}"
    return [Line(row.num_log_lines + 1, int(at_ms or 0), "", "", "market", text)]


_SELECT = sa.select(
    log_lines.c.seq, log_lines.c.at_ms, log_lines.c.node, log_lines.c.task, log_lines.c.stream, log_lines.c.text
)
