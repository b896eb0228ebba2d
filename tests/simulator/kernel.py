"""Computing for simulated nodes: the real rounds and merges of a real, very small model.

`Kernel` computes in this process; `ForeignKernel` in a process of its own whose environment makes torch, MKL
and oneDNN take other code paths, as another vendor's machine would (`python -m tests.simulator.kernel`).
Nobody is given a result he did not compute, unless the test asks for `remembering`.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tests.simulator.parties import Blob, Computed
from torch import nn
from torch.nn import functional

from stannary.formats import jobspec, record
from stannary.formats.ids import TaskKind
from stannary.formats.predicates import Assignment
from stannary.formats.training import Training
from stannary.train import engine
from stannary.train.merge import MergeInputs, run_merge
from stannary.train.recipe import Recipe
from stannary.train.round import Recording, run_round

STEP_MS = 600_000  # ten minutes a step: a few rounds fill a day


class Symbols:
    """The recipe: next-symbol prediction of a fixed noisy sequence by an embedding, one matrix and a head."""

    num_examples = 400
    tokens_per_example = 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        base = torch.arange(self.num_examples + 9) * 5 % 17
        self.sequence = (base + torch.randint(0, 3, base.shape, generator=generator)) % 17

    def build(self) -> nn.Module:
        """Return a fresh model."""
        parts = {"emb": nn.Embedding(17, 12), "mix": nn.Linear(12, 24), "act": nn.GELU(), "head": nn.Linear(24, 17)}
        return nn.Sequential(OrderedDict(parts))

    def loss(self, model, examples):
        """Return the mean cross entropy over windows of eight."""
        window = self.sequence[torch.tensor(list(examples))[:, None] + torch.arange(9)]
        return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    def evaluate(self, model) -> Mapping[str, float]:
        """Measure nothing."""
        return {}


def settings(rounds: int, lanes: int, seed: int = 5) -> jobspec.RecipeSpec:
    """Return a job's signed settings."""
    training = Training(batch_size=4, microbatch_size=2, warmup_steps=2)
    return jobspec.RecipeSpec("recipe.py:recipe", rounds, lanes, (2, 3), seed, STEP_MS, {}, training)


@dataclass
class Kernel:
    """Computes tasks in this process."""

    job: jobspec.RecipeSpec
    recipe: Recipe
    remembering: bool = False  # the same question twice is computed once: for tests of draws, not of computing

    def __post_init__(self) -> None:
        """Pin the engine, as a worker does."""
        engine.pin()
        self.engine_class = engine.engine_class()
        self.known: dict[str, Computed] = {}
        self.num_computed = 0

    def compute(self, assignment: Assignment, blob: Blob) -> Computed:
        """Do a task."""
        key = _key(assignment)
        if self.remembering and key in self.known:
            return self.known[key]
        self.num_computed += 1
        theta = blob(assignment.theta) if assignment.theta is not None else None
        recording = Recording()
        if assignment.kind is TaskKind.ROUND:
            done = run_round(self.recipe, assignment, self.job, theta, recording)
        else:
            outer = blob(assignment.outer) if assignment.outer is not None else None
            deltas = {item.task: blob(item.root) for item in assignment.admitted or ()}
            done = run_merge(self.recipe, assignment, self.job, MergeInputs(theta, outer, deltas), recording)
        made = Computed(done.outputs, done.states)
        if self.remembering:
            self.known[key] = made
        return made

    def close(self) -> None:
        """Leave nothing behind."""


class ForeignKernel(Kernel):
    """Computes in a process with other kernels."""

    def __init__(self, job: jobspec.RecipeSpec, variables: Mapping[str, str]) -> None:
        """Start the process; `wait` for it before the first task."""
        self.job, self.remembering, self.known, self.num_computed = job, False, {}, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        argv = [sys.executable, "-m", "tests.simulator.kernel", json.dumps(_spelled(job))]
        self.process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_root()
        )
        self.engine_class = ""

    def wait(self) -> ForeignKernel:
        """Return once the process has said its engine class."""
        self.engine_class = self._reply()["engine_class"]
        return self

    def compute(self, assignment: Assignment, blob: Blob) -> Computed:
        """Let the process do a task."""
        self.num_computed += 1
        wanted = [assignment.theta, assignment.outer, *(item.root for item in assignment.admitted or ())]
        blobs = {name: _text(blob(name)) for name in wanted if name is not None}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"assignment": record.to_json(assignment), "blobs": blobs}) + "\n")
        self.process.stdin.flush()
        reply = self._reply()
        states = {int(step): base64.b64decode(data) for step, data in reply["states"].items()}
        return Computed({name: base64.b64decode(data) for name, data in reply["outputs"].items()}, states)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the kernel's process ended"
        return json.loads(line)


def serve() -> None:
    """Answer tasks, one JSON line each, until the end of the input."""
    job = record.from_json(jobspec.RecipeSpec, json.loads(sys.argv[1]))
    kernel = Kernel(job, Symbols())
    print(json.dumps({"engine_class": kernel.engine_class}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        blobs = {name: base64.b64decode(data) for name, data in asked["blobs"].items()}
        done = kernel.compute(record.from_json(Assignment, asked["assignment"]), blobs.__getitem__)
        outputs = {name: _text(data) for name, data in done.outputs.items()}
        states = {str(step): _text(data) for step, data in done.states.items()}
        print(json.dumps({"outputs": outputs, "states": states}), flush=True)


def _spelled(job: jobspec.RecipeSpec) -> Any:
    return record.to_json(job)


def _key(assignment: Assignment) -> str:
    """Return all that a result depends on; the names of tasks are not part of it."""
    nameless = replace(assignment, job="", task="", excluded=None)  # type: ignore[arg-type]  # only a key
    admitted = [(item.root, item.weight_ppm) for item in assignment.admitted or ()]
    return repr((replace(nameless, admitted=None), admitted))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _root() -> str:
    from pathlib import Path

    return str(Path(__file__).parents[2])


if __name__ == "__main__":
    serve()
