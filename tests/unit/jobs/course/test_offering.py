"""Who is given which waiting task, and when what cannot be done is given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import command_spec, train_spec
from tests.unit.market import moment
from tests.unit.market.moment import CLASS, JOB, NOW_MS

from stannary.formats import ids
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Verdict
from stannary.formats.quantity import PPM
from stannary.jobs.course import offering, planning, waiting
from stannary.jobs.course.decide import course
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.offering import Vacancy
from stannary.jobs.course.state import JobState, Placed, Timing
from stannary.jobs.states import JobStatus, TaskState
from stannary.rules.pace import LAST_RESORT_FACTOR

ANN, BOB = moment.node("n-ann", "ann"), moment.node("n-bob", "bob")
LINK_S = Timing().start_link_s


def running(**changes: Any) -> JobState:
    """Return a command job placed on Ann, its task planned."""
    place = lambda _: Placed((NodeId("n-ann"),), (), CLASS)  # noqa: E731  a world's member
    made = course(moment.state(command_spec()), moment.world(ANN, BOB, place=place)).state()
    return replace(made, **changes)


def vacancy(**changes: Any) -> Vacancy:
    """Return the one task that waits."""
    (found,) = offering.vacancies(running())
    return replace(found, **changes)


def ranked(found: Vacancy, node: moment.Node, waited_s: float, **changes: Any) -> int | None:
    """Return how much a task is a node's after so long."""
    world = moment.world(ANN, BOB, now_ms=NOW_MS + int(1000 * waited_s), **changes)
    return offering.rank(found, node, world, frozenset(), frozenset())


def test_a_job_that_ends_gives_out_nothing() -> None:
    """Its open work is given up: whoever asks now would work for nothing."""
    assert len(list(offering.vacancies(running()))) == 1
    assert list(offering.vacancies(running(status=JobStatus.CANCELLING))) == []


def test_who_contradicted_a_unit_does_not_do_it_again() -> None:
    """Nobody of his operator's nodes, however long it waits; where nobody else is there, it is deserted."""
    accused = vacancy(accusers=frozenset({"ann"}))
    assert ranked(accused, ANN, 10_000.0) is None
    assert ranked(accused, BOB, 0.0) == 3  # at once: its own node may not
    state = running()
    (waiting_task,) = state.tasks.values()
    unit = ids.unit_of(ids.parse_task(waiting_task.task))
    for accusers, deserted in (({"ann"}, False), ({"ann", "bob"}, True)):
        late = moment.world(ANN, BOB, now_ms=NOW_MS + 10_000_000)
        assert waiting.is_deserted(CourseDraft(replace(state, accusers={unit: frozenset(accusers)}), late)) is deserted


def test_a_lane_is_its_own_nodes_for_a_while() -> None:
    """Then anybody's; at once where its own node is not there."""
    assert ranked(vacancy(), ANN, 0.0) == 0
    assert ranked(vacancy(), BOB, LINK_S) is None
    assert ranked(vacancy(), BOB, LINK_S + 1) == 3
    assert ranked(vacancy(), BOB, 0.0, live=frozenset({"n-bob"})) == 3


@pytest.mark.parametrize(
    ("had", "ended_s"),
    [({"silent": frozenset({"n-bob"})}, 0.0), ({"reported": ("bob",)}, 0.0), ({"reported": ("bob",)}, 30.0)],
    ids=["silent", "reported", "reported later"],
)
def test_who_had_his_chance_comes_last(had: dict[str, Any], ended_s: float) -> None:
    """After everybody else, when nobody else came, counted from when he had it."""
    found = vacancy(**had, last_end_ms=NOW_MS + int(1000 * ended_s) if ended_s else None)
    last_s = LAST_RESORT_FACTOR * LINK_S + ended_s
    assert ranked(found, BOB, last_s) is None
    assert ranked(found, BOB, last_s + 1) == 4


def test_who_was_silent_about_an_attempt_is_known_by_the_next() -> None:
    """By unit, not by name: another lane's silence is none of this one's."""
    (task,) = running().tasks.values()
    silent = replace(task, state=TaskState.UNVERIFIED, verdict=Verdict.UNVERIFIED, node="n-bob")
    again = replace(task, task=ids.command_task(JOB, 0, 1), attempt=1)
    (found,) = offering.vacancies(running(tasks={silent.task: silent, again.task: again}))
    assert found.silent == {"n-bob"}


def test_a_lane_whose_work_never_counts_ends_its_job() -> None:
    """After MAX_LOST attempts of a command nobody tries again."""
    (task,) = running().tasks.values()
    lost = {}
    for attempt in range(planning.MAX_LOST):
        name = ids.command_task(JOB, 0, attempt)
        lost[name] = replace(task, task=name, attempt=attempt, state=TaskState.REFUTED)
    draft = course(running(tasks=lost), moment.world(ANN, BOB))
    assert draft.ending is not None
    assert draft.ending.reason == "work-does-not-count"


def test_no_task_is_attempt_number_100() -> None:
    """A lane that was redone so often never converges."""
    (task,) = running().tasks.values()
    named = replace(task.assigned, task=ids.command_task(JOB, 0, planning.MAX_ATTEMPTS))
    draft = CourseDraft(running(), moment.world(ANN, BOB))
    assert planning.plan(draft, named) is None
    assert draft.failure is not None
    assert draft.actions == []


def test_of_many_waits_the_first_are_told() -> None:
    """A job of a hundred lanes is no page of a hundred lines."""
    chosen = tuple(NodeId("n-ann") for _ in range(100))
    world = moment.world(ANN, BOB, place=lambda _: Placed(chosen, (), CLASS))
    spec = train_spec(lanes=100)
    unchecked = replace(spec, trust=replace(spec.trust, verify=Verification.NONE))  # whose lanes all begin at once
    draft = course(moment.state(unchecked), world)
    assert len(draft.tasks) == 100
    assert len(waiting.waits(draft)) == waiting.MAX_LISTED


def test_a_node_that_is_slow_by_all_its_tests_has_more_time() -> None:
    """By its best test, so that throttling at one of them brings nothing; a fast one has no less than was agreed."""
    (found,), world = offering.vacancies(running()), moment.world(ANN, BOB)

    def left_ms(best_ppm: int) -> int:
        node = replace(ANN, grade_ppm=1, best_grade_ppm=best_ppm)
        return offering.grant(moment.state(command_spec()).order, found.task, node, world, "w").deadline_at_ms - NOW_MS

    assert left_ms(PPM // 4) == 4 * left_ms(PPM)
    assert left_ms(4 * PPM) == left_ms(PPM)
