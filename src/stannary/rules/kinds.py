"""The kinds of job and of task: what the market, nodes, the verifier and faces must all know of each, said once.

Rules:
- A kind is asked here and nowhere else (tests/unit/rules/test_kinds.py): whoever needs a fact that differs between
  kinds adds it as a field. What a spec of each kind may hold is in formats/jobspec.py.
- A job is rounds of lanes. Where its kind has a merge, one joins the lanes of each round into what the next begins
  with, and the result is the last one's; else the result is what each lane handed in.
- What differs in doing is built on this, a class a kind: jobs/course/kinds plans.

docs/course.md lists what to do to add a kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stannary.formats import jobspec
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobKind, JobSpec
from stannary.formats.lean import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

# What a training job's tasks hand in, by name: a lane its pseudo-gradient, a merge the weights and the outer state.
DELTA, THETA, OUTER = "delta", "theta", "outer"
LEAST_STEP_MS = 1_000  # where no time of a step is agreed, who is silent had so much for each (docs/receipt.md R7.8)
WEIGHT_PPM = 1_000_000  # of each lane in a merge, which divides by the sum: lanes of one round have equal tokens
MODEL = "model.safetensors"  # the last weights, as a result


@dataclass(frozen=True, slots=True)
class TaskRules:
    """One kind of task."""

    words: str  # as people say it, of round and lane
    outputs: frozenset[str] | None  # exactly what it hands in; None: what the spec's patterns find
    is_merge: bool = False  # joins the lanes of its round: no node's own, always replayed, paid as a merge
    is_program: bool = False  # the buyer's own process does it, and how that ended is part of the result
    trains: bool = False  # its steps are inner steps: their time is measured, and a lane can be late behind others


@dataclass(frozen=True, slots=True)
class KindRules:
    """One kind of job."""

    lane: TaskKind  # what each lane of a round does
    merge: TaskKind | None  # what joins the lanes of a round
    window: int  # W: merge t waits for the audits of round and merge t - W
    loads_recipe: bool  # into the worker, which remembers; else each task is a program, and its worker ends with it
    schedule: Callable[
        [JobSpec], tuple[int, tuple[int, ...], int | None]
    ]  # rounds, steps of each, ms agreed for a step


def of(spec: JobSpec) -> KindRules:
    """Return what holds for a job's kind."""
    return KINDS[spec.kind]


def named(word: str) -> KindRules | None:
    """Return what holds for the kind of this name, None where another release knows more kinds than this one."""
    return next((rules for kind, rules in KINDS.items() if kind == word), None)


def _of_recipe(spec: JobSpec) -> tuple[int, tuple[int, ...], int | None]:
    recipe = jobspec.recipe_of(spec)
    return recipe.rounds, recipe.inner_steps, recipe.step_ms


TASKS = {
    TaskKind.ROUND: TaskRules("lane {1} of round {0}", frozenset({DELTA}), trains=True),
    TaskKind.MERGE: TaskRules("the merge of round {0}", frozenset({THETA, OUTER}), is_merge=True),
    TaskKind.COMMAND: TaskRules("the command of lane {1}", None, is_program=True),
}

KINDS = {
    JobKind.TRAIN: KindRules(TaskKind.ROUND, TaskKind.MERGE, window=1, loads_recipe=True, schedule=_of_recipe),
    # One round of one step, which takes as long as the job may.
    JobKind.COMMAND: KindRules(
        TaskKind.COMMAND,
        None,
        window=0,
        loads_recipe=False,
        schedule=lambda spec: (1, (1,), spec.resources.wall_s * 1000),
    ),
}
