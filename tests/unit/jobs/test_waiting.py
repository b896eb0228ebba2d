"""What a job waits for, in words: the row it is in, until when, and what comes then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.market import moment
from tests.unit.market.moment import JOB, NOW_MS, ROOT

from stannary.formats.ids import NodeId
from stannary.formats.predicates import Candidate
from stannary.jobs.course.decide import course
from stannary.jobs.course.state import CandidateList, DrawRow, Placed, Timing, World
from stannary.jobs.course.waiting import Wait, waits
from stannary.jobs.states import COURSE, JobStatus, TaskState

NODES = [moment.node("n-1", "ann"), moment.node("n-2", "bob")]
TIMING = Timing()


def world(**changes: Any) -> World:
    """Return a moment at which two nodes are there and would be placed."""
    return moment.world(*NODES, place=lambda _: Placed((NodeId("n-1"), NodeId("n-2")), (), moment.CLASS), **changes)


def spoken(wait: Wait) -> tuple[str, str, str]:
    """Return stage, what is waited for, and what comes then."""
    return str(wait.stage), wait.waits_for, wait.then


def test_a_queued_job_waits_for_its_turn_and_nodes() -> None:
    """It says until when, and that it ends without them."""
    (wait,) = waits(course(moment.state(), moment.world()))
    assert spoken(wait) == ("queued", "its buyer's turn, and nodes that may take it", "place it")
    assert wait.until_ms == NOW_MS + 1000 * TIMING.placing_s
    assert wait.otherwise == "end: no-capacity"


def test_a_placed_job_waits_for_nodes_to_ask() -> None:
    """The first task alone is planned: what the others wait for is said beside it."""
    check, planned = waits(course(moment.state(), world()))
    assert spoken(planned) == ("planned", "a node that asks for work and may take it", "lease it")
    assert check.waits_for.startswith("the first check: another operator to compute ")


def test_an_owed_beacon_value_is_named_first() -> None:
    """`waits for the beacon value of draw 0 until ...; then: draw`."""
    planned = course(moment.state(), world()).state()
    tasks = {
        name: replace(task, state=TaskState.CONTRIBUTED, node="n-1", commitment_index=3)
        for name, task in planned.tasks.items()
    }
    owed = DrawRow(JOB, 0, "note", 9, ROOT, (), NOW_MS, None, None, None, None)
    listed = {0: CandidateList("leaf", 2, (Candidate(NodeId("n-2"), "bob", moment.CLASS),))}
    asked = replace(planned, status=JobStatus.RUNNING, tasks=tasks, draws=(owed,), listed=listed)
    wait, *_ = waits(course(asked, world()))
    assert spoken(wait) == ("owed", "the beacon value of draw 0", "draw")
    assert wait.until_ms == NOW_MS + 1000 * TIMING.reveal_s


def test_every_wait_is_a_row_of_the_course() -> None:
    """What is said stands in the table that docs/course.md shows."""
    rows = {str(stage.state) for stage in COURSE}
    for state in (moment.state(), moment.state(status=JobStatus.VERIFYING)):
        listed = waits(course(state, world()))
        assert listed
        assert {str(wait.stage) for wait in listed} <= rows
    assert waits(course(moment.state(status=JobStatus.FAILED), world())) == []
