"""Which nodes are watched in a job, and what insurance has put aside for that (rules/stake.py rule 3).

What is put aside for an operator is what strikes against its nodes took, less what extra audits of them have cost; one
job at a time has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.formats.ids import NodeId
from stannary.formats.predicates import CanaryOutcome, Watch
from stannary.jobs.states import OPEN_JOB
from stannary.rules.stake import CLEAN_RUN
from stannary.store.schema import canaries, jobs, nodes, settlement_lines, strikes, tasks, watches


def of_job(connection: Connection, job: str, at_work: Collection[str]) -> Watch | None:
    """Return whose units the next draw of a job draws more often, None where nobody's.

    Args:
        connection: the market's.
        job: the job.
        at_work: nodes that it was placed on, or that worked in it.
    """
    struck = {str(row.operator): int(row.at_ms) for row in connection.execute(_STRUCK)}
    if not struck:
        return None
    begun = connection.execute(sa.select(watches).where(watches.c.job == job)).one_or_none()
    for operator in [begun.operator] if begun is not None else struck:
        since_ms = struck.get(operator)
        if since_ms is None:  # taken back meanwhile
            continue
        left = begun.granted_usd_micros - begun.used_usd_micros if begun is not None else _free(connection, operator)
        names = tuple(_unclean(connection, operator, since_ms, at_work)) if left > 0 else ()
        if names:
            return Watch(names, left)
    return None


def begin(connection: Connection, job: str, watch: Watch | None) -> None:
    """Put aside what a job may cost for that, once."""
    if watch is not None and connection.execute(sa.select(watches.c.job).where(watches.c.job == job)).first() is None:
        operator = connection.execute(sa.select(nodes.c.operator).where(nodes.c.node == watch.nodes[0])).scalar_one()
        values = {"job": job, "operator": operator, "granted_usd_micros": watch.usd_micros}
        connection.execute(sa.insert(watches).values(**values))


def use(connection: Connection, job: str, usd_micros: int) -> None:
    """Note what the watched units of a draw cost at most."""
    if not usd_micros:
        return
    used = watches.c.used_usd_micros + usd_micros
    connection.execute(sa.update(watches).where(watches.c.job == job).values(used_usd_micros=used))


def _free(connection: Connection, operator: str) -> int:
    """Return what strikes took of an operator and no audit has cost; nothing while a job has it."""
    if connection.execute(_OPEN, {"operator": operator}).first() is not None:
        return 0
    took = connection.execute(_VOID, {"operator": operator, "account": f"operator:{operator}"}).scalar_one()
    gave = connection.execute(_EXTRA, {"operator": operator}).scalar_one()
    return max(int(took) + int(gave), 0)


def _unclean(connection: Connection, operator: str, since_ms: int, at_work: Collection[str]) -> Iterable[NodeId]:
    """Yield an operator's nodes of which fewer than a clean run of units were found the same since, in node order."""
    mine = sa.select(nodes.c.node).where(nodes.c.operator == operator, nodes.c.node.in_(sorted(at_work)))
    for name in connection.execute(mine.order_by(nodes.c.node)).scalars():
        found = {"node": name, "since_ms": since_ms, "most": CLEAN_RUN}
        num_clean = connection.execute(_AGREED, found).scalar_one() + connection.execute(_PASSED, found).scalar_one()
        if num_clean < CLEAN_RUN:
            yield NodeId(name)


_STRUCK = (
    sa.select(nodes.c.operator, sa.func.max(strikes.c.struck_at_ms).label("at_ms"))
    .join(nodes, nodes.c.node == strikes.c.node)
    .where(strikes.c.taken_back_at_ms.is_(None))
    .group_by(nodes.c.operator)
    .order_by(sa.func.max(strikes.c.struck_at_ms).desc(), nodes.c.operator)
)
_OPERATOR: sa.BindParameter[str] = sa.bindparam("operator")
_OPEN = (
    sa.select(watches.c.job)
    .join(jobs, jobs.c.job == watches.c.job)
    .where(watches.c.operator == _OPERATOR, jobs.c.status.in_([state.value for state in OPEN_JOB]))
)
_OWN = sa.alias(settlement_lines)
_VOID = (
    sa.select(sa.func.coalesce(sa.func.sum(settlement_lines.c.usd_micros), 0))
    .join(_OWN, sa.and_(_OWN.c.job == settlement_lines.c.job, _OWN.c.task == settlement_lines.c.task))
    .where(settlement_lines.c.account == "insurance", settlement_lines.c.reason == "void")
    .where(_OWN.c.account == sa.bindparam("account"), _OWN.c.reason == "void")
    .where(
        settlement_lines.c.job.in_(
            sa.select(strikes.c.job).join(nodes, nodes.c.node == strikes.c.node).where(nodes.c.operator == _OPERATOR)
        )
    )
)
_EXTRA = sa.select(sa.func.coalesce(sa.func.sum(settlement_lines.c.usd_micros), 0)).where(
    settlement_lines.c.account == "insurance",
    settlement_lines.c.reason == "extra",
    settlement_lines.c.job.in_(sa.select(watches.c.job).where(watches.c.operator == _OPERATOR)),
)
_RECENT = (
    sa.select(tasks.c.task)
    .where(tasks.c.node == sa.bindparam("node"), sa.text("reason = 'agreed'"))
    .where(tasks.c.contributed_at_ms > sa.bindparam("since_ms"))
    .limit(sa.bindparam("most", type_=sa.Integer))
    .subquery()
)
_AGREED = sa.select(sa.func.count()).select_from(_RECENT)
_PASSED = sa.select(sa.func.count()).where(
    canaries.c.node == sa.bindparam("node"),
    canaries.c.outcome == CanaryOutcome.PASSED.value,
    canaries.c.decided_at_ms > sa.bindparam("since_ms"),
)
