"""Several parties against the rules: colluders, a third answer, busy-making, a buyer's friends, a class of their own.

Members of a league tell one another what they handed in, and nothing else: none knows what another was asked before
it is asked itself, nor who else is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulator.parties import Said, Sight
from tests.simulator.strategies.epoch import SAMPLED_PPM, Epoch, Seat
from tests.simulator.strategies.nodes import SHARES, UNITS
from tests.simulator.strategies.strategy import (
    ASK,
    BOND,
    OPERATORS,
    Outcome,
    Setting,
    Strategy,
    ask_of,
    drawn_order,
    lived,
    order_of,
    seats,
)

from stannary.formats import commitments
from stannary.formats.predicates import Assignment, Output
from stannary.rules import use

OWN_CLASS = "cpu-fp32-rare-000000000000"


@dataclass
class League:
    """What its members know of one another."""

    setting: Setting
    members: set[str] = field(default_factory=set)  # names
    lies: dict[str, tuple[Output, ...]] = field(default_factory=dict)  # task -> what a member handed in for it
    accused: dict[str, bool] = field(
        default_factory=dict
    )  # task -> whether they say together that it is something else

    def tosses(self, what: str, chance: random.Random) -> bool:
        """Toss for a share of what it does."""
        share = self.setting.get(what, 0.0)
        return share > 0 and chance.random() < share


@dataclass
class Member(Seat):
    """A node of a league: it fakes a share of its units, and stands by what its friends faked."""

    league: League | None = field(default=None, repr=False)
    done: int = 0

    @property
    def friends(self) -> League:
        """Its league."""
        assert self.league is not None
        return self.league

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Do a task, or make it up and tell the friends."""
        said, self.done = self.friends.setting, self.done + 1
        wanted = assignment.kind in UNITS[said.get("units", "all")] and self.done > said.get("from_unit", 0)
        if wanted and self.friends.tosses("fakes", sight.chance):
            self.made[assignment.task] = made = self.make(assignment, "the league's lie")
            self.friends.lies[assignment.task] = made.listed
            return made.outputs
        return super().work(assignment, sight)

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Confirm a friend's lie or say a third thing, accuse others or be honest."""
        word = self.word_about(assignment, sight)
        if word is None:
            return super().audit(assignment, step, salt, sight)
        made = self.make(assignment, word)
        return Said(commitments.answer_hash(salt, made.states[step]), made.listed, made.ended)

    def word_about(self, assignment: Assignment, sight: Sight) -> str | None:
        """Return what it says that a task makes, None to compute it."""
        if assignment.task in self.friends.lies:
            is_third = self.friends.tosses("thirds", sight.chance)
            return f"a third answer of {self.name}" if is_third else "the league's lie"
        return "the league's accusation" if self.accuses(assignment, sight) else None

    def accuses(self, assignment: Assignment, sight: Sight) -> bool:
        """Tell whether the league says of an honest unit that it is something else; of one task all say the same."""
        if assignment.task not in self.friends.accused:
            self.friends.accused[assignment.task] = self.friends.tosses("accuses", sight.chance)
        return self.friends.accused[assignment.task]


def league_of(setting: Setting, at: Sequence[int], is_honest: bool, **more: object) -> dict[int, Seat]:
    """Return the seats of a league, or of its honest twins."""
    if is_honest:
        return {seat: Seat(f"n{seat}", OPERATORS[seat], ask=ask_of(seat), bond=BOND) for seat in at}
    league = League(setting, {f"n{seat}" for seat in at})
    return {
        seat: Member(f"n{seat}", OPERATORS[seat], ask=ask_of(seat), bond=BOND, league=league, **more)  # type: ignore[arg-type]
        for seat in at
    }


def seats_of(setting: Setting) -> tuple[int, ...]:
    """Return where a league sits: in the cheapest seats, or one there and the others among the dear."""
    size = setting["size"]
    return (
        tuple(range(size)) if setting["sits"] == "together" else (0, *range(len(OPERATORS) - size + 1, len(OPERATORS)))
    )


def conspire(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play a league in a drawn job."""
    at, order = seats_of(setting), drawn_order(seed)
    taken = league_of(setting, at, is_honest)
    made = Epoch(seed=seed, seats=seats(taken), kind=order.kind, settings=order.settings)
    gain = -make_busy(made, setting, at) if "busy_s" in setting and not is_honest else 0
    return lived(made, [OPERATORS[seat] for seat in at], gain=gain)


def make_busy(epoch: Epoch, setting: Setting, at: Sequence[int]) -> int:
    """Keep honest nodes at another job of an accomplice's, who pays for it; return what that costs."""
    others = [seat for number, seat in enumerate(epoch.seats.values()) if number not in at]
    from_s, lasts_s = setting["from_s"], setting["busy_s"]
    others = others[: setting["num_busy"]] if setting["whom"] == "cheapest" else others[-setting["num_busy"] :]
    for seat in others:
        seat.busy_s = (from_s, from_s + lasts_s)
    return sum(use.price_of(int(1_000_000 * lasts_s), seat.ask) for seat in others)


def frame(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play a buyer whose friends audit one victim, the cheapest node; his lists keep everybody else away."""
    at = tuple(range(1, 1 + setting["friends"]))
    order = order_of(setting["kind"], lanes=setting["lanes"], rounds=setting["rounds"])
    kept = {OPERATORS[0], *(OPERATORS[seat] for seat in at)}
    exclude = [name for name in OPERATORS if name not in kept] if setting["excludes"] else []
    made = Epoch(
        seed=seed, seats=seats(league_of(setting, at, is_honest)), kind=order.kind, settings=order.settings,
        audit_ppm=setting["audit_ppm"], exclude=exclude,
    )  # fmt: skip
    return lived(made, [OPERATORS[seat] for seat in at], is_buyer=True)


def seclude(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play operators who declare an engine class of their own and undercut everybody."""
    at, order = tuple(range(setting["size"])), drawn_order(seed)
    taken = league_of(setting, at, is_honest)
    for seat in taken.values():
        if not is_honest:
            seat.engine_class = OWN_CLASS
            seat.ask = int(ASK * setting["asks"])
    made = Epoch(
        seed=seed,
        seats=seats(taken, number=setting["others"] + setting["size"]),
        kind=order.kind,
        settings=order.settings,
    )
    return lived(made, [OPERATORS[seat] for seat in at])


def _colluders(size: int) -> Strategy:
    return Strategy(
        f"{size} colluders",
        "make up a share of their units, confirm one another's as auditors, and may accuse everybody else",
        {"size": (size,), "fakes": SHARES, "accuses": (0.0, 0.5, 1.0), "units": tuple(UNITS), "from_unit": (0, 1),
         "sits": ("together", "apart")},
        conspire,
        ("size", "sits"),
    )  # fmt: skip


STRATEGIES = (
    *(_colluders(size) for size in (2, 3, 4, 5)),
    Strategy(
        "buyer with friends against one victim",
        "narrows the operators to a victim and his friends, who audit it falsely; he has what it made all the same",
        {"friends": (2, 3, 4), "kind": ("command", "train", "ours"), "lanes": (1, 2), "rounds": (1, 2),
         "excludes": (True, False), "accuses": (0.3, 0.6, 1.0), "audit_ppm": (SAMPLED_PPM, 1_000_000)},
        frame,
        ("friends", "kind", "lanes", "rounds", "excludes", "audit_ppm"),
    ),
    Strategy(
        "class of their own",
        "declare an engine class that nobody else has, at whatever ask, and pass one another's junk",
        {"size": (2, 3, 4), "others": (2, 3, 4), "asks": (0.2, 0.5, 0.9, 1.0, 1.5), "fakes": (0.2, 0.5, 0.8, 1.0),
         "units": ("all", "work")},
        seclude,
        ("size", "others"),
    ),
    Strategy(
        "busy-making accomplice",
        "keeps honest auditors at a job of his own, which he pays, while a friend makes its units up",
        {"size": (1, 2), "sits": ("together", "apart"), "fakes": (0.3, 0.6, 1.0), "units": ("all", "work"),
         "from_s": (1.0, 30.0, 70.0), "busy_s": (60.0, 300.0, 700.0, 1_500.0), "num_busy": (2, 4, 6),
         "whom": ("cheapest", "dearest")},
        conspire,
        ("size", "sits"),
    ),
    Strategy(
        "third-answer accomplice",
        "answers a third thing about what its friend made up, so that it looks like the program",
        {"size": (2, 3), "sits": ("together", "apart"), "fakes": SHARES, "thirds": (0.3, 0.6, 1.0),
         "accuses": (0.0, 0.3), "units": ("all", "work"), "from_unit": (0, 1)},
        conspire,
        ("size", "sits"),
    ),
)  # fmt: skip
