"""Days in which it is asked whether the buyer's program can be recomputed at all; both verifiers judge each receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.day import Day
from tests.simulator.parties import Computed, Sight
from tests.simulator.toys import FLIPS, Toy, recipe
from tests.unit.jobs.course.test_own_code import OWN, TIMING, live

from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Assignment, Receipt, Verdict
from stannary.jobs.course import actions
from stannary.rules.reasons import Reason
from stannary.verify.receipt import verify_receipt

NAMES = ("oak", "elm", "ash", "fir", "yew", "box", "bay", "sal", "koa")
HONEST = frozenset[str]()
Program = Callable[[Toy, Sight], str]


@dataclass
class Runner(Toy):
    """A node that runs a program of the buyer's which looks at more than its inputs."""

    program: Program | None = field(default=None, kw_only=True)

    def compute(self, assignment: Assignment, sight: Sight) -> Computed:
        """Let the program see what it looks at."""
        if self.program is None:
            return super().compute(assignment, sight)
        return self._made(assignment, self.program(self, sight))


def coin(toy: Toy, sight: Sight) -> str:
    """Something else each time."""
    return str(sight.chance.random())


def one_command(manners: list[frozenset[str]], seed: int = 0, program: Program | None = None, lanes: int = 1) -> Day:
    """Return a day of one command, one lane unless told, among strangers."""
    fleet = [
        Runner(f"n{at}", NAMES[at], ask=100_000 + 7_000 * at, bond=10_000_000, manner=manner, program=program)
        for at, manner in enumerate(manners)
    ]
    return Day(
        seed=seed, fleet=fleet, settings=recipe(rounds=1, lanes=lanes), timing=TIMING, kind=JobKind.COMMAND, rules=3
    )


def receipt_of(lived: Day) -> Receipt:
    """Return the receipt."""
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    return report.claims.receipt


def outcome_of(lived: Day) -> Reason | None:
    """Return what the last question came to, None where none was asked."""
    asked = lived.market.state.questions
    return asked[-1].outcome if asked else None


@pytest.mark.parametrize("seed", range(4))
def test_a_program_that_flips_a_coin_convicts_and_strikes_nobody(seed: int) -> None:
    """Three answers differ, and so do four fresh runs: not reproducible; auditors are paid, the work is not."""
    lived = live(one_command([HONEST] * 7, seed, coin))
    assert outcome_of(lived) is Reason.NOT_REPRODUCIBLE
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.NOT_REPRODUCIBLE
    assert "out.txt differs between two runs at" in lived.market.state.ending.message
    made = receipt_of(lived)
    assert made.verdict is Verdict.NOT_REPRODUCIBLE
    assert verify_receipt(lived.receipt(), lived.trust(), lived.now).exit_code == 100
    paid = [line for line in made.settlement if line.reason == "audit"]
    assert len(paid) == 6  # two auditors, and two outsiders twice
    assert all(line.usd_micros for line in paid)
    assert not any(line.usd_micros for line in made.settlement if line.task.endswith("/a0"))
    assert lived.struck == lived.convicted == set()


def test_a_program_that_watches_the_clock_while_it_is_asked_is_not_reproducible() -> None:
    """What changes while outsiders run it is seen, and who ran it before or after is not at fault."""
    day = one_command([HONEST] * 7)
    for node in day.fleet.values():
        assert isinstance(node, Runner)
        node.program = lambda _toy, _sight: str(int(day.clock_s) // 10)
    lived = live(day)
    assert outcome_of(lived) is Reason.NOT_REPRODUCIBLE
    assert lived.struck == set()


def test_a_strike_before_is_taken_back_where_the_program_is_not_reproducible() -> None:
    """A program that is steady at first: who stood alone then gets back what he was owed."""
    found = 0
    for seed in range(20):
        day = one_command([HONEST] * 9, seed, lanes=2)
        drawn = iter(range(10**6))

        def now_and_then(_toy: Toy, sight: Sight, count=drawn) -> str:  # type: ignore[no-untyped-def]
            return "" if sight.chance.random() < 0.5 else str(next(count))

        for node in day.fleet.values():
            assert isinstance(node, Runner)
            node.program, node.manner = now_and_then, frozenset({FLIPS})  # four runs may agree by chance
        lived = live(day)
        was_struck = any(isinstance(action, actions.Strike) for action in lived.market.taken)
        if was_struck and outcome_of(lived) is Reason.NOT_REPRODUCIBLE:
            found += 1
            assert lived.struck == set()
            assert not any(line.reason == "void" for line in receipt_of(lived).settlement)
    assert found, "no seed has a strike before the question: choose others"


def test_two_liars_beside_a_machine_that_is_aimed_at_find_no_shelter() -> None:
    """They differ from all, the program is reproducible everywhere else: whoever answered otherwise is struck."""
    lived = live(
        one_command([HONEST, *[frozenset({"lies", "accuses"})] * 2, frozenset({FLIPS}), *[HONEST] * 5], 3, lanes=3)
    )
    assert outcome_of(lived) in {Reason.REPRODUCED, Reason.NOT_REPRODUCIBLE, Reason.NO_OUTSIDER, None}
    assert lived.struck <= {"n1", "n2", "n3"}


def test_an_accomplice_who_answers_a_third_thing_shelters_nobody() -> None:
    """Liar and accomplice see to it that three answers differ: four honest runs, and both are struck."""
    found = 0
    for seed in range(12):
        lied, third = frozenset({"lies"}), frozenset({"accuses"})
        lived = live(one_command([lied, third, *[HONEST] * 6], seed))
        if outcome_of(lived) is Reason.REPRODUCED:
            found += 1
            assert lived.struck == {"n0", "n1"}
            assert receipt_of(lived).verdict is Verdict.VERIFIED  # done again, by others
        else:
            assert "n0" in lived.struck
    assert found, "no seed asks the accomplice first or second: choose others"


def test_where_nobody_without_a_part_is_left_the_job_ends_unverified() -> None:
    """Three operators, three answers: nobody is struck, the unit is unpaid, each auditor is paid."""
    lived = live(one_command([HONEST] * 3, 0, coin))
    assert outcome_of(lived) is Reason.NO_OUTSIDER
    made = receipt_of(lived)
    assert (made.verdict, made.status, made.reason) == (Verdict.UNVERIFIED, "failed", Reason.NO_OUTSIDER)
    assert lived.struck == set()
    assert [line.reason for line in made.settlement] == ["withheld", "audit", "audit", "refund"]


@pytest.mark.parametrize("num_silent", [1, 2, 3, 4])
def test_the_next_in_rank_serves_for_an_outsider_who_is_silent(num_silent: int) -> None:
    """Each is passed over by a signed silence; where too few answer, the job ends unverified."""
    silent = [frozenset({"silent-auditor"})] * num_silent
    seen = set()
    for seed in range(6):
        lived = live(one_command([frozenset({"lies"}), frozenset({"accuses"}), *silent, *[HONEST] * 3], seed))
        seen.add(outcome_of(lived))
        assert lived.struck <= {"n0", "n1"}
    assert seen <= {None, Reason.REPRODUCED, Reason.NO_OUTSIDER}


def test_nothing_new_is_begun_while_it_is_asked() -> None:
    """From the question to its answer no work is leased and no other task's auditor is asked."""
    lived = live(one_command([HONEST] * 9, 5, coin, lanes=3))
    assert outcome_of(lived) is Reason.NOT_REPRODUCIBLE
    taken = lived.market.taken
    begin = next(at for at, action in enumerate(taken) if isinstance(action, actions.OpenQuestion))
    end = next(at for at, action in enumerate(taken) if isinstance(action, actions.CloseQuestion))
    task = lived.market.state.questions[-1].task
    asked = [action.grant for action in taken[begin:end] if isinstance(action, actions.Ask)]
    assert {grant.task for grant in asked if grant.type.value == "audit"} == {task}
    assert not any(isinstance(action, actions.Plan) for action in taken[begin:end])


@given(
    st.lists(st.frozensets(st.sampled_from(OWN), max_size=2), min_size=5, max_size=9),
    st.integers(0, 10_000),
    st.sampled_from([None, coin]),
    st.integers(1, 3),
)
@settings(max_examples=settings.default.max_examples // 3, derandomize=True)
def test_whoever_takes_part_every_promise_holds(
    manners: list[frozenset[str]], seed: int, program: Program | None, lanes: int
) -> None:
    """Many strangers, so that all outcomes are met: nobody honest is struck, and both verifiers agree."""
    assert not live(one_command(manners, seed, program, lanes)).convicted
