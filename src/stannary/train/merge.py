"""The merge of a round: the aggregator's task, recomputable bit for bit from the log.

    s_r = min(1, median norm / ||delta_r||)          clip: one loud contribution moves no more than the middle one
    G   = sum_r w_r s_r delta_r,  w_r = weight_r / sum of weights
    m'  = mu m + G
    theta' = theta - eta (G + mu m')                 outer SGD with Nesterov

Rules:
1. The order of summation is that of the log indices, sums are fp32, norms fp64: with the engine class
   fixed, whoever may open the contributions gets the same theta'.
2. A contribution that is no checkpoint of this model, or holds a value that is not finite, weighs
   nothing, and the job log says so. Liars decide nothing about whether a merge can be made.
3. What is admitted is what the assignment lists. A conviction inside the window is answered by
   another merge whose assignment leaves the convicted out: the result is that of a run which never
   admitted it (no subtraction, so no rounding left behind).

State bytes after s contributions (1 .. admitted) are the canonical bytes of the running sum G.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stannary.errors import FormatError
from stannary.formats import canonical, jobspec
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Admitted, Assignment
from stannary.formats.training import fraction
from stannary.train import checkpoint, recipe
from stannary.train.recipe import Recipe
from stannary.train.round import RECORDING, Recording, RoundResult, decimal

THETA = "theta"
OUTER = "outer"


@dataclass(frozen=True, slots=True)
class MergeInputs:
    """The bytes an assignment names: weights (None: made from the seed), outer state, contributions."""

    theta: bytes | None
    outer: bytes | None
    deltas: Mapping[TaskId, bytes]


def run_merge(
    recipe_: Recipe,
    assignment: Assignment,
    settings: jobspec.Recipe,
    inputs: MergeInputs,
    recording: Recording = RECORDING,
) -> RoundResult:
    """Merge the admitted contributions into the next weights and outer state."""
    started = time.monotonic()
    model = recipe.build(recipe_, settings, inputs.theta)
    weights = recipe.weights_of(model)
    notes: list[str] = []
    supports = [
        Support(item, _open(item.task, inputs.deltas[item.task], weights, notes))
        for item in sorted(assignment.admitted or (), key=lambda item: item.log_index)
    ]
    states: dict[int, bytes] = {}
    gradient = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for count, (support, factor) in enumerate(zip(supports, factors(supports), strict=True), start=1):
        for name, total in gradient.items():
            if support.delta is not None:
                total.add_(support.delta[name], alpha=factor)
        if recording.keep(count):
            states[count] = checkpoint.encode(gradient)
        recording.progress(count, len(supports), 0.0)
    outer = outer_step(weights, gradient, inputs.outer, settings)
    return RoundResult(
        outputs={
            THETA: checkpoint.encode(weights, {"recipe": canonical.encode(settings.options).decode()}),
            OUTER: checkpoint.encode(outer),
        },
        states=states,
        metrics={name: decimal(value) for name, value in recipe_.evaluate(model).items()} if recording.evaluate else {},
        num_steps=assignment.num_steps,
        tokens=assignment.tokens,
        compute_ms=round((time.monotonic() - started) * 1000),
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class Support:
    """An admitted contribution, opened; None where it weighs nothing (rule 2)."""

    admitted: Admitted
    delta: dict[str, Tensor] | None

    @property
    def norm(self) -> float:
        """Return the Euclidean norm over all tensors, in fp64 and name order."""
        if self.delta is None:
            return 0.0
        squares = [self.delta[name].double().square().sum() for name in sorted(self.delta)]
        return float(torch.stack(squares).sum().sqrt())


def factors(supports: Sequence[Support]) -> list[float]:
    """Return w_r s_r of each contribution: its share of the weights times its clip to the median norm."""
    norms = [support.norm for support in supports]
    heard = sorted(norm for norm, support in zip(norms, supports, strict=True) if support.delta is not None)
    total = sum(support.admitted.weight_ppm for support in supports if support.delta is not None)
    if not heard or total == 0:
        return [0.0] * len(supports)
    middle = (heard[(len(heard) - 1) // 2] + heard[len(heard) // 2]) / 2
    return [
        0.0 if support.delta is None else support.admitted.weight_ppm / total * min(1.0, middle / max(norm, 1e-30))
        for norm, support in zip(norms, supports, strict=True)
    ]


@torch.no_grad()
def outer_step(
    weights: Mapping[str, Tensor], gradient: Mapping[str, Tensor], outer: bytes | None, settings: jobspec.Recipe
) -> dict[str, Tensor]:
    """Apply one Nesterov step to the weights in place and return the new momentum."""
    eta = fraction(settings.training.outer_lr, "outer_lr")
    mu = fraction(settings.training.outer_momentum, "outer_momentum")
    if outer is None:
        momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    else:
        momentum = checkpoint.decode(outer).tensors
        recipe.check_like(momentum, weights)
    for name, weight in weights.items():
        momentum[name].mul_(mu).add_(gradient[name])
        weight.sub_(eta * (gradient[name] + mu * momentum[name]))
    return momentum


def _open(task: TaskId, data: bytes, weights: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor] | None:
    try:
        delta = checkpoint.decode(data).tensors
        recipe.check_like(delta, weights)
    except FormatError as err:
        notes.append(f"{task} weighs nothing: {err}")
        return None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in delta.values()):
        notes.append(f"{task} weighs nothing: it holds values that are not finite")
        return None
    return delta
