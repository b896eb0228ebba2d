"""Reports that a task cannot run: three operators who agree end a job, fewer only where nobody else could try."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import command_spec
from tests.unit.market import moment
from tests.unit.market.moment import CLASS, JOB, NOW_MS

from stannary.formats import ids
from stannary.formats.ids import LeaseType
from stannary.jobs.course import failing
from stannary.jobs.course.actions import BeginEnd, EndLease, ReportTask
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import JobState, LeaseRow
from stannary.jobs.states import JobStatus, LeaseState
from stannary.rules.reasons import Reason

TASK = ids.command_task(JOB, 0)
NODES = [moment.node(f"n-{name}", name) for name in ("ann", "bob", "cat", "dan")]


def lease(node: str = "n-ann", kind: LeaseType = LeaseType.WORK) -> LeaseRow:
    """Return what a node holds of the task."""
    return LeaseRow("w-1", kind, JOB, TASK, None, node, 1, LeaseState.GRANTED, "leased", {}, NOW_MS, 2 * NOW_MS, None)


def reported(*before: str, node: str = "n-ann", reason: str = "exit", **changes: Any) -> CourseDraft:
    """Return what follows when a node reports the task, operators having done so before."""
    held = lease(node)
    state = moment.state(command_spec(), status=JobStatus.RUNNING, placed=("n-ann",), leases={"w-1": held})
    if before:
        state = replace(state, reported={TASK: before})
    draft = CourseDraft(state, moment.world(*NODES, **changes))
    failing.report(draft, held, reason, "exit code 1")
    return draft


def test_one_report_ends_its_lease_and_no_job() -> None:
    """The node's reason stands in the end of its lease, and its operator is noted."""
    draft = reported()
    assert draft.actions == [EndLease("w-1", LeaseState.RELEASED, "exit", "exit code 1"), ReportTask(TASK, "ann")]
    assert draft.reported == {TASK: ("ann",)}


def test_three_operators_who_agree_end_the_job() -> None:
    """The message names them."""
    draft = reported("bob", "cat")
    ends = [action.ending for action in draft.actions if isinstance(action, BeginEnd)]
    assert [(end.status, end.reason, end.message) for end in ends] == [
        (JobStatus.FAILED, "exit", "exit code 1 (reported by ann, bob, cat)")
    ]


@pytest.mark.parametrize(
    ("live", "ends"),
    [({"n-ann", "n-bob"}, True), ({"n-ann", "n-bob", "n-cat"}, False)],
    ids=["nobody else is there", "another is there"],
)
def test_fewer_are_enough_only_where_nobody_else_could_try(live: set[str], *, ends: bool) -> None:
    """Two who lie together end no job that a third, who is there, could do."""
    draft = reported("bob", live=frozenset(live))
    assert (draft.status is JobStatus.CANCELLING) is ends


def test_a_report_says_no_word_that_is_the_markets() -> None:
    """`buyer-silent` would pay work unseen: a node that says it is taken to mean that it cannot run."""
    draft = reported("bob", "cat", reason=str(Reason.BUYER_SILENT))
    assert draft.ending is not None
    assert draft.ending.reason == Reason.RUN_FAILED


def test_an_audit_that_is_given_up_is_no_report() -> None:
    """It ends its lease; whether the work can be done is another's to say."""
    held = lease(kind=LeaseType.AUDIT)
    state: JobState = moment.state(command_spec(), status=JobStatus.RUNNING, placed=("n-ann",), leases={"w-1": held})
    draft = CourseDraft(state, moment.world(*NODES))
    failing.report(draft, held, "exit", "no")
    assert [type(action) for action in draft.actions] == [EndLease]
    assert draft.reported == {}


def test_who_is_convicted_or_of_another_class_could_not_try() -> None:
    """Neither holds a report back: nobody would be leased to them."""
    others = [replace(NODES[2], engine_class="cpu-b"), replace(NODES[3], is_convicted=True)]
    held = lease()
    state = moment.state(
        command_spec(), status=JobStatus.RUNNING, placed=("n-ann",), leases={"w-1": held}, reported={TASK: ("bob",)}
    )
    draft = CourseDraft(state, moment.world(*NODES[:2], *others))
    assert draft.engine_class == CLASS
    failing.report(draft, held, "exit", "exit code 1")
    assert draft.status is JobStatus.CANCELLING


@pytest.mark.parametrize(("accusers", "ends"), [({"bob", "cat", "dan"}, True), ({"bob", "cat"}, False)])
def test_who_contradicted_the_unit_could_not_try(accusers: set[str], *, ends: bool) -> None:
    """Where all others may not do it, one report ends the job: else one who only reports would have it for a day."""
    held = lease()
    unit = {ids.unit_of(TASK): frozenset(accusers)}
    state = moment.state(
        command_spec(), status=JobStatus.RUNNING, placed=("n-ann",), leases={"w-1": held}, accusers=unit
    )
    draft = CourseDraft(state, moment.world(*NODES))
    failing.report(draft, held, "exit", "exit code 1")
    assert (draft.status is JobStatus.CANCELLING) is ends
