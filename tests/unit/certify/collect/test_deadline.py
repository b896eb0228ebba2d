"""Limits on calls that cannot be interrupted: in time, late, in the last moment, and after a late one."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from stannary.certify.collect import deadline
from stannary.errors import ServiceError


def test_answers_and_errors_pass_through():
    """Within its limit a call is as if it had been made here, its own time-out included."""
    assert deadline.within(lambda: 7, "call") == 7

    def late():
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        deadline.within(late, "call")


def test_late_call_is_left_behind_and_closes_its_lane():
    """A call over its limit is our error; the next one in its lane fails at once, without being made."""
    stuck, made = threading.Event(), []
    lane = deadline.Lane("device", 0.05)
    with pytest.raises(ServiceError, match="nothing within"):
        lane.call(lambda: stuck.wait(20))
    with pytest.raises(ServiceError, match="earlier call"):
        lane.call(lambda: made.append(1))
    stuck.set()
    lane.close()
    assert not made


def test_answer_in_the_last_moment_counts(monkeypatch):
    """An answer that comes between time-out and judgement is an answer, not a stray time-out."""

    class Racing(Future):
        def result(self, timeout=None):
            """Time out once the answer is there."""
            if timeout is None:
                return super().result()
            super().result(20)
            raise TimeoutError

    monkeypatch.setattr(deadline, "Future", Racing)
    assert deadline.within(lambda: 7, "call") == 7


def test_calls_of_one_lane_share_a_thread():
    """A session that a driver ties to a thread stays in it, and that thread is not ours."""
    lane = deadline.Lane("device")
    threads = {lane.call(threading.get_ident) for _ in range(5)}
    lane.close()
    assert len(threads) == 1
    assert threading.get_ident() not in threads
