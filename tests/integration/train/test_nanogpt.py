"""Somebody's own loop as a recipe: the adapter is short and the job is one."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml

from stannary.formats import jobfile
from stannary.formats.ids import JobId, TaskKind, round_task
from stannary.formats.predicates import Assignment
from stannary.train import engine, recipe
from stannary.train.round import run_round
from stannary.worker import determinism

NANOGPT = Path(__file__).parents[3] / "examples/nanogpt"
JOB = JobId("j-0123456789ab")
MAX_ADAPTER_LINES = 20
MODULES = ("model", "train", "recipe")  # names a work directory may well share with somebody else's


@pytest.fixture(name="nanogpt")
def fixture_nanogpt(tmp_path):
    """The recipe as a worker loads it; its modules are forgotten afterwards."""
    engine.pin()
    (tmp_path / "corpus").write_text("".join(topics[key] for key in sorted(topics))[:60_000], encoding="utf-8")
    path = list(sys.path)
    others = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    settings = jobfile.parse(yaml.safe_load((NANOGPT / "job.yaml").read_text())).spec.recipe
    yield recipe.load(NANOGPT, settings, {"corpus": tmp_path / "corpus"}), settings
    sys.path[:] = path
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def test_the_adapter_is_about_twenty_lines():
    """Lines of code of recipe.py, without blank ones and the docstring."""
    tree = ast.parse((NANOGPT / "recipe.py").read_text())
    assert len(ast.unparse(ast.Module(tree.body[1:], [])).replace("\n\n", "\n").splitlines()) <= MAX_ADAPTER_LINES


def test_the_loop_knows_nothing_of_us():
    """model.py and train.py import torch and each other, nothing else."""
    assert not any("import stannary" in (NANOGPT / name).read_text() for name in ("model.py", "train.py"))
    assert not any("from stannary" in (NANOGPT / name).read_text() for name in ("model.py", "train.py"))


def test_it_learns_deterministically_dropout_included(nanogpt):
    """Two runs agree bit for bit, and the loss falls within a round."""
    loaded, settings = nanogpt
    assert determinism.probe(loaded, settings) == determinism.probe(loaded, settings)
    done = run_round(loaded, Assignment(JOB, round_task(JOB, 0, 0), TaskKind.ROUND, 0, 0, 12, 0, 0), settings, None)
    assert float(done.metrics["last_loss"]) < float(done.metrics["loss"]) < 4.6
