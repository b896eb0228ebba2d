"""Replay: an auditor does a task again from its assignment, knowing nothing of the prover's result.

Rules:
1. The only inputs are the assignment's, by digest; the prover's root is neither read nor accepted as
   an argument, so a lazy auditor cannot repeat it through this door.
2. The whole unit is recomputed, not the drawn step: outputs and inner state come from one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from stannary.errors import FormatError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.formats.predicates import Assignment, Output, result_root


class Computation(Protocol):
    """What running a task leaves behind (train.round.RoundResult is one)."""

    @property
    def outputs(self) -> Mapping[str, bytes]:
        """Output bytes by name."""

    @property
    def states(self) -> Mapping[int, bytes]:
        """Canonical state bytes by step, for the steps that were asked for (or what the runner keeps instead)."""

    @property
    def compute_ms(self) -> int:
        """Milliseconds of computing."""


class Runner(Protocol):
    """Whoever can compute a task."""

    def compute(self, assignment: Assignment, step: int) -> Computation:
        """Compute the task from its assignment, keeping the state after `step` steps."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a recomputation found."""

    outputs: tuple[Output, ...]
    state: bytes
    compute_ms: int

    @property
    def root(self) -> Digest:
        """Return the root to compare with the prover's."""
        return result_root(self.outputs)


def replay(assignment: Assignment, step: int, runner: Runner) -> Replay:
    """Recompute a task and keep its state at the drawn step.

    Raises:
        FormatError: a step the task does not have.
    """
    check_step(assignment, step)
    done = runner.compute(assignment, step)
    return Replay(outputs_of(done.outputs), done.states[step], done.compute_ms)


def check_step(assignment: Assignment, step: int) -> None:
    """Raise FormatError unless the task has this inner step."""
    if not 1 <= step <= assignment.num_steps:
        raise FormatError("audit asks for a step the task does not have", why=f"{step} of {assignment.num_steps}")


def outputs_of(outputs: Mapping[str, bytes]) -> tuple[Output, ...]:
    """Return the records of output bytes, in name order."""
    return tuple(Output(name, digest.digest(outputs[name]), len(outputs[name])) for name in sorted(outputs))
