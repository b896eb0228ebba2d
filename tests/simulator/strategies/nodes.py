"""One node against the rules: slow on purpose, inflating its meter, lazy, honest until it is rich, raising its price.

Each sees what an agent sees: its leases, their assignments, its own past. It does not see what is drawn before it is
asked, whom else is asked, nor whether a question is a canary.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from tests.simulator.parties import Said, Sight
from tests.simulator.strategies.epoch import Epoch, Seat
from tests.simulator.strategies.strategy import (
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
from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Assignment, Role
from stannary.jobs.course.state import LeaseRow
from stannary.rules import grade

SEAT = (0, 5)  # the cheapest, which holds a lane in every job; one that audits and stands in
ROLES = ("prover", "auditor", "prover auditor")
UNITS = {
    "all": frozenset(TaskKind),
    "merges": frozenset({TaskKind.MERGE}),
    "work": frozenset(TaskKind) - {TaskKind.MERGE},
}


@dataclass
class Dodger(Seat):
    """A node that dawdles, inflates and fakes as its setting says; without one it is honest."""

    setting: Setting = field(default_factory=dict)
    done: int = 0  # units it has handed in
    faked: int = 0
    on: set[str] = field(default_factory=set)  # tasks it begins when it has been honest for long enough

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Take its time, hurry with what it fakes, or do not answer for a lie."""
        if what == "question" and self.faked and self.setting.get("silent"):
            return None
        took = super().minutes(expected, what, chance)
        assert took is not None
        return took * (self.dawdles if what != "question" else 1.0)

    @property
    def dawdles(self) -> float:
        """How many times as long as it needs it holds a lease."""
        return float(self.setting.get("dawdles", 1.0))

    def begin(self, assignment: Assignment, lease: LeaseRow) -> None:
        """Start a task, and see whether it has been honest for as long as it meant to be."""
        super().begin(assignment, lease)
        if self.done >= self.setting.get("from_unit", 0):
            self.on.add(assignment.task)

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Do a task, or make it up and save the computing."""
        self.done += 1
        if self.is_wanted(assignment) and self.dares("fakes", sight):
            self.faked += 1
            self.made[assignment.task] = made = self.make(assignment, f"lie of {self.name}")
            return made.outputs
        return super().work(assignment, sight)

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Recompute a task, or repeat what its prover handed in and make the state up."""
        shown = sight.contributed(assignment.task)
        if shown is not None and self.dares("copies", sight):
            return Said(commitments.answer_hash(salt, b"made up"), shown.outputs, shown.ended)
        return super().audit(assignment, step, salt, sight)

    def is_wanted(self, assignment: Assignment) -> bool:
        """Tell whether it cheats in such a unit at all."""
        return assignment.task in self.on and assignment.kind in UNITS[self.setting.get("units", "all")]

    def dares(self, what: str, sight: Sight) -> bool:
        """Toss for a share of what it does."""
        share = self.setting.get(what, 0.0)
        return share > 0 and sight.chance.random() < share

    def metered_ms(self, assignment: Assignment, role: Role, took_ms: int) -> int:
        """Say more than it took, or what dawdling makes of it."""
        true_ms = super().metered_ms(assignment, role, took_ms)
        if role.value not in self.setting.get("roles", "prover auditor") or not self.is_wanted(assignment):
            return true_ms
        return int(true_ms * float(self.setting.get("inflates", 1.0)) * self.dawdles)


def dodging(setting: Setting, seed: int, is_honest: bool = False) -> Epoch:
    """Return an epoch with one dodger in its seat, or with its honest twin."""
    at = setting.get("seat", 0)
    dodger = Dodger(f"n{at}", OPERATORS[at], ask=ask_of(at), bond=BOND, setting={} if is_honest else setting)
    order = drawn_order(seed)
    if "rounds" in setting:
        order = order_of(setting["kind"], lanes=1, rounds=setting["rounds"])
    made = Epoch(seed=seed, seats=seats({at: dodger}), kind=order.kind, settings=order.settings)
    if not is_honest:
        dodger.tests = [shown(power) for power in setting.get("shows", ())]
    if "raises" in setting and not is_honest:
        made.after(setting["at_s"], lambda: made.join_again(dodger, int(dodger.ask * setting["raises"])))
    return made


def shown(power: float) -> tuple[int, int, int]:
    """Return what a test shows of a machine so much stronger than it is: rounds, and its and the market's time."""
    took_ms = int(TEST_ROUNDS * grade.ROUND_MS / power)
    return TEST_ROUNDS, took_ms, took_ms


def alone(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play one dodger."""
    return lived(dodging(setting, seed, is_honest), [OPERATORS[setting.get("seat", 0)]])


POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)
TEST_ROUNDS = 100
FACTORS = (1.02, 1.1, 1.24, 1.26, 1.5, 2.0, 3.0, 5.0, 10.0)
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)

STRATEGIES = (
    Strategy(
        "slow on purpose",
        "holds what it was given for longer than it needs, and is paid by the clock; waiting costs it nothing",
        {"dawdles": FACTORS, "units": tuple(UNITS), "from_unit": (0, 1, 2), "roles": ROLES, "seat": SEAT},
        alone,
        ("seat",),
    ),
    Strategy(
        "meter inflator",
        "computes honestly and lets its meter say more, as prover, as auditor, or as both",
        {"inflates": FACTORS, "units": tuple(UNITS), "from_unit": (0, 1, 2), "roles": ROLES, "seat": SEAT},
        alone,
        ("seat",),
    ),
    Strategy(
        "throttler at join",
        "shows less or more than its machine can when it is measured, at join and later, and may work at half power",
        {"shows": tuple(itertools.chain.from_iterable(itertools.product(POWERS, repeat=at) for at in (1, 2, 3))),
         "dawdles": (1.0, 2.0), "seat": SEAT},
        alone,
        ("seat",),
    ),
    Strategy(
        "lazy node",
        "makes up a share of its units, perhaps falls silent when asked, perhaps repeats as auditor what it is shown",
        {"fakes": (0.0, *SHARES), "copies": (0.0, *SHARES), "units": tuple(UNITS), "silent": (False, True),
         "seat": SEAT},
        alone,
        ("seat",),
    ),
    Strategy(
        "honest until rich",
        "works honestly in a long job until pay is behind it, then makes units up",
        {"from_unit": (0, 1, 2, 3, 4, 5), "fakes": SHARES, "units": tuple(UNITS), "silent": (False, True),
         "kind": ("train", "ours"), "rounds": (4,)},
        alone,
        ("kind", "rounds"),
    ),
    Strategy(
        "price raiser",
        "joins again at a higher ask with a lease in hand, at a market that looks at no open job",
        {"raises": (1.01, 1.1, 1.5, 2.0, 3.0, 4.0, 4.9),
         "at_s": (0.5, 5.0, 30.0, 55.0, 70.0, 90.0, 120.0, 240.0, 400.0), "from_unit": (0, 1), "seat": (0, 1, 5)},
        alone,
        ("seat",),
    ),
)  # fmt: skip
