"""A market that lies about its merges and attempts: lanes left out or let in, weights, work done again for the fees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.verify.test_words import World, ids_of

from stannary.formats import predicates
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Assignment
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report


def judged(world: World) -> Report:
    """Verify a world's receipt."""
    return verify_receipt(world.receipt(), world.trust(), world.now)


def made(**more: Any) -> World:
    """Return a job under rules 3, all of which is audited."""
    return World(audit_ppm=1_000_000, **{"rounds": 1, "lanes": 3, **more})


def bent(change: Callable[[Assignment], Assignment], **more: Any) -> World:
    """Return a played job whose merges are assigned otherwise; who makes them works on what is assigned."""
    world = made(**more)
    honest = world.log

    def log(kind: str, predicate: Any, key: Any) -> Any:
        if kind == "assignment" and predicate.kind is TaskKind.MERGE:
            predicate = change(predicate)
            world.assignments[predicate.task] = predicate
        return honest(kind, predicate, key)

    world.log = log  # type: ignore[method-assign]
    work = world._work

    def follow(assignment: Assignment, *args: Any, **kept: Any) -> Any:
        return work(world.assignments[assignment.task], *args, **kept)

    world._work = follow  # type: ignore[method-assign]
    return world.play()


def dropped(said: Assignment, *, is_named: bool = True) -> Assignment:
    """Leave an honest lane out, by name or without a word."""
    assert said.admitted is not None
    (gone, *rest) = said.admitted
    excluded = (gone.task,) if is_named else ()
    return replace(said, admitted=tuple(rest), num_steps=len(rest), excluded=excluded)


def test_honest_merges_and_attempts_are_not_accused() -> None:
    """Nothing of it is found where a lane is refuted, an auditor lies, or nobody does."""
    for more in ({}, {"liars": {"n3"}}, {"false_accusers": {"n4"}}):
        assert ids_of(judged(made(rounds=2, **more).play())) == set(), more


@pytest.mark.parametrize("is_named", [True, False])
def test_an_honest_lane_left_out_is_seen(is_named: bool) -> None:
    """A friend's lane alone makes the model: whatever is said of the others, they were there in time."""
    assert ids_of(judged(bent(lambda said: dropped(said, is_named=is_named)))) == {"merge.admission"}


def test_a_lane_left_out_without_a_word_is_seen() -> None:
    """Who was convicted is named; and nobody else is."""
    world = bent(lambda said: replace(said, excluded=()), liars={"n3"})
    assert ids_of(judged(world)) == {"merge.admission"}


def test_a_lane_that_weighs_more_is_seen() -> None:
    """Lanes of one round weigh the same."""

    def favour(said: Assignment) -> Assignment:
        assert said.admitted is not None
        return replace(said, admitted=(replace(said.admitted[0], weight_ppm=2_000_000), *said.admitted[1:]))

    assert ids_of(judged(bent(favour))) == {"merge.weight"}


def late(*, lanes: int, in_time: int) -> Report:
    """Return what is said of a second round that closes before its last lanes hand in."""
    world = made(lanes=lanes, rounds=2)
    world.open()
    world.run_lanes(0)
    world.audit()
    world.merge(0)
    world.audit()
    assigned = [world._assign(1, lane, 0) for lane in range(lanes)]
    for lane in range(in_time):
        world._work(assigned[lane], world.node_of(lane), lie=False)
    world.audit()
    honest = world.log

    def log(kind: str, predicate: Any, key: Any) -> Any:
        if kind == "assignment":
            predicate = replace(predicate, excluded=tuple(item.task for item in assigned[in_time:]))
            world.assignments[predicate.task] = predicate
        return honest(kind, predicate, key)

    world.log = log  # type: ignore[method-assign]
    work = world._work
    world._work = lambda item, *args, **kept: work(world.assignments[item.task], *args, **kept)  # type: ignore
    world.merge(1)
    world.audit()
    world.close()
    return judged(world)


def test_a_late_lane_is_left_out_with_a_quorum_only() -> None:
    """Three of four are enough, two are not."""
    assert not {item for item in ids_of(late(lanes=4, in_time=3)) if item.startswith("merge.")}
    assert "merge.quorum" in ids_of(late(lanes=4, in_time=2))


def test_a_lane_that_came_too_late_is_not_let_in() -> None:
    """What is logged behind the merge's assignment is none of it."""
    world = made(lanes=3)
    world.open()
    assigned = [world._assign(0, lane, 0) for lane in range(3)]
    for lane in (0, 1):
        world._work(assigned[lane], world.node_of(lane), lie=False)
    world.audit()
    late_index = world.tree.size + 2

    def let_in(said: Assignment) -> Assignment:
        assert said.admitted is not None
        root = digest_of(world, assigned[2])
        entry = replace(said.admitted[0], task=assigned[2].task, root=root, log_index=late_index)
        return replace(said, admitted=(*said.admitted, entry), num_steps=3, excluded=())

    honest = world.log

    def log(kind: str, predicate: Any, key: Any) -> Any:
        if kind == "assignment":
            predicate = let_in(predicate)
            world.assignments[predicate.task] = predicate
            envelope = honest(kind, predicate, key)
            work(assigned[2], world.node_of(2), lie=False)
            return envelope
        return honest(kind, predicate, key)

    work = world._work
    world.log = log  # type: ignore[method-assign]
    world._work = lambda item, *args, **kept: work(world.assignments[item.task], *args, **kept)  # type: ignore
    world.merge(0)
    world.audit()
    world.close()
    assert {"merge.admitted", "merge.admission"} <= ids_of(judged(world))


def digest_of(world: World, assignment: Assignment) -> Any:
    """Return the root of an honest result."""
    return predicates.result_root(world.outputs(assignment))


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_unit_done_again_for_the_fees_is_seen(kind: JobKind) -> None:
    """Three times the same work, all of it verified, and no cause for the second or the third."""
    world = made(kind=kind, lanes=2)
    world.open()
    for attempt in range(3):
        world.run_lanes(0, attempt)
        world.audit()
    if kind is JobKind.TRAIN:
        world.merge(0)
        world.audit()
    world.close()
    report = judged(world)
    assert "assignment.cause" in ids_of(report)
    seen = {item.subject.rpartition("/")[2] for item in report.findings if item.id == "assignment.cause"}
    assert seen == {"a1", "a2"}


def test_a_merge_made_again_without_a_cause_is_seen() -> None:
    """Whoever makes merges is paid for each."""
    world = made(lanes=2)
    world.open()
    world.run_lanes(0)
    world.audit()
    for attempt in range(2):
        world.merge(0, attempt)
        world.audit()
    world.close()
    assert "assignment.cause" in ids_of(judged(world))


def test_work_that_a_conviction_undid_has_its_cause() -> None:
    """A merge that admitted the convicted, and the round that stood on it, are done again."""
    world = made(rounds=2, liars={"n3"}).play_remerged()
    assert "assignment.cause" not in ids_of(judged(world))


def test_an_attempt_that_is_hidden_leaves_a_gap() -> None:
    """The first attempt and its work are left out of the file's statements: the second says what it is."""
    world = made(lanes=2)
    world.open()
    world.run_lanes(0, attempt=1)
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    assert "assignment.attempt" in ids_of(judged(world))
