"""What a process of training is pinned to, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PINNED = """
import sys, tempfile
from pathlib import Path
import torch
from stannary.train import engine, recipe
from stannary.worker import determinism
from tests.integration.train import small_job
engine.pin()
engine.engine_class()
job, spec = Path(tempfile.mkdtemp(dir=sys.argv[1])), small_job.train_spec()
small_job.lay_out(job)
inputs = {name: job / "blobs" / item.digest[7:] for name, item in spec.inputs.items()}
determinism.probe(recipe.load(job / "workdir", spec.recipe, inputs), spec.recipe)
assert torch.are_deterministic_algorithms_enabled()
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
import torch._inductor.config as compiler
print(compiler.deterministic)
compiler.deterministic = False
engine.pin()
print(compiler.deterministic)
"""


def test_a_worker_starts_without_torchs_compiler(tmp_path, monkeypatch):
    """Pinning and training import no compiler, which takes as long as torch; one that comes later is pinned as well."""
    monkeypatch.delenv("TORCHINDUCTOR_DETERMINISTIC", raising=False)
    argv = [sys.executable, "-c", PINNED, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["[]", "True", "True", ""], done.stderr
