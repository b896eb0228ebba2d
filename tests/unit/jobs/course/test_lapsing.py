"""When a lease is over though its node has not said so: which clock ends it, and what its reports earn it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.market.fake_buyer import before, train_spec
from tests.unit.market import moment
from tests.unit.market.moment import JOB, NOW_MS

from stannary.formats import ids
from stannary.formats.ids import LeaseType, TaskKind
from stannary.jobs.course.lapsing import HeldLease, moved_bytes, taken_back, why_over
from stannary.jobs.course.state import Leased, LeaseRow, Timing
from stannary.jobs.states import LeaseState
from stannary.rules.pace import Progress, limit_s
from stannary.tlog.rising import Leap

TASK = ids.round_task(JOB, 0, 0)
NODE = moment.node("n-1", "ann")
STEPS = 4
GIVEN_MS = 60_000


def over(waited_s: float = 0.0, *, lost: frozenset[str] = frozenset(), **changes: Any) -> str:
    """Return why a lease of a round's task is over, so long after it was given for a minute."""
    row = LeaseRow(
        "w-1", changes.pop("type", LeaseType.WORK), JOB, TASK, None, "n-1", 1, LeaseState.GRANTED, "leased",
        changes.pop("body", {}), NOW_MS, NOW_MS + changes.pop("given_ms", GIVEN_MS), None,
    )  # fmt: skip
    kind, handed_in = changes.pop("kind", TaskKind.ROUND), changes.pop("handed_in_ms", ())
    held = HeldLease(
        Leased(row, kind, STEPS, handed_in),
        changes.pop("order", moment.order(train_spec())),
        changes.pop("reported", None),
    )
    node = replace(NODE, is_revoked=changes.pop("is_revoked", False))
    world = moment.world(node, now_ms=NOW_MS + int(1000 * waited_s), **changes)
    return why_over(held, world, lost, waited_s)


def test_a_lease_goes_on_until_its_deadline() -> None:
    """To the millisecond."""
    assert over(59.9) == ""
    assert over(60.0) == "deadline"


def test_what_is_being_handed_in_is_not_over() -> None:
    """Its statement is on its way into the log: it must find its lease as it left it."""
    assert over(1e6, answering=frozenset({"w-1"})) == ""


def test_a_markets_absence_and_a_leap_of_its_clock_are_nobodys_time() -> None:
    """What passed while the market was away, or never passed at all, does not count."""
    assert over(60.0, resumed_at_ms=NOW_MS + 30_000) == ""
    leap = Leap(NOW_MS / 1000 + 10, 40.0)
    assert over(60.0, leaps=(leap,)) == ""


def test_a_lost_or_revoked_node_holds_nothing() -> None:
    """Its work goes to another before any deadline."""
    assert over(1.0, lost=frozenset({"n-1"})) == "node-lost"
    assert over(1.0, is_revoked=True) == "node-revoked"


def test_reports_earn_time_up_to_the_jobs_own_limit() -> None:
    """A node that computes goes on behind its deadline, and not for ever."""
    reported = Progress(TaskKind.ROUND, 0.0, 0.0)
    reported.hear("compute", 1, 20.0)
    reported.hear("compute", 2, 70.0)
    assert over(80.0, reported=reported) == ""
    assert over(1_000.0, reported=reported) == "deadline"
    order = moment.order(train_spec())
    longest_s = limit_s(order.spec.resources.wall_s, moved_bytes(order, {}))
    reported.hear("compute", 3, longest_s)
    assert over(longest_s + 1.0, reported=reported) == "deadline"
    assert over(80.0, reported=reported, order=None) == "deadline", "of a job that is not open nothing is known"


def test_who_said_how_quick_it_is_is_held_to_that_where_no_step_time_is_agreed() -> None:
    """Else one step and then beats alone would hold a task for six times `wall_s`."""
    given_ms = 10_000_000
    reported = Progress(TaskKind.ROUND, 0.0, 0.0)
    reported.hear("compute", 1, 10.0)  # 3 steps are left: 3 x 10 s x 3
    assert over(99.0, reported=reported, given_ms=given_ms) == ""
    assert over(100.0, reported=reported, given_ms=given_ms) == "deadline"
    agreed = moment.order(before(train_spec()))
    assert over(100.0, reported=reported, given_ms=given_ms, order=agreed) == ""
    reported.hear("store", 1, 100.0)  # bytes have no pace
    assert over(300.0, reported=reported, given_ms=given_ms) == ""
    quick = Progress(TaskKind.ROUND, 0.0, 0.0)
    quick.hear("compute", 1, 0.1)
    assert over(20.0, reported=quick, given_ms=given_ms) == "", "a pause is no end"
    assert over(20.2, reported=quick, given_ms=given_ms) == "deadline"


def test_nobody_holds_a_task_longer_than_it_may_take() -> None:
    """Reports or none, whatever was given."""
    order = moment.order(train_spec())
    longest_s = limit_s(order.spec.resources.wall_s, moved_bytes(order, {}))
    assert over(longest_s - 1.0, given_ms=10**9) == ""
    assert over(longest_s + 1.0, given_ms=10**9) == "deadline"
    assert over(longest_s + 1.0, given_ms=10**9, type=LeaseType.AUDIT) == "", "whose time its silence is judged by"


def test_a_lane_far_behind_its_round_is_late_unless_it_says_how_far_it_is() -> None:
    """Median and spread of those who handed in tell late from slow; a merge or a question is late for no round."""
    quick = tuple((NOW_MS, NOW_MS + 1_000 * seconds) for seconds in (2, 2, 3))
    waited_s = 50.0
    slow, order = replace(Timing(), start_link_s=1.0), moment.order(before(train_spec()))  # whose steps have a time
    assert over(waited_s, handed_in_ms=quick, timing=slow, order=order) == "late"
    assert over(waited_s, timing=slow) == "", "nobody else handed in"
    assert over(waited_s, handed_in_ms=quick, timing=slow, kind=TaskKind.MERGE) == ""
    assert over(waited_s, handed_in_ms=quick, timing=slow, type=LeaseType.AUDIT) == ""
    heard = Progress(TaskKind.ROUND, 0.0, 0.0)
    heard.hear("compute", 1, waited_s - 1.0)
    assert over(waited_s, handed_in_ms=quick, timing=slow, reported=heard) == ""


@pytest.mark.parametrize("blobs", [[], [{"name": "theta", "digest": "d", "size_bytes": 7_000}]])
def test_what_a_lease_may_move_counts_what_it_was_given(blobs: list[Any]) -> None:
    """Inputs of the lease, of the job, and all it may hand in."""
    order = moment.order(train_spec())
    given = sum(item["size_bytes"] for item in blobs)
    assert moved_bytes(order, {"blobs": blobs}) == moved_bytes(order, {}) + given


def lease(name: str, kind: LeaseType, node: str = "n-1", state: LeaseState = LeaseState.GRANTED) -> LeaseRow:
    """Return a lease of some job."""
    return LeaseRow(
        name, kind, f"j-of-{name}", f"t-of-{name}", None, node, 1, state, "leased", {}, NOW_MS, NOW_MS, None
    )


def test_a_convicted_node_loses_its_work_of_every_job_and_owes_its_answers() -> None:
    """Work and audits go; questions about what it did stay, and so does what is being handed in, or is another's."""
    lost = [lease("work", LeaseType.WORK), lease("audit", LeaseType.AUDIT)]
    kept = [
        lease("question", LeaseType.QUESTION),
        lease("reveal", LeaseType.REVEAL),
        lease("handed in", LeaseType.WORK),
        lease("ended", LeaseType.WORK, state=LeaseState.EXPIRED),
        lease("another's", LeaseType.AUDIT, "n-2"),
    ]
    world = moment.world(NODE, answering=frozenset({"handed in"}))
    assert taken_back([*kept, *lost], "n-1", world) == lost
