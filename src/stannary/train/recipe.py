"""Recipes: what a buyer writes so that his own model and data can be trained in rounds.

A recipe is the attribute `entry` names in the work directory: a callable that takes the options of
the spec and the paths of the inputs and returns an object with the members of `Recipe`. It need not
import anything of ours (examples/nanogpt turns somebody's own loop into one in twenty lines).

Rules:
1. A round is a function of the weights alone: persistent buffers (running statistics) are refused,
   since they would be state that no contribution carries. Constant buffers are `persistent=False`.
2. Weights are fp32, named by `named_parameters()`, tied ones once.
3. Randomness inside `loss` comes from torch's, Python's or numpy's global generators, which are
   seeded from the public step seed before each step; anything else is found by `determinism.py`.

Loading a recipe runs the buyer's code: only the worker inside the sandbox does it, never the market.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from stannary.errors import FormatError, SpecError
from stannary.formats import jobspec
from stannary.formats.canonical import Json
from stannary.train import checkpoint, data

INIT_STEP = 2**53  # no inner step has this index: the seed of theta_0 is that of no step


class Recipe(Protocol):
    """A model, its public data, and the loss of examples."""

    @property
    def num_examples(self) -> int:
        """How many training examples there are; a step draws indices below this."""

    @property
    def tokens_per_example(self) -> int:
        """Tokens (or bytes, or pixels) one example counts for."""

    def build(self) -> nn.Module:
        """Return a freshly initialised model, using torch's global generator only."""

    def loss(self, model: nn.Module, examples: Sequence[int]) -> Tensor:
        """Return the mean loss over examples as a scalar."""

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return held-out measures, e.g. {"heldout_bits_per_byte": 2.3}; {} if there are none."""


Factory = Callable[[Mapping[str, Json], Mapping[str, Path]], Recipe]


def load(workdir: Path, settings: jobspec.Recipe, inputs: Mapping[str, Path]) -> Recipe:
    """Run the recipe's file and call its factory.

    Raises:
        SpecError: no such file or attribute, or not a callable.
    """
    file = (workdir / settings.file).resolve()
    if not file.is_relative_to(workdir.resolve()) or not file.is_file():
        raise SpecError("recipe.entry names no file of the work directory", why=settings.file)
    if str(workdir) not in sys.path:
        sys.path.insert(0, str(workdir))  # the recipe may be split over several files
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise SpecError("recipe.entry is not a Python file", why=settings.file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses in the recipe look their module up by name
    spec.loader.exec_module(module)
    factory = getattr(module, settings.attribute, None)
    if not callable(factory):
        raise SpecError("recipe.entry names no callable", why=settings.entry, hint="def recipe(options, inputs): ...")
    return cast(Factory, factory)(settings.options, inputs)


def build(recipe: Recipe, settings: jobspec.Recipe, theta: checkpoint.Source | None) -> nn.Module:
    """Return the model with the given weights, or with those made from the seed where theta is absent.

    Raises:
        FormatError: weights that are not those of this model.
        SpecError: a model no round can carry (rules 1 and 2).
    """
    seed_everything(data.step_seed(settings.seed, INIT_STEP, 0))
    model = recipe.build()
    weights = weights_of(model)
    if theta is not None:
        assign(weights, checkpoint.Stored(theta))
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, after checking that they are all the state there is."""
    buffers = set(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if buffers:
        raise SpecError(
            "recipe has persistent buffers",
            why=", ".join(sorted(buffers))[:200],
            hint="register constants with persistent=False; running statistics cannot travel with a round",
        )
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise SpecError("recipe has a weight that is not float32", why=f"{name}: {weight.dtype}")
    return cast("dict[str, Tensor]", weights)


@torch.no_grad()
def assign(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into weights of the same names and shapes."""
    check_like(values, weights)
    for name, weight in weights.items():
        weight.copy_(values[name])


def check_like(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise FormatError unless names, shapes and dtypes agree."""
    if set(values) != set(weights):
        odd = sorted(set(values) ^ set(weights))
        raise FormatError("checkpoint is of another model", why=f"tensors differ: {', '.join(odd)[:200]}")
    found, expected = checkpoint.describe(values), checkpoint.describe(weights)
    for name, (dtype, shape) in found.items():
        if expected[name] != (dtype, shape):
            raise FormatError("checkpoint is of another model", why=f"{name}: {list(shape)} {dtype}")


def seed_everything(seed: int) -> None:
    """Seed every global generator a recipe may use."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
