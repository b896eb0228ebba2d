"""Who is watched in the store: as far as strikes took of its operator, in one job at a time, until a clean run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.store import world

from stannary.formats.predicates import SettlementLine, Watch
from stannary.rules.stake import CLEAN_RUN
from stannary.store import accounts, jobs, nodes, readings, standings, watches
from stannary.store.database import Store
from stannary.store.schema import jobs as jobs_table
from stannary.store.schema import strikes, tasks

NOW = 10_000_000
MINE, OTHER, THIRD = (str(world.submission(number).job) for number in (20, 21, 22))
STRUCK = str(world.submission(10).job)


def furnish(connection: Any) -> None:
    """Ann has two nodes, Cid one; a job in which Ann's first was struck has taken 70 of its pay."""
    world.furnish(connection)
    accounts.add_operator(connection, "cid", at_ms=0)
    for name in ("n-ann", "n-ann2"):
        nodes.add(connection, world.node(name, "ann"))
    nodes.add(connection, world.node("n-cid", "cid"))
    for number in (10, 20, 21, 22):
        jobs.submit(connection, [world.submission(number)])
    add_tasks(connection, STRUCK, ("n-ann",), at_ms=NOW)
    jobs.strike(connection, STRUCK, "n-ann", f"{STRUCK}/run/l0/a0", at_ms=NOW)
    lines = [
        SettlementLine("operator:ann", "t1", "void", 0),
        SettlementLine("insurance", "t1", "void", 40),
        SettlementLine("operator:ann", "t2", "void", 0),
        SettlementLine("insurance", "t2", "void", 30),
        SettlementLine("operator:cid", "t3", "void", 0),
        SettlementLine("insurance", "t3", "void", 1000),
    ]
    readings.settle(connection, STRUCK, lines)


def add_tasks(connection: Any, job: str, names: Sequence[str], at_ms: int = NOW + 1, reason: str = "agreed") -> None:
    """Have nodes hand in units that others found the same."""
    for lane, name in enumerate(names):
        task = f"{job}/run/l{lane}/a0"
        values = {
            "task": task, "job": job, "kind": "command", "round": 0, "lane": lane, "attempt": 0, "num_steps": 1,
            "assignment": "{}", "assignment_digest": "x", "state": "verified", "planned_at_ms": 0, "node": name,
            "reason": reason, "contributed_at_ms": at_ms,
        }  # fmt: skip
        connection.execute(sa.insert(tasks).values(**values))


@pytest.fixture
def market(store: Store) -> Store:
    store.write(furnish).result(30)
    return store


def watched(store: Store, job: str, *names: str) -> Watch | None:
    return store.read(lambda c: watches.of_job(c, job, names or ("n-ann", "n-ann2", "n-cid")))


def do(store: Store, act: Any) -> None:
    store.write(act).result(30)


def test_all_nodes_of_a_struck_operator_are_watched_as_far_as_the_strike_took(market: Store) -> None:
    """Its other nodes too, nobody else's, and none that is not at work in the job; strikes of others pay nothing."""
    assert watched(market, MINE) == Watch(("n-ann", "n-ann2"), 70)  # type: ignore[arg-type]
    assert watched(market, MINE, "n-ann2") == Watch(("n-ann2",), 70)  # type: ignore[arg-type]
    assert watched(market, MINE, "n-cid") is None


def test_one_job_at_a_time_has_what_was_taken(market: Store) -> None:
    """Else whoever strikes a friend would be paid it as often as he sends jobs; what is used is gone."""
    put = watched(market, MINE)
    assert put is not None
    do(market, lambda c: watches.begin(c, MINE, put))
    do(market, lambda c: watches.begin(c, MINE, put))  # the list of another draw
    assert watched(market, OTHER) is None
    do(market, lambda c: watches.use(c, MINE, 30))
    assert watched(market, MINE) == Watch(("n-ann", "n-ann2"), 40)  # type: ignore[arg-type]
    do(market, lambda c: watches.use(c, MINE, 40))
    assert watched(market, MINE) is None
    do(market, lambda c: end(c, MINE, [SettlementLine("insurance", "a", "extra", -25)]))
    assert watched(market, OTHER) == Watch(("n-ann", "n-ann2"), 45)  # type: ignore[arg-type]


def end(connection: Any, job: str, lines: list[SettlementLine]) -> None:
    """End a job, whose receipt has these lines."""
    readings.settle(connection, job, lines)
    table = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'jobs'"))
    for name in table.scalars().all():  # the way there is other tests'
        connection.execute(sa.text(f"DROP TRIGGER {name}"))
    connection.execute(sa.update(jobs_table).where(jobs_table.c.job == job).values(status="succeeded"))


def test_a_clean_run_ends_it_node_by_node(market: Store) -> None:
    """So many units of its own that others found the same since the last strike; what was before counts for nothing."""
    do(market, lambda c: add_tasks(c, MINE, ["n-ann"] * (CLEAN_RUN - 1)))
    do(market, lambda c: add_tasks(c, OTHER, ["n-ann2"] * CLEAN_RUN, at_ms=NOW))
    assert watched(market, MINE) == Watch(("n-ann", "n-ann2"), 70)  # type: ignore[arg-type]
    do(market, lambda c: add_tasks(c, THIRD, ["n-ann"]))
    assert watched(market, MINE) == Watch(("n-ann2",), 70)  # type: ignore[arg-type]
    do(market, strike_again)
    assert watched(market, MINE) == Watch(("n-ann", "n-ann2"), 70)  # type: ignore[arg-type]


def strike_again(connection: Any) -> None:
    """Strike the operator's other node, later."""
    connection.execute(
        sa.insert(strikes).values(job=THIRD, node="n-ann2", task=f"{THIRD}/run/l0/a0", struck_at_ms=NOW + 2)
    )


def test_only_what_others_found_the_same_is_clean(market: Store) -> None:
    """A unit that was not drawn, or that nobody had room for, shows nothing."""
    for job, reason in ((MINE, "not-drawn"), (OTHER, "not-audited")):
        do(market, lambda c, job=job, reason=reason: add_tasks(c, job, ["n-ann"] * CLEAN_RUN, reason=reason))
    assert watched(market, MINE) == Watch(("n-ann", "n-ann2"), 70)  # type: ignore[arg-type]


def test_a_strike_that_is_taken_back_watches_nobody(market: Store) -> None:
    """The program was not reproducible: it counts for nothing, in jobs under way as well."""
    put = watched(market, MINE)
    do(market, lambda c: watches.begin(c, MINE, put))
    do(market, lambda c: standings.take_back(c, STRUCK, at_ms=NOW))
    assert (watched(market, MINE), watched(market, OTHER)) == (None, None)
