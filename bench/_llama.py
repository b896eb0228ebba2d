"""A recipe of the shape of SmolLM2-135M (538 MB of fp32 weights), filled at random: what fits is what is asked here.

B: batch   T: positions   D: width   H: heads   K: key heads   E: head width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """One layer: grouped attention without positions, and a gated feed-forward."""

    def __init__(self, width: int, hidden: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        each = width // heads
        self.norm_in, self.norm_mid = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, key_heads * each, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the layer's output."""
        batch, time, width = x_BTD.shape
        h_BTD = self.norm_in(x_BTD)
        q_BHTE = self.q(h_BTD).view(batch, time, self.heads, -1).transpose(1, 2)
        k_BKTE, v_BKTE = (
            part(h_BTD).view(batch, time, self.key_heads, -1).transpose(1, 2) for part in (self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=True)
        x_BTD = x_BTD + self.o(mixed.transpose(1, 2).reshape(batch, time, width))
        h_BTD = self.norm_mid(x_BTD)
        return x_BTD + self.down(functional.silu(self.gate(h_BTD)) * self.up(h_BTD))


class Llama(nn.Module):
    """Embedding, layers, norm; the head is the embedding."""

    def __init__(self, vocabulary: int, width: int, hidden: int, layers: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Block(width, hidden, heads, key_heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return logits."""
        x_BTD = self.embed(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return functional.linear(self.norm(x_BTD), self.embed.weight)


class Windows:
    """The next byte of a corpus (of its own making where none is given)."""

    def __init__(self, data: bytes, context: int, shape: Mapping[str, int]) -> None:
        self.data = torch.tensor(list(data), dtype=torch.long)
        self.tokens_per_example = context
        self.num_examples = len(data) - context - 1
        self.shape = shape

    def build(self) -> nn.Module:
        """Return a fresh model."""
        return Llama(**self.shape)

    def loss(self, model: nn.Module, examples: Sequence[int]) -> Tensor:
        """Return the mean cross entropy of windows."""
        at = torch.tensor(list(examples))[:, None] + torch.arange(self.tokens_per_example + 1)
        window = self.data[at]
        return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the loss of one window."""
        return {"heldout_loss": float(self.loss(model, [0]))}


def recipe(options: Mapping[str, int], inputs: Mapping[str, Path]) -> Windows:
    """Make the recipe; options change the shape."""
    shape = {"vocabulary": 49_152, "width": 576, "hidden": 1_536, "layers": 30, "heads": 9, "key_heads": 3}
    shape |= {name: int(value) for name, value in options.items() if name in shape}
    data = next((path.read_bytes() for path in inputs.values()), bytes(range(256)) * 16)
    return Windows(data, int(options.get("context", 32)), shape)
