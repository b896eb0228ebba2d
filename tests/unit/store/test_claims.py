"""What jobs claim of the market's bytes: taken back of what has ended and is settled, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.unit.store import world
from tests.unit.store.world import JOB

from stannary.jobs.states import JobStatus, Settlement, TaskState
from stannary.rules.reasons import Reason
from stannary.store import blobs, claims, jobs, leases, schema, tasks
from stannary.store.database import Store
from stannary.store.transitions import Cause, move_job, move_settlement

T = TypeVar("T")
END_MS = 5_000
OTHER = "j-000000000002"


def do(store: Store, step: Callable[[Connection], T]) -> T:
    return store.write(step).result(30)


def give(store: Store, digest: str, *owners: str) -> None:
    """Store a blob of these owners."""

    def write(connection: Connection) -> None:
        for owner in owners:
            blobs.add(connection, digest, 1, owner, at_ms=0)

    do(store, write)


def owners(store: Store, digest: str) -> set[str]:
    query = sa.select(schema.blob_owners.c.owner).where(schema.blob_owners.c.digest == digest)
    return store.read(lambda c: set(c.execute(query).scalars()))


def end(store: Store, *, settled: bool) -> None:
    """Let the job fail."""

    def write(connection: Connection) -> None:
        if settled:
            move_settlement(connection, JOB, Settlement.REFUNDED, Cause(END_MS, "settled"))
        move_job(connection, JOB, JobStatus.FAILED, Cause(END_MS, Reason.MARKET_FAULT))

    do(store, write)


def ended(store: Store, before_ms: int = END_MS + 1) -> list[str]:
    return store.read(lambda c: claims.ended(c, before_ms=before_ms, limit=10))


def test_only_what_has_ended_and_is_settled_is_due(furnished: Store) -> None:
    """An open job, one whose money is not settled, and one that ended only now keep their claims."""
    give(furnished, "d", JOB)
    assert ended(furnished) == []
    end(furnished, settled=False)
    assert ended(furnished) == []
    do(furnished, lambda c: move_settlement(c, JOB, Settlement.REFUNDED, Cause(END_MS, "settled")))
    assert ended(furnished, END_MS) == []
    assert ended(furnished) == [JOB]
    do(furnished, lambda c: claims.release(c, JOB, ["d"], []))
    assert ended(furnished) == []


def test_a_claim_goes_and_the_rights_of_others_stay(furnished: Store) -> None:
    """With the claim goes the buyer's right to a result no other job claims; uploads and shared ones keep it."""
    everybody = (JOB, "buyer:buyer", "node:n-1")
    give(furnished, "result", *everybody)
    give(furnished, "upload", *everybody)
    give(furnished, "shared", *everybody, OTHER)
    do(furnished, lambda c: claims.release(c, JOB, ["result", "upload", "shared"], {"result", "shared"}))
    assert owners(furnished, "result") == {"node:n-1"}
    assert owners(furnished, "upload") == {"buyer:buyer", "node:n-1"}
    assert owners(furnished, "shared") == {"buyer:buyer", "node:n-1", OTHER}


def test_open_jobs_with_results_made_in_vain_are_found(furnished: Store) -> None:
    """A job is looked at while it claims an output of a void task that was handed in before then."""
    outputs = [{"name": "delta", "digest": "d", "size_bytes": 1}]

    def hand_in(connection: Connection) -> None:
        held = leases.grant(connection, world.work("w-1", "n-1"), world.cause())
        tasks.commit(connection, world.fence(held), "commitment", 1, world.cause())
        contributed = tasks.Contributed("leaf", 2, "root", outputs)
        tasks.contribute(connection, world.fence(held), contributed, world.cause(at_ms=2_000))
        tasks.draw(connection, world.TASK, number=0, selected=False, cause=world.cause())

    def found(before_ms: int = 2_001) -> list[str]:
        return furnished.read(lambda c: claims.with_void(c, before_ms=before_ms))

    give(furnished, "d", JOB)
    do(furnished, hand_in)
    assert found() == []
    do(furnished, lambda c: tasks.drop(c, world.TASK, TaskState.SUPERSEDED, world.cause()))
    assert found(2_000) == []
    assert found() == [JOB]
    assert furnished.read(lambda c: claims.made(c, JOB)) == {"d"}
    kept = furnished.read(lambda c: claims.kept(c, JOB))
    assert (kept.version, len(kept.tasks)) == (furnished.read(lambda c: jobs.get(c, JOB)).num_events, 1)
    do(furnished, lambda c: claims.release(c, JOB, ["d"], ["d"]))
    assert found() == []
    give(furnished, "d", JOB)
    end(furnished, settled=True)
    assert found() == []


def test_that_bytes_are_gone_is_said_once(furnished: Store) -> None:
    """The last event of a job says since when and why; saying it again changes nothing."""
    assert furnished.read(lambda c: claims.gone(c, jobs.get(c, JOB))) is None
    for at_ms in (7, 8):
        do(furnished, lambda c, at=at_ms: claims.say_gone(c, JOB, "their time is over", at_ms=at))
    said = furnished.read(lambda c: claims.gone(c, jobs.get(c, JOB)))
    assert said is not None
    assert (said.at_ms, said.message) == (7, "their time is over")
