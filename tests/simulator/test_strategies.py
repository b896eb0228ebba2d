"""Each strategy of the table does what it says, honest twins lose and gain nothing, and the search finds what pays."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.simulator.strategies import buyers, leagues, markets, nodes
from tests.simulator.strategies.epoch import Books, Epoch, quickly
from tests.simulator.strategies.registry import STRATEGIES, named
from tests.simulator.strategies.search import Plan, Search
from tests.simulator.strategies.strategy import COST_PPM, OPERATORS, Outcome, Setting, Strategy

from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Answer, Contribution, Role
from stannary.rules import use
from stannary.rules.reasons import Reason

SEEDS = range(12)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quickly():
        yield


def first(setting: Setting, wanted: object, make: object = nodes.dodging) -> tuple[Epoch, Books]:
    """Return the first epoch in which something came about: what is drawn is chance."""
    for seed in SEEDS:
        lived = make(setting, seed).live()  # type: ignore[operator]
        books = lived.books()
        if wanted(lived, books):  # type: ignore[operator]
            return lived, books
    raise AssertionError("it never came about")


# --- honest parties


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda item: item.name)
def test_honest_twins_lose_nothing_and_harm_nobody(strategy: Strategy) -> None:
    """Whatever seat and job a setting has, its honest twin is paid for what it did, as is everybody else."""
    for seed, setting in enumerate(strategy.drawn(2, random.Random(strategy.name))):
        made = strategy.play(setting, seed, True)
        assert (made.worst_loss, made.losses, made.buyers_loss, made.strikes) == (0, 0, 0, 0)
        assert made.profit >= 0
        if strategy.is_buyer:
            assert made.profit == 0


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda item: item.name)
def test_each_strategy_has_settings_enough(strategy: Strategy) -> None:
    """Two hundred different ones can be drawn of every row, and whoever plays one gets through an epoch."""
    drawn = strategy.drawn(200, random.Random(0))
    assert len({str(item) for item in drawn}) == 200
    assert strategy.play(drawn[0], 0, False).losses >= 0


def test_no_strategy_is_there_twice() -> None:
    """Rows are known by their names."""
    assert len({item.name for item in STRATEGIES}) == len(STRATEGIES)


# --- nodes


def test_who_dawdles_holds_its_lease_longer_and_says_so() -> None:
    """Its meter is true to the clock, its machine idle."""
    setting = {"dawdles": 3.0, "seat": 0}
    slow = nodes.dodging(setting, 1).live()
    quick = nodes.dodging(setting, 1, True).live()
    assert slow.clock_s > quick.clock_s
    walls_ms = {wall_ms for _, wall_ms in _readings(slow, Role.PROVER)}
    assert walls_ms
    assert walls_ms <= {180_000, 360_000, 540_000}
    assert slow.fleet["n0"].computed_ms == quick.fleet["n0"].computed_ms


@pytest.mark.parametrize("role", list(Role))
def test_who_inflates_says_more_than_it_computed(role: Role) -> None:
    """As prover or as auditor, whichever it means to: the other reading stays true."""
    setting = {"inflates": 2.0, "roles": role.value, "seat": 0}
    lived, _ = first(setting, lambda day, _: len(day.fleet["n0"].computed_ms) > 1 and _readings(day, Role.AUDITOR))
    for other in Role:
        factor = 2 if other is role else 1
        for steps, used_ms in _readings(lived, other):
            assert used_ms == factor * steps * lived.step_ms


def _handed_in(lived: Epoch, name: str) -> list[Contribution]:
    said = [item.predicate for item in lived.case().contributions.values()]
    return [item for item in said if item.node == lived.fleet[name].id]


def _readings(lived: Epoch, role: Role) -> list[tuple[int, int]]:
    case, node = lived.case(), lived.fleet["n0"].id
    if role is Role.PROVER:
        said = [(item.predicate.task, item.predicate.used) for item in case.commitments
                if item.predicate.node == node]  # fmt: skip
    else:
        said = [(item.predicate.task, item.predicate.used) for item in case.answers.values()
                if item.predicate.node == node and item.predicate.role is Role.AUDITOR]  # fmt: skip
    return [(lived.assignments[task].num_steps, used.wall_ms) for task, used in said if used is not None]


def test_who_fakes_computes_nothing_and_is_found_where_it_is_drawn() -> None:
    """What it hands in is false, and saves the computing."""
    lived, books = first({"fakes": 1.0, "seat": 0}, lambda day, _: day.struck or day.convicted)
    made = _handed_in(lived, "n0")
    assert made
    assert not any(lived.is_true(item) for item in made)
    assert books.profit("oak", COST_PPM) <= 0


def test_who_copies_computes_no_audit() -> None:
    """It repeats the outputs it is shown, with a state of its own making."""
    lived, _ = first({"copies": 1.0, "seat": 5}, lambda day, _: _answers_of(day, "n5"))
    case = lived.case()
    for said in _answers_of(lived, "n5"):
        assert said.outputs == case.contributions[said.task].predicate.outputs
        assert said.answer not in [
            item.predicate.answer for item in case.answers.values() if item.predicate.node != said.node
        ]


def _answers_of(lived: Epoch, name: str) -> list[Answer]:
    node = lived.fleet[name].id
    said = [item.predicate for item in lived.case().answers.values()]
    return [item for item in said if item.node == node and item.role is Role.AUDITOR]


def test_who_is_honest_until_it_is_rich_lies_only_then() -> None:
    """The first units are true, those behind them are not."""
    setting = {"from_unit": 2, "fakes": 1.0, "kind": "train", "rounds": 4, "seat": 0}
    lived = nodes.dodging(setting, 3).live()
    made = _handed_in(lived, "n0")
    assert [lived.is_true(item) for item in made][:3] == [True, True, False]


def test_who_raises_its_price_in_mid_job_is_paid_the_old_one() -> None:
    """Even where the market gave it the credential."""
    setting = {"raises": 4.0, "at_s": 30.0, "seat": 0}
    lived = nodes.dodging(setting, 2).live()
    asks = [item.predicate.ask_usd_micros_per_hour for item in lived.case().credentials[lived.fleet["n0"].id]]
    assert asks == [100_000, 400_000]
    honest = nodes.dodging(setting, 2, True).live().books()
    assert lived.books().accounts["oak"].paid == honest.accounts["oak"].paid


def test_who_throttles_at_join_has_the_grade_of_what_it_showed() -> None:
    """The least of its tests counts for price."""
    setting = {"shows": (0.5, 2.0), "seat": 0}
    lived = nodes.dodging(setting, 2).live()
    (held,) = [item.predicate for item in lived.case().credentials[lived.fleet["n0"].id]]
    assert (held.grade_ppm, held.best_grade_ppm) == (500_000, 2_000_000)
    done = [item for item in lived.case().contributions.values() if item.predicate.node == lived.fleet["n0"].id]
    assert done
    for item in done:
        full = lived.assignments[item.predicate.task].num_steps * lived.step_ms * 1000
        assert lived.concluded.costs.of_work(item) <= use.price_of(full // 2, 100_000)


# --- buyers


def test_a_clock_watching_program_makes_something_else_from_an_hour_on() -> None:
    """What was handed in before is true, what is recomputed later is not."""
    setting = {"kind": "command", "lanes": 2, "audit_ppm": 1_000_000, "until_s": 80.0, "is_steady": True}
    lived = buyers.tricking(setting, 0).live()
    assert all(lived.is_true(made) for index, made in lived.contributions.values() if index < 30)
    roots = {item.predicate.root for item in lived.case().answers.values() if item.predicate.role is Role.AUDITOR}
    assert not roots & {made.root for _, made in lived.contributions.values() if lived.is_true(made)}


def test_a_program_that_flips_a_coin_gets_several_results() -> None:
    """Executions of one unit differ, at the same node too."""
    setting = {"kind": "command", "lanes": 2, "audit_ppm": 1_000_000, "coin": 0.5, "is_steady": False}
    lived, _ = first(setting, lambda day, _: day.market.state.questions, buyers.tricking)
    roots: dict[str, set[str]] = {}
    for item in lived.case().answers.values():
        roots.setdefault(item.predicate.task, set()).add(item.predicate.root)
    assert max(map(len, roots.values())) > 1


def test_a_machine_that_is_aimed_at_stands_alone() -> None:
    """It computed what the program makes there, and is struck for it."""
    setting = {"kind": "command", "lanes": 2, "audit_ppm": 1_000_000, "victims": ("n0",)}
    lived, books = first(setting, lambda day, _: day.struck, buyers.tricking)
    assert lived.struck == {"n0"}
    assert books.loss("oak") > 0
    assert all(books.loss(name) == 0 for name in OPERATORS[1:])


def test_a_failing_program_is_work_and_is_paid() -> None:
    """Its end is part of the result, the same everywhere."""
    setting = {"lanes": 2, "audit_ppm": 1_000_000, "fails": 1.0, "code": "exit-1"}
    lived = buyers.tricking(setting, 0).live()
    books = lived.books()
    assert {made.ended for _, made in lived.contributions.values()} == {"exit-1"}
    assert (books.buyers_gain, max(books.loss(name) for name in OPERATORS)) == (0, 0)


def test_who_stops_his_job_has_partial_outputs_and_pays_for_them() -> None:
    """Work in hand ends with the job, and is paid by its meter."""
    lived = buyers.tricking({"lanes": 2, "stops_at": 0.5}, 0).live()
    books = lived.books()
    assert books.reason == Reason.CANCELLED
    assert books.buyer_paid > 0
    assert not lived.contributions
    assert abs(books.buyers_gain) <= 100  # whole seconds


def test_a_cheap_first_unit_says_nothing_of_later_ones() -> None:
    """The same steps take longer there, and meters say so."""
    setting = {"kind": "train", "lanes": 2, "rounds": 2, "first": 0.1, "later": 2.0}
    lived = buyers.tricking(setting, 0).live()
    step_ms = {
        (made.round, made.lane): item.predicate.used.wall_ms // made.num_steps  # type: ignore[union-attr]
        for item in lived.case().commitments
        if (made := lived.assignments[item.predicate.task]).kind is TaskKind.ROUND
    }
    assert step_ms == {(0, 0): 6_000, (0, 1): 120_000, (1, 0): 120_000, (1, 1): 120_000}


def test_a_silent_broker_ends_the_job_and_its_work_is_paid() -> None:
    """What was handed in when nobody revealed is paid by use."""
    lived = buyers.tricking({"lanes": 2, "reveals": 0}, 0).live()
    books = lived.books()
    assert books.reason == Reason.BUYER_SILENT
    assert not lived.case().draws
    assert max(books.loss(name) for name in OPERATORS) == 0


# --- leagues


def test_colluders_confirm_one_another() -> None:
    """A lie that only friends recompute is paid."""
    setting = {"size": 5, "sits": "together", "fakes": 1.0}
    wanted = _played(leagues.conspire, setting, lambda made: made.false_paid)
    assert wanted.profit > 0


def test_colluders_accuse_together() -> None:
    """Two who say the same of an honest unit have its node struck."""
    setting = {"size": 5, "sits": "apart", "accuses": 1.0}
    assert _played(leagues.conspire, setting, lambda made: made.strikes or made.worst_loss).losses > 0


def test_a_buyers_friends_strike_his_victim() -> None:
    """He has its result and does not pay for it; with four friends of seven others it comes about often."""
    setting = {"friends": 4, "kind": "command", "lanes": 1, "rounds": 1, "excludes": True, "accuses": 1.0,
               "audit_ppm": 1_000_000}  # fmt: skip
    assert _played(leagues.frame, setting, lambda made: made.strikes).worst_loss > 0


def test_a_class_of_its_own_gets_no_jobs_while_another_has_more_operators() -> None:
    """However cheap it is."""
    setting = {"size": 2, "others": 4, "asks": 0.2, "fakes": 1.0}
    assert all(leagues.seclude(setting, seed, False).profit == 0 for seed in range(3))
    most = {"size": 4, "others": 2, "asks": 1.0, "fakes": 1.0}
    assert any(leagues.seclude(most, seed, False).false_paid for seed in SEEDS)


def test_busy_auditors_are_paid_for_by_the_accomplice() -> None:
    """It costs him their price for as long as he keeps them."""
    setting = {"size": 1, "sits": "together", "fakes": 0.0, "from_s": 1.0, "busy_s": 700.0, "num_busy": 6,
               "whom": "dearest"}  # fmt: skip
    busy, free = (leagues.conspire({**setting, "num_busy": number}, 0, False) for number in (6, 2))
    assert busy.profit < free.profit - 4 * 700 * 100_000 // 3600


def test_a_third_answer_is_neither_the_lie_nor_the_truth() -> None:
    """Of a friend's lie the accomplice says another thing."""
    setting = {"size": 2, "sits": "together", "fakes": 1.0, "thirds": 1.0}
    taken = leagues.league_of(setting, (0, 1), False)
    for seed in range(40):
        taken = leagues.league_of(setting, (0, 1), False)
        lived = nodes.Epoch(seed=seed, seats=leagues.seats(taken), settings=leagues.drawn_order(0).settings).live()
        for said in _answers_of(lived, "n1"):
            if said.task in taken[1].friends.lies:  # type: ignore[attr-defined]
                true = taken[1].make(lived.assignments[said.task], "").listed  # type: ignore[attr-defined]
                assert said.outputs not in (true, lived.contributions[said.task][1].outputs)  # type: ignore[attr-defined]
                return
    raise AssertionError("the accomplice was never asked about its friend's lie")


def _played(play: object, setting: Setting, wanted: object) -> Outcome:
    for seed in SEEDS:
        made = play(setting, seed, False)  # type: ignore[operator]
        if wanted(made):  # type: ignore[operator]
            return made
    raise AssertionError("it never came about")


# --- the market


@pytest.mark.parametrize("lie", markets.LIES)
def test_a_market_is_paid_by_what_passes_only(lie: str) -> None:
    """Receipts that their verifier refutes pay nobody; what passes is counted as it stands."""
    setting = {"lie": lie, "size": 1.0, "fakes": 0.0, "kind": "command", "lanes": 3}
    made = markets.play(setting, 1, False)
    assert (made.profit > 0) == (lie not in REFUTED)


REFUTED = {
    "credits its friend with a higher price",
    "pays its friend more than it is owed",
    "pays its friend what others are owed",
    "keeps a commitment out of its draw",
    "calls others' work unverified",
}


# --- the search


def test_the_search_finds_the_setting_that_pays() -> None:
    """Of two settings the better one is played in the end, by seeds it was not chosen by."""

    def play(setting: Setting, seed: int, is_honest: bool) -> Outcome:
        return Outcome(0.0 if is_honest else setting["pays"] + seed % 3, setting["harms"], 0, 0, 0)

    found = Search(
        Strategy("toy", "pays", {"pays": (-50, 5, 100), "harms": (0, 7)}, play), Plan(6, 1, ((2, 2),), 30)
    ).run()
    assert found.setting["pays"] == 100
    assert (found.settings, found.epochs, found.worst_loss) == (6, 30, 7)
    assert 100 < found.gain < 102
    assert found.is_above


def test_a_quick_search_of_a_row_runs() -> None:
    """As the bench does it."""
    plan = Plan(3, 1, ((1, 1),), 2)
    row = Search(named("price raiser"), plan).run()
    assert (row.settings, row.search_epochs, row.epochs) == (3, 4, 2)
