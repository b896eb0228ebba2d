"""Replay: an auditor does a task again from its assignment, knowing nothing of the prover's result.

Rules:
1. The only inputs are the assignment's, by digest; the prover's root is neither read nor accepted as
   an argument, so a lazy auditor cannot repeat it through this door.
2. The whole unit is recomputed, not the drawn step: outputs and inner state come from one run, the same that the
   prover's came from (worker/tasks.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from stannary.errors import FormatError
from stannary.formats import digest
from stannary.formats.predicates import Assignment, Output


def check_step(assignment: Assignment, step: int) -> None:
    """Raise FormatError unless the task has this inner step."""
    if not 1 <= step <= assignment.num_steps:
        raise FormatError("audit asks for a step the task does not have", why=f"{step} of {assignment.num_steps}")


def outputs_of(outputs: Mapping[str, bytes]) -> tuple[Output, ...]:
    """Return the records of output bytes, in name order."""
    return tuple(Output(name, digest.digest(outputs[name]), len(outputs[name])) for name in sorted(outputs))
