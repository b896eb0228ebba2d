"""The inner optimizer."""

from __future__ import annotations

import pytest
import torch

from stannary.formats.training import Training
from stannary.train.muon import AdamW, InnerOptimizer, Muon, is_matrix, newton_schulz


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_newton_schulz_flattens_the_spectrum(shape):
    """Singular values come near one while singular vectors stay, for square, wide and tall matrices."""
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(newton_schulz(G), full_matrices=False)
    assert float(S.min()) > 0.6 and float(S.max()) < 1.3
    U0, _, V0h = torch.linalg.svd(G, full_matrices=False)
    assert float((U @ Vh - U0 @ V0h).norm() / (U0 @ V0h).norm()) < 0.02
    assert newton_schulz(G).dtype == torch.float32


def test_newton_schulz_of_nothing_is_nothing():
    """A zero gradient moves no weight and makes no nan."""
    assert torch.equal(newton_schulz(torch.zeros(4, 6)), torch.zeros(4, 6))


@pytest.mark.slow
def test_adamw_is_torch_s_adamw():
    """Three steps agree with torch.optim.AdamW to fp32 rounding."""
    start = torch.randn(7, generator=torch.Generator().manual_seed(1))
    ours, theirs = start.clone(), start.clone().requires_grad_(True)
    training = Training(adamw_lr="0.01", weight_decay="0.1")
    mine = AdamW([ours], training)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(3):
        gradient = torch.sin(start * (step + 1))
        ours.grad = theirs.grad = gradient
        mine.step(1.0)
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_moves_by_its_rate_alone():
    """The size of a gradient does not matter, its direction does; the factor scales the step."""
    gradient = torch.randn(6, 10, generator=torch.Generator().manual_seed(2))
    moved = []
    for scale, factor in ((1.0, 1.0), (1000.0, 1.0), (1.0, 0.5)):
        weight = torch.zeros(6, 10)
        weight.grad = gradient * scale
        Muon([weight], Training()).step(factor)
        moved.append(weight)
    assert torch.allclose(moved[0], moved[1], atol=1e-6)
    assert torch.allclose(moved[0] / 2, moved[2], atol=1e-7)


def test_names_and_dimensions_decide_whose_a_weight_is():
    """Embeddings, heads, gains and biases are AdamW's, other matrices Muon's, all AdamW's if told so."""
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    training = Training()
    assert is_matrix("blocks.0.attention.qkv.weight", matrix, training)
    assert not is_matrix("emb_pair.weight", matrix, training)
    assert not is_matrix("transformer.wte.weight", matrix, training)
    assert not is_matrix("head.weight", matrix, training)
    assert not is_matrix("blocks.0.bias", vector, training)
    assert not is_matrix("blocks.0.attention.qkv.weight", matrix, Training(optimizer="adamw"))


def test_weights_without_a_gradient_stay():
    """A frozen or unused weight is left alone, weight decay included."""
    weights = {"a": torch.ones(2, 2), "emb": torch.ones(2)}
    InnerOptimizer(weights, Training(weight_decay="0.1")).step(1.0)
    assert torch.equal(weights["a"], torch.ones(2, 2)) and torch.equal(weights["emb"], torch.ones(2))
