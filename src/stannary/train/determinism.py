"""The check before pay: a recipe must give the same bits twice.

Two steps from the same weights are run twice in one process and their states compared. What differs
only between processes (hash order of strings) is removed by the worker's environment; what still
slips through is met by the first audit, and costs the prover nothing but a second look, since his
auditors cannot agree against him either.
"""

from __future__ import annotations

from stannary.formats import jobspec
from stannary.formats.ids import JobId, TaskId, TaskKind
from stannary.formats.predicates import Assignment
from stannary.train import checkpoint
from stannary.train.recipe import Recipe
from stannary.train.round import Progress, Recording, ignore_progress, run_round

CHECKED_STEPS = 2


def first_difference(recipe: Recipe, settings: jobspec.Recipe, progress: Progress = ignore_progress) -> int | None:
    """Return the first inner step after which two runs differ, None where they agree."""
    probe = Assignment(
        job=JobId("j-000000000000"),
        task=TaskId("j-000000000000/r0/l0/a0"),
        kind=TaskKind.ROUND,
        round=0,
        lane=0,
        num_steps=CHECKED_STEPS,
        first_step=0,
        tokens=0,
    )
    recording = Recording(spell=checkpoint.fingerprint, progress=progress)  # a state is as large as the model
    first, second = (run_round(recipe, probe, settings, None, recording).states for _ in range(2))
    return next((step for step in sorted(first) if first[step] != second[step]), None)
