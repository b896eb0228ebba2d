"""`builtin:bytegpt`: a byte-level GPT on one text.

The text is the input `corpus`, one blob of bytes; its last tenth is held out. A prediction of the next byte sums two
paths: a small transformer, and hashed embeddings of the last two and three bytes, which learn the text's short-range
statistics in a few steps (each is one row lookup, no matrix product).

Shape suffixes: B batch, T time, D width, H heads, K width of a head, V vocabulary (256 bytes).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stannary.errors import SpecError
from stannary.formats.training import Options

VOCABULARY = 256
HELD_OUT_TENTHS = 1
MAX_SIZE = 1_048_576  # of any dimension
EVALUATED_AT_ONCE = 32  # windows


@dataclass(frozen=True)
class ModelShape:
    """The size of the model: `recipe.options`."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 128
    buckets: int = 4096  # rows of each hashed table


class ByteGPTRecipe:
    """The model below and the corpus blob."""

    def __init__(self, options: Mapping[str, Options], inputs: Mapping[str, Path]) -> None:
        self.shape = read_shape(options)
        if set(inputs) != {"corpus"}:
            raise SpecError("bytegpt takes one input, corpus", why=", ".join(sorted(inputs)) or "no input is given")
        corpus = torch.frombuffer(bytearray(inputs["corpus"].read_bytes()), dtype=torch.uint8).long()
        cut = len(corpus) * (10 - HELD_OUT_TENTHS) // 10
        if min(cut, 2 * (len(corpus) - cut)) <= self.shape.context:
            why = f"{len(corpus):,} bytes, of which a tenth is held out; context {self.shape.context}"
            raise SpecError("the corpus is too short for this context", why=why)
        self.train, self.heldout = corpus[:cut], corpus[cut:]
        self.num_examples = cut - self.shape.context
        self.tokens_per_example = self.shape.context

    def build(self) -> nn.Module:
        """Return a fresh model."""
        return ByteGPT(self.shape)

    def loss(self, model: nn.Module, examples: Sequence[int]) -> Tensor:
        """Return the mean cross entropy, in nats, of windows that begin at the given bytes."""
        window = torch.arange(self.shape.context + 1)
        bytes_BT = self.train[torch.tensor(examples)[:, None] + window]
        return cross_entropy(model(bytes_BT[:, :-1]), bytes_BT[:, 1:])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return bits per byte on the held-out tenth, every byte but the first predicted once.

        Each window hands the last byte of the one before in as its first context.
        """
        T = self.shape.context
        num_windows = math.ceil((len(self.heldout) - 1) / T)
        padded = functional.pad(self.heldout, (0, num_windows * T + 1 - len(self.heldout)))
        inputs_BT, targets_BT = padded[:-1].view(-1, T), padded[1:].view(-1, T).clone()
        targets_BT.view(-1)[len(self.heldout) - 1 :] = -100  # padding is not scored
        nats = 0.0
        for at in range(0, num_windows, EVALUATED_AT_ONCE):
            part = slice(at, at + EVALUATED_AT_ONCE)
            nats += float(cross_entropy(model(inputs_BT[part]), targets_BT[part], reduction="sum"))
        return {"heldout_bits_per_byte": nats / math.log(2) / (len(self.heldout) - 1)}


recipe = ByteGPTRecipe


class ByteGPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, shape: ModelShape) -> None:
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
        self.register_buffer("turns", turns(shape), persistent=False)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        before_BT = functional.pad(bytes_BT, (1, 0))[:, :-1]
        third_BT = functional.pad(bytes_BT, (2, 0))[:, :-2]
        pair_BT = (bytes_BT + 257 * before_BT) * 2654435761 >> 7
        triple_BT = (bytes_BT + 257 * before_BT + 66_049 * third_BT) * 2654435761 >> 9
        x_BTD: Tensor = (
            self.emb_byte(bytes_BT)
            + self.emb_pair(pair_BT % self.shape.buckets)
            + self.emb_triple(triple_BT % self.shape.buckets)
        )
        turns_TK = self.get_buffer("turns")[: bytes_BT.size(1)]
        for block in self.blocks:
            x_BTD = block(x_BTD, turns_TK)
        logits_BTV: Tensor = self.head(norm(x_BTD))
        return logits_BTV


class Block(nn.Module):
    """Attention, then a squared-ReLU MLP, each on a normed input."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x_BTD: Tensor, turns_TK: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(norm(x_BTD), turns_TK)
        y_BTD: Tensor = self.down(functional.relu(self.up(norm(x_BTD))).square())
        return x_BTD + y_BTD


class Attention(nn.Module):
    """Causal attention with rotary positions and normed queries and keys."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        nn.init.zeros_(self.out.weight)  # each block begins as the identity

    def forward(self, x_BTD: Tensor, turns_TK: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        q_BHTK, k_BHTK = rotate(norm(q_BHTK), turns_TK), rotate(norm(k_BHTK), turns_TK)
        y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        y_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))
        return y_BTD


def read_shape(options: Mapping[str, Options]) -> ModelShape:
    """Return the size of the model.

    Raises:
        SpecError: another option, no whole number from 1 on, or a width that the heads cannot share out in pairs.
    """
    known = {item.name: item.default for item in dataclasses.fields(ModelShape)}
    sizes: dict[str, int] = {}
    for name, value in options.items():
        if name not in known:
            raise SpecError(f"recipe.options.{name:.40} is unknown", why=f"bytegpt has: {', '.join(known)}")
        if type(value) is not int or not 1 <= value <= MAX_SIZE:
            why = f"{value!r:.40}, 1 to {MAX_SIZE:,}"
            raise SpecError(f"recipe.options.{name} is no size", why=why, hint=f"the default is {known[name]}")
        sizes[name] = value
    shape = ModelShape(**sizes)
    if shape.width % (2 * shape.heads):
        why = f"width {shape.width}, heads {shape.heads}"
        raise SpecError("recipe.options.width is no multiple of twice the heads", why=why)
    return shape


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross entropy over all positions, in nats."""
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction=reduction)


def norm(x: Tensor) -> Tensor:
    """Return x over its root mean square; no learned gain."""
    return functional.rms_norm(x, (x.size(-1),))


def turns(shape: ModelShape) -> Tensor:
    """Return rotation angles of each position and half-pair of a head (rotary positions)."""
    half = shape.width // shape.heads // 2
    rates_K = 1000.0 ** (-torch.arange(half) / half)
    return torch.arange(shape.context)[:, None] * rates_K


def rotate(x_BHTK: Tensor, turns_TK: Tensor) -> Tensor:
    """Turn each pair (x_k, x_(k + K/2)) by its position's angle."""
    a, b = x_BHTK.chunk(2, dim=-1)
    cos, sin = turns_TK.cos(), turns_TK.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
