"""Nodes that train a tiny model: honest, slow and vanishing ones, and every liar as a class of its own.

A liar answers one of the four questions of parties.py otherwise than it should.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch
from tests.simulator.kernel import Kernel
from tests.simulator.parties import Computed, Party, Said, Sight

from stannary.formats import predicates
from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Assignment, Output
from stannary.rules.kinds import THETA

LR_OFF = 1.02


@dataclass
class SimulatedNode(Party):
    """An honest node."""

    kernel: Kernel = None  # type: ignore[assignment]  # dataclass order: always given

    def compute(self, assignment: Assignment, sight: Sight) -> Computed:
        """Train."""
        return self.kernel.compute(assignment, sight.blob)


class SlowNode(SimulatedNode):
    """Honest, and three times as slow as agreed; sometimes eight times."""

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Take long."""
        return expected * chance.choice([3.0, 3.0, 8.0])


class VanishingNode(SimulatedNode):
    """Honest, and gone in the middle of every third task; it comes back an hour later with what it had begun."""

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Vanish now and then."""
        if what == "work" and chance.random() < 1 / 3:
            return None
        return super().minutes(expected, what, chance)


class Liar(SimulatedNode):
    """Hands in something else for rounds, keeps its false states, and stands by them; audits honestly."""

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Lie about rounds."""
        if assignment.kind is not TaskKind.ROUND:
            return super().work(assignment, sight)
        self.made[assignment.task] = false = self.false(assignment, sight)
        return false.outputs

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Return what is handed in instead of the work."""
        raise AssertionError("a liar says how it lies")


class SkippedSteps(Liar):
    """Does one step fewer than assigned and claims them all."""

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Stop one step early; the last state stands in for the one that is missing."""
        short = dataclasses.replace(assignment, num_steps=assignment.num_steps - 1)
        done = self.kernel.compute(short, sight.blob)
        return Computed(done.outputs, {**done.states, assignment.num_steps: done.states[short.num_steps]})


class WrongRate(Liar):
    """Trains at a learning rate two per cent off."""

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Use other settings."""
        training = self.kernel.job.training
        rates = {name: str(float(getattr(training, name)) * LR_OFF) for name in ("muon_lr", "adamw_lr")}
        off = dataclasses.replace(self.kernel.job, training=dataclasses.replace(training, **rates))
        return Kernel(off, self.kernel.recipe).compute(assignment, sight.blob)


class StaleBase(Liar):
    """Trains from the weights of its last round, and so saves a download."""

    def __post_init__(self) -> None:
        """Remember nothing yet."""
        super().__post_init__()
        self.last = None

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Start from older weights (in the first round there are none: it is honest)."""
        stale = dataclasses.replace(assignment, theta=self.last)
        self.last = assignment.theta
        return self.kernel.compute(stale, sight.blob)


class LowPrecision(Liar):
    """Computes in bf16 and hands in fp32."""

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Save half the arithmetic."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.kernel.compute(assignment, sight.blob)


class Copier(Liar):
    """Hands in another lane's bytes as its own; a friend at the market passes them on."""

    def false(self, assignment: Assignment, sight: Sight) -> Computed:
        """Copy a neighbour's output and make up the states behind it; alone, be honest."""
        victim = sight.beside(assignment)
        if victim is None:
            return self.kernel.compute(assignment, sight.blob)
        outputs = {item.name: sight.blob(item.digest) for item in victim.outputs}
        return Computed(outputs, {step: sight.chance.randbytes(32) for step in range(1, assignment.num_steps + 1)})


class FalseMerger(SimulatedNode):
    """Honest in rounds; as aggregator it hands in the weights it was given, unmerged."""

    def work(self, assignment: Assignment, sight: Sight) -> dict[str, bytes]:
        """Forge the weights of merges."""
        honest = super().work(assignment, sight)
        if assignment.kind is not TaskKind.MERGE or assignment.theta is None:
            return honest
        forged = {**honest, THETA: sight.blob(assignment.theta)}
        self.made[assignment.task] = Computed(forged, self.made[assignment.task].states)
        return forged


class SilentLiar(SkippedSteps):
    """Skips steps and, whenever it is asked about them, says nothing: silence is no crime."""

    def minutes(self, expected: float, what: str, chance: random.Random) -> float | None:
        """Answer no question."""
        return None if what == "question" else super().minutes(expected, what, chance)


class LazyAuditor(SimulatedNode):
    """Works honestly; as auditor it repeats the outputs a friend shows it and makes the state up."""

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Copy the root."""
        shown = sight.contributed(assignment.task)
        assert shown is not None
        return Said(sight.chance.randbytes(32).hex(), shown.outputs)


class FalseAccuser(SimulatedNode):
    """Works honestly; as auditor it finds everybody else wrong."""

    def audit(self, assignment: Assignment, step: int, salt: bytes, sight: Sight) -> Said:
        """Make up a result."""
        name = "delta" if assignment.kind is TaskKind.ROUND else "theta"
        return Said(
            sight.chance.randbytes(32).hex(), (Output(name, predicates.digest.digest(sight.chance.randbytes(8)), 8),)
        )
