"""Who accused: whose operator does not do a unit again (docs/receipt.md R12.15)."""

from __future__ import annotations

from types import SimpleNamespace as Some
from typing import Any

import pytest

from stannary.formats.ended import WELL
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Role, Verdict
from stannary.verify import course

TASK = TaskId("j-000000000001/run/l0/a0")
CUT = "wall-limit"


def accusing(*answers: Any, made: str | None = WELL, verdict: Verdict = Verdict.UNVERIFIED) -> list[int]:
    """Return the places of the answers that accuse, about a task whose root is `a`."""
    case: Any = Some(
        verdicts_of={TASK: [Some(predicate=Some(verdict=verdict))]},
        answers_of={TASK: [Some(index=at, predicate=said) for at, said in enumerate(answers)]},
        contributions={TASK: Some(predicate=Some(root="a", ended=made))},
    )
    return [item.index for item in course._against(case, TASK)]


def answer(role: Role, root: str, found: str, ended: str | None = WELL) -> Any:
    """Return an opened answer."""
    return Some(role=role, root=root, answer=found, ended=ended)


PROVER = answer(Role.PROVER, "a", "1")


def test_another_root_or_another_answer_accuses() -> None:
    """The prover's own answer never does; without one the root decides."""
    same, other = answer(Role.AUDITOR, "a", "1"), answer(Role.AUDITOR, "b", "1")
    state = answer(Role.AUDITOR, "a", "2")
    assert accusing(PROVER, same, other, state) == [2, 3]
    assert accusing(same, other, state) == [1]


def test_nobody_is_accused_where_the_work_was_upheld() -> None:
    """Whoever contradicted it is odd himself, and out."""
    assert accusing(PROVER, answer(Role.AUDITOR, "b", "2"), verdict=Verdict.VERIFIED) == []


@pytest.mark.parametrize(("made", "found", "accuses"), [(CUT, CUT, False), (CUT, WELL, True), (WELL, CUT, True)])
def test_what_a_clock_ended_twice_is_compared_with_nothing(made: str, found: str, accuses: bool) -> None:
    """Two partial results differ by where they were cut: that accuses nobody, and bars nobody from the next attempt."""
    assert accusing(PROVER, answer(Role.AUDITOR, "b", "2", found), made=made) == ([1] if accuses else [])
