"""A tiny recipe and settings for tests of train/: small enough that a round takes milliseconds."""

from __future__ import annotations

import os
from collections import OrderedDict

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn
from torch.nn import functional

from stannary.formats import jobspec
from stannary.formats.ids import JobId, TaskKind, merge_task, round_task
from stannary.formats.predicates import Admitted, Assignment
from stannary.formats.training import Training
from stannary.rules.shape import first_step, num_steps
from stannary.train import engine

JOB = JobId("j-0123456789ab")


class Tiny:
    """Next-symbol prediction of a fixed noisy sequence by an embedding, one matrix and a head."""

    num_examples = 500
    tokens_per_example = 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        base = torch.arange(self.num_examples + 9) * 5 % 17
        noise = torch.randint(0, 3, base.shape, generator=generator)
        self.sequence = (base + noise) % 17

    def build(self):
        """Return a fresh model."""
        parts = {"emb": nn.Embedding(17, 12), "mix": nn.Linear(12, 24), "act": nn.GELU(), "head": nn.Linear(24, 17)}
        return nn.Sequential(OrderedDict(parts))

    def loss(self, model, examples):
        """Return mean cross entropy over windows of 8."""
        window = self.sequence[torch.tensor(list(examples))[:, None] + torch.arange(9)]
        return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, model):
        """Return the loss over every 20th window."""
        return {"heldout_loss": float(self.loss(model, range(0, 500, 20)))}


@pytest.fixture(autouse=True, scope="session")
def pinned():
    """Compute as workers do."""
    engine.pin()


@pytest.fixture
def tiny():
    return Tiny()


@pytest.fixture
def settings():
    """Three rounds of 2, 3, 3 steps for three lanes."""
    return jobspec.RecipeSpec(
        "r.py:r", 3, 3, (2, 3), 5, 10, {}, Training(batch_size=4, microbatch_size=2, warmup_steps=2)
    )


def a_round(settings, round_index: int, lane: int, **changes) -> Assignment:
    """Return the assignment of a lane's round."""
    members = {
        "job": JOB,
        "task": round_task(JOB, round_index, lane),
        "kind": TaskKind.ROUND,
        "round": round_index,
        "lane": lane,
        "num_steps": num_steps(settings.inner_steps, round_index),
        "first_step": first_step(settings.inner_steps, round_index),
        "tokens": 0,
    }
    return Assignment(**{**members, **changes})


def a_merge(round_index: int, lanes, *, weights=None) -> Assignment:
    """Return the assignment of a merge that admits `lanes` in that log order."""
    admitted = tuple(
        Admitted(round_task(JOB, round_index, lane), "sha256:" + "0" * 64, at, (weights or {}).get(lane, 1_000_000))
        for at, lane in enumerate(lanes)
    )
    task = merge_task(JOB, round_index)
    return Assignment(JOB, task, TaskKind.MERGE, round_index, 0, len(admitted), 0, 0, admitted=admitted, excluded=())
