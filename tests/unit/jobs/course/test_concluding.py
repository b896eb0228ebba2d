"""The last steps of a job: each once, in their order, wherever a market is killed between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.market.fake_buyer import before, train_spec
from tests.unit.market import moment

from stannary.formats import digest
from stannary.formats.predicates import SettlementLine, Verdict
from stannary.jobs.course import actions, concluding
from stannary.jobs.course.actions import Action
from stannary.jobs.course.concluding import Concluded, JudgedJob
from stannary.jobs.course.state import EarlyEnd
from stannary.jobs.states import JobStatus, Settlement, is_terminal

FILE = digest.digest(b"file")
EARLY = EarlyEnd(JobStatus.FAILED, "run-failed", "it does not start")


def judged(**changes: Any) -> JudgedJob:
    """Return a running job of which nothing is open."""
    made = JudgedJob(moment.order(), 1, JobStatus.RUNNING, None, Verdict.PENDING, moment.NOW_MS, (), 0, None)
    return replace(made, **changes)


def shown(job: JudgedJob, paid: int = 60, refuted: tuple[str, ...] = ()) -> Concluded:
    """Return what the evidence shows."""
    said = moment.receipt(job.order.job, status=job.end.status, reason=job.end.reason, paid=paid)
    return Concluded(said, (), refuted)


def folded(job: JudgedJob, decided: tuple[Action, ...]) -> JudgedJob:
    """Return the job as carrying out what was decided leaves it: what is posted is not logged yet."""
    for action in decided:
        match action:
            case actions.PostReading(envelope):
                left = tuple(item for item in job.readings if item != envelope)
                job = replace(job, readings=left, num_unlogged=job.num_unlogged + 1)
            case actions.Verify():
                job = replace(job, status=JobStatus.VERIFYING)
            case actions.StateReceipt(stated):
                job = replace(job, receipt=stated)
            case actions.Publish(verdict=verdict, end=end):
                job = replace(job, status=end.status, verdict=verdict or job.verdict)
            case _:
                assert isinstance(action, actions.Pay | actions.Revoke)
    return job


def decided_about(job: JudgedJob) -> tuple[Action, ...]:
    """Return the next step, as the market takes it (market/engine/concluding.py)."""
    if not job.is_closed:
        return concluding.close(job)
    if job.receipt is None:
        return concluding.settle(job, shown(job, refuted=("n-3",)))
    return concluding.publish(job, FILE, 7)


@given(
    is_former=st.booleans(),
    ending=st.sampled_from([None, EARLY]),
    num_readings=st.integers(0, 3),
    num_unlogged=st.integers(0, 3),
    data=st.data(),
)
def test_every_step_is_taken_once(
    *, is_former: bool, ending: EarlyEnd | None, num_readings: int, num_unlogged: int, data: Any
) -> None:
    """Wherever the market is killed, and whenever the log takes what, a job is stated, paid and ended exactly once.

    Who is convicted is revoked under rules 2; since then an appeal decides.
    """
    order = moment.order(before(train_spec()) if is_former else None)
    status = JobStatus.CANCELLING if ending is not None else JobStatus.RUNNING
    readings = tuple(b"reading %d" % number for number in range(num_readings))
    job = judged(order=order, status=status, ending=ending, readings=readings, num_unlogged=num_unlogged)
    taken: list[Action] = []
    for _ in range(20):
        decided = decided_about(job)
        if data.draw(st.booleans()):  # it is carried out; else the market is killed before
            job = folded(job, decided)
            taken += decided
        if is_terminal(job.status):
            break
        if data.draw(st.booleans()):
            job = replace(job, num_unlogged=0)
    else:
        for _ in range(6):
            decided = decided_about(job)
            job = replace(folded(job, decided), num_unlogged=0) if not is_terminal(job.status) else job
            taken += decided
            if is_terminal(job.status):
                break
    counts = {kind: sum(isinstance(item, kind) for item in taken) for kind in (actions.StateReceipt, actions.Pay)}
    assert counts == {actions.StateReceipt: 1, actions.Pay: 1}
    assert [item.envelope for item in taken if isinstance(item, actions.PostReading)] == list(readings)
    assert sum(isinstance(item, actions.Verify) for item in taken) == (ending is None)
    assert [item.node for item in taken if isinstance(item, actions.Revoke)] == (["n-3"] if is_former else [])
    assert isinstance(taken[-1], actions.Publish)
    assert job.status is (JobStatus.FAILED if ending is not None else JobStatus.SUCCEEDED)


def test_nothing_is_stated_while_the_log_lacks_a_word() -> None:
    """A job waits: for a reading that is not posted, for a statement on its way."""
    waiting = judged(status=JobStatus.VERIFYING, num_unlogged=1)
    assert not waiting.is_closed
    assert concluding.close(waiting) == ()
    assert not judged(status=JobStatus.CANCELLING, readings=(b"reading",)).is_closed
    assert not judged().is_closed, "it runs"
    assert judged(status=JobStatus.CANCELLING).is_closed


@pytest.mark.parametrize(("paid", "to"), [(60, Settlement.RELEASED), (0, Settlement.REFUNDED)])
def test_what_is_paid_says_how_it_is_settled(paid: int, to: Settlement) -> None:
    """The lines are the receipt's own; a job nobody is paid for is refunded."""
    job = judged(status=JobStatus.VERIFYING)
    (pay,) = (item for item in concluding.settle(job, shown(job, paid)) if isinstance(item, actions.Pay))
    lines = (SettlementLine("buyer", "", "refund", 100 - paid),)
    assert pay == actions.Pay(lines, to, f"$0.0000{paid:02} paid")


def test_a_job_ends_as_its_receipt_says() -> None:
    """With the message of an end that was begun early; a verdict it has is not given again."""
    job = judged(status=JobStatus.VERIFYING)
    (last,) = concluding.publish(replace(job, receipt=shown(job).receipt), FILE, 7)
    end = EarlyEnd(JobStatus.SUCCEEDED, "complete", "succeeded, verified")
    assert last == actions.Publish(FILE, 7, Verdict.VERIFIED, end)
    early = judged(status=JobStatus.CANCELLING, ending=EARLY, verdict=Verdict.UNVERIFIED)
    (last,) = concluding.publish(replace(early, receipt=shown(early).receipt), FILE, 7)
    assert last == actions.Publish(FILE, 7, None, EARLY)
