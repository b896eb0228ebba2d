"""Recipes: what a buyer writes so that his own model and data can be trained in rounds.

A recipe is the attribute `entry` names in the work directory: a callable that takes the options of
the spec and the paths of the inputs and returns an object with the members of `Recipe`. It need not
import anything of ours (examples/nanogpt turns somebody's own loop into one in twenty lines).

Rules:
1. A round is a function of the weights alone: persistent buffers (running statistics) are refused,
   since they would be state that no contribution carries. Constant buffers are `persistent=False`.
2. Weights are fp32, named by `named_parameters()`, tied ones once; only the last merge writes a tied weight under
   each of its names, so that the result loads with `strict=True`.
3. Randomness comes from torch's, Python's or numpy's global generators. They are seeded before the recipe's file
   is run, before its factory is called, before a model is built, before each step and before held-out measures, from
   public seeds; worker/determinism.py finds anything else.
4. A recipe that lacks a member, or whose member gives something else than is promised, is refused before any lane
   works (`check`).

`entry: builtin:NAME` names a recipe of this package instead (train/recipes/): then no code is the buyer's.

Loading any other recipe runs the buyer's code: only the worker inside the sandbox does it, never the market.
"""

from __future__ import annotations

import importlib
import importlib.util
import numbers
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from stannary import builtin
from stannary.errors import FormatError, SpecError
from stannary.formats import jobspec
from stannary.formats.training import Options, read_options
from stannary.train import checkpoint, data

INIT_STEP = 2**53  # no inner step has this index: the seed of theta_0 is that of no step
FACTORY_STEP = INIT_STEP + 1  # nor this one: the seed of what the recipe's file and factory do when they are run
EVALUATE_STEP = INIT_STEP + 2  # nor this one: the seed of what held-out measures draw
MAX_METRICS = 8  # formats/bounds.py: what a contribution may carry


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


SIGNATURES = {
    "build": "def build(self): return a freshly made torch.nn.Module",
    "loss": "def loss(self, model, examples): return the mean loss over the examples as a scalar tensor",
    "evaluate": "def evaluate(self, model): return {} or held-out measures by name",
}

OWN_OPTIMIZER = ("configure_optimizers", "make_optimizer", "optimizer", "training_step")

Factory = Callable[[Options, Mapping[str, Path]], Recipe]


def load(workdir: Path, settings: jobspec.RecipeSpec, inputs: Mapping[str, Path]) -> Recipe:
    """Run the recipe's file, or import a built-in one, and call its factory.

    Raises:
        SpecError: no such file, attribute or built-in recipe, not a callable, or not the code that was signed.
    """
    seed_everything(data.step_seed(settings.seed, FACTORY_STEP, 0))
    module = _own_module(workdir, settings.file) if settings.file is not None else _module_of_ours(settings)
    factory = getattr(module, settings.attribute if settings.file is not None else "recipe", None)
    if not callable(factory):
        raise SpecError("recipe.entry names no callable", why=settings.entry, hint="def recipe(options, inputs): ...")
    seed_everything(data.step_seed(settings.seed, FACTORY_STEP, 1))  # numpy's too, where the file imported it first
    made = cast(Factory, factory)(read_options(settings.options), dict(inputs))
    check(made)
    return made


def _own_module(workdir: Path, name: str) -> ModuleType:
    """Run a file of the work directory."""
    file = (workdir / name).resolve()
    if not file.is_relative_to(workdir.resolve()) or not file.is_file():
        raise SpecError("recipe.entry names no file of the work directory", why=name)
    if str(workdir) not in sys.path:
        sys.path.insert(0, str(workdir))  # the recipe may be split over several files
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise SpecError("recipe.entry is not a Python file", why=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses in the recipe look their module up by name
    spec.loader.exec_module(module)
    return module


def _module_of_ours(settings: jobspec.RecipeSpec) -> ModuleType:
    """Return a built-in recipe's module, if the code it was signed with is the one that is here."""
    if settings.builtin not in builtin.names():
        have = ", ".join(builtin.names())
        raise SpecError("recipe.entry names no built-in recipe", why=settings.entry, hint=f"built in are: {have}")
    if settings.code != builtin.code_digest():
        raise SpecError(
            "this node's package has another code of the recipe than was signed",
            why=f"{settings.entry}: {builtin.code_digest():.19}, signed {settings.code or '':.19}",
            hint="buyer and nodes need the same version of stannary",
        )
    return importlib.import_module(f"stannary.train.recipes.{settings.builtin}")


def check(recipe: Recipe) -> None:
    """Check that a recipe has every member of `Recipe`, of the right kind.

    Raises:
        SpecError: naming the member and what it is instead.
    """
    for name in ("build", "loss", "evaluate"):
        if not callable(getattr(recipe, name, None)):
            found = "missing" if not hasattr(recipe, name) else f"a {type(getattr(recipe, name)).__name__}"
            raise SpecError(f"recipe has no method {name}", why=found, hint=SIGNATURES[name])
    for name in OWN_OPTIMIZER:
        if hasattr(recipe, name):  # trained by another one than its author thinks, it would only look slow
            raise SpecError(
                "recipe brings an optimizer of its own",
                why=f"it has a member {name}",
                hint="remove it and choose by recipe.training: optimizer muon or adamw, rates, batch_size, and "
                "microbatch_size for accumulated gradients",
            )
    for name in ("num_examples", "tokens_per_example"):
        value = getattr(recipe, name, None)
        if type(value) is not int or value < 1:
            raise SpecError(
                f"recipe.{name} is not a whole number from 1 on", why=f"{value!r:.80}", hint=f"set self.{name} = ..."
            )


def check_measures(recipe: Recipe, model: nn.Module) -> None:
    """Check that `evaluate` gives named numbers for a model nobody trained yet.

    Raises:
        SpecError: no mapping, too many, a name that is no text or a value that is no number.
    """
    with torch.no_grad():
        measures: object = recipe.evaluate(model)
    hint = 'return {"heldout_loss": float(...)}, or {} where there is nothing to measure'
    if not isinstance(measures, Mapping):
        raise SpecError("recipe.evaluate returns no mapping", why=type(measures).__name__, hint=hint)
    if len(measures) > MAX_METRICS:
        raise SpecError("recipe.evaluate returns too many measures", why=f"{len(measures)}, limit {MAX_METRICS}")
    for name, value in measures.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, numbers.Real):
            why = f"{name!r:.60}: {type(value).__name__}"
            raise SpecError("recipe.evaluate returns something that is no named number", why=why, hint=hint)


def build(recipe: Recipe, settings: jobspec.RecipeSpec, theta: checkpoint.Source | None) -> nn.Module:
    """Return the model with the given weights, or with those made from the seed where theta is absent.

    Raises:
        FormatError: weights that are not those of this model.
        SpecError: a model no round can carry (rules 1 and 2).
    """
    seed_everything(data.step_seed(settings.seed, INIT_STEP, 0))
    model = recipe.build()
    if not isinstance(model, nn.Module):
        raise SpecError("recipe.build returns no torch.nn.Module", why=type(model).__name__, hint=SIGNATURES["build"])
    weights = weights_of(model)
    if theta is not None:
        assign(weights, _without(checkpoint.Stored(theta), aliases_of(model)))
    return model


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Return the further names of tied weights, each with the name the weight has in `weights_of`."""
    first = {id(weight): name for name, weight in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first[id(weight)] for name, weight in named if first[id(weight)] != name}


def _without(stored: checkpoint.Stored, aliases: Mapping[str, str]) -> Mapping[str, Tensor]:
    """Return a result's weights, each once: what a strict load wants twice says the same."""
    stored.forget(set(aliases) & set(stored))
    return stored


def loss_of(recipe: Recipe, model: nn.Module, examples: Sequence[int]) -> Tensor:
    """Return the loss of examples, checked to be one that can be trained on.

    Raises:
        SpecError: no tensor, not a scalar, or one that depends on no weight.
    """
    loss = recipe.loss(model, examples)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        found = f"a tensor of {list(loss.shape)} {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise SpecError("recipe.loss returns no scalar", why=found, hint=SIGNATURES["loss"])
    if not loss.requires_grad:
        raise SpecError(
            "recipe.loss depends on no weight", why="it has no gradient", hint="do not detach it, nor use no_grad"
        )
    return loss.reshape(())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, after checking that they are all the state there is."""
    buffers = set(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if buffers:
        raise SpecError(
            "recipe has persistent buffers",
            why=", ".join(sorted(buffers))[:200],
            hint="register constants with persistent=False; for running statistics use GroupNorm or LayerNorm, or "
            "BatchNorm with track_running_stats=False",
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
    torch.default_generator.manual_seed(seed)  # torch.manual_seed notes the whole stack for each device there is not
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
