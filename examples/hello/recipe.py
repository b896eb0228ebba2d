"""Hello: a byte-level GPT on the text every CPython carries (`pydoc_data.topics`), as a recipe.

The corpus is one blob of UTF-8; its last tenth is held out. A prediction of the next byte sums two
paths: a small transformer, and hashed embeddings of the last two and three bytes, which learn the
corpus' short-range statistics in a few steps (each is one row lookup, no matrix product).

Shape suffixes: B batch, T time, D width, H heads, K width of a head, V vocabulary (256 bytes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 256
HELD_OUT_TENTHS = 1


@dataclass(frozen=True)
class Shape:
    """The size of the model; `options` of the job spec override it."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 128
    buckets: int = 4096  # rows of each hashed table


class Attention(nn.Module):
    """Causal attention with rotary positions and normed queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        nn.init.zeros_(self.out.weight)  # each block begins as the identity

    def forward(self, x_BTD, turns_TK):
        B, T, D = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        q_BHTK, k_BHTK = rotate(norm(q_BHTK), turns_TK), rotate(norm(k_BHTK), turns_TK)
        y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    """Attention, then a squared-ReLU MLP, each on a normed input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x_BTD, turns_TK):
        x_BTD = x_BTD + self.attention(norm(x_BTD), turns_TK)
        return x_BTD + self.down(functional.relu(self.up(norm(x_BTD))).square())


class ByteGPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.emb_byte = nn.Embedding(VOCABULARY, shape.width)
        self.emb_pair = nn.Embedding(shape.buckets, shape.width)
        self.emb_triple = nn.Embedding(shape.buckets, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        for table in (self.emb_byte, self.emb_pair, self.emb_triple):
            nn.init.normal_(table.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("turns_TK", turns(shape), persistent=False)

    def forward(self, bytes_BT):
        before_BT = functional.pad(bytes_BT, (1, 0))[:, :-1]
        third_BT = functional.pad(bytes_BT, (2, 0))[:, :-2]
        pair_BT = (bytes_BT + 257 * before_BT) * 2654435761 >> 7
        triple_BT = (bytes_BT + 257 * before_BT + 66_049 * third_BT) * 2654435761 >> 9
        x_BTD = (
            self.emb_byte(bytes_BT)
            + self.emb_pair(pair_BT % self.shape.buckets)
            + self.emb_triple(triple_BT % self.shape.buckets)
        )
        for block in self.blocks:
            x_BTD = block(x_BTD, self.turns_TK[: bytes_BT.size(1)])
        return self.head(norm(x_BTD))


class Hello:
    """The recipe: the model above and the corpus blob."""

    def __init__(self, options, inputs) -> None:
        self.shape = Shape(**options)
        corpus = torch.frombuffer(bytearray(inputs["corpus"].read_bytes()), dtype=torch.uint8).long()
        cut = len(corpus) * (10 - HELD_OUT_TENTHS) // 10
        self.train, self.heldout = corpus[:cut], corpus[cut:]
        self.num_examples = cut - self.shape.context
        self.tokens_per_example = self.shape.context

    def build(self) -> nn.Module:
        """Return a fresh model."""
        return ByteGPT(self.shape)

    def loss(self, model, examples):
        """Return the mean cross entropy, in nats, of windows that begin at the given bytes."""
        window = torch.arange(self.shape.context + 1)
        bytes_BT = self.train[torch.tensor(examples)[:, None] + window]
        return cross_entropy(model(bytes_BT[:, :-1]), bytes_BT[:, 1:])

    @torch.no_grad()
    def evaluate(self, model):
        """Return bits per byte on the held-out tenth, every byte but the first predicted once.

        Each window hands the last byte of the one before in as its first context.
        """
        T = self.shape.context
        num_windows = math.ceil((len(self.heldout) - 1) / T)
        padded = functional.pad(self.heldout, (0, num_windows * T + 1 - len(self.heldout)))
        inputs_BT, targets_BT = padded[:-1].view(-1, T), padded[1:].view(-1, T).clone()
        targets_BT.view(-1)[len(self.heldout) - 1 :] = -100  # padding is not scored
        nats = sum(
            float(cross_entropy(model(inputs_BT[at : at + 32]), targets_BT[at : at + 32], reduction="sum"))
            for at in range(0, num_windows, 32)
        )
        return {"heldout_bits_per_byte": nats / math.log(2) / (len(self.heldout) - 1)}


recipe = Hello


def cross_entropy(logits_BTV, targets_BT, reduction="mean"):
    """Return the cross entropy over all positions, in nats."""
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction=reduction)


def norm(x):
    """Return x over its root mean square; no learned gain."""
    return functional.rms_norm(x, (x.size(-1),))


def turns(shape: Shape):
    """Return rotation angles of each position and half-pair of a head (rotary positions)."""
    half = shape.width // shape.heads // 2
    rates_K = 1000.0 ** (-torch.arange(half) / half)
    return torch.arange(shape.context)[:, None] * rates_K


def rotate(x_BHTK, turns_TK):
    """Turn each pair (x_k, x_(k + K/2)) by its position's angle."""
    a, b = x_BHTK.chunk(2, dim=-1)
    cos, sin = turns_TK.cos(), turns_TK.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
