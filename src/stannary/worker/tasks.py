"""Tasks inside the sandbox: assignments joined to blobs, computed by train/, remembered for questions.

Rules:
1. Everything a task depends on is named in its assignment, by digest or root (border/blobs.py).
2. The states of a task are handed back as far as a memory cap allows (kept.py); a question about another is answered by
   computing again, since a task is a pure function of its assignment.
3. Computing again takes no more memory than the task did, or who did the work could not answer for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stannary.audit import answer as answers
from stannary.audit import replay
from stannary.border.blobs import Blobs
from stannary.errors import FormatError
from stannary.formats import jobspec
from stannary.formats.digest import Digest
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Admitted, Assignment, Output, result_root
from stannary.rules.kinds import TASKS
from stannary.train import checkpoint, recipe
from stannary.train.merge import MergeInputs, OfSize, run_merge, theta_bytes
from stannary.train.recipe import Recipe
from stannary.train.round import Progress, Recording, RoundResult, ignore_progress, run_round
from stannary.worker.kept import STATE_SHARE


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job ready to run: its settings and the recipe made from its inputs."""

    spec: jobspec.JobSpec
    settings: jobspec.RecipeSpec
    recipe: Recipe


class TaskRunner:
    """Computes rounds and merges of one job; an audit.replay.Runner."""

    def __init__(self, prepared: Prepared, blobs: Blobs) -> None:
        self.prepared = prepared
        self.blobs = blobs
        model = recipe.build(prepared.recipe, prepared.settings, None)
        recipe.check_measures(prepared.recipe, model)
        described = checkpoint.describe(recipe.weights_of(model))
        self.delta_bytes = checkpoint.encoded_bytes(described)  # of an outer state, too
        self.theta_bytes = theta_bytes(described, prepared.settings)
        self.state_limit_bytes = prepared.spec.resources.memory_bytes // STATE_SHARE
        self.progress: Progress = ignore_progress  # of what is computed for a question
        self.unfetched: Mapping[
            TaskId, Output
        ] = {}  # contributions of another size than delta_bytes, left where they are

    def task(self, assignment: Assignment, step: int, salt: bytes) -> tuple[RoundResult, str]:
        """Do a task and answer a question about one of its steps, for whoever asked.

        It is one way for work, of which the question is drawn by the node and thrown away, and for an audit, whose
        result is: what a recipe sees, counts or changes on its way is the same in both.

        Raises:
            FormatError: a step the task does not have.
        """
        replay.check_step(assignment, step)
        if assignment.num_steps * self.delta_bytes > self.state_limit_bytes:
            result = self.asked(salt).compute(assignment, step)
            return dataclasses.replace(result, states={}), result.states[step].hex()
        result = self._compute(assignment, Recording(progress=self.progress))
        return result, answers.answer(result.states[step], salt)

    def compute(self, assignment: Assignment, step: int) -> RoundResult:
        """Compute an assignment, keeping one state."""
        return self.recompute(assignment, step, checkpoint.Encoder)

    def asked(self, salt: bytes) -> Asked:
        """Return a runner that keeps, instead of a state, the answer to a question about it."""
        return Asked(self, salt)

    def answer(self, assignment: Assignment, step: int, salt: bytes) -> str:
        """Answer by computing again; a round no further than the step that is asked about."""
        if TASKS[assignment.kind].trains:
            assignment = dataclasses.replace(assignment, num_steps=step)
        return self.asked(salt).compute(assignment, step).states[step].hex()

    def recompute(self, assignment: Assignment, step: int, spell: checkpoint.Spell) -> RoundResult:
        """Recompute an assignment and keep one state as `spell` has it."""
        recording = Recording(lambda done: done == step, progress=self.progress, spell=spell)
        return self._compute(assignment, recording)

    def _compute(self, assignment: Assignment, recording: Recording) -> RoundResult:
        theta = self._optional(assignment.theta)
        settings = self.prepared.settings
        if TASKS[assignment.kind].trains:
            return run_round(self.prepared.recipe, assignment, settings, theta, recording)
        if TASKS[assignment.kind].is_merge:
            inputs = MergeInputs(theta, self._optional(assignment.outer), self._contributions(assignment))
            return run_merge(self.prepared.recipe, assignment, settings, inputs, recording)
        raise FormatError("a training job has no such task", why=assignment.kind.value)

    def _optional(self, name: Digest | None) -> Path | None:
        return None if name is None else self.blobs.checked(name)

    def _contributions(self, assignment: Assignment) -> Mapping[TaskId, Path | OfSize]:
        return {item.task: self._contribution(item) for item in assignment.admitted or ()}

    def _contribution(self, item: Admitted) -> Path | OfSize:
        unfetched = self.unfetched.get(item.task)
        if unfetched is not None and result_root((unfetched,)) == item.root:  # so its size is the one that was signed
            return OfSize(unfetched.size_bytes)
        return self.blobs.contribution(item.root)


@dataclass(frozen=True, slots=True)
class Asked:
    """Recomputes tasks in the memory they took: a state goes into the answer's hash and is not held beside them."""

    runner: TaskRunner
    salt: bytes

    def compute(self, assignment: Assignment, step: int) -> RoundResult:
        """Recompute an assignment; its one state is the answer about that step."""

        def spell(described: Mapping[str, checkpoint.Described]) -> checkpoint.Hasher:
            return checkpoint.Hasher(described, answers.begin(self.salt, checkpoint.encoded_bytes(described)))

        return self.runner.recompute(assignment, step, spell)
