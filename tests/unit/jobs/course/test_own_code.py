"""Days in the buyer's own code: no bond is lost, and whom two others contradict loses pay of that job.

Every receipt is judged by the second verifier too.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.second_verifier.comparison import verify_both
from tests.simulator.day import Day
from tests.simulator.toys import FLIPS, Toy, recipe
from tests.unit.jobs.course import days

from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Verdict
from stannary.jobs.course.state import Timing
from stannary.rules.reasons import Reason
from stannary.verify.receipt import verify_receipt

OPERATORS = ("oak", "elm", "ash", "fir", "yew", "box", "bay", "gum", "fig")
TIMING = Timing(reveal_s=600.0, placing_s=600.0, stall_s=3600.0)
OWN = ("lies", "accuses", "guesses", FLIPS, "silent-prover", "silent-auditor", "vanishes")
fleets = st.lists(st.frozensets(st.sampled_from(OWN), max_size=2), min_size=3, max_size=6)


def day(fleet: list[frozenset[str]], seed: int = 0, *, kind: JobKind = JobKind.TRAIN, rounds: int = 2) -> Day:
    """Return a day of toys in code of the buyer's own."""
    toys = [
        Toy(f"n{at}", OPERATORS[at], ask=100_000 + 7_000 * at, bond=10_000_000, manner=manner)
        for at, manner in enumerate(fleet)
    ]
    return Day(seed=seed, fleet=toys, settings=recipe(rounds=rounds), timing=TIMING, kind=kind, rules=3)


def live(made: Day) -> Day:
    """Live a day; both verifiers say the same of its receipt."""
    lived = days.live(made)
    verify_both(lived.receipt(), lived.trust(), lived.now)
    return lived


def void_of(lived: Day) -> dict[str, int]:
    """Return how many units each operator lost by strikes, and what insurance got in all."""
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    lines = [line for line in report.claims.receipt.settlement if line.reason == "void"]
    found = Counter(line.account.partition(":")[2] or line.account for line in lines if line.account != "insurance")
    return {**found, "insurance": sum(line.usd_micros for line in lines if line.account == "insurance")}


@given(fleets, st.integers(0, 10_000), st.sampled_from(JobKind))
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
@example([frozenset({FLIPS})] * 4, 1, JobKind.TRAIN)
def test_whoever_takes_part_no_bond_is_lost(fleet: list[frozenset[str]], seed: int, kind: JobKind) -> None:
    """Lying, accusing, aimed-at, silent and vanishing nodes: every promise of days.py, and both verifiers agree."""
    lived = live(day(fleet, seed, kind=kind))
    assert not lived.convicted


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_program_that_aims_at_one_machine_costs_it_pay_of_this_job_only(kind: JobKind) -> None:
    """An honest node on a machine the program dislikes: struck, out of the job, its bond whole; the job goes on."""
    lived = live(day([frozenset({FLIPS}), *[frozenset[str]()] * 4], kind=kind))
    assert lived.struck == {"n0"}
    assert lived.market.state.ending is None
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    assert report.claims.receipt.verdict is Verdict.VERIFIED
    assert not any(line.account.startswith("bond:") for line in report.claims.receipt.settlement)


@pytest.mark.parametrize(
    ("num_nodes", "reason"), [(9, Reason.NOT_REPRODUCIBLE), (5, Reason.NOT_REPRODUCIBLE), (3, Reason.NO_OUTSIDER)]
)
def test_a_program_that_looks_at_every_machine_strikes_nobody(num_nodes: int, reason: Reason) -> None:
    """Each node gets something else, no two agree: nobody is struck, nothing of it is paid, the job ends."""
    lived = live(day([frozenset({FLIPS})] * num_nodes))
    assert lived.struck == set()
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == reason


def test_two_machines_aimed_at_cost_each_its_pay_of_this_job() -> None:
    """Two operators who each stand alone are struck, once two outsiders found what the others did; the job goes on."""
    fleet = [frozenset({FLIPS}), frozenset({FLIPS}), *[frozenset[str]()] * 7]
    lived = live(day(fleet))
    assert lived.struck == {"n0", "n1"}
    assert lived.market.state.ending is None


def test_a_liar_loses_the_pay_of_what_it_did_before() -> None:
    """It worked honestly, lied once, and is paid for neither; the buyer pays what holds, to nobody who could gain."""

    class Late(Toy):
        """Honest in its first round."""

        def work(self, assignment, sight):  # type: ignore[no-untyped-def]
            self.manner = frozenset({"lies"}) if assignment.round else frozenset()
            return super().work(assignment, sight)

    made = day([frozenset()] * 5, rounds=3)
    made.fleet["n0"].__class__ = Late
    lived = live(made)
    assert lived.struck == {"n0"}
    found = void_of(lived)
    assert found["oak"] >= 1
    assert found["insurance"] > 0


def test_a_lone_false_accuser_harms_nobody() -> None:
    """His word against one; the third voice leaves him alone, and he is the one who is struck."""
    lived = live(day([frozenset(), frozenset(), frozenset({"accuses"}), frozenset(), frozenset()], seed=3))
    assert lived.struck <= {"n2"}
    assert lived.market.state.ending is None


@pytest.mark.parametrize(("kind", "manner"), [(JobKind.COMMAND, "lies"), (JobKind.TRAIN, "lies-merging")])
def test_whoever_accused_does_not_get_the_work(kind: JobKind, manner: str) -> None:
    """A unit that two contradicted is done again by a third operator: an accusation earns nothing."""
    redone = 0
    for seed in range(12):
        lived = live(day([frozenset({manner}), *[frozenset[str]()] * 4], seed, kind=kind))
        assert lived.market.state.ending is None
        case = lived.case()
        for tasks in case.attempts.values():
            accusers: set[str] = set()
            for task in (task for task in tasks if task in case.contributions):
                redone += bool(accusers)
                assert case.operators[case.contributions[task].predicate.node] not in accusers
                root = case.contributions[task].predicate.root
                heard = [item.predicate for item in case.answers_of.get(task, ())]
                accusers |= {case.operators[item.node] for item in heard if item.root != root}
        if redone:
            return
    raise AssertionError("nothing was done again in any day")


def test_where_all_others_accused_the_job_ends() -> None:
    """Three operators: the third is struck, and the two who contradicted him may not do his work: nobody is left."""
    lived = live(day([frozenset({"lies"}), *[frozenset[str]()] * 2], kind=JobKind.COMMAND))
    assert lived.struck == {"n0"}
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.NO_CAPACITY


@pytest.mark.parametrize("accuser", range(1, 5))
@pytest.mark.parametrize("kind", list(JobKind))
def test_the_odd_one_is_prover_or_auditor_alike(kind: JobKind, accuser: int) -> None:
    """Who stands alone among three is struck, in whatever part: an auditor who accuses falsely loses his pay too."""
    for seed in range(12):
        fleet = [frozenset({"accuses"}) if at == accuser else frozenset[str]() for at in range(5)]
        lived = live(day(fleet, seed, kind=kind))
        if lived.struck:
            break
    assert lived.struck == {f"n{accuser}"}
    odd = [item.predicate for item in lived.case().verdicts if item.predicate.odd]
    assert {item.verdict for item in odd} == {Verdict.VERIFIED}  # what he accused is paid
    assert all(item.node not in (item.odd or ()) for item in odd)


def test_what_a_strike_took_pays_for_what_fell_with_it() -> None:
    """A node merges falsely after an honest round: others' work on that is done again, at its cost."""

    class Late(Toy):
        """Honest in its first round."""

        def work(self, assignment, sight):  # type: ignore[no-untyped-def]
            self.manner = frozenset({"lies-merging"}) if assignment.round else frozenset()
            return super().work(assignment, sight)

    for seed in range(20):
        made = day([frozenset()] * 5, seed, rounds=3)
        made.fleet["n0"].__class__ = Late
        lived = live(made)
        report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
        assert report.claims is not None
        lines = report.claims.receipt.settlement
        paid = [line for line in lines if (line.account, line.reason) == ("insurance", "redo")]
        if paid:
            assert all(line.usd_micros < 0 for line in paid)
            redone = {line.task: line.usd_micros for line in lines if line.reason == "redo" and line not in paid}
            assert all(0 < -line.usd_micros <= redone[line.task] for line in paid)
            return
    raise AssertionError("no day had anything done again at a struck node's cost")
