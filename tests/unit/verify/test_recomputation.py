"""What a reader may compute again, what he then says, and the sentence that says who else did."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Verdict
from stannary.verify import recomputation
from stannary.verify.receipt import verify_receipt
from stannary.verify.recomputation import Found, Outcome
from stannary.verify.report import Claims, Severity

from .world import World


@cache
def honest() -> World:
    """Return a job of two audited rounds."""
    return World().play()


def claims(world: World) -> Claims:
    found = verify_receipt(world.receipt(), world.trust(), world.now).claims
    assert found is not None
    return found


def test_every_unit_of_the_result_can_be_computed_again() -> None:
    """Each unit comes in log order with what it is computed from, what it gave and what its prover answered."""
    world = honest()
    case = world.case()
    listed = recomputation.units(case)
    assert [unit.task for unit in listed] == sorted(world.contributions, key=lambda task: world.contributions[task][0])
    for unit in listed:
        assert unit.drawn and unit.question is not None
        answers = {item.predicate.answer for item in case.answers_of[unit.task]}
        assert {unit.question.answer} == answers
        named = {item.digest for item in unit.blobs}
        assert unit.assignment.theta is None or unit.assignment.theta in named
        for admitted in unit.assignment.admitted or ():
            assert {item.digest for item in world.contributions[admitted.task][1].outputs} <= named
    assert recomputation.by_default(listed) == listed
    assert [item.name for item in recomputation.job_blobs(case)] == ["recipe.py"]


def test_what_was_not_drawn_is_computed_again_only_where_it_is_asked_for() -> None:
    """Merges always, lanes where an audit was drawn: the rest has no answer to compare with, only a root."""
    listed = recomputation.units(World(audit_ppm=100_000, rounds=3).play().case())
    left = set(listed) - set(recomputation.by_default(listed))
    assert left
    assert all(unit.question is None and unit.assignment.kind is TaskKind.ROUND for unit in left)


def test_a_drawn_unit_that_nobody_verified_has_no_answer_to_compare_with() -> None:
    """Work whose only answer convicted its auditor is no question; the silent one's work is not in the result."""
    world = World(silent={"n2"}).play()
    assert all(unit.question is not None for unit in recomputation.units(world.case()) if unit.drawn)
    unjudged = World(rounds=1)
    unjudged.bend["verdict"] = lambda _: None
    units = recomputation.units(unjudged.play().case())
    assert units


def test_no_verification_no_units() -> None:
    """A command nobody promised to be repeatable proves nothing when it gives other bytes."""
    world = World(kind=JobKind.COMMAND, verify=Verification.NONE).play()
    assert recomputation.units(world.case()) == ()
    assert "asked for no verification" in claims(world).recomputation()


def test_each_outcome_has_its_weight() -> None:
    """Other bits refute, what could not be computed is below policy, a tolerance is told, equality is silence."""
    units = recomputation.units(honest().case())[:5]
    outcomes = [Outcome.SAME, Outcome.DIFFERENT, Outcome.WITHIN, Outcome.UNCHECKED]
    found = [Found(unit.task, outcome, "here", "why") for unit, outcome in zip(units, outcomes, strict=False)]
    added = recomputation.findings(found, units)
    assert [(item.id, item.severity, TaskId(item.subject)) for item in added] == [
        ("replay.root", Severity.REFUTED, units[1].task),
        ("replay.tolerance", Severity.NOTICE, units[2].task),
        ("replay.unchecked", Severity.POLICY, units[3].task),
        ("replay.unchecked", Severity.POLICY, units[4].task),  # the process ended before it
    ]
    assert "ended before it" in added[3].observed


@pytest.mark.parametrize(
    ("units", "audited", "sentence"),
    [
        (0, 0, "There is no work in the result that could be computed again."),
        (8, 0, "None of the 8 units of work in the result was computed again."),
        (1, 1, "The one unit of work in the result was computed again by nodes of"),
        (8, 1, "1 of the 8 units of work in the result was computed again by nodes of"),
        (8, 8, "All 8 units of work in the result were computed again by nodes of"),
    ],
)
def test_the_sentence_says_who_computed_how_much_again(units: int, audited: int, sentence: str) -> None:
    """Nothing, one, some and all are told apart, with the operators by name."""
    made = claims(honest())
    soundness = replace(made.receipt.soundness, units=units, audited=audited)
    said = replace(made, receipt=replace(made.receipt, soundness=soundness)).recomputation()
    assert said.startswith(sentence)
    if audited:
        assert "operators (" in said and said.endswith("which agreed.")
        unverified = replace(made.receipt, soundness=soundness, verdict=Verdict.UNVERIFIED)
        assert "agreed" not in replace(made, receipt=unverified).recomputation()


@pytest.mark.parametrize(
    ("unheard", "told"),
    [
        (None, ""),
        (0, ""),
        (1, " 1 more was drawn and not audited: its auditor had no room in all the time an audit is waited for."),
        (2, " 2 more were drawn and not audited: their auditors had no room in all the time an audit is waited for."),
    ],
)
@pytest.mark.parametrize("audited", [0, 4])
def test_what_was_drawn_and_never_heard_is_told_beside_it(unheard: int | None, told: str, audited: int) -> None:
    """Whether anything was computed again or not, what no auditor had room for is counted behind it, once."""
    made = claims(honest())

    def said(number: int | None) -> str:
        soundness = replace(made.receipt.soundness, units=8, audited=audited, unheard=number)
        return replace(made, receipt=replace(made.receipt, soundness=soundness)).recomputation()

    assert said(unheard) == said(0) + told
