"""The search: many settings in few epochs each, fewer in more, and the best in all of them, with fresh seeds.

What is compared is profit above that of the honest twin: the same seat, the same job, the same seed. Settings are
sifted by their mean; the last one is played again in epochs that no setting was chosen by, so its figure is not the
luck of the search.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from tests.simulator.strategies.strategy import Outcome, Play, Setting, Strategy

Twins = dict[tuple[Play, str, int], float]  # how it is played, the scenario, the seed -> profit
SIEVE = ((24, 3), (6, 10))  # so many settings stay, and are played so many epochs more
FINAL_SEED = 1_000_000  # seeds from here on are those of the last count


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tried."""

    settings: int = 200
    epochs_each: int = 1
    sieve: tuple[tuple[int, int], ...] = SIEVE
    epochs: int = 1_000


QUICK = Plan(settings=8, sieve=((3, 2),), epochs=6)


@dataclass(slots=True)
class Tally:
    """What the epochs of one setting came to."""

    setting: Setting
    gains: list[float] = field(default_factory=list)  # profit above the honest twin's
    profits: list[float] = field(default_factory=list)
    worst_loss: int = 0
    losses: int = 0
    buyers_loss: int = 0
    strikes: int = 0
    false_paid: int = 0

    def add(self, made: Outcome, twin: float) -> None:
        """Count one epoch."""
        self.gains.append(made.profit - twin)
        self.profits.append(made.profit)
        self.worst_loss = max(self.worst_loss, made.worst_loss)
        self.losses += made.losses
        self.buyers_loss = max(self.buyers_loss, made.buyers_loss)
        self.strikes += made.strikes
        self.false_paid += made.false_paid

    @property
    def gain(self) -> float:
        """The mean gain."""
        return statistics.fmean(self.gains)

    @property
    def error(self) -> float:
        """The standard error of that mean."""
        return statistics.stdev(self.gains) / math.sqrt(len(self.gains)) if len(self.gains) > 1 else math.inf


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, in micro-dollars."""

    strategy: str
    settings: int  # tried
    search_epochs: int
    epochs: int  # of the best setting, by fresh seeds
    setting: Mapping[str, object]
    profit: float  # mean of the strategy
    honest: float  # mean of its honest twin
    gain: float  # mean of the difference
    error: float  # of that
    worst_loss: int  # of one honest operator in one epoch, in the final epochs and in the search
    worst_setting: Mapping[str, object]
    mean_loss: float  # of all honest operators together, in the final epochs
    buyers_loss: int  # the most an honest buyer lost in one epoch
    strikes: int  # of honest operators, in the final epochs
    false_paid: int  # false units that were paid, in the final epochs

    @property
    def is_above(self) -> bool:
        """Whether it pays better than to be honest: two standard errors, and more than a hundredth of a cent."""
        return self.gain > max(2 * self.error, 1.0)


class Search:
    """One strategy's search."""

    def __init__(self, strategy: Strategy, plan: Plan, twins: Twins | None = None) -> None:
        """Search; `twins` are those that were played before, of other strategies in the same seats too."""
        self.strategy, self.plan = strategy, plan
        self._twins = {} if twins is None else twins

    def run(self) -> Row:
        """Try, sift, and play the best again."""
        chance = random.Random(f"search {self.strategy.name}")
        tried = [Tally(setting) for setting in self.strategy.drawn(self.plan.settings, chance)]
        kept, seeds = tried, iter(range(FINAL_SEED))
        for number, epochs in ((len(tried), self.plan.epochs_each), *self.plan.sieve):
            kept = sorted(kept, key=lambda item: -item.gain if item.gains else 0.0)[:number]
            self._play(kept, [next(seeds) for _ in range(epochs)])
        best = Tally(max(kept, key=lambda item: item.gain).setting)
        self._play([best], range(FINAL_SEED, FINAL_SEED + self.plan.epochs))
        worst = max([best, *tried], key=lambda item: item.worst_loss)
        return Row(
            strategy=self.strategy.name,
            settings=len(tried),
            search_epochs=sum(len(item.gains) for item in tried),
            epochs=len(best.gains),
            setting=dict(best.setting),
            profit=statistics.fmean(best.profits),
            honest=statistics.fmean(best.profits) - best.gain,
            gain=best.gain,
            error=best.error,
            worst_loss=worst.worst_loss,
            worst_setting=dict(worst.setting),
            mean_loss=best.losses / len(best.gains),
            buyers_loss=max(item.buyers_loss for item in [best, *tried]),
            strikes=best.strikes,
            false_paid=best.false_paid,
        )

    def _play(self, tallies: list[Tally], seeds: Iterator[int] | range | list[int]) -> None:
        for seed in seeds:
            for item in tallies:
                made = self.strategy.play(item.setting, seed, False)
                item.add(made, self._twin(item.setting, seed))

    def _twin(self, setting: Setting, seed: int) -> float:
        if self.strategy.is_buyer:
            return 0.0
        scenario = str([(name, setting[name]) for name in self.strategy.scenario])
        key = (self.strategy.play, scenario, seed)
        if key not in self._twins:
            self._twins[key] = self.strategy.play(setting, seed, True).profit
        return self._twins[key]


def spelled(row: Row) -> dict[str, object]:
    """Return a row as JSON members."""
    return asdict(row)
