"""Tasks inside the sandbox: assignments joined to blobs, computed by train/, remembered for questions.

Rules:
1. Everything a task depends on is named in its assignment, by digest or root (border/blobs.py).
2. States of the last tasks are kept within a memory cap to answer questions; what was dropped is
   computed again, since a task is a pure function of its assignment.
3. Computing again takes no more memory than the task did, or who did the work could not answer for it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
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
from stannary.formats.predicates import Admitted, Assignment, Output, assignment_digest, result_root
from stannary.rules import kinds
from stannary.rules.kinds import TASKS
from stannary.train import checkpoint, recipe
from stannary.train.merge import MergeInputs, OfSize, run_merge, theta_bytes
from stannary.train.recipe import Recipe
from stannary.train.round import Keep, Progress, Recording, RoundResult, ignore_progress, keep_all, keep_none, run_round

STATE_SHARE = 4  # at most this part of the job's memory holds states


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
        self.kept: OrderedDict[Digest, KeptTask] = OrderedDict()
        model = recipe.build(prepared.recipe, prepared.settings, None)
        recipe.check_measures(prepared.recipe, model)
        described = checkpoint.describe(recipe.weights_of(model))
        self.delta_bytes = checkpoint.encoded_bytes(described)  # of an outer state, too
        self.theta_bytes = theta_bytes(described, prepared.settings)
        self.kept_rounds = kinds.of(prepared.spec).window + 1  # the audits of those before are closed
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
        if self._keep_within_cap(assignment) is keep_none:
            result = self.asked(salt).compute(assignment, step)
            return result, result.states[step].hex()
        result = self.run(assignment, self.progress)
        return result, answers.answer(result.states[step], salt)

    def forget(self, assignment: Assignment) -> None:
        """Make room for the states of tasks that questions may come about."""
        self.kept.pop(assignment_digest(assignment), None)

    def run(self, assignment: Assignment, progress: Progress) -> RoundResult:
        """Do a task and remember its states as far as the cap allows."""
        recording = Recording(keep=self._keep_within_cap(assignment), progress=progress)
        result = self._compute(assignment, recording)
        self._remember(assignment, result)
        return result

    def compute(self, assignment: Assignment, step: int) -> RoundResult:
        """Compute an assignment, keeping one state."""
        return self.recompute(assignment, step, checkpoint.Encoder)

    def asked(self, salt: bytes) -> Asked:
        """Return a runner that keeps, instead of a state, the answer to a question about it."""
        return Asked(self, salt)

    def answer(self, assignment: Assignment, step: int, salt: bytes) -> str:
        """Answer from memory, or by computing again; a round no further than the step that is asked about."""
        kept = self.kept.get(assignment_digest(assignment))
        if kept is not None and step in kept.states:
            return answers.answer(kept.states[step], salt)
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

    def _keep_within_cap(self, assignment: Assignment) -> Keep:
        num_bytes = assignment.num_steps * self.delta_bytes
        return keep_all if num_bytes <= self.state_limit_bytes else keep_none

    def _remember(self, assignment: Assignment, result: RoundResult) -> None:
        self.kept[assignment_digest(assignment)] = KeptTask(assignment.round, dict(result.states))
        while self._is_over_cap(assignment.round):
            self.kept.popitem(last=False)

    def _is_over_cap(self, round_index: int) -> bool:
        if not self.kept:
            return False
        oldest = next(iter(self.kept.values()))
        total = sum(task.num_bytes for task in self.kept.values())
        return oldest.round <= round_index - self.kept_rounds or total > self.state_limit_bytes


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


@dataclass(frozen=True, slots=True)
class KeptTask:
    """States of a task done here, by step."""

    round: int
    states: dict[int, bytes]

    @property
    def num_bytes(self) -> int:
        """Memory the states take."""
        return sum(map(len, self.states.values()))
