"""The draw: which work is audited, at which inner step, and by whom.

Rules:
1. beacon = H(value, checkpoint root), where `value` is the next link of the buyer's hash chain and the checkpoint
   covers the commitments it judges. The market knows the commitments but not the value; the buyer knows the value
   but cannot change it; the node committed before either was joined: nobody steers.
2. SHA-256 applied `index` times to value number `index` gives the chain's tip, which the signed job names
   (value 0 is the tip itself). A value is revealed once, for one checkpoint.
3. Everything a draw selects is a function of (beacon, task): whether the task is audited, the inner step both sides
   must answer for (1 to num_steps), the audit salt, and the order of the auditors.
4. Auditors belong to another operator than the prover and to its engine class, at most one node per operator,
   the smallest H(beacon, task, node) first. The next in rank serves when one is silent or another opinion is needed.
5. `canary`: after its verdict the task goes, as if new, to the next in rank, whose answer is already known.

The market draws with these functions, and the verifier draws again (receipt.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from stannary.errors import FormatError, Refuted
from stannary.formats import digest
from stannary.formats.digest import SIZE_BYTES, Digest
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Candidate, Draw, Drawable

PPM = 1_000_000
CANARY_PPM = 10_000  # 1 %: research/verification.md section 4, the verifier's dilemma
MAX_CHAIN = 100_000  # links of a beacon chain; one checkpoint each


@dataclass(frozen=True, slots=True)
class Selection:
    """What the beacon says about one task."""

    task: TaskId
    drawn: bool
    step: int
    salt: bytes
    auditors: tuple[Candidate, ...]  # in rank order
    canary: bool


def chain_value(seed: bytes, length: int, index: int) -> str:
    """Return value number `index` of the buyer's chain, in hex: SHA-256^(length - index)(seed); 0 is the tip."""
    if not 0 <= index <= length <= MAX_CHAIN:
        raise FormatError("no such beacon value", why=f"index {index} of a chain of {length}, limit {MAX_CHAIN}")
    return _hashed(seed, length - index).hex()


def check_chain(value: str, index: int, tip: str, *, tip_index: int = 0) -> None:
    """Check that `value` is number `index` of the chain in which `tip` is number `tip_index` (rule 2).

    Raises:
        Refuted: it is not; or it is not later than the tip.
    """
    if not tip_index < index <= MAX_CHAIN:
        raise Refuted("beacon value out of order", why=f"number {index} after {tip_index}")
    if _hashed(_value_bytes(value), index - tip_index) != _value_bytes(tip):
        raise Refuted("beacon value is not of the buyer's chain", why=f"number {index}")


def beacon(value: str, checkpoint_root: Digest) -> bytes:
    """Return the randomness that `value`, revealed for this checkpoint, makes (rule 1)."""
    return digest.hash_parts("stannary beacon v1", _value_bytes(value), digest.raw(checkpoint_root))


def select(draw: Draw, randomness: bytes, audit_ppm: int, canary_ppm: int = CANARY_PPM) -> tuple[Selection, ...]:
    """Return what `randomness` (the beacon) selects among the draw's tasks, in their order."""
    return tuple(
        _select(item, draw.candidates, randomness, audit_ppm=audit_ppm, canary_ppm=canary_ppm) for item in draw.drawable
    )


def rank(task: Drawable, candidates: Iterable[Candidate], randomness: bytes) -> tuple[Candidate, ...]:
    """Return those who may audit `task`, in the order they are asked (rule 4)."""
    eligible = [
        item for item in candidates if item.operator != task.operator and item.engine_class == task.engine_class
    ]
    eligible.sort(key=lambda item: (_hash("auditor", randomness, task.task, item.node.encode()), item.node))
    first_of: dict[str, Candidate] = {}
    for item in eligible:
        first_of.setdefault(item.operator, item)
    return tuple(first_of.values())


def _select(
    task: Drawable, candidates: Iterable[Candidate], randomness: bytes, *, audit_ppm: int, canary_ppm: int
) -> Selection:
    if task.num_steps < 1:
        raise FormatError("a task without steps cannot be drawn", why=str(task.task))
    # 256 bits modulo a step count: the bias is below 2**-200
    step = 1 + int.from_bytes(_hash("step", randomness, task.task), "big") % task.num_steps
    return Selection(
        task=task.task,
        drawn=_chosen(_hash("audit", randomness, task.task), audit_ppm),
        step=step,
        salt=_hash("salt", randomness, task.task),
        auditors=rank(task, candidates, randomness),
        canary=_chosen(_hash("canary", randomness, task.task), canary_ppm),
    )


def _chosen(value: bytes, ppm: int) -> bool:
    """Return whether the value, read as a fraction of 2**256, lies below ppm / 1,000,000 (exact integers)."""
    return int.from_bytes(value, "big") * PPM < ppm << (8 * SIZE_BYTES)


def _hash(label: str, randomness: bytes, task: TaskId, *more: bytes) -> bytes:
    return digest.hash_parts(f"stannary draw {label} v1", randomness, task.encode(), *more)


def _hashed(value: bytes, times: int) -> bytes:
    for _ in range(times):
        value = hashlib.sha256(value).digest()
    return value


def _value_bytes(value: str) -> bytes:
    try:
        data = bytes.fromhex(value)
    except ValueError as err:
        raise FormatError("beacon value is not hex", why=f"{value!r:.80}") from err
    if len(data) != SIZE_BYTES or data.hex() != value:
        raise FormatError("not a beacon value", why=f"{value!r:.80}")
    return data
