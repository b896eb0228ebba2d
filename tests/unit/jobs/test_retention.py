"""Which bytes of an open job nobody can ask for any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats import ids
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, LeaseType, TaskId, TaskKind
from stannary.formats.predicates import Admitted, Assignment, Verdict
from stannary.jobs.course.state import LeaseRow, Task, spell_assignment
from stannary.jobs.retention import Keepings, spent
from stannary.jobs.states import LeaseState, TaskState

JOB = JobId("j-0123456789ab")
LATE_MS, NOW_MS = 1_000, 10_000
THETA, OUTER = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
VOID = (TaskState.SUPERSEDED, TaskState.ABANDONED)


def name_of(text: str) -> Digest:
    """Return a digest that is easy to tell."""
    return Digest("sha256:" + text.encode().hex().ljust(64, "0"))


def task(name: TaskId, state: TaskState, outputs: dict[str, str], **assigned: Any) -> Task:
    """Return a task that has handed in `outputs` long ago."""
    kind = TaskKind.MERGE if "merge" in name else TaskKind.ROUND
    text = spell_assignment(Assignment(JOB, name, kind, 0, 0, 3, 0, 0, **assigned))
    listed = [{"name": key, "digest": name_of(value), "size_bytes": 1} for key, value in outputs.items()]
    return Task(
        task=name, job=JOB, kind=kind, round=0, lane=0, attempt=0, num_steps=3, assignment=text, assignment_digest="",
        state=state, epoch=1, node="n-1", price_usd_micros=0, commitment=None, commitment_index=None,
        contribution=None, contribution_index=None, root=None, outputs=listed, draw_number=None,
        verdict=Verdict.PENDING, reason="", planned_at_ms=0, leased_at_ms=0, contributed_at_ms=LATE_MS,
    )  # fmt: skip


def lane(attempt: int, state: TaskState, output: str, **assigned: Any) -> Task:
    """Return an attempt of the one lane."""
    return task(ids.round_task(JOB, 0, 0, attempt), state, {"delta": output}, **assigned)


def merge(attempt: int, state: TaskState, theta: str, admitted: Task) -> Task:
    """Return a merge of one lane."""
    taken = (Admitted(TaskId(admitted.task), name_of("root"), 1, 1),)
    name = ids.merge_task(JOB, 0, attempt)
    return task(name, state, {"theta": theta, "outer": theta + "'"}, theta=THETA, outer=OUTER, admitted=taken)


def going(*tasks: Task, named: tuple[str, ...] = (), before_ms: int = NOW_MS, **more: Any) -> set[str]:
    """Return what may go of a job of these tasks."""
    kept = Keepings(version=1, tasks=tasks, heard=more.get("heard", frozenset()), leases=more.get("leases", ()))
    return set(spent(kept, {name_of(item) for item in named}, before_ms))


def lease(*digests: str) -> LeaseRow:
    """Return a lease that is held, with these inputs."""
    body = {"blobs": [{"name": "x", "digest": name_of(item), "size_bytes": 1} for item in digests]}
    return LeaseRow("w-1", LeaseType.WORK, JOB, "t", None, "n-1", 1, LeaseState.GRANTED, "", body, 0, 1, None)


@pytest.mark.parametrize("state", VOID)
def test_what_was_made_in_vain_goes(state: TaskState) -> None:
    """A superseded delta and a superseded merge's weights go, what replaced them stays."""
    old, new = lane(0, state, "old"), lane(1, TaskState.PASSED, "new", theta=THETA)
    first, second = merge(0, state, "first", old), merge(1, TaskState.VERIFIED, "second", new)
    assert going(old, new, first, second) == {name_of(item) for item in ("old", "first", "first'")}


@pytest.mark.parametrize("state", [state for state in TaskState if state not in VOID])
def test_what_is_not_void_stays(state: TaskState) -> None:
    """Whatever else became of a task, its outputs and all it was computed from stay: it may be replayed or disputed."""
    base = merge(0, TaskState.SUPERSEDED, "base", lane(0, TaskState.SUPERSEDED, "delta"))
    on_it = lane(1, state, "mine", theta=name_of("base"))
    merged = merge(1, state, "next", lane(0, TaskState.SUPERSEDED, "delta"))
    assert going(lane(0, TaskState.SUPERSEDED, "delta"), base, on_it, merged) == {name_of("base'")}


def test_a_day_passes_first() -> None:
    """What was handed in only now stays, and so does what is asked about a task of which nothing came."""
    old = lane(0, TaskState.SUPERSEDED, "old")
    assert going(old, before_ms=LATE_MS) == set()
    assert going(old, before_ms=LATE_MS + 1) == {name_of("old")}
    assert going(replace(old, outputs=None, contributed_at_ms=None)) == set()
    assert going(old, replace(lane(1, TaskState.SUPERSEDED, "old"), contributed_at_ms=NOW_MS)) == set()


def test_what_somebody_may_ask_for_stays() -> None:
    """Bytes that an order, a lease, an open audit or a redone attempt names too are not made in vain."""
    old = lane(0, TaskState.SUPERSEDED, "old")
    assert going(old, named=("old",)) == set()
    assert going(old, leases=(lease("old"),)) == set()
    assert going(old, lane(1, TaskState.CONTRIBUTED, "old")) == set()
    asked = merge(0, TaskState.SUPERSEDED, "weights", old)
    assert going(old, asked) == {name_of(item) for item in ("old", "weights", "weights'")}
    assert going(old, asked, heard=frozenset({asked.task})) == {name_of("weights"), name_of("weights'")}


@given(
    st.lists(st.tuples(st.sampled_from(TaskState), st.sampled_from("uvwxyz"), st.sampled_from("uvwxyz")), max_size=8),
    st.sets(st.sampled_from("uvwxyz")),
)
def test_nothing_that_counts_ever_goes(made: list[tuple[TaskState, str, str]], named: set[str]) -> None:
    """Whatever was made of whatever: outputs and bases of what is not void, and named bytes, stay."""
    tasks = [lane(number, state, out, theta=name_of(base)) for number, (state, out, base) in enumerate(made)]
    gone = going(*tasks, named=tuple(named))
    assert gone.isdisjoint(map(name_of, named))
    assert gone.isdisjoint(name_of(text) for state, *both in made if state not in VOID for text in both)
    assert gone <= {name_of(out) for state, out, _ in made if state in VOID}
