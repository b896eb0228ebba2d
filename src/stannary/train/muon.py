"""The inner optimizer: Muon on matrices, AdamW on embeddings, norms and head. It lives for one round.

Newton-Schulz runs in fp32. With the usual bf16 iteration honest kernels differ by 1.4 % of a round's
update, half of the smallest cheat; in fp32 by 0.003 % at most (bench/audit_distance.py prints both).

Moments are never handed over: each round begins with zeros and is re-warmed (schedule.py), so that
no optimizer state travels and a round needs nothing but the weights.

Shape suffixes: M rows, N columns of a weight matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from stannary.formats.training import Training, fraction

# Quintic x -> ax + bx^3 + cx^5 with steep slope at 0 (K. Jordan et al., "Muon", 2024): five
# applications bring singular values of a Frobenius-normed matrix into about 0.7 .. 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
UPDATE_RMS = 0.2  # update of an orthogonal factor scaled to AdamW's usual RMS (arXiv 2502.16982)
NORM_FLOOR = 1e-7
ADAMW_EPSILON = 1e-8


def newton_schulz(G_MN: Tensor) -> Tensor:
    """Return an approximation of U V^T of the singular value decomposition G = U S V^T, in fp32."""
    a, b, c = NEWTON_SCHULZ
    wide = G_MN.size(0) <= G_MN.size(1)
    X_MN = G_MN if wide else G_MN.T  # the Gram matrix is that of the short side
    X_MN = X_MN / (X_MN.norm() + NORM_FLOOR)
    for _ in range(NEWTON_SCHULZ_STEPS):
        A_MM = X_MN @ X_MN.T
        X_MN = a * X_MN + (b * A_MM + c * A_MM @ A_MM) @ X_MN
    result: Tensor = X_MN if wide else X_MN.T
    return result


class Muon:
    """Momentum orthogonalised, with Nesterov's look-ahead."""

    def __init__(self, weights_MN: Iterable[Tensor], training: Training) -> None:
        self.weights_MN = list(weights_MN)
        self.momenta_MN = [torch.zeros_like(W_MN) for W_MN in self.weights_MN]
        self.lr = fraction(training.muon_lr, "muon_lr")
        self.momentum = fraction(training.muon_momentum, "muon_momentum")
        self.weight_decay = fraction(training.weight_decay, "weight_decay")

    def step(self, factor: float) -> None:
        """Apply one update at `factor` of the peak learning rate."""
        lr = self.lr * factor
        for W_MN, M_MN in zip(self.weights_MN, self.momenta_MN, strict=True):
            if W_MN.grad is None:
                continue
            g_MN = W_MN.grad
            M_MN.mul_(self.momentum).add_(g_MN)
            U_MN = newton_schulz(g_MN + self.momentum * M_MN)
            W_MN.mul_(1.0 - lr * self.weight_decay)
            W_MN.add_(U_MN, alpha=-lr * UPDATE_RMS * math.sqrt(max(W_MN.shape)))


class AdamW:
    """Adam with decoupled weight decay and bias correction."""

    def __init__(self, weights: Iterable[Tensor], training: Training) -> None:
        self.weights = list(weights)
        self.first = [torch.zeros_like(w) for w in self.weights]
        self.second = [torch.zeros_like(w) for w in self.weights]
        self.lr = fraction(training.adamw_lr, "adamw_lr")
        self.beta1 = fraction(training.adamw_beta1, "adamw_beta1")
        self.beta2 = fraction(training.adamw_beta2, "adamw_beta2")
        self.weight_decay = fraction(training.weight_decay, "weight_decay")
        self.num_steps = 0

    def step(self, factor: float) -> None:
        """Apply one update at `factor` of the peak learning rate."""
        self.num_steps += 1
        lr = self.lr * factor
        correct1 = 1.0 - self.beta1**self.num_steps
        correct2 = 1.0 - self.beta2**self.num_steps
        for w, m, v in zip(self.weights, self.first, self.second, strict=True):
            if w.grad is None:
                continue
            m.mul_(self.beta1).add_(w.grad, alpha=1.0 - self.beta1)
            v.mul_(self.beta2).addcmul_(w.grad, w.grad, value=1.0 - self.beta2)
            w.mul_(1.0 - lr * self.weight_decay)
            w.addcdiv_(m, (v / correct2).sqrt_().add_(ADAMW_EPSILON), value=-lr / correct1)


class InnerOptimizer:
    """Muon and AdamW side by side over the named weights of a model."""

    def __init__(self, weights: dict[str, Tensor], training: Training) -> None:
        matrices = [name for name in sorted(weights) if is_matrix(name, weights[name], training)]
        others = [name for name in sorted(weights) if name not in set(matrices)]
        self.weights = [weights[name] for name in sorted(weights)]
        self.muon = Muon([weights[name] for name in matrices], training)
        self.adamw = AdamW([weights[name] for name in others], training)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply one update to every weight that has a gradient."""
        self.muon.step(factor)
        self.adamw.step(factor)

    def clear(self) -> None:
        """Drop the gradients."""
        for weight in self.weights:
            weight.grad = None


def is_matrix(name: str, weight: Tensor, training: Training) -> bool:
    """Return whether a weight is Muon's (settings.Training says how names decide)."""
    if training.optimizer != "muon" or weight.ndim != 2:
        return False
    return not any(part.startswith(training.adamw_names) for part in name.split("."))
