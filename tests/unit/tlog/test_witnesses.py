"""Several witnesses: a checkpoint carries who came, and nobody who is away holds it up."""

from __future__ import annotations

import threading
import time

import pytest

from stannary.errors import ServiceError
from stannary.tlog.witness_client import REFUSED
from stannary.tlog.witnesses import Witnesses

LONG_S = 60.0
NOW = 1000.0


class Other:
    """A witness that answers at once, fails, refuses, or waits until it is let go."""

    def __init__(self, name, error=None, *, held=False):
        self.name = name
        self.error = error
        self.num_asked = 0
        self.may_answer = threading.Event()
        if not held:
            self.may_answer.set()

    def __call__(self, signed, size, consistency):
        self.num_asked += 1
        assert self.may_answer.wait(LONG_S)
        if self.error is not None:
            raise self.error
        return (f"{self.name} {size} {len(consistency(0))}",)


def ask(witnesses, size=5):
    return list(witnesses("note", size, lambda old: [b"proof"]))


def away():
    return ServiceError("the witness does not answer", why="refused")


def test_the_checkpoint_carries_all_who_came():
    """Own and others cosign one checkpoint; one that fails is left out, and the rest is not held up."""
    broken = Other("three", away())
    witnesses = Witnesses(Other("own"), [Other("two"), broken, Other("four")], wait_s=LONG_S)
    assert ask(witnesses) == ["own 5 1", "two 5 1", "four 5 1"]


def test_nothing_waits_for_who_is_away_until_he_answers():
    """One that hangs is waited for once; when it has answered it counts from the next checkpoint on."""
    slow = Other("slow", held=True)
    witnesses = Witnesses(Other("own"), [slow], wait_s=0.01, retry_s=0.0)
    assert ask(witnesses, 1) == ["own 1 1"]
    witnesses._wait_s = LONG_S
    began = time.monotonic()
    assert ask(witnesses, 2) == ["own 2 1"]
    assert time.monotonic() - began < LONG_S / 2
    assert slow.num_asked == 1  # its first question is still open
    slow.may_answer.set()
    witnesses._others[0].asked.result(LONG_S)
    assert ask(witnesses, 3) == ["own 3 1", "slow 3 1"]


def test_who_is_away_is_asked_seldom():
    """A witness that fails is left in peace for a while: the log is not slowed by asking it each time."""
    now, broken = [NOW], Other("two", away())
    witnesses = Witnesses(Other("own"), [broken], wait_s=LONG_S, retry_s=5.0, clock=lambda: now[0])
    for _ in range(10):
        assert ask(witnesses) == ["own 5 1"]
    assert broken.num_asked == 1
    broken.error = None
    now[0] += 5.0
    ask(witnesses)
    witnesses._others[0].asked.result(LONG_S)
    assert ask(witnesses) == ["own 5 1", "two 5 1"]


def test_a_refusal_stops_the_log():
    """Whoever has seen another history is not outvoted."""
    forked = Other("two", ServiceError("refused", detail=REFUSED))
    with pytest.raises(ServiceError) as refused:
        ask(Witnesses(Other("own"), [forked, Other("three")], wait_s=LONG_S))
    assert refused.value.detail == REFUSED


def test_without_its_own_one_of_the_others_is_enough():
    """A market that runs no witness needs one of the others; with none of them nothing is published."""
    assert ask(Witnesses(None, [Other("one", away()), Other("two")], wait_s=LONG_S)) == ["two 5 1"]
    with pytest.raises(ServiceError, match="no witness answers"):
        ask(Witnesses(None, [Other("one", away()), Other("two", away())], wait_s=LONG_S))


def test_the_own_witness_must_come():
    """What the market's own witness does not cosign waits, whoever else does."""
    with pytest.raises(ServiceError, match="does not answer"):
        ask(Witnesses(Other("own", away()), [Other("two")], wait_s=LONG_S))
