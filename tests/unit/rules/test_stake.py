"""The stake in the buyer's own code: cheating is a loss at the rates the rules name, whatever a node does and when."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest
from tests.integration.train.small_job import command_spec, train_spec

from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.quantity import PPM
from stannary.rules import stake
from stannary.rules.stake import Paid, UnitDone

NODE, OTHER = NodeId("n-1"), NodeId("n-2")
STEPS = (
    (1,) * 12,
    (7, 1, 1, 1, 7, 1, 1, 1, 7, 1, 1, 1),  # dear rounds between cheap merges
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 30),  # cheap ones first, then one that is dear
    (30, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
)


def own(audit_ppm: int = 1, gain_ppm: int = 600_000, detection_ppm: int = 990_000) -> JobSpec:
    """Return a job of rules 3 in code of the buyer's own."""
    spec = command_spec("true")
    trust = dataclasses.replace(spec.trust, audit_ppm=audit_ppm, gain_ppm=gain_ppm, detection_ppm=detection_ppm)
    return dataclasses.replace(spec, trust=trust, rules=3)


class Game:
    """A node that hands in units of these steps, one behind the other, in code that cannot convict.

    A unit's verdict comes when `lag` more were handed in; found odd, its node is out. Reckoned is what it has beside an
    honest node that earns nothing: a fake saves g of its steps, a strike takes what the rules say.
    """

    def __init__(self, steps: Sequence[int], lag: int, spec: JobSpec) -> None:
        self.steps, self.lag = steps, lag
        self.gain = Fraction(spec.trust.gain_ppm, PPM)
        done = [UnitDone(NODE, 10 * at + 5, steps[at]) for at in range(len(steps))]
        self.caught = []  # how often a fake is found
        for at, unit in enumerate(steps):
            rate = stake.unit_ppm(spec, unit, stake.held_steps(done, NODE, 10 * at))
            assert rate is not None
            self.caught.append(Fraction(rate * spec.trust.detection_ppm, PPM**2))

    def lost(self, odd: int, num_done: int) -> int:
        """Return what a strike takes when so many are handed in: the unit, and what of the others it makes void."""
        paid = [Paid(10 * at + 5, str(at)) for at in range(num_done) if at != odd]
        return self.steps[odd] + sum(self.steps[int(item.name)] for item in stake.voided(paid, 10 * odd + 5))

    def best(self, at: int = 0, open_: tuple[bool, ...] = ()) -> Fraction:
        """Return the most that any strategy makes from unit `at` on; `open_`: which of the last units were faked."""
        if at == len(self.steps):
            return self._end(at, open_)
        found = []
        for is_fake in (False, True):
            saved = self.gain * self.steps[at] if is_fake else Fraction(0)
            found.append(saved + self._judged(at + 1, (*open_, is_fake)))
        return max(found)

    def _judged(self, num_done: int, open_: tuple[bool, ...]) -> Fraction:
        if len(open_) <= self.lag:
            return self.best(num_done, open_)
        odd, rest = num_done - len(open_), open_[1:]
        if not open_[0]:
            return self.best(num_done, rest)
        caught = self.caught[odd]
        return -caught * self.lost(odd, num_done) + (1 - caught) * self.best(num_done, rest)

    def _end(self, num_done: int, open_: tuple[bool, ...]) -> Fraction:
        """Let the verdicts come that are still out."""
        if not open_:
            return Fraction(0)
        odd = num_done - len(open_)
        after = self._end(num_done, open_[1:])
        if not open_[0]:
            return after
        return -self.caught[odd] * self.lost(odd, num_done) + (1 - self.caught[odd]) * after


@pytest.mark.parametrize("held", [3, 20])
@pytest.mark.parametrize("lag", [0, 1, 3, 11])
@pytest.mark.parametrize("steps", STEPS, ids=["equal", "merges", "dear-last", "dear-first"])
def test_no_strategy_of_one_node_gains_by_faking(
    steps: Sequence[int], lag: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 4,096 ways to fake some of 12 units, and to think again after each verdict: the best is to fake none."""
    monkeypatch.setattr(stake, "HELD_UNITS", held)
    if lag > held:
        steps = steps[: 2 * held]  # no more is in flight than a strike takes
        lag = held
    for num in range(1, len(steps) + 1):
        game = Game(steps[:num], lag, own())
        assert game.best() == 0, num


@pytest.mark.parametrize("lag", [0, 2])
def test_faking_any_set_is_a_loss(lag: int) -> None:
    """Not only no gain: whoever fakes at least one unit and never thinks again expects less than an honest node."""
    game = Game((1,) * 8, lag, own())
    for fakes in itertools.product((False, True), repeat=8):
        if any(fakes):
            assert played(game, fakes) < 0, fakes


def played(game: Game, fakes: Sequence[bool]) -> Fraction:
    """Return what one fixed way of faking makes."""
    alone, total = Fraction(1), Fraction(0)
    for at, is_fake in enumerate(fakes):
        judged = at - game.lag - 1
        if judged >= 0 and fakes[judged]:
            total -= alone * game.caught[judged] * game.lost(judged, at)
            alone *= 1 - game.caught[judged]
        total += alone * game.gain * game.steps[at] * is_fake
    for judged in range(max(len(fakes) - game.lag - 1, 0), len(fakes)):
        if fakes[judged]:
            total -= alone * game.caught[judged] * game.lost(judged, len(fakes))
            alone *= 1 - game.caught[judged]
    return total


def test_the_rate_of_a_full_stake_alone_would_let_the_first_units_be_faked() -> None:
    """What this is for: at 2.9 % everywhere, a node's first units would be faked at a gain."""
    game = Game((1,) * 12, 0, own())
    game.caught = [Fraction(28_861 * 990_000, PPM**2)] * 12
    assert game.best() > 4


def test_a_lower_rate_would_be_a_gain() -> None:
    """The rates are the least ones: a thousandth less somewhere, and that unit is faked."""
    for at in range(12):
        game = Game((1,) * 12, 0, own())
        game.caught[at] *= Fraction(999, 1000)
        assert game.best() > 0, at


def test_rates_fall_with_what_stands_behind() -> None:
    """The first at g/d, the second at half of it, from the 21st on at a 21st part; never below the signed rate."""
    spec = own()
    rates = [stake.unit_ppm(spec, 1, min(at, 20)) for at in range(22)]
    assert rates[:3] == [606_061, 303_031, 202_021]
    assert rates[20:] == [28_861, 28_861]
    assert [stake.unit_ppm(own(audit_ppm=250_000), 1, at) for at in (0, 1, 2)] == [606_061, 303_031, 250_000]
    assert stake.unit_ppm(own(gain_ppm=PPM, detection_ppm=500_000), 1, 0) == PPM  # nothing deters: always


def test_only_where_pay_is_the_stake() -> None:
    """Not where a bond is, nor where nothing is verified, nor under rules 2."""
    ours = train_spec()
    ours = dataclasses.replace(ours, recipe=dataclasses.replace(ours.recipe, entry="builtin:bytegpt"), rules=3)
    unasked = own()
    unasked = dataclasses.replace(unasked, trust=dataclasses.replace(unasked.trust, verify=Verification.NONE))
    for spec in (ours, unasked, command_spec("true"), train_spec()):
        assert stake.unit_ppm(spec, 1, 0) is None


def test_behind_a_unit_stands_what_was_logged_before_it() -> None:
    """Its node's own contributions below the commitment, the last twenty of them, whatever order they are given in."""
    done = [UnitDone(NODE, index, 10 + index) for index in range(30)]
    done += [UnitDone(OTHER, index, 1_000) for index in range(30)]
    assert stake.held_steps(reversed(done), NODE, 3) == 10 + 11 + 12
    assert stake.held_steps(done, NODE, 25) == sum(range(15, 35))
    assert stake.held_steps(done, NODE, 0) == 0


def test_a_strike_takes_the_nearest_units_and_audits_on_both_sides() -> None:
    """Twenty before and twenty behind, units and audits apart: cheap audits do not stand in for what is dear."""
    units = [Paid(2 * at, f"u{at}") for at in range(60)]
    audits = [Paid(2 * at + 1, f"q{at}", is_audit=True) for at in range(60)]
    taken = {item.name for item in stake.voided([*audits, *units], 50)}
    assert taken == {f"u{at}" for at in range(5, 46) if at != 25} | {f"q{at}" for at in range(5, 45)}
    assert [item.name for item in stake.voided(units[:3], 4)] == ["u0", "u1"]


@pytest.mark.parametrize(("units", "nodes"), [(1, 1), (12, 2), (100, 3), (1_000, 4)])
def test_the_mean_rate_is_that_of_its_units(units: int, nodes: int) -> None:
    """What is expected of a job is what its units are drawn at, one by one."""
    spec, given = own(), [0] * nodes
    total = 0
    for at in range(units):
        total += stake.unit_ppm(spec, 1, min(given[at % nodes], 20)) or 0
        given[at % nodes] += 1
    assert stake.mean_ppm(spec, units, 1, nodes) == -(-total // units)


def test_where_pay_is_no_stake_the_mean_rate_is_the_signed_one() -> None:
    """In code that convicts, where nothing is verified, and of no units at all; a unit of one's own code is dearer."""
    spec = own()
    unasked = dataclasses.replace(spec, trust=dataclasses.replace(spec.trust, verify=Verification.NONE))
    assert [stake.mean_ppm(item, 12, 7, 2) for item in (train_spec(), unasked)] == [7, 7]
    assert stake.mean_ppm(spec, 0, 7, 2) == 7
    assert stake.mean_ppm(spec, 12, 7, 2) > 7
