"""Rounds: functions of their inputs, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.train.conftest import a_round
from torch import nn

from stannary.errors import FormatError, SpecError
from stannary.train import checkpoint, engine, recipe
from stannary.train.round import Recording, keep_none, run_round
from stannary.worker import determinism

# Recorded on the class below; a change that should not alter the maths leaves it alone.
GOLDEN_CLASS = "cpu-fp32-torch2.13.0-t16.85cc13755ae5"
GOLDEN = "41476cf180ec042a619e2e559a039bed64aac22b982225ba56451cdbc0346798"

OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.unit.train.conftest import Tiny, a_round
from stannary.formats import jobspec
from stannary.formats.training import Training
from stannary.train import engine
from stannary.train.round import run_round
engine.pin()
training = Training(batch_size=4, microbatch_size=2, warmup_steps=2)
settings = jobspec.RecipeSpec("r.py:r", 3, 3, (2, 3), 5, 10, {}, training)
delta = run_round(Tiny(), a_round(settings, 0, 1), settings, None).outputs["delta"]
print(engine.engine_class(), hashlib.sha256(delta).hexdigest())
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_process(**environment: str) -> tuple[str, str]:
    root = str(Path(__file__).parents[3])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, root],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    engine_class, digest = ended.stdout.split()
    return engine_class, digest


def test_a_change_that_should_not_alter_the_maths_does_not(tiny, settings):
    """The bits of a round are those recorded for this engine class; elsewhere two runs agree."""
    delta = sha(run_round(tiny, a_round(settings, 0, 1), settings, None).outputs["delta"])
    expected = GOLDEN if engine.engine_class() == GOLDEN_CLASS else in_process()[1]
    assert delta == expected


@pytest.mark.slow
def test_same_class_same_bytes_in_any_process(tiny, settings):
    """Other processes, hash orders and thread settings of one engine class give the same bytes."""
    here = engine.engine_class(), sha(run_round(tiny, a_round(settings, 0, 1), settings, None).outputs["delta"])
    assert in_process(PYTHONHASHSEED="1", OMP_NUM_THREADS="4") == here


@pytest.mark.slow
def test_other_kernels_are_another_class():
    """A process with other kernels names another class without being asked."""
    assert in_process(**OTHER_KERNELS)[0] != engine.engine_class()


def test_the_delta_leads_from_start_to_end(tiny, settings):
    """Start minus delta is the last state, and a round begins from given weights alone."""
    first = run_round(tiny, a_round(settings, 0, 0), settings, None)
    start = recipe.weights_of(recipe.build(tiny, settings, None))
    delta, last = (checkpoint.decode(data).tensors for data in (first.outputs["delta"], first.states[2]))
    assert all(torch.allclose(start[name] - delta[name], last[name], atol=1e-7) for name in start)
    assert sorted(first.states) == [1, 2]
    again = run_round(tiny, a_round(settings, 0, 0), settings, checkpoint.encode(start))
    assert again.outputs == first.outputs


@pytest.mark.parametrize("change", [{"lane": 2}, {"first_step": 1}, {"num_steps": 3}])
def test_every_assigned_number_matters(tiny, settings, change):
    """Lane, first step and number of steps each give another result."""
    honest = run_round(tiny, a_round(settings, 0, 0), settings, None).outputs
    assert run_round(tiny, dataclasses.replace(a_round(settings, 0, 0), **change), settings, None).outputs != honest


@pytest.mark.parametrize(
    "change",
    [{"muon_lr": "0.0102"}, {"batch_size": 3}, {"microbatch_size": 4}, {"warmup_steps": 3}, {"rewarm_steps": 0}],
)
def test_every_signed_setting_matters(tiny, settings, change):
    """A setting that is not the signed one gives another result, the microbatch split included."""
    other = dataclasses.replace(settings, training=dataclasses.replace(settings.training, **change))
    honest = run_round(tiny, a_round(settings, 0, 0), settings, None).outputs
    assert run_round(tiny, a_round(settings, 0, 0), other, None).outputs != honest


def test_recording_touches_nothing(tiny, settings):
    """Keeping states and following progress leave the result as it is."""
    seen = []
    recording = Recording(keep=keep_none, progress=lambda step, steps, loss: seen.append((step, steps)))
    quiet = run_round(tiny, a_round(settings, 1, 0), settings, None, recording)
    assert quiet.outputs == run_round(tiny, a_round(settings, 1, 0), settings, None).outputs
    assert seen == [(1, 3), (2, 3), (3, 3)] and quiet.states == {}


def test_weights_of_another_model_are_refused(tiny, settings):
    """Other names, shapes or dtypes are no weights of this model."""
    weights = recipe.weights_of(recipe.build(tiny, settings, None))
    for odd in (
        {**weights, "more": torch.zeros(1)},
        {**weights, "head.bias": torch.zeros(16)},
        {"emb.weight": weights["emb.weight"]},
    ):
        with pytest.raises(FormatError, match="another model"):
            run_round(tiny, a_round(settings, 0, 0), settings, checkpoint.encode(odd))


def test_state_that_no_contribution_carries_is_refused():
    """Running statistics would make a round depend on rounds before it."""
    with pytest.raises(SpecError, match="persistent buffers"):
        recipe.weights_of(nn.BatchNorm1d(3))
    with pytest.raises(SpecError, match="not float32"):
        recipe.weights_of(nn.Linear(2, 2, dtype=torch.float64))


def test_a_recipe_with_state_of_its_own_is_not_deterministic(tiny, settings):
    """Hidden state changes the second run of the same steps, and is found."""
    assert determinism.parted(*(determinism.probe(tiny, settings) for _ in range(2))) is None

    class Counting(type(tiny)):
        calls = 0

        def loss(self, model, examples):
            self.calls += 1
            return super().loss(model, examples) * (1 + self.calls / 100)

    assert determinism.parted(*(determinism.probe(recipe, settings) for recipe in [Counting()] * 2)) == 1


def test_global_generators_are_seeded_for_every_step(settings, tiny):
    """Dropout and Python's random are part of the pure function."""
    import random

    class Noisy(type(tiny)):
        def loss(self, model, examples):
            return super().loss(model, examples) * (1 + random.random() + float(torch.rand(())))

    assert determinism.parted(*(determinism.probe(recipe, settings) for recipe in [Noisy()] * 2)) is None
