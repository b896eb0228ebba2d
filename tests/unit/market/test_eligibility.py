"""A node below a job's masks: it gets none of the job's work, judges none, and is waited for by nobody.

The job asks T2, 64 cores and 64 GiB. Whoever is small is T0 with 2 cores and 1 GiB, cheap, and of the same class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection
from stannary.market.engine.frame import JobFrame, Outcome, World, asked, spell_assignment
from tests.integration.market.fake_buyer import train_spec
from tests.unit.market.moment import JOB, NOW_MS, frame, world
from tests.unit.store import world as stored

from stannary.errors import NoCapacity
from stannary.formats import digest, dsse, ids, record, statement
from stannary.formats.ids import JobId, NodeId, TaskId, TaskKind
from stannary.formats.predicates import Assignment, Candidates, Tier
from stannary.jobs.states import JobStatus
from stannary.market import terms
from stannary.market.engine import drawing, failing, leasing
from stannary.place.match import match
from stannary.place.offers import Offer
from stannary.store import accounts, envelopes, jobs, nodes, tasks
from stannary.store.database import Store
from stannary.store.tasks import MERGE_LANE, NewTask
from stannary.store.transitions import Cause, move_job

GIB = 2**30
BIG = {"n-big1": "ann", "n-big2": "bob", "n-big3": "cat"}
SMALL = {"n-small": "dan"}
KEY = Ed25519PrivateKey.generate()


def demanding() -> JobFrame:
    """Return the job."""
    spec = train_spec(lanes=2)
    trust = replace(spec.trust, tier=Tier.T2)
    return frame(replace(spec, trust=trust, resources=replace(spec.resources, cpus=64, memory_bytes=64 * GIB)))


def moment() -> World:
    """Return a moment at which everybody is here."""

    def sign(kind: str, predicate: Any, subjects: tuple[statement.Subject, ...]) -> dsse.Envelope:
        return statement.sign(kind, predicate, subjects, KEY)

    return world(live=frozenset(BIG | SMALL), sign=sign)


def row(name: str, operator: str) -> nodes.NodeRow:
    """Return a node as it joined."""
    made = replace(stored.node(name, operator), terms=terms.DIGEST)
    return replace(made, tier=Tier.T2, cpus=64, memory_bytes=64 * GIB) if name in BIG else made


@pytest.fixture
def market(store: Store) -> Store:
    """A store with the nodes, and the job placed on two big ones; its lanes are lost and one merge waits."""

    def furnish(connection: Connection) -> None:
        stored.fund(connection)
        for name, operator in (BIG | SMALL).items():
            accounts.add_operator(connection, operator, at_ms=0)
            nodes.add(connection, row(name, operator))
        jobs.submit(connection, [stored.submission(10, job=str(JOB), submitted_at_ms=NOW_MS)])
        for status in (JobStatus.PLACING, JobStatus.ATTESTING, JobStatus.STARTING, JobStatus.RUNNING):
            move_job(connection, JOB, status, Cause(NOW_MS, "test"))
        jobs.place(connection, JOB, [NodeId("n-big1"), NodeId("n-big2")])

    store.write(furnish).result(30)
    return store


def plan(connection: Connection, kind: TaskKind) -> None:
    """Plan a task so long ago that whoever may take it is let."""
    task = ids.merge_task(JobId(JOB), 0, 0) if kind is TaskKind.MERGE else ids.round_task(JobId(JOB), 0, 0, 0)
    lane = MERGE_LANE if kind is TaskKind.MERGE else 0
    assignment = spell_assignment(Assignment(JobId(JOB), TaskId(task), kind, 0, 0, 3, 0, 0))
    new = NewTask(task, JOB, kind, 0, lane, 0, 3, assignment, digest.digest(assignment.encode()))
    tasks.plan(connection, new, at_ms=NOW_MS - 3_600_000)


@pytest.mark.parametrize("kind", [TaskKind.ROUND, TaskKind.MERGE])
def test_a_small_node_gets_neither_a_lost_lane_nor_a_merge(market: Store, kind: TaskKind) -> None:
    """What was lost goes to a node that could have been placed, whoever polls first."""
    frames = {JOB: demanding()}
    market.write(lambda c: plan(c, kind)).result(30)
    wanted = {node: market.read(lambda c, n=node: leasing.is_wanted(c, frames, moment(), n)) for node in BIG | SMALL}
    assert wanted == {"n-big1": True, "n-big2": True, "n-big3": True, "n-small": False}


def test_a_small_node_may_not_judge(market: Store) -> None:
    """It is left out of the candidates, with the mask it failed."""
    job, outcome = demanding(), Outcome()
    market.write(lambda c: drawing._fix_candidates(c, job, moment(), 0, outcome)).result(30)
    (kept,) = market.read(lambda c: envelopes.of_job(c, JOB, kind="candidates"))
    said = statement.read(dsse.from_bytes(kept.envelope).payload, "candidates", Candidates).predicate
    assert [item.node for item in said.candidates] == sorted(BIG)
    assert [record.to_json(item) for item in said.left_out] == [
        {"node": "n-small", "reason": "tier T0, T2 is required"}
    ]


def test_a_report_is_not_held_for_a_node_that_could_not_try(market: Store) -> None:
    """Where only a small node has not said anything, those who reported a failure are all who could."""
    job = demanding()
    reported = sorted(BIG.values())
    assert market.read(lambda c: failing._needed(c, job, moment(), reported[:2])) == failing.AGREEING
    alone = replace(moment(), live=frozenset({"n-big1", "n-big2", "n-small"}))
    assert market.read(lambda c: failing._needed(c, job, alone, reported[:2])) == 2


def test_a_small_node_is_no_place_and_no_other_operator_to_audit() -> None:
    """Placement says the same: two big nodes of one operator and a small one of another hold no verified job."""
    offers = [
        Offer(NodeId(name), "ann", "EU", terms.DIGEST, made.tier, made.engine_class, made.cpus, made.memory_bytes, 1)
        for name, made in ((name, row(name, "ann")) for name in ("n-big1", "n-big2"))
    ]
    small = row("n-small", "dan")
    offers.append(
        Offer(NodeId("n-small"), "dan", "EU", terms.DIGEST, small.tier, "cpu-a", small.cpus, small.memory_bytes, 1)
    )
    with pytest.raises(NoCapacity, match="tier T0, T2 is required"):
        match(offers, asked(demanding().spec))
