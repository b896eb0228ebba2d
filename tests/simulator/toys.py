"""Nodes that compute nothing: what a task makes is a hash of its assignment, so a day takes milliseconds.

A toy is honest but for its manner, words of `MANNERS`; those who lie with one word tell the same lie.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from tests.simulator.parties import Computed, Party, Said, Sight

from stannary.formats import commitments, jobspec, predicates
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import RecipeSpec
from stannary.formats.predicates import Assignment

STEP_MS = 60_000
MANNERS = (
    "lies",  # hands in rounds and commands it did not compute
    "lies-merging",
    "accuses",  # as auditor it finds something else
    "guesses",  # as auditor it has the right outputs and a made-up state
    "silent-prover",
    "silent-auditor",
    "vanishes",
    "slow",
)
FLIPS = "flips"  # honest, on a machine the buyer's own program aims at: it computes something else there
LATER = "lies-later"  # in rounds behind the first, whose unit is checked before another is begun
LIES = frozenset({"lies", "lies-merging", "accuses", "guesses"})  # what may be convicted
NAMES = {TaskKind.ROUND: ["delta"], TaskKind.MERGE: ["outer", "theta"], TaskKind.COMMAND: ["out.txt"]}


def recipe(*, rounds: int = 2, lanes: int = 2) -> RecipeSpec:
    """Return the settings of a toy job."""
    return jobspec.RecipeSpec("recipe.py:recipe", rounds, lanes, (2, 3), 0, STEP_MS, {})


@dataclass
class Toy(Party):
    """A node without a model."""

    manner: frozenset[str] = field(default_factory=frozenset)
    word: str = ""  # of its lies; its own name where none is given
    ends: str | None = None  # how programs end, as it says whatever they do

    @property
    def is_liar(self) -> bool:
        """Tell whether it may be convicted."""
        return bool(self.manner & {*LIES, LATER}) or self.ends is not None

    def compute(self, assignment: Assignment, sight: Sight) -> Computed:
        """Hash the assignment, and the machine where the program looks at it."""
        return self._made(assignment, f"machine {self.name}") if FLIPS in self.manner else self.honest(assignment)

    def honest(self, assignment: Assignment) -> Computed:
        """Return what a task makes."""
        return self._made(assignment, "")

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Do a task, or make it up."""
        wanted = "lies-merging" if assignment.kind is TaskKind.MERGE else "lies"
        is_late = LATER in self.manner and assignment.kind is TaskKind.ROUND and "/r0/" not in assignment.task
        made_up = is_late or wanted in self.manner
        done = self._made(assignment, self._lie) if made_up else self.compute(assignment, sight)
        self.made[assignment.task] = done
        return done.outputs

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Recompute somebody's task, or make it up."""
        honest, false = self.compute(assignment, sight), self._made(assignment, self._lie)
        outputs = false if "accuses" in self.manner else honest
        state = false if self.manner & {"accuses", "guesses"} else honest
        return Said(commitments.answer_hash(salt, state.states[step]), outputs.listed, outputs.ended)

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Take the time, take long, or never come."""
        drawn = chance.random()
        if what != "work" and f"silent-{'prover' if what == 'question' else 'auditor'}" in self.manner:
            return None
        if what == "work" and "vanishes" in self.manner and drawn < 0.4:
            return None
        return expected * (4.0 * drawn + 1.0 if "slow" in self.manner else 0.8 + 0.3 * drawn)

    @property
    def _lie(self) -> str:
        return self.word or self.name

    def _made(self, assignment: Assignment, lie: str) -> Computed:
        seed = f"{predicates.assignment_digest(assignment)} {lie}".encode()
        outputs = {name: hashlib.sha256(seed + name.encode()).digest() for name in NAMES[assignment.kind]}
        states = {step: hashlib.sha256(seed + b"%d" % step).digest() for step in range(1, assignment.num_steps + 1)}
        return Computed(outputs, states, self.ends)
