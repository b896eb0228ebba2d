"""What a recipe must be, found before any lane works, and what it is given."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from tests.integration.train.small_job import train_spec
from tests.unit.train.conftest import a_merge, a_round, round_task
from torch import nn

from stannary.errors import SpecError
from stannary.formats import training
from stannary.train import checkpoint, recipe
from stannary.train.merge import MergeInputs, run_merge
from stannary.train.round import run_round
from stannary.worker import determinism

BODY = """
import os, random, time, torch
from torch import nn

SEEN = []

class Recipe:
    num_examples = 50
    tokens_per_example = 1
    def __init__(self, options, inputs):
        SEEN.append(options)
        {factory}
    def build(self):
        return nn.Linear(3, 2)
    def loss(self, model, examples):
        x = torch.ones(len(examples), 3)
        return (model(x) - {aim}).square().mean()
    def evaluate(self, model):
        return {{}}

def recipe(options, inputs):
    return Recipe(options, inputs)
"""


@pytest.fixture(name="job")
def fixture_job(tmp_path: Path):
    def write(factory: str = "pass", aim: str = "1.0", body: str = BODY) -> Path:
        (tmp_path / "workdir").mkdir(exist_ok=True)
        text = textwrap.dedent(body).format(factory=factory, aim=aim)
        (tmp_path / "workdir/recipe.py").write_text(text)
        return tmp_path

    return write


def spec_with(options=None):
    spec = train_spec()
    return dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, options=options or {}), inputs={})


def loaded(job: Path, options=None):
    return recipe.load(job / "workdir", spec_with(options).recipe, {})


@pytest.mark.slow
def test_the_factory_is_seeded_like_the_steps(job):
    """What a recipe draws while it is made is a function of the signed seed, in any process, before and after."""
    where = job(factory="self.noise = torch.rand(()).item() + random.random()", aim="self.noise")
    first = loaded(where)
    torch.rand(17)
    assert loaded(where).noise == first.noise
    other = dataclasses.replace(spec_with().recipe, seed=8)
    assert recipe.load(where / "workdir", other, {}).noise != first.noise
    assert determinism.probe_elsewhere(where, spec_with(), {}) == determinism.probe(first, spec_with().recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory",
    [
        # Spread wide: two noises close together can give the same bits, and then nothing is to be found.
        "self.noise = os.getpid() * 7919 % 1009 / 100",
        "self.noise = time.monotonic_ns() // 1000 * 7919 % 1009 / 100",
        "self.noise = int.from_bytes(os.urandom(3), 'big') / 1e6",
        "self.noise = 1 + os.getpriority(os.PRIO_PROCESS, 0) / 10",
    ],
)
def test_what_differs_only_between_processes_is_found(job, factory):
    """A recipe that agrees with itself in one process and not in the next is refused before any lane works."""
    where = job(factory=factory, aim="self.noise")
    made, settings = loaded(where), spec_with().recipe
    assert determinism.parted(*(determinism.probe(made, settings) for _ in range(2))) is None
    assert determinism.parted(determinism.probe(made, settings), determinism.probe_elsewhere(where, spec_with(), {}))


@pytest.mark.slow
def test_a_recipe_that_fails_elsewhere_is_told(job):
    """One that runs in its first process alone is refused with its own words."""
    where = job(factory="open('/tmp/no-such-directory/x')")
    with pytest.raises(SpecError, match="second process"):
        determinism.probe_elsewhere(where, spec_with(), {})
    with pytest.raises(SpecError, match="exit code 7"):
        determinism.probe_elsewhere(job(factory="os._exit(7)"), spec_with(), {})


def test_probes_of_other_lengths_differ():
    """Neither a shorter nor an empty probe passes for the same."""
    assert determinism.parted(["a", "b"], ["a", "b"]) is None
    assert determinism.parted(["a", "b"], ["a", "c"]) == 2
    assert determinism.parted(["a", "b"], ["a"]) == 1
    assert determinism.parted(["a"], []) == 1


def test_options_are_a_copy_with_numbers(job):
    """A recipe that changes its options changes nothing that is signed, and gets fractions as floats."""
    signed = {"dropout": "0.1", "layers": [1, {"eps": "1e-05"}], "name": "v1.10", "version": "1.10", "off": False}
    spec = spec_with(signed)
    made = recipe.load(
        job(factory="options['dropout'] *= 2; options['layers'].append(options['dropout']); self.got = options")
        / "workdir",
        spec.recipe,
        {},
    )
    assert made.got["dropout"] == 0.2
    assert made.got["layers"] == [1, {"eps": 1e-5}, 0.2]
    assert (made.got["name"], made.got["version"], made.got["off"]) == ("v1.10", "1.10", False)
    assert spec.recipe.options == signed
    assert training.read_options(signed)["dropout"] == 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"evaluate": None}, "no method evaluate"),
        ({"evaluate": 3}, "no method evaluate"),
        ({"loss": None}, "no method loss"),
        ({"build": None}, "no method build"),
        ({"num_examples": None}, "num_examples"),
        ({"num_examples": "500"}, "num_examples"),
        ({"num_examples": 0}, "num_examples"),
        ({"num_examples": 2.5}, "num_examples"),
        ({"num_examples": True}, "num_examples"),
        ({"tokens_per_example": -1}, "tokens_per_example"),
        ({"configure_optimizers": lambda self: None}, "optimizer of its own"),
    ],
)
def test_a_missing_or_ill_typed_member_is_named(tiny, change, says):
    """It is found when the recipe is loaded, not by the first lane or the first merge."""
    recipe.check(tiny)
    tiny.__class__ = type("Odd", (type(tiny),), change)
    with pytest.raises(SpecError, match=says):
        recipe.check(tiny)


@pytest.mark.parametrize("measures", [None, 2.5, [("loss", 1.0)], {1: 2.0}, {"loss": "2.5"}, {"loss": torch.ones(2)},
                                      {"on": True}, {str(number): 1.0 for number in range(9)}])  # fmt: skip
def test_measures_that_cannot_be_signed_are_found_at_prepare(tiny, measures):
    """What `evaluate` gives for an untrained model shows what it would give the merge."""
    odd = type("Odd", (type(tiny),), {"evaluate": lambda self, model: measures})()
    with pytest.raises(SpecError, match=r"recipe\.evaluate"):
        recipe.check_measures(odd, tiny.build())
    recipe.check_measures(tiny, tiny.build())


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda self, model, examples: 2.5, "no scalar"),
        (lambda self, model, examples: None, "no scalar"),
        (lambda self, model, examples: model.emb.weight.sum(0), "no scalar"),
        (lambda self, model, examples: torch.tensor(1), "no scalar"),
        (lambda self, model, examples: model.emb.weight.sum().detach(), "depends on no weight"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_named(tiny, settings, loss, says):
    """The two-run check meets it first, and its error says what a loss is."""
    odd = type("Odd", (type(tiny),), {"loss": loss})()
    with pytest.raises(SpecError, match=says):
        determinism.parted(*(determinism.probe(odd, settings) for _ in range(2)))


def test_a_model_must_be_a_module(tiny, settings):
    """Whatever else `build` returns is named."""
    odd = type("Odd", (type(tiny),), {"build": lambda self: {"w": torch.zeros(1)}})()
    with pytest.raises(SpecError, match=r"torch\.nn\.Module"):
        recipe.build(odd, settings, None)


class Tied(nn.Module):
    """An embedding that is the head, too."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(17, 12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 17, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens):
        """Return logits."""
        return self.head(torch.tanh(self.mix(self.emb(tokens))))


def test_a_result_with_tied_weights_loads_strictly(tiny, settings):
    """Only the last merge writes a tied weight under each name; every round before and after reads what there is."""
    tied = type("TiedTiny", (type(tiny),), {"build": lambda self: Tied()})()
    settings = dataclasses.replace(settings, rounds=2)
    theta = outer = None
    for index in range(2):
        tasks = {lane: run_round(tied, a_round(settings, index, lane), settings, theta) for lane in range(2)}
        deltas = {round_task("j-0123456789ab", index, lane): done.outputs["delta"] for lane, done in tasks.items()}
        done = run_merge(tied, a_merge(index, [0, 1]), settings, MergeInputs(theta, outer, deltas))
        theta, outer = done.outputs["theta"], done.outputs["outer"]
        assert ("head.weight" in checkpoint.Stored(theta)) == (index == 1)
        assert "head.weight" not in checkpoint.Stored(outer)
    model = Tied()
    model.load_state_dict(load(theta), strict=True)
    assert torch.equal(model.head.weight, checkpoint.decode(theta).tensors["emb.weight"])
    again = recipe.weights_of(recipe.build(tied, settings, theta))
    assert set(again) == {"emb.weight", "mix.weight", "mix.bias"}
