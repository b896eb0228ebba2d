"""Threads: as many as the job's cores, signed, and one engine class for every count."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.train.small_job import command_spec, train_spec

from stannary.border.variables import command_environment, worker_environment
from stannary.errors import SpecError
from stannary.formats import jobfile, jobspec
from stannary.run.sandbox import cgroup

pytestmark = pytest.mark.slow

FILE = {"kind": "train", "recipe": {"entry": "recipe.py:recipe", "rounds": 2}}
SCRIPT = """
import io, json, sys
from pathlib import Path
from stannary.worker.service import Service
from stannary.formats import canonical
from stannary.border import frames
replies = io.BytesIO()
service = Service(Path(sys.argv[1]), io.BytesIO(), replies)
service.handle(json.loads(sys.argv[2]))
replies.seek(0)
while (frame := frames.read(replies)) is not None:
    last = frame.header
print(json.dumps([last.get("engine_class"), last.get("message")]))
"""


def parsed(cpus: int | None = None, **training: object) -> jobspec.JobSpec:
    changes = {"resources": {"cpus": cpus}} if cpus is not None else {}
    return jobfile.parse({**FILE, "recipe": {**FILE["recipe"], "training": training}, **changes}).spec


def test_a_recipe_gets_a_thread_for_each_core() -> None:
    """What is asked is what is signed; fewer may be written, more are refused."""
    assert parsed().recipe.training.threads == 1
    assert parsed(8).recipe.training.threads == 8
    assert jobfile.parse({**FILE, "resources": {"cpus": 3}}).spec.recipe.training.threads == 3
    assert parsed(8, threads=2).recipe.training.threads == 2
    with pytest.raises(SpecError, match=r"resources\.cpus"):
        parsed(2, threads=3)


def with_threads(threads: int) -> jobspec.JobSpec:
    spec = train_spec()
    training = dataclasses.replace(spec.recipe.training, threads=threads)
    resources = dataclasses.replace(spec.resources, cpus=threads)
    return dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, training=training), resources=resources)


def test_libraries_are_told() -> None:
    """A recipe's worker and a command see their count in every variable a library reads, whatever `envs` say."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    told = worker_environment(dataclasses.replace(with_threads(4), envs={"OMP_NUM_THREADS": "64"}), {}, None, 0)
    assert [told[name] for name in names] == ["4"] * 3
    assert told["OMP_DYNAMIC"] == told["MKL_DYNAMIC"] == "FALSE"
    command = command_spec("true")
    command = dataclasses.replace(command, resources=dataclasses.replace(command.resources, cpus=6))
    assert [worker_environment(command, {}, None, 0)[name] for name in names] == ["1"] * 3
    assert [command_environment(command, {}, {})[name] for name in names] == ["6"] * 3


def test_two_threads_are_used_under_the_class_of_one(tmp_path: Path) -> None:
    """A worker asked for two threads computes with two and says the class its node was certified for."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "workdir").mkdir()
    recipe = """
import torch
class R:
    num_examples, tokens_per_example = 9, 1
    def build(self): return torch.nn.Linear(300, 300)
    def loss(self, model, examples):
        assert torch.get_num_threads() == THREADS
        return model(torch.rand(len(examples), 300)).square().mean()
    def evaluate(self, model): return {}
def recipe(options, inputs): return R()
"""
    said = []
    for threads in (1, 2):
        (tmp_path / "workdir/recipe.py").write_text(recipe.replace("THREADS", str(threads)))
        spec = dataclasses.replace(with_threads(threads), inputs={})
        request = jobfile_request(spec)
        environment = {**os.environ, **worker_environment(spec, {}, None, 0), "PATH": os.environ["PATH"]}
        argv = [sys.executable, "-c", SCRIPT, str(tmp_path), request]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    assert [entry[1] for entry in said] == [None, None]
    assert said[0][0] == said[1][0]


SHARED_OUT = """
import sys, torch
from stannary.train import engine
alike = torch.nn.functional.linear
def linear(x, weight, *rest):  # a kernel that shares its sums out in its own way, from so many threads on
    if torch.get_num_threads() >= int(sys.argv[1]):
        half = x.shape[-1] // 2
        return alike(x[..., :half], weight[:, :half], *rest) + alike(x[..., half:], weight[:, half:])
    return alike(x, weight, *rest)
engine.functional.linear = linear
engine.pin(int(sys.argv[2]))
print(engine.engine_class(), torch.get_num_threads())
"""


def test_kernels_that_differ_with_several_threads_are_another_class() -> None:
    """A class covers 1 to 16 threads, says so, and is the same whatever its process is pinned to."""

    def said(from_threads: int, pinned: int) -> list[str]:
        argv = [sys.executable, "-c", SHARED_OUT, str(from_threads), str(pinned)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    (honest, one), (other, _), (same, three) = said(17, 1), said(8, 1), said(17, 3)
    assert "-t16." in honest
    assert other != honest == same
    assert (one, three) == ("1", "3")


def jobfile_request(spec: jobspec.JobSpec) -> str:
    return json.dumps({"op": "prepare", "spec": jobspec.to_canonical(spec), "inputs": {}})


@pytest.mark.parametrize(("limit", "cpus"), [("max 1000", None), ("1500 1000", 1), ("500 1000", 1), ("x y", None)])
def test_a_quota_counts_as_cores(tmp_path: Path, limit: str, cpus: int | None) -> None:
    """In a container of one and a half cores a node sells one, however many the machine has."""
    group = tmp_path / "sys/a"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(limit + "\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/a\n")
    (tmp_path / "self/mountinfo").write_text(f"1 1 0:1 / {tmp_path}/sys rw - cgroup2 cgroup2 rw\n")
    everything = len(os.sched_getaffinity(0))
    assert cgroup.usable_cpus(tmp_path) == (everything if cpus is None else min(cpus, everything))


HELD = """
import re, torch
def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
torch.ones(4_000_000)  # 16 MB, freed: glibc's own threshold would rise above what follows
before, tensors, kept = resident_mb(), [], []
for _ in range(64):
    tensors.append(torch.ones(750_000))  # 3 MB: a matrix of a layer
    kept.append(torch.ones(2_000))
del tensors
print(resident_mb() - before)
"""


def test_freed_tensors_leave_the_process() -> None:
    """A training worker gives back the room of freed matrices, whatever small things were made between them."""
    environment = {**os.environ, **worker_environment(with_threads(1), {}, None, 0), "PATH": os.environ["PATH"]}
    said = subprocess.run([sys.executable, "-c", HELD], env=environment, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 64


def test_a_job_does_not_say_how_its_memory_is_kept() -> None:
    """The setting stands over the job's own variables, and a command has none of it."""
    name = "MALLOC_MMAP_THRESHOLD_"
    bent = dataclasses.replace(with_threads(1), envs={name: "1"})
    assert worker_environment(bent, {}, None, 0)[name] == "1048576"
