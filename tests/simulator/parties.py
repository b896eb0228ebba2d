"""What a simulated day asks of a node, and what a node can see; who it is and how it computes is its class's own.

work      what a task makes                       (a liar makes something else)
answer    the state behind its own contribution
audit     what somebody else's task makes         (a lazy auditor makes it up)
metered   what its meter says of that               (who inflates it says more)
minutes   how long it takes, None for never       (slow, vanishing, silent)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.verify.world import Node as Signer

from stannary.formats import commitments, digest, predicates
from stannary.formats.digest import Digest
from stannary.formats.predicates import Assignment, Output, Role

Blob = Callable[[Digest], bytes]


@dataclass(frozen=True)
class Said:
    """An answer to an audit question: H(salt, state) and the outputs it stands by."""

    answer: str
    outputs: tuple[Output, ...]
    ended: str | None = None


@dataclass(frozen=True)
class Computed:
    """What a task makes: outputs by name, and the state after each step."""

    outputs: dict[str, bytes]
    states: dict[int, bytes]
    ended: str | None = None  # how its program ended, where that is part of the result

    @property
    def listed(self) -> tuple[Output, ...]:
        """Return the outputs as a contribution lists them."""
        return tuple(Output(name, digest.digest(data), len(data)) for name, data in sorted(self.outputs.items()))


@dataclass
class Sight:
    """What a node can see besides its task: blobs by digest, and what friends told it of others' work."""

    blob: Blob
    contributed: Callable[[str], predicates.Contribution | None]  # of a task, if handed in
    beside: Callable[[Assignment], predicates.Contribution | None]  # another lane's work of the same round
    chance: random.Random  # the day's own, so that one seed replays lies too


@dataclass
class Party(Signer):
    """An honest node."""

    pace: float = 1.0
    busy_s: tuple[float, float] | None = None  # from when until when it has a piece of another job in hand
    made: dict[str, Computed] = field(default_factory=dict)

    def compute(self, assignment: Assignment, sight: Sight) -> Computed:
        """Do a task."""
        raise NotImplementedError

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Do a task and keep what may be asked about."""
        self.made[assignment.task] = done = self.compute(assignment, sight)
        return done.outputs

    def answer(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Answer for one's own task."""
        done = self.made[assignment.task]
        return Said(commitments.answer_hash(salt, done.states[step]), done.listed, done.ended)

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Recompute somebody's task."""
        done = self.compute(assignment, sight)
        return Said(commitments.answer_hash(salt, done.states[step]), done.listed, done.ended)

    def metered_ms(self, assignment: Assignment, role: Role, took_ms: int) -> int:
        """Return what its sandbox says that a task took it, as its prover or as an auditor."""
        return took_ms

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Return how long a task or question takes; None: it never comes."""
        return expected * self.pace * chance.uniform(0.8, 1.1)
