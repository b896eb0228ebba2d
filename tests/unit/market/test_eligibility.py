"""A node below a job's masks: it gets none of the job's work, judges none, and is waited for by nobody.

The job asks T2, 64 cores and 64 GiB. Whoever is small is T0 with 2 cores and 1 GiB, cheap, and of the same class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import train_spec
from tests.unit.market import moment
from tests.unit.market.moment import CLASS, JOB, NOW_MS

from stannary.errors import NoCapacity
from stannary.formats import ids, record
from stannary.formats.ids import JobId, TaskId, TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assignment, Tier
from stannary.jobs.course import drawing, failing
from stannary.jobs.course.actions import FixCandidates, Plan
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import JobState, Node, World
from stannary.jobs.states import JobStatus
from stannary.market import terms
from stannary.market.engine.ready import Ready
from stannary.market.offerbook import asked
from stannary.place.match import match

GIB = 2**30
BIG = {"n-big1": "ann", "n-big2": "bob", "n-big3": "cat"}
SMALL = {"n-small": "dan"}


def demanding() -> JobSpec:
    """Return the job."""
    spec = train_spec(lanes=2)
    trust = replace(spec.trust, tier=Tier.T2)
    return replace(spec, trust=trust, resources=replace(spec.resources, cpus=64, memory_bytes=64 * GIB))


def node(name: str, operator: str) -> Node:
    """Return a node as its credential says."""
    if name in BIG:
        return moment.node(name, operator, terms=terms.DIGEST, tier=Tier.T2, cpus=64, memory_bytes=64 * GIB)
    return moment.node(name, operator, terms=terms.DIGEST, tier=Tier.T0, cpus=2, memory_bytes=GIB)


def world(**changes: Any) -> World:
    """Return a moment at which everybody is here, long after everything was planned."""
    listed = [node(name, operator) for name, operator in (BIG | SMALL).items()]
    return moment.world(*listed, now_ms=NOW_MS + 3_600_000, terms=terms.accepted, **changes)


def running() -> JobState:
    """Return the job placed on two big nodes; both are lost."""
    return moment.state(demanding(), status=JobStatus.RUNNING, placed=("n-big1", "n-big2"))


@pytest.mark.parametrize("kind", [TaskKind.ROUND, TaskKind.MERGE])
def test_a_small_node_gets_neither_a_lost_lane_nor_a_merge(kind: TaskKind) -> None:
    """What was lost goes to a node that could have been placed, whoever polls first."""
    task = ids.merge_task(JobId(JOB), 0, 0) if kind is TaskKind.MERGE else ids.round_task(JobId(JOB), 0, 0, 0)
    draft = CourseDraft(running(), replace(world(), now_ms=NOW_MS))
    draft.do(Plan(Assignment(JobId(JOB), TaskId(task), kind, 0, 0, 3, 0, 0)))
    ready = Ready()
    ready.note(draft.state(), CLASS)
    wanted = {name: ready.choose(world().nodes.get(name), world(), 1) is not None for name in BIG | SMALL}
    assert wanted == {"n-big1": True, "n-big2": True, "n-big3": True, "n-small": False}


def test_a_small_node_may_not_judge() -> None:
    """It is left out of the candidates, with the mask it failed."""
    draft = CourseDraft(running(), world())
    drawing._fix_candidates(draft, 0)
    (fixed,) = draft.actions
    assert isinstance(fixed, FixCandidates)
    assert [item.node for item in fixed.made.candidates] == sorted(BIG)
    assert [record.to_json(item) for item in fixed.made.left_out] == [
        {"node": "n-small", "reason": "tier T0, T2 is required"}
    ]


def test_a_report_is_not_held_for_a_node_that_could_not_try() -> None:
    """Where only a small node has not said anything, those who reported a failure are all who could."""
    reported = sorted(BIG.values())
    assert failing._needed(CourseDraft(running(), world()), reported[:2], 2) == failing.AGREEING
    alone = replace(world(), live=frozenset({"n-big1", "n-big2", "n-small"}))
    assert failing._needed(CourseDraft(running(), alone), reported[:2], 2) == 2


def test_a_small_node_is_no_place_and_no_other_operator_to_audit() -> None:
    """Placement says the same: two big nodes of one operator and a small one of another hold no verified job."""
    listed = [node("n-big1", "ann"), node("n-big2", "ann"), node("n-small", "dan")]
    with pytest.raises(NoCapacity, match="tier T0, T2 is required"):
        match(listed, asked(demanding()), {})
