"""State changes: only by the table, only with an event, only in the live epoch."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from tests.unit.store import world
from tests.unit.store.world import JOB, TASK, cause, fence, work

from stannary.errors import ConflictError, NotFound
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Verdict
from stannary.jobs.course.state import Grant, LeaseRow
from stannary.jobs.states import JobStatus, LeaseState, Settlement, TaskState
from stannary.store import events, jobs, leases, tasks
from stannary.store.database import Store
from stannary.store.leases import Fence
from stannary.store.schema import ledger_postings, settlement_lines
from stannary.store.tasks import Contributed
from stannary.store.transitions import move_job, move_settlement, move_verdict

RESULT = Contributed("leaf", 9, "root", [{"name": "theta", "digest": "d", "size_bytes": 1}])


def do(store: Store, *steps: object) -> list[object]:
    return [store.write(step).result(30) for step in steps]  # type: ignore[arg-type]  # functions of a connection


def types(store: Store) -> list[str]:
    return [event.type for event in store.read(lambda c: events.after(c, JOB, 0))]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET status = 'failed'",
        "UPDATE jobs SET verdict = 'verified'",
        "UPDATE jobs SET settlement = 'released'",
        "UPDATE tasks SET state = 'verified'",
        "UPDATE events SET message = 'never happened'",
        "DELETE FROM events",
        "UPDATE ledger_postings SET usd_micros = 1",
        "DELETE FROM ledger_entries",
        "UPDATE balances SET usd_micros = -1 WHERE account LIKE 'buyer:%'",
    ],
)
def test_the_database_refuses_what_goes_round_the_rules(furnished: Store, statement: str) -> None:
    """A state without its event, a changed history and an overdraft fail in the database itself."""
    error = furnished.write(lambda c: c.exec_driver_sql(statement)).exception(30)
    assert isinstance(error, IntegrityError)


def test_every_change_is_in_the_history(furnished: Store) -> None:
    """Job, verdict and settlement changes each leave an event with the reason; numbers have no gaps."""
    do(
        furnished,
        lambda c: move_job(c, JOB, JobStatus.RUNNING, cause("placed")),
        lambda c: move_job(c, JOB, JobStatus.FAILED, cause("no-capacity", 5_000)),
        lambda c: move_verdict(c, JOB, Verdict.UNVERIFIED, cause()),
        lambda c: move_settlement(c, JOB, Settlement.REFUNDED, cause()),
    )
    assert types(furnished)[2:] == ["job.running", "job.failed", "verdict.unverified", "settlement.refunded"]
    history = furnished.read(lambda c: events.after(c, JOB, 0))
    assert [event.seq for event in history] == list(range(1, 7))
    assert history[3].data == {"reason": "no-capacity"}
    job = furnished.read(lambda c: jobs.get(c, JOB))
    assert (job.reason, job.finished_at_ms) == ("no-capacity", 5_000)


def test_a_refused_change_leaves_no_event(furnished: Store) -> None:
    """A change the table does not know is a conflict and writes nothing."""
    before = types(furnished)
    assert isinstance(
        furnished.write(lambda c: move_job(c, JOB, JobStatus.SUCCEEDED, cause())).exception(30), ConflictError
    )
    assert isinstance(furnished.write(lambda c: move_job(c, "j-no", JobStatus.FAILED, cause())).exception(30), NotFound)
    assert types(furnished) == before


def test_work_goes_from_lease_to_verdict(furnished: Store) -> None:
    """Leased, committed, contributed, drawn, verified: each step once, the lease completed on the way."""

    def whole(c: Connection) -> None:
        lease = leases.grant(c, work("L1", "n-1"), cause())
        assert lease.epoch == 1
        tasks.commit(c, fence(lease), "c0ffee", 8, cause())
        tasks.commit(c, fence(lease), "c0ffee", 8, cause())  # its answer was lost on the way
        tasks.contribute(c, fence(lease), RESULT, cause())
        tasks.draw(c, TASK, number=0, selected=True, cause=cause())
        tasks.judge(c, TASK, Verdict.VERIFIED, cause())

    do(furnished, whole)
    task = furnished.read(lambda c: tasks.get(c, TASK))
    assert (task.state, task.verdict, task.epoch, task.node) == (TaskState.VERIFIED, Verdict.VERIFIED, 1, "n-1")
    assert (task.commitment_index, task.contribution_index, task.price_usd_micros) == (8, 9, 7)
    assert furnished.read(lambda c: leases.get(c, "L1")).state is LeaseState.COMPLETED


def test_a_node_given_up_cannot_hand_in(furnished: Store) -> None:
    """After expiry the task goes to another in the next epoch, and the first holder is told stale-epoch."""
    (first,) = do(furnished, lambda c: leases.grant(c, work("L1", "n-1"), cause()))
    assert isinstance(first, LeaseRow)
    do(furnished, lambda c: leases.end(c, "L1", LeaseState.EXPIRED, cause("lost")))
    assert furnished.read(lambda c: tasks.get(c, TASK)).state is TaskState.PLANNED
    (second,) = do(furnished, lambda c: leases.grant(c, work("L2", "n-2"), cause()))
    assert isinstance(second, LeaseRow)
    assert second.epoch == 2
    for stale in (fence(first), Fence("L2", "n-2", 1), Fence("L1", "n-1", 2)):
        error = furnished.write(lambda c, stale=stale: tasks.commit(c, stale, "c", 1, cause())).exception(30)
        assert isinstance(error, ConflictError)
        assert leases.STALE_EPOCH in error.what
    stranger = Fence("L2", "n-3", 2)
    assert isinstance(furnished.write(lambda c: leases.check(c, stranger)).exception(30), NotFound)


def test_a_commitment_goes_with_its_epoch(furnished: Store) -> None:
    """A successor does not inherit what the lost holder committed to."""

    def handover(c: Connection) -> None:
        tasks.commit(c, fence(leases.grant(c, work("L1", "n-1"), cause())), "old", 1, cause())
        leases.end(c, "L1", LeaseState.EXPIRED, cause())
        leases.grant(c, work("L2", "n-2"), cause())

    do(furnished, handover)
    assert furnished.read(lambda c: tasks.get(c, TASK)).commitment is None


def test_one_live_lease_per_task_and_one_work_per_node(furnished: Store) -> None:
    """Neither a second holder of a task nor a second task of a node can be, whatever the caller does."""
    other = TASK.replace("l0", "l1")
    do(furnished, lambda c: tasks.plan(c, world.new_task(other, lane=1), at_ms=1))
    do(furnished, lambda c: leases.grant(c, work("L1", "n-1"), cause()))
    for attempt in (work("L2", "n-2"), work("L3", "n-1", task=other)):
        assert isinstance(
            furnished.write(lambda c, attempt=attempt: leases.grant(c, attempt, cause())).exception(30), ConflictError
        )
    question = Grant("Q1", LeaseType.QUESTION, TASK, "n-1", 10_000)
    do(furnished, lambda c: leases.grant(c, question, cause()))
    assert [lease.lease for lease in furnished.read(lambda c: leases.live_of_node(c, "n-1"))] == ["L1", "Q1"]


def test_a_superseded_task_takes_its_leases_along(furnished: Store) -> None:
    """Dropping a task revokes what is held of it, and it does not come back to planned."""
    do(furnished, lambda c: leases.grant(c, work("L1", "n-1"), cause()))
    do(furnished, lambda c: tasks.drop(c, TASK, TaskState.SUPERSEDED, cause("re-merge")))
    assert furnished.read(leases.live_work) == []
    assert furnished.read(lambda c: tasks.get(c, TASK)).state is TaskState.SUPERSEDED
    late = Fence("L1", "n-1", 1)
    assert isinstance(furnished.write(lambda c: tasks.commit(c, late, "c", 1, cause())).exception(30), ConflictError)


def test_append_only_tables_are_all_guarded(furnished: Store) -> None:
    """Each append-only table has its two triggers."""
    found = furnished.read(
        lambda c: set(c.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars())
    )
    for table in ("events", "ledger_entries", ledger_postings.name, settlement_lines.name):
        assert {f"{table}_refuse_update", f"{table}_refuse_delete"} <= found
