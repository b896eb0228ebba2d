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

OPERATORS = ("oak", "elm", "ash", "fir", "yew", "box")
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


def test_a_program_that_looks_at_every_machine_strikes_nobody() -> None:
    """Each node gets something else, no two agree: nobody is struck, nothing of it is paid, the job ends."""
    lived = live(day([frozenset({FLIPS})] * 5))
    assert lived.struck == set()
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.USELESS


def test_two_machines_aimed_at_cost_each_its_pay_of_this_job() -> None:
    """Two operators who each stand alone are struck; the others finish the job."""
    fleet = [frozenset({FLIPS}), frozenset({FLIPS}), *[frozenset[str]()] * 4]
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
