"""The word of a job: what was drawn, what the last draw added, and what the receipt may be called for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.second_verifier.comparison import verify_both
from tests.unit.verify import world as worlds

from stannary.formats import digest
from stannary.formats.ids import TaskId
from stannary.formats.jobspec import Auditors, JobKind, JobSpec
from stannary.formats.predicates import Assurance, Verdict
from stannary.formats.receipt import FORMATS
from stannary.rules import assurance, blame, first
from stannary.verify import conclusion
from stannary.verify.case import Case
from stannary.verify.receipt import Expectations, verify_receipt
from stannary.verify.report import Report

LEFT_OPEN = "One faked unit would pass unseen with probability"
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
        drawn = [item for item in conclusion.selections_of(case).values() if item.drawn]
        if all(item.number == len(case.draws) - 1 or first_unit(case, item.task) for item in drawn):
            return World(seed=seed, audit_ppm=LOW_PPM, **more)
    raise AssertionError("every seed draws something")


def first_unit(case: Case, task: TaskId) -> bool:
    """Tell whether a task is of the unit that is drawn whatever chance says."""
    return first.is_first(case.spec, case.job_id, task)


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
    late = {task for task in drawn if not first_unit(case, task)}
    assert all(case.draws[selections[task].number].predicate.index == 4 for task in late)
    figures = report.claims.receipt.soundness
    num_drawn = len(worked) + 2  # whoever did the first unit or made the last merge has another unit audited
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
    world = with_late_lie()
    report = judged(world)
    assert (report.verdict, report.exit_code) == (Verdict.UNVERIFIED, 4)
    assert "receipt.unverified" in ids_of(report)


def with_late_lie() -> World:
    """Return a job in the buyer's own code whose last draw added a fake, and found it: the first seed that has one."""
    for seed in range(100):
        honest = World(seed=seed, rounds=2, lanes=3, audit_ppm=LOW_PPM, is_ours=False).play()
        for late in (task for task, item in conclusion.selections_of(honest.case()).items() if item.is_late):
            node = honest.contributions[late][1].node
            name = next(item.name for item in honest.nodes.values() if item.id == node)
            world = World(seed=seed, rounds=2, lanes=3, audit_ppm=LOW_PPM, liars={name}, is_ours=False).play()
            if any(item.predicate.reason == "two-recomputations-disagree" for item in world.case().verdicts):
                return world
    raise AssertionError("no seed has a late lie")


def partly_drawn(audit_ppm: int) -> Report:
    """Verify a job in the buyer's own code of which the beacon does not draw every unit: the first seed of one."""
    for seed in range(50):
        report = judged(World(seed=seed, rounds=2, lanes=3, audit_ppm=audit_ppm, is_ours=False).play())
        if report.verdict is not Verdict.VERIFIED:
            return report
    raise AssertionError("every seed draws all")


def test_pay_is_the_stake_in_a_buyers_own_code() -> None:
    """No bond can be lost there: what its node did around it is, and with nothing behind it a unit is drawn more."""
    ours = judged(quiet(rounds=2, lanes=3).play())
    own, low = partly_drawn(28_861), partly_drawn(28_860)
    assert (ours.verdict, own.verdict, low.verdict) == (Verdict.SAMPLED, Verdict.SAMPLED, Verdict.UNVERIFIED)
    assert ours.claims is not None
    assert own.claims is not None
    figures = own.claims.receipt.soundness
    assert figures.required_ppm == 28_861
    assert 0 < figures.stake_ppm < 20_000_000
    assert 0 < (figures.lost_usd_micros or 0) < 1000 < (ours.claims.receipt.soundness.lost_usd_micros or 0)
    assert "each of a node's first units was audited" in own.claims.deterrence()
    entries = [entry for item in own.claims.case.draws for entry in item.predicate.drawable]
    assert {entry.audit_ppm for entry in entries[:3]} == {606_061}
    assert all(28_861 <= (entry.audit_ppm or 0) < 606_061 for entry in entries if entry.task.endswith("/r1/l0/a0"))


@pytest.mark.parametrize("named", [None, 1, 606_062])
def test_a_draw_at_another_rate_is_refuted(named: int | None) -> None:
    """The market may neither spare a friend nor audit at the buyer's cost more than the rules say."""
    world = World(rounds=1, lanes=2, audit_ppm=28_861, is_ours=False)
    drawable = world._drawable
    world._drawable = lambda *entry, **more: replace(drawable(*entry, **more), audit_ppm=named)  # type: ignore[method-assign]
    assert ids_of(judged(world.play())) == {"draw.drawable"}
    verify_both(world.receipt(), world.trust(), world.now)


def test_one_accomplice_of_few_operators_is_said() -> None:
    """Beside each figure stands the same with an accomplice; among two operators he is always asked first."""
    figures = judged(World(rounds=1, lanes=2).play()).claims.receipt.soundness
    # oak has two nodes of six, every other operator one: two of five are asked first where the prover is another
    assert (figures.operators, figures.accomplice_ppm) == (5, 400_000)
    assert (figures.escape, figures.escape_accomplice) == ("0.000000", "0.400000")
    assert (figures.escape_tenth, figures.escape_tenth_accomplice) == ("0.010000", "0.406000")


def test_what_is_left_open_is_told_as_far_as_it_is_known() -> None:
    """With the accomplice's figures where a job has them, with one figure where not, and of no claim nothing."""
    claims = judged(World(rounds=1, lanes=2).play()).claims
    assert claims is not None
    assert "with one accomplice among the 5 operators of the class with 0.400000 and 0.406000" in claims.left_open()
    before = judged(World(rounds=1, lanes=2, assurance=None, is_ours=False).play()).claims
    assert before is not None
    assert before.left_open() == f"{LEFT_OPEN} {before.receipt.soundness.escape}."
    stopped = replace(claims, receipt=replace(claims.receipt, status="cancelled"))
    unasked = replace(claims, receipt=replace(claims.receipt, verification="none"))
    assert (stopped.left_open(), unasked.left_open()) == ("", "")


def test_what_a_cheat_stood_to_lose_is_told_of_sampled_work_alone() -> None:
    """What was verified whole has no such stake, and a receipt of before has no figures of it."""
    claims = judged(quiet(rounds=2, lanes=3).play()).claims
    assert claims is not None
    figures = claims.receipt.soundness
    assert f"{figures.required_ppm / 10_000:g} % on." in claims.deterrence()
    whole = replace(claims, receipt=replace(claims.receipt, verdict=Verdict.VERIFIED))
    unknown = replace(claims, receipt=replace(claims.receipt, soundness=replace(figures, saved_usd_micros=None)))
    assert (whole.deterrence(), unknown.deterrence()) == ("", "")


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


@pytest.mark.parametrize("auditors", [None, Auditors.LISTED])
def test_lists_bind_auditors_where_the_buyer_says_so(auditors: Auditors | None) -> None:
    """Else an excluded operator who does no work of the job may be asked; what it says convicts nobody then."""
    world = World(rounds=1, lanes=2, assurance=Assurance.FULL)
    placed = set(world.play().case().placements[0].predicate.chosen)
    idle = next(node.operator for node in world.nodes.values() if node.id not in placed)
    world = World(rounds=1, lanes=2, assurance=Assurance.FULL)
    made = world.spec()
    world.spec = lambda: replace(made, trust=replace(made.trust, regions=("DE",), auditors=auditors))  # type: ignore[method-assign]
    found = ids_of(judged(world.play()))
    assert "placement.ineligible" in found  # nobody here is of that region
    assert ("candidates.ineligible" in found) is (auditors is not None)
    world = World(rounds=1, lanes=2, assurance=Assurance.FULL)
    world.spec = lambda: replace(made, trust=replace(made.trust, exclude_operators=(idle,), auditors=auditors))  # type: ignore[method-assign]
    assert ("candidates.ineligible" in ids_of(judged(world.play()))) is (auditors is not None)


def test_who_chose_the_auditors_can_have_nobody_convicted() -> None:
    """A market that convicts all the same is refuted, though the code is the package's."""
    honest = World(rounds=1, assurance=Assurance.FULL, liars={"n3"})
    assert "verdict.mismatch" not in ids_of(judged(honest.play()))
    world = World(rounds=1, assurance=Assurance.FULL, liars={"n3"})
    made = world.spec()
    world.spec = lambda: replace(made, trust=replace(made.trust, auditors=Auditors.LISTED))  # type: ignore[method-assign]
    convicting = blame.convicts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blame, "convicts", lambda spec: bool(spec.builtin))
        receipt_made = world.play().receipt()
    assert blame.convicts is convicting
    report = verify_receipt(receipt_made, world.trust(), world.now)
    assert "verdict.mismatch" in ids_of(report)


@pytest.mark.parametrize("bend", [None, 0, 2])
def test_two_operators_convict_nobody(bend: int | None) -> None:
    """All nodes are of two operators, and one lies: a market that convicts it, or who says so, is refuted."""
    world = World(rounds=1, assurance=Assurance.FULL, liars={"n3"})
    for at, node in enumerate(world.nodes.values()):
        node.operator = ("oak", "elm")[at % 2]
    if bend is not None:
        named = list(world.nodes.values())[3 - bend].id
        world.bend["verdict"] = lambda said: (
            replace(said, verdict=Verdict.REFUTED, reason="two-recomputations-disagree", refuted=(named,))
            if said.verdict is Verdict.UNVERIFIED
            else said
        )
    report = judged(world.play())
    assert report.claims is not None
    said = [item.predicate for item in report.claims.case.verdicts]
    assert any(item.verdict is (Verdict.UNVERIFIED if bend is None else Verdict.REFUTED) for item in said)
    assert ("verdict.mismatch" in ids_of(report)) is (bend is not None)
