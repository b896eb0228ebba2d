"""The word of a job: what was drawn, what the last draw added, and what the receipt may be called for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.verify import world as worlds

from stannary.formats import digest
from stannary.formats.jobspec import JobKind, JobSpec
from stannary.formats.predicates import Assurance, Verdict
from stannary.formats.receipt import FORMATS
from stannary.rules import assurance
from stannary.verify import conclusion
from stannary.verify.receipt import Expectations, verify_receipt
from stannary.verify.report import Report

LOW_PPM = 20_000  # of 8 units none or one is drawn by chance


class World(worlds.World):
    """A job under rules 3, sampled and of a recipe of the package unless a test says otherwise."""

    def __init__(self, *, is_ours: bool = True, **more: Any) -> None:
        super().__init__(**{"assurance": Assurance.SAMPLED, **more})
        self.is_ours = is_ours and self.kind is JobKind.TRAIN

    def spec(self) -> JobSpec:
        """Return the job's spec."""
        made = super().spec()
        if not self.is_ours:
            return made
        assert made.recipe is not None
        ours = replace(made.recipe, entry="builtin:bytegpt", code=digest.digest(b"any"))
        return replace(made, recipe=ours, workdir=())


def judged(world: World, policy: Expectations | None = None) -> Report:
    """Verify a world's receipt."""
    return verify_receipt(world.receipt(), world.trust(), world.now, policy)


def ids_of(report: Report) -> set[str]:
    """Return the findings that change something."""
    return {item.id for item in report.findings if item.severity != "notice"}


def quiet(**more: Any) -> World:
    """Return a world of which the beacon draws nothing by chance before its last draw: the first seed that does so."""
    for seed in range(50):
        case = World(seed=seed, audit_ppm=LOW_PPM, **more).play().case()
        if all(item.number == len(case.draws) - 1 for item in conclusion.selections_of(case).values() if item.drawn):
            return World(seed=seed, audit_ppm=LOW_PPM, **more)
    raise AssertionError("every seed draws something")


def test_the_last_draw_adds_a_unit_of_every_operator_and_the_last_merge() -> None:
    """Nothing was drawn by chance: one unit of each operator that worked is, late ones too, and the last merge."""
    world = quiet(rounds=2, lanes=3).play()
    report = judged(world)
    assert (report.verdict, report.exit_code) == (Verdict.SAMPLED, 0), report.findings
    case = report.claims.case
    selections = conclusion.selections_of(case)
    drawn = {task for task, item in selections.items() if item.drawn}
    worked = {case.operators[item.predicate.node] for item in case.contributions.values()}
    assert {case.operators[case.contributions[task].predicate.node] for task in drawn} == worked
    assert any(task.endswith("/r1/merge/a0") for task in drawn)
    assert any(selections[task].is_late for task in drawn)
    assert all(case.draws[selections[task].number].predicate.index == 3 for task in drawn)
    figures = report.claims.receipt.soundness
    num_drawn = len(worked) + 1  # whoever made the last merge has another unit audited
    assert (figures.drawn, figures.audited, figures.checked) == (num_drawn, num_drawn, num_drawn)
    assert "stood to gain at most" in report.claims.deterrence()


def test_a_job_that_was_asked_to_be_verified_draws_as_many_as_that_needs() -> None:
    """Of eight units all are recomputed; a rate below is no spec of that word."""
    report = judged(World(rounds=2, lanes=3, assurance=Assurance.VERIFIED).play())
    assert (report.verdict, report.exit_code) == (Verdict.VERIFIED, 0)
    assert report.claims.receipt.soundness.escape_tenth == "0.010000"
    low = World(rounds=2, lanes=3, assurance=Assurance.VERIFIED, audit_ppm=900_000)
    low.taking = World(rounds=2, lanes=3).play().taking  # the market draws as if nothing were wrong
    with pytest.raises(Exception, match="below what assurance"):
        low.play()
        low.case()


def test_the_last_draw_adds_what_chance_fell_short_of() -> None:
    """Of thirty units a rate of 78.5 % draws fewer at times; the last draw makes them what the word needs."""
    rate = assurance.least_ppm(Assurance.VERIFIED, 30, 990_000)
    world = World(kind=JobKind.COMMAND, lanes=3, assurance=Assurance.VERIFIED)
    assert rate < 1_000_000
    assert assurance.needed(Assurance.VERIFIED, 30, 990_000) * 1_000_000 // 30 >= rate
    assert judged(world.play()).claims.receipt.soundness.checked == 3


def test_a_silent_prover_of_a_late_unit_is_no_fault_where_an_auditor_finds_its_root() -> None:
    """Its node may be gone for good: one recomputation of another operator is enough, and it is paid."""
    loud = quiet(rounds=2, lanes=3).play()
    selections = conclusion.selections_of(loud.case())
    late = next(task for task, item in selections.items() if item.is_late)
    gone = loud.contributions[late][1].node
    name = next(item.name for item in loud.nodes.values() if item.id == gone)
    world = World(seed=loud.seed, rounds=2, lanes=3, audit_ppm=LOW_PPM, silent={name}).play()
    report = judged(world)
    decision = conclusion.decide(world.case(), late, conclusion.selections_of(world.case())[late])
    assert (decision.verdict, decision.reason) == (Verdict.VERIFIED, "agreed")
    assert "merge.window" not in ids_of(report)


def test_a_late_lie_leaves_nothing_of_the_word() -> None:
    """Whoever faked what the last draw adds is the odd one, and a result with it in it is not even sampled."""
    honest = quiet(rounds=2, lanes=3, is_ours=False).play()
    late = next(task for task, item in conclusion.selections_of(honest.case()).items() if item.is_late)
    node = honest.contributions[late][1].node
    name = next(item.name for item in honest.nodes.values() if item.id == node)
    for seed in range(honest.seed, honest.seed + 50):
        world = World(seed=seed, rounds=2, lanes=3, audit_ppm=LOW_PPM, liars={name}, is_ours=False).play()
        if any(item.predicate.reason == "two-recomputations-disagree" for item in world.case().verdicts):
            break
    report = judged(world)
    assert (report.verdict, report.exit_code) == (Verdict.UNVERIFIED, 4)
    assert "receipt.unverified" in ids_of(report)


def test_no_bond_deters_in_a_buyers_own_code() -> None:
    """Nobody can be convicted there: what a cheat stands to lose is the unit's pay, and a low rate proves nothing."""
    ours = judged(quiet(rounds=2, lanes=3).play())
    own = judged(quiet(rounds=2, lanes=3, is_ours=False).play())
    assert (ours.verdict, own.verdict) == (Verdict.SAMPLED, Verdict.UNVERIFIED)
    assert ours.claims is not None
    assert own.claims is not None
    figures = own.claims.receipt.soundness
    assert (figures.stake_ppm, figures.required_ppm) == (0, 606_061)
    assert (figures.lost_usd_micros or 0) < 1000 < (ours.claims.receipt.soundness.lost_usd_micros or 0)


def test_one_accomplice_of_few_operators_is_said() -> None:
    """Beside each figure stands the same with an accomplice; among two operators he is always asked first."""
    figures = judged(World(rounds=1, lanes=2).play()).claims.receipt.soundness
    # oak has two nodes of six, every other operator one: two of five are asked first where the prover is another
    assert (figures.operators, figures.accomplice_ppm) == (5, 400_000)
    assert (figures.escape, figures.escape_accomplice) == ("0.000000", "0.400000")
    assert (figures.escape_tenth, figures.escape_tenth_accomplice) == ("0.010000", "0.406000")


def test_a_word_below_the_asked_one_is_below_policy() -> None:
    """`full` asks for every unit: one that nobody checked leaves it exit code 4, unless the reader takes it."""
    world = World(kind=JobKind.COMMAND, lanes=3, assurance=Assurance.SAMPLED).play()
    assert judged(world).exit_code == 0
    sampled = quiet(rounds=2, lanes=3).play()
    world = World(seed=sampled.seed, rounds=2, lanes=3, audit_ppm=LOW_PPM)
    world.play()
    report = judged(world)
    assert report.verdict is Verdict.SAMPLED
    figures = report.claims.receipt.soundness
    assert assurance.falls_short(Assurance.FULL, report.verdict, is_full=figures.checked == figures.units)


def test_the_file_is_of_the_format_of_its_jobs_rules() -> None:
    """A receipt under rules 3 in a file of format 2 is refuted, and the other way round."""
    for chosen, wrong in ((Assurance.SAMPLED, FORMATS[0]), (None, FORMATS[1])):
        world = World(rounds=1, lanes=2, assurance=chosen).play()
        world.bend_file = lambda file, wrong=wrong: replace(file, format=wrong)
        report = judged(world)
        assert (report.exit_code, ids_of(report)) == (3, {"receipt.version"})
