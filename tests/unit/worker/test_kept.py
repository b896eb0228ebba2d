"""States of finished tasks: within a cap, and no longer than questions come about them."""

from __future__ import annotations

from dataclasses import replace

from stannary.formats.ids import JobId, TaskId, TaskKind
from stannary.formats.predicates import Assignment
from stannary.worker.kept import KeptStates

FIRST = Assignment(
    job=JobId("j-000000000000"), task=TaskId("j-000000000000/r0/l0/a0"), kind=TaskKind.ROUND, round=0, lane=0,
    num_steps=3, first_step=0, tokens=0,
)  # fmt: skip


def at(index: int) -> Assignment:
    return replace(FIRST, task=TaskId(f"j-000000000000/r{index}/l0/a0"), round=index)


def test_states_of_the_last_rounds_are_kept() -> None:
    """Questions about the rounds that are still audited cost nothing; older states go."""
    kept = KeptStates(10_000, rounds=2)
    for index in range(4):
        for step in (1, 2, 3):
            kept.keep(at(index), step, bytes([index, step]))
    assert [kept.state(at(index), 2) for index in range(4)] == [None, None, bytes([2, 2]), bytes([3, 2])]
    assert kept.state(at(3), 4) is None


def test_the_oldest_go_beyond_the_cap() -> None:
    """No more bytes are held than the cap allows, whatever comes."""
    kept = KeptStates(100, rounds=9)
    for lane in range(3):
        kept.keep(replace(FIRST, lane=lane), 1, bytes(40))
    assert [kept.state(replace(FIRST, lane=lane), 1) is not None for lane in range(3)] == [False, True, True]
    kept.keep(at(1), 1, bytes(101))
    assert kept.state(at(1), 1) is None
    assert kept.state(replace(FIRST, lane=2), 1) is None


def test_what_nobody_will_ask_about_is_forgotten() -> None:
    """A recomputation's states make room at once."""
    kept = KeptStates(100, rounds=2)
    kept.keep(FIRST, 1, b"state")
    kept.forget(FIRST)
    assert kept.state(FIRST, 1) is None
    kept.forget(FIRST)
