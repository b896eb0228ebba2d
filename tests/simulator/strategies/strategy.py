"""What a strategy is: settings to search, an epoch to play under one, and what is counted of it.

All strategies are played in one world: `OPERATORS` operators of one node each, computing costs `COST_PPM` of what it is
sold at (so much does faking save, `gain_ppm` of the specs), and jobs are drawn by the epoch's seed alone, the same
for a strategy and for the honest twin in its seat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.simulator.strategies.epoch import Books, Epoch, Seat, in_code_of_ours
from tests.simulator.toys import recipe

from stannary.formats.jobspec import JobKind, RecipeSpec

OPERATORS = ("oak", "elm", "ash", "fir", "yew", "box", "bay", "gum")
COST_PPM = 600_000
ASK = 100_000
BOND = 10_000_000

Setting = Mapping[str, Any]
Space = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one epoch came to, in micro-dollars."""

    profit: float  # of whoever follows the strategy, all of them together
    worst_loss: int  # of the honest operator who lost most
    losses: int  # of all honest operators
    buyers_loss: int  # of an honest buyer; 0 where the buyer follows the strategy
    strikes: int  # honest operators struck
    false_paid: int = 0  # false units that were paid


Play = Callable[[Setting, int, bool], Outcome]
"""Plays one epoch: under a setting, by a seed, with the strategy or with its honest twin."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of the table."""

    name: str
    says: str  # what it does, in one sentence
    space: Space
    play: Play
    scenario: tuple[str, ...] = ()  # settings that are no part of the strategy: its honest twin has them too
    is_buyer: bool = False  # of honest buyers the gain is nothing, in whatever job: no twin is played

    def drawn(self, number: int, chance: random.Random) -> list[Setting]:
        """Draw so many different settings; all of them where there are no more."""
        found: dict[tuple[Any, ...], Setting] = {}
        while len(found) < min(number, self.num_settings):
            setting = {name: chance.choice(values) for name, values in self.space.items()}
            found.setdefault(tuple(map(str, setting.values())), setting)
        return list(found.values())

    @property
    def num_settings(self) -> int:
        """How many settings there are."""
        product = 1
        for values in self.space.values():
            product *= len(values)
        return product


@dataclass(frozen=True, slots=True)
class Order:
    """What a buyer orders."""

    kind: JobKind
    settings: RecipeSpec


def order_of(kind: str, *, lanes: int = 2, rounds: int = 1) -> Order:
    """Return a job: `command` or `train` in the buyer's own code, `ours` in that of this package."""
    settings = recipe(rounds=rounds, lanes=lanes)
    if kind == "command":
        return Order(JobKind.COMMAND, settings)
    return Order(JobKind.TRAIN, in_code_of_ours(settings) if kind == "ours" else settings)


def drawn_order(seed: int) -> Order:
    """Return the job of an epoch whose buyer is honest: mostly commands, some training, some of it in our code."""
    chance = random.Random(f"order {seed}")
    kind = chance.choice(["command", "command", "command", "train", "ours"])
    return order_of(kind, lanes=chance.choice([2, 2, 3]) if kind == "command" else 2)


def seats(taken: Mapping[int, Seat] | None = None, *, number: int = len(OPERATORS)) -> list[Seat]:
    """Return honest seats, the cheapest first, but for those that are taken."""
    made = [Seat(f"n{at}", OPERATORS[at], ask=ask_of(at), bond=BOND) for at in range(number)]
    return [(taken or {}).get(at, seat) for at, seat in enumerate(made)]


def ask_of(at: int) -> int:
    """Return what a seat asks."""
    return ASK + 1_000 * at


def outcome(books: Books, mine: Sequence[str], *, gain: float = 0.0, is_buyer: bool = False) -> Outcome:
    """Count an epoch: the operators in `mine`, and the buyer if he is theirs, are no honest parties.

    Args:
        books: of the epoch.
        mine: operators who follow the strategy.
        gain: what they gained beside.
        is_buyer: the buyer follows it too.
    """
    losses = [books.loss(name) for name in books.accounts if name not in mine]
    profit = gain + sum(books.profit(name, COST_PPM) for name in mine) + (books.buyers_gain if is_buyer else 0)
    return Outcome(
        profit=profit,
        worst_loss=max(losses, default=0),
        losses=sum(losses),
        buyers_loss=0 if is_buyer else books.buyers_loss,
        strikes=len(books.struck - set(mine)),
        false_paid=books.false_paid,
    )


def lived(epoch: Epoch, mine: Sequence[str], **more: Any) -> Outcome:
    """Play an epoch and count it."""
    return outcome(epoch.live().books(), mine, **more)
