"""Comparing two results of one task: bitwise inside an engine class, with tolerance between some.

Rules:
1. Inside one class equality is of bytes. There is no tolerance to hide a cheat in.
2. Between two classes a relative distance of pseudo-gradients may be judged only where
   `bench/audit_distance.py` measured cheat-min / honest-max >= MIN_SEPARATION for that optimizer, H
   and pair of classes. The threshold is the geometric mean of the two.
3. Everywhere else the answer is that nothing can be said: "bitwise in class only".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

MIN_SEPARATION = 30.0  # below it honest noise and the smallest cheat are too near (docs/rounds.md)


class Agreement(StrEnum):
    """What comparing two results shows."""

    EQUAL = "equal"  # bit for bit
    WITHIN = "within tolerance"
    DIFFERENT = "different"
    INCOMPARABLE = "bitwise in class only"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One measured cell: the largest honest distance and the smallest of a cheat."""

    family: str  # both classes' name without the hash of their kernels
    optimizer: str
    max_inner_steps: int  # the largest H the cell was measured at
    honest_max: float
    cheat_min: float

    @property
    def threshold(self) -> float | None:
        """Return the distance that separates, None where the gap is too narrow."""
        if self.honest_max <= 0.0 or self.cheat_min / self.honest_max < MIN_SEPARATION:
            return None
        return math.sqrt(self.honest_max * self.cheat_min)


# bench/audit_distance.py, hello with two layers, rounded against us. It compares one class with four
# others; honest_max is the sum of its two largest distances, which bounds every pair of the five. No
# other family has been measured, so none is here.
MEASURED = (
    Tolerance("cpu-fp32-torch2.13.0", "muon", 4, honest_max=4e-5, cheat_min=2.2e-2),
    Tolerance("cpu-fp32-torch2.13.0", "muon", 10, honest_max=4e-5, cheat_min=2.2e-2),
    Tolerance("cpu-fp32-torch2.13.0", "muon", 30, honest_max=4e-5, cheat_min=1.7e-2),
    Tolerance("cpu-fp32-torch2.13.0", "adamw", 4, honest_max=2e-5, cheat_min=2.1e-2),
    Tolerance("cpu-fp32-torch2.13.0", "adamw", 10, honest_max=2e-5, cheat_min=2.0e-2),
    Tolerance("cpu-fp32-torch2.13.0", "adamw", 30, honest_max=2e-5, cheat_min=1.4e-2),
)


def relative_distance(claimed: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> float:
    """Return ||claimed - replayed|| / ||replayed|| over all tensors in fp64; inf for another shape."""
    if set(claimed) != set(replayed):
        return math.inf
    if any(claimed[name].shape != replayed[name].shape for name in replayed):
        return math.inf
    apart = _norm({name: claimed[name].double() - replayed[name].double() for name in replayed})
    size = _norm({name: tensor.double() for name, tensor in replayed.items()})
    if not (math.isfinite(apart) and math.isfinite(size)):
        return math.inf
    return apart / size if size > 0.0 else (0.0 if apart == 0.0 else math.inf)


def compare(
    claimed: Mapping[str, Tensor], replayed: Mapping[str, Tensor], *, same_class: bool, tolerance: Tolerance | None
) -> Agreement:
    """Say whether two results of one task agree (rules 1 to 3)."""
    distance = relative_distance(claimed, replayed)
    if distance == 0.0 and _same_bits(claimed, replayed):
        return Agreement.EQUAL
    if same_class:
        return Agreement.DIFFERENT
    threshold = tolerance.threshold if tolerance is not None else None
    if threshold is None:
        return Agreement.INCOMPARABLE
    return Agreement.WITHIN if distance <= threshold else Agreement.DIFFERENT


def find_tolerance(
    classes: tuple[str, str], optimizer: str, inner_steps: int, table: tuple[Tolerance, ...] = ()
) -> Tolerance | None:
    """Return the narrowest measured cell for a pair of engine classes, an optimizer and H."""
    families = {family_of(name) for name in classes}
    cells = [
        cell
        for cell in table or MEASURED
        if families == {cell.family} and optimizer == cell.optimizer and inner_steps <= cell.max_inner_steps
    ]
    return min(cells, key=lambda cell: cell.max_inner_steps, default=None)


def family_of(engine_class: str) -> str:
    """Return an engine class without the hash of its kernels: device, dtype and torch version."""
    return engine_class.rpartition("-")[0]


def _norm(tensors: Mapping[str, Tensor]) -> float:
    squares = [tensors[name].square().sum() for name in sorted(tensors)]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    # +0.0 and -0.0 are at distance 0 and still other bytes.
    return all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].contiguous().view(torch.uint8), right[name].contiguous().view(torch.uint8))
        for name in right
    )
