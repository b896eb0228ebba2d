"""How nodes stand: strikes that count, what their buyers spent where, and what was decided (jobs/standing.py).

Changes are only ever added: the newest one of a node says how it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stannary.jobs import standing
from stannary.jobs.standing import NodeStanding, StandingChange, StruckBy
from stannary.settle.ledger import operator_available
from stannary.store.schema import jobs, ledger_entries, ledger_postings, nodes, standing_changes, strikes


@dataclass(frozen=True, slots=True)
class HeldAgainst:
    """What is held against a node now."""

    num_buyers: int = 0  # whose strikes count
    score_ppm: int = 0  # their voices
    is_suspended: bool = False


def read(connection: Connection, node: str) -> NodeStanding:
    """Return what is held against a node, and what came of it."""
    rows = connection.execute(_STRIKES, {"node": node})
    found = NodeStanding(tuple(StruckBy(*row) for row in rows))
    newest = connection.execute(_NEWEST, {"node": node}).one_or_none()
    if newest is None:
        return found
    if newest.change == StandingChange.SUSPEND:
        before = connection.execute(_RESTORED, {"node": node}).scalar()
        return replace(found, suspended_at_ms=newest.at_ms, restored_at_ms=before)
    return replace(found, restored_at_ms=newest.at_ms)


def consider(
    connection: Connection, node: str, now_ms: int, *, has_agreed: bool = False, is_over: bool = False
) -> StandingChange | None:
    """Decide about a node now, and note what changes; None where nothing does.

    Args:
        connection: the market's.
        node: the node.
        now_ms: the market's time.
        has_agreed: in code of ours it has just found what another operator, or the market, found.
        is_over: nobody could look in all the time that is waited for.
    """
    known = replace(read(connection, node), is_over=is_over)
    if has_agreed:
        known = replace(known, passed_at_ms=now_ms)
    weight_of = _weights(connection, node)
    change = standing.decide(known, weight_of, now_ms)
    if change is not None:
        score = standing.score_ppm(known, weight_of, now_ms)
        values = {"node": node, "at_ms": now_ms, "change": change.value, "score_ppm": score}
        connection.execute(sa.insert(standing_changes).values(**values))
    return change


def held_against(connection: Connection, now_ms: int) -> dict[str, HeldAgainst]:
    """Return what is held against every node that was ever struck, by node."""
    found = {}
    for node in connection.execute(_STRUCK).scalars():
        known = read(connection, node)
        score = standing.score_ppm(known, _weights(connection, node), now_ms)
        found[node] = HeldAgainst(
            len(standing.counted(known, now_ms)), score, is_suspended=known.suspended_at_ms is not None
        )
    return found


def suspended(connection: Connection) -> list[str]:
    """Return the nodes that are suspended, in node order."""
    return list(connection.execute(_SUSPENDED).scalars())


def take_back(connection: Connection, job: str, *, at_ms: int) -> list[str]:
    """Forget a job's strikes, for ever; return the nodes they were against, in node order."""
    mine = sa.and_(strikes.c.job == job, strikes.c.taken_back_at_ms.is_(None))
    found = sorted(set(connection.execute(sa.select(strikes.c.node).where(mine)).scalars()))
    connection.execute(sa.update(strikes).where(mine).values(taken_back_at_ms=at_ms))
    return found


def spent(connection: Connection, buyer: str) -> Mapping[str, int]:
    """Return what a buyer's settled jobs paid to each operator, in micro-dollars."""
    paid = connection.execute(_SPENT, {"buyer": buyer})
    return {operator: usd_micros for operator, usd_micros in paid if usd_micros > 0}


def _weights(connection: Connection, node: str) -> standing.WeightOf:
    operator = connection.execute(sa.select(nodes.c.operator).where(nodes.c.node == node)).scalar_one()
    return lambda buyer: standing.weight_ppm(spent(connection, buyer), operator)


_NODE: sa.BindParameter[str] = sa.bindparam("node")
_STRIKES = (
    sa.select(strikes.c.job, jobs.c.buyer, strikes.c.struck_at_ms)
    .join(jobs, jobs.c.job == strikes.c.job)
    .where(strikes.c.node == _NODE, strikes.c.taken_back_at_ms.is_(None))
    .order_by(strikes.c.struck_at_ms, strikes.c.job, strikes.c.task)
)
_STRUCK = sa.select(strikes.c.node).distinct().order_by(strikes.c.node)
_OF_NODE = sa.select(standing_changes.c.change, standing_changes.c.at_ms).where(standing_changes.c.node == _NODE)
_NEWEST = _OF_NODE.order_by(standing_changes.c.number.desc()).limit(1)
_RESTORED = (
    sa.select(sa.func.max(standing_changes.c.at_ms))
    .where(standing_changes.c.node == _NODE)
    .where(standing_changes.c.change != StandingChange.SUSPEND.value)
)
_LAST = sa.select(sa.func.max(standing_changes.c.number)).group_by(standing_changes.c.node)
_SUSPENDED = (
    sa.select(standing_changes.c.node)
    .where(standing_changes.c.number.in_(_LAST), standing_changes.c.change == StandingChange.SUSPEND.value)
    .order_by(standing_changes.c.node)
)
_OPERATORS = sa.select(nodes.c.operator).distinct().subquery()
_ACCOUNT = operator_available("%").partition("%")
_SPENT = (
    sa.select(_OPERATORS.c.operator, sa.func.sum(ledger_postings.c.usd_micros))
    .select_from(jobs)
    .join(ledger_entries, sa.and_(ledger_entries.c.job == jobs.c.job, ledger_entries.c.reason == "settle"))
    .join(ledger_postings, ledger_postings.c.entry == ledger_entries.c.entry)
    .join(
        _OPERATORS,
        ledger_postings.c.account == sa.literal(_ACCOUNT[0]) + _OPERATORS.c.operator + sa.literal(_ACCOUNT[2]),
    )
    .where(jobs.c.buyer == sa.bindparam("buyer"))
    .group_by(_OPERATORS.c.operator)
)
