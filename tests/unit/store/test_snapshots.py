"""Snapshots of jobs: a fixed number of queries, whatever a job holds, and only what can still matter."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from tests.integration.market.fake_buyer import train_spec
from tests.unit.market import moment
from tests.unit.store import world

from stannary.errors import NotFound
from stannary.formats import ids
from stannary.formats.ids import JobId, TaskKind
from stannary.formats.predicates import Assignment
from stannary.jobs.course.state import JobOrder, JobState, NewTask, spell_assignment
from stannary.store import envelopes, jobs, snapshots, tasks
from stannary.store.database import Store

MAX_QUERIES = 16


def read(store: Store, order: JobOrder) -> tuple[JobState, int]:
    """Return a job's snapshot, and how many statements it took."""
    asked: list[str] = []

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    sa.event.listen(store._read_engine, "before_cursor_execute", count)
    try:
        state = store.read(lambda c: snapshots.load(c, order))
    finally:
        sa.event.remove(store._read_engine, "before_cursor_execute", count)
    return state, len([statement for statement in asked if statement.startswith("SELECT")])


def plan(connection: Any, round_index: int, lane: int) -> None:
    """Plan a round's task."""
    job = JobId(moment.JOB)
    task = ids.round_task(job, round_index, lane)
    text = spell_assignment(Assignment(job, task, TaskKind.ROUND, round_index, lane, 3, 0, 0))
    tasks.plan(connection, NewTask(task, job, TaskKind.ROUND, round_index, lane, 0, 3, text, "d"), at_ms=1)


@pytest.fixture
def market(store: Store) -> Store:
    """A store that holds the job, with a round of three lanes."""

    def furnish(connection: Any) -> None:
        world.fund(connection)
        jobs.submit(connection, [world.submission(10, job=str(moment.JOB))])
        for lane in range(3):
            plan(connection, 0, lane)

    store.write(furnish).result(30)
    return store


def test_a_snapshot_takes_as_many_queries_for_few_tasks_as_for_many(market: Store) -> None:
    """Three tasks or three hundred: the same handful of statements."""
    order = moment.order(train_spec())
    few, num_few = read(market, order)
    for lane in range(3, 300):
        market.write(lambda c, lane=lane: plan(c, 0, lane)).result(30)
    many, num_many = read(market, order)
    assert (len(few.tasks), len(many.tasks)) == (3, 300)
    assert num_few == num_many <= MAX_QUERIES


def test_settled_rounds_are_not_read(market: Store) -> None:
    """From the round before the first open one on: what lies behind is decided, until the last draw may add of it."""
    order = moment.order(train_spec(rounds=7))
    for round_index in range(1, 6):
        market.write(lambda c, index=round_index: plan(c, index, 0)).result(30)
    market.write(lambda c: jobs.note_rounds(c, moment.JOB, first_open=4, last=5)).result(30)
    state, _ = read(market, order)
    assert {task.round for task in state.tasks.values()} == {3, 4, 5}
    assert (state.first_open, state.round) == (4, 5)
    market.write(lambda c: jobs.note_rounds(c, moment.JOB, first_open=4, last=6)).result(30)
    state, _ = read(market, order)
    assert {task.round for task in state.tasks.values()} == set(range(6))


def test_a_version_grows_with_every_change(market: Store) -> None:
    """What changes a job has an event: a decision about the job of before is known for stale."""
    order = moment.order(train_spec())
    before, _ = read(market, order)
    market.write(lambda c: plan(c, 1, 0)).result(30)
    after, _ = read(market, order)
    assert after.version == before.version + 1


def test_no_envelope_is_found_by_reading_them_all(market: Store) -> None:
    """What asks for envelopes by job, number or leaf finds them through an index, however many there are."""
    order = moment.order(train_spec())
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    def look(connection: Any) -> None:
        snapshots.load(connection, order)
        envelopes.order_of(connection, str(moment.JOB))
        envelopes.of_job(connection, str(moment.JOB))
        with pytest.raises(NotFound):
            envelopes.get(connection, "sha256:none")

    sa.event.listen(market._read_engine, "before_cursor_execute", note)
    try:
        market.read(look)
    finally:
        sa.event.remove(market._read_engine, "before_cursor_execute", note)
    of_envelopes = [item for item in asked if " envelopes" in item[0]]
    assert len(of_envelopes) >= 4

    def plans(connection: Any) -> list[str]:
        explained = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values) for text, values in of_envelopes]
        return [row[3] for rows in explained for row in rows]

    steps = [step for step in market.read(plans) if "envelopes" in step]
    assert steps
    assert [step for step in steps if step.startswith("SCAN")] == []
