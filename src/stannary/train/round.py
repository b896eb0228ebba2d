"""One round of one lane: a pure function of weights, assignment and signed settings.

    theta_0 = theta_t
    theta_(k+1) = theta_k - Inner(grad loss(theta_k, examples(step, lane)))     k = 0 .. H-1
    delta = theta_0 - theta_H

The inner optimizer begins anew (docs/rounds.md), data and learning rate are public
functions of the global step, so that a node that never saw the job before, an auditor, and the
buyer all compute the same bytes from the same log entries. A lane whose node died is taken up from
the weights alone.

State bytes after s steps (1 .. H) are the canonical checkpoint of the weights: what audit questions
hash, and what a bisection compares.

In memory at once are the weights, their gradients and the optimizer's moments, afterwards the weights, those they
began with (made again: they are a function of the assignment), and the delta.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from stannary import heap
from stannary.formats import jobspec
from stannary.formats.predicates import Assignment
from stannary.formats.training import Training
from stannary.rules.kinds import DELTA
from stannary.train import checkpoint, data, recipe, schedule
from stannary.train.muon import InnerOptimizer
from stannary.train.recipe import Recipe

Progress = Callable[[int, int, float], None]  # (step, steps, loss)
Keep = Callable[[int], bool]  # whether to keep the state after a step, 1 .. num_steps


def ignore_progress(step: int, steps: int, loss: float) -> None:
    """Follow nothing."""


def keep_all(step: int) -> bool:
    """Keep the state after every step."""
    return step > 0


def keep_none(step: int) -> bool:
    """Keep no state; a question later is answered by computing again."""
    return step < 0


@dataclass(frozen=True, slots=True)
class Recording:
    """What to keep and whom to tell while a round or merge runs; none of it touches the result."""

    keep: Keep = keep_all
    progress: Progress = ignore_progress
    spell: checkpoint.Spell = checkpoint.Encoder  # what is kept of a state


RECORDING = Recording()


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The outputs of a round or merge, and what it can be asked about later."""

    outputs: dict[str, bytes]
    states: dict[int, bytes]  # canonical checkpoint after the steps that were kept, as `spell` has it
    metrics: dict[str, str]
    num_steps: int
    tokens: int
    compute_ms: int
    notes: list[str] = field(default_factory=list)  # for the job log, e.g. a contribution that weighs nothing


def run_round(
    recipe_: Recipe,
    assignment: Assignment,
    settings: jobspec.RecipeSpec,
    theta: checkpoint.Source | None,
    recording: Recording = RECORDING,
) -> RoundResult:
    """Take the inner steps of one assignment and return its pseudo-gradient."""
    started = time.monotonic()
    model = recipe.build(recipe_, settings, theta)
    weights = recipe.weights_of(model)
    optimizer = InnerOptimizer(weights, settings.training)
    num_steps = schedule.total_steps(settings)
    states: dict[int, bytes] = {}
    losses: list[float] = []
    for inner in range(assignment.num_steps):
        step = assignment.first_step + inner
        losses.append(accumulate(recipe_, model, settings, step=step, lane=assignment.lane))
        optimizer.step(lr_at(settings.training, step, inner, num_steps))
        optimizer.clear()
        if recording.keep(inner + 1):
            states[inner + 1] = checkpoint.spelled(weights, recording.spell)
        recording.progress(inner + 1, assignment.num_steps, losses[-1])
    del optimizer  # its moments make room for the delta
    heap.give_back()
    return RoundResult(
        outputs={DELTA: _delta(recipe.weights_of(recipe.build(recipe_, settings, theta)), weights)},
        states=states,
        metrics={"loss": decimal(sum(losses) / len(losses)), "last_loss": decimal(losses[-1])},
        num_steps=assignment.num_steps,
        tokens=assignment.num_steps * settings.training.batch_size * recipe_.tokens_per_example,
        compute_ms=round((time.monotonic() - started) * 1000),
    )


def _delta(start: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bytes:
    encoder = checkpoint.Encoder(checkpoint.describe(weights))
    for name in sorted(weights):
        encoder.add(name, start[name].detach() - weights[name].detach())
    return encoder.finish()


def lr_at(training: Training, step: int, inner: int, num_steps: int) -> float:
    """Return the share of the peak rate: the global schedule times the re-warm of a fresh optimizer."""
    return schedule.lr_factor(training, step, num_steps) * schedule.rewarm_factor(training, inner)


def accumulate(recipe_: Recipe, model: nn.Module, settings: jobspec.RecipeSpec, *, step: int, lane: int) -> float:
    """Leave the gradient of one step's batch in the weights, microbatch by microbatch; return the mean loss."""
    training = settings.training
    recipe.seed_everything(data.step_seed(settings.seed, step, lane))
    examples = data.draw_examples(settings.seed, step, lane, training.batch_size, num_examples=recipe_.num_examples)
    total = 0.0
    for begin in range(0, len(examples), training.microbatch_size):
        part = examples[begin : begin + training.microbatch_size]
        loss: Tensor = recipe.loss_of(recipe_, model, part) * (len(part) / len(examples))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        total += float(loss.detach())
    return total


def decimal(value: float) -> str:
    """Spell a measure for a signed record: six decimals, `nan` and `inf` as they are."""
    return f"{value:.6f}"
