"""Which examples a step sees: a public function of seed, global step and lane.

An auditor needs no list of what a node trained on, and a node has no choice to make: picking easy
examples or training twice on one batch is a different result. Lanes draw independently, with
replacement, from the examples the recipe counts.

The stream is SHAKE-256 over named parts, hence the same in any language and on any machine.
"""

from __future__ import annotations

import hashlib

from stannary.errors import SpecError

LABEL = b"stannary data shake256-v1"
WORD_BYTES = 8


def draw_examples(seed: int, step: int, lane: int, count: int, *, num_examples: int) -> list[int]:
    """Return `count` example indices below `num_examples` for one lane's inner step.

    The bias of reducing 64 random bits modulo num_examples is below num_examples / 2**64.
    """
    if num_examples < 1:
        raise SpecError("recipe has no examples", why=f"num_examples {num_examples}")
    stream = _stream(seed, step, lane, WORD_BYTES * count)
    return [
        int.from_bytes(stream[at : at + WORD_BYTES], "big") % num_examples for at in range(0, len(stream), WORD_BYTES)
    ]


def step_seed(seed: int, step: int, lane: int) -> int:
    """Return the seed of everything random inside one inner step (dropout, noise), 63 bits."""
    return int.from_bytes(_stream(seed, step, lane, WORD_BYTES), "big") >> 1


def _stream(seed: int, step: int, lane: int, num_bytes: int) -> bytes:
    parts = b"".join(value.to_bytes(WORD_BYTES, "big") for value in (seed, step, lane))
    return hashlib.shake_256(LABEL + parts).digest(num_bytes)
