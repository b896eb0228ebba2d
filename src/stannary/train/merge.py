"""The merge of a round: the aggregator's task, recomputable bit for bit from the log.

    s_r = min(1, median norm / ||delta_r||)          clip: one loud contribution moves no more than the middle one
    G   = sum_r w_r s_r delta_r,  w_r = weight_r / sum of weights
    m'  = mu m + G
    theta' = theta - eta (G + mu m')                 outer SGD with Nesterov

Rules:
1. The order of summation is that of the log indices, sums are fp32, norms fp64: with the engine class
   fixed, whoever may open the contributions gets the same theta'.
2. A contribution that has another size than a delta of this model, is no checkpoint of it, or holds a value
   that is not finite, weighs nothing, and the job log says so. Liars decide nothing about whether a merge can be made.
3. What is admitted is what the assignment lists. A conviction inside the window is answered by
   another merge whose assignment leaves the convicted out: the result is that of a run which never
   admitted it (no subtraction, so no rounding left behind).

State bytes after s contributions (1 .. admitted) are the canonical bytes of the running sum G.

Contributions stay where they lie and are read tensor by tensor, twice: for their norms, then for the sum. In
memory are the weights, the new outer state, the tensor in hand and the states that are kept (bench/merge_memory.py).
The weights go as their bytes are written, and their room goes back at once: otherwise it is a third model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stannary import heap
from stannary.errors import FormatError, LimitExceeded, NotFound
from stannary.formats import canonical, jobspec
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Admitted, Assignment
from stannary.formats.training import fraction
from stannary.rules.kinds import OUTER, THETA
from stannary.train import checkpoint, data, recipe
from stannary.train.recipe import Recipe
from stannary.train.round import RECORDING, Recording, RoundResult, decimal

GIVE_BACK_BYTES = 64 * 1024**2  # freed by then, a walk over the heap (milliseconds) is worth it


@dataclass(frozen=True, slots=True)
class MergeInputs:
    """What an assignment names: weights (None: made from the seed), outer state, contributions.

    A contribution of another size than a delta has need not be there: its size alone says that it weighs nothing.
    """

    theta: checkpoint.Source | None
    outer: checkpoint.Source | None
    deltas: Mapping[TaskId, checkpoint.Source | OfSize]


@dataclass(frozen=True, slots=True)
class OfSize:
    """A contribution of which the size is known and nothing else."""

    size_bytes: int


def run_merge(
    recipe_: Recipe,
    assignment: Assignment,
    settings: jobspec.RecipeSpec,
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
    outer, states = _step(weights, supports, inputs.outer, settings, recording)
    recipe.seed_everything(data.step_seed(settings.seed, recipe.EVALUATE_STEP, assignment.round))
    metrics = recipe_.evaluate(model)  # by every party: what it does to the model is in the result
    aliases = recipe.aliases_of(model) if assignment.round == settings.rounds - 1 else {}
    theta = _taken(weights, aliases, _metadata(settings))
    return RoundResult(
        outputs={THETA: theta, OUTER: outer},
        states=states,
        metrics={name: decimal(value) for name, value in metrics.items()},
        num_steps=assignment.num_steps,
        tokens=assignment.tokens,
        compute_ms=round((time.monotonic() - started) * 1000),
        notes=notes,
    )


def theta_bytes(described: Mapping[str, checkpoint.Described], settings: jobspec.RecipeSpec) -> int:
    """Return the size of the weights every merge but the last gives: those a later task begins with."""
    return checkpoint.encoded_bytes(described, _metadata(settings))


@dataclass(frozen=True, slots=True)
class Support:
    """An admitted contribution, opened; None where it weighs nothing (rule 2)."""

    admitted: Admitted
    delta: Mapping[str, Tensor] | None

    @property
    def norm(self) -> float:
        """Return the Euclidean norm over all tensors, in fp64 and name order."""
        if self.delta is None:
            return 0.0
        squares = [self.delta[name].double().square_().sum() for name in sorted(self.delta)]
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
def _step(
    weights: Mapping[str, Tensor],
    supports: Sequence[Support],
    outer: checkpoint.Source | None,
    settings: jobspec.RecipeSpec,
    recording: Recording,
) -> tuple[bytes, dict[int, bytes]]:
    """Sum the contributions and apply one Nesterov step to the weights in place, tensor by tensor.

    Returns the new momentum, and the running sums after the contributions that are kept.
    """
    eta = fraction(settings.training.outer_lr, "outer_lr")
    mu = fraction(settings.training.outer_momentum, "outer_momentum")
    momenta = None if outer is None else checkpoint.Stored(outer)
    if momenta is not None:
        recipe.check_like(momenta, weights)
    described = checkpoint.describe(weights)
    written = checkpoint.Encoder(described)
    weighed = list(zip(supports, factors(supports), strict=True))
    heap.give_back()  # norms took the largest tensor three times
    sums = {count: recording.spell(described) for count in range(1, len(weighed) + 1) if recording.keep(count)}
    for index, name in enumerate(sorted(weights), start=1):
        weight = weights[name]
        total = torch.zeros_like(weight)
        for count, (support, factor) in enumerate(weighed, start=1):
            if support.delta is not None:
                total.add_(support.delta[name], alpha=factor)
            if count in sums:
                sums[count].add(name, total)
        momentum = torch.zeros_like(weight) if momenta is None else momenta[name]
        momentum.mul_(mu).add_(total)
        weight.sub_(eta * (total + mu * momentum))
        written.add(name, momentum)
        recording.progress(len(weighed) * index // len(weights), len(weighed), 0.0)
    return written.finish(), {count: encoder.finish() for count, encoder in sums.items()}


def _metadata(settings: jobspec.RecipeSpec) -> dict[str, str]:
    return {"recipe": canonical.encode(settings.options).decode()}


def _taken(weights: Mapping[str, Tensor], aliases: Mapping[str, str], metadata: Mapping[str, str]) -> bytes:
    """Return weights as bytes, tied ones under each of their names, giving up their memory as they are written."""
    source = {**{name: name for name in weights}, **aliases}
    encoder = checkpoint.Encoder(checkpoint.describe({name: weights[own] for name, own in source.items()}), metadata)
    tied, num_freed_bytes = set(aliases.values()), 0
    for name in sorted(source):
        weight = weights[source[name]]
        encoder.add(name, weight)
        if source[name] not in tied:
            num_freed_bytes += weight.nbytes
            weight.data = torch.empty(0)
        if num_freed_bytes >= GIVE_BACK_BYTES:
            heap.give_back()
            num_freed_bytes = 0
    return encoder.finish()


def _open(
    task: TaskId, source: checkpoint.Source | OfSize, weights: Mapping[str, Tensor], notes: list[str]
) -> checkpoint.Stored | None:
    try:
        delta = _delta_of(source, weights)
    except (FormatError, LimitExceeded) as err:
        notes.append(f"{task} weighs nothing: {err}")
        return None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in delta.values()):
        notes.append(f"{task} weighs nothing: it holds values that are not finite")
        return None
    return delta


def _delta_of(source: checkpoint.Source | OfSize, weights: Mapping[str, Tensor]) -> checkpoint.Stored:
    expected = checkpoint.encoded_bytes(checkpoint.describe(weights))
    found = source.size_bytes if isinstance(source, OfSize) else checkpoint.size_of(source)
    if found != expected:
        why = f"{found:,} bytes, a delta of this model has {expected:,}"
        raise FormatError("not the size of a contribution", why=why)
    if isinstance(source, OfSize):  # no word about the contribution: without it there is no merge
        raise NotFound("a contribution of the right size is not in the sandbox", why=f"{found:,} bytes")
    delta = checkpoint.Stored(source)
    recipe.check_like(delta, weights)
    return delta
