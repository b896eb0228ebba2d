"""Standard compute units: what a measured vector is worth in each kind of work.

Basket `scu-2026.1`. For a profile p with weights w and reference r:

    SCU_p = min( prod_k (x_k / r_k) ** w_k ,  1.25 * min_k (x_k / r_k) over the profile's resources )

The cap is the roofline: a fast GPU behind a thin line is not sold as training power. The reference,
1.00 in every profile, is one H100 SXM 80 GB *by its data sheet* (dense int8, HBM3); none has been
measured by us. A resource that was not measured leaves its profile `not measured`: no guess is sold.
A new table gets a new name and a cross-walk; this one is never changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stannary.formats.canonical import Json

BASKET = "scu-2026.1"
ROOFLINE = 1.25
# H100 SXM 80 GB: 1,979 dense int8 TOP/s, 3.35 TB/s; host: 25 GB/s network (200 Gbit/s), 3 GB/s disk.
REFERENCE = {"int8_tops": 1979.0, "memory_gb_per_s": 3350.0, "disk_gb_per_s": 3.0, "network_gb_per_s": 25.0}
PROFILES: dict[str, dict[str, float]] = {
    "train": {"int8_tops": 0.6, "memory_gb_per_s": 0.25, "network_gb_per_s": 0.1, "disk_gb_per_s": 0.05},
    "finetune": {"int8_tops": 0.6, "memory_gb_per_s": 0.35, "disk_gb_per_s": 0.05},
    "prefill": {"int8_tops": 0.8, "memory_gb_per_s": 0.2},
    "decode": {"int8_tops": 0.2, "memory_gb_per_s": 0.8},
}
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Power:
    """One device's products: work done, and the low quantile of its own rates."""

    device: str
    operations: int
    low_rate: float


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade vector of a machine; `problem` says why there is none."""

    powers: tuple[Power, ...]
    passes: dict[str, Json]
    escape: float
    problem: str = ""

    @classmethod
    def refused(cls, problem: str) -> Grade:
        """Return a grade that was refused."""
        return cls((), {}, 1.0, problem)

    @classmethod
    def measured(cls, powers: tuple[Power, ...], passes: dict[str, Json], *, escape: float) -> Grade:
        """Return a verified grade."""
        return cls(powers, passes, escape)

    def int8_tops(self, elapsed_s: float | None = None) -> float:
        """Return verified power: never above work over the verifier's own time, where that is known.

        Where no time passed by the verifier's clock there is no rate: the node's own times alone bound nothing.
        """
        if elapsed_s is not None and elapsed_s <= 0:
            return 0.0
        rate = sum(item.low_rate for item in self.powers)
        if elapsed_s is not None:
            rate = min(rate, sum(item.operations for item in self.powers) / elapsed_s)
        return rate / 1e12

    def vector(self, elapsed_s: float | None = None) -> dict[str, float]:
        """Return every measured resource."""
        is_bounded = elapsed_s is None or elapsed_s > 0
        found = {"int8_tops": self.int8_tops(elapsed_s)} if self.powers and is_bounded else {}
        for name, member in (("memory_gb_per_s", "memory_mb_per_s"), ("disk_gb_per_s", "disk_mb_per_s")):
            value = self.passes.get(member)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found[name] = value / 1000
        return found

    def to_json(self, elapsed_s: float | None = None) -> dict[str, Json]:
        """Return the grade with decimals as strings."""
        vector = self.vector(elapsed_s)
        return {
            "basket": BASKET,
            "vector": {name: f"{value:.6g}" for name, value in vector.items()},
            "scu": {name: scu_text(name, vector) for name in PROFILES},
            "num_devices": len(self.powers),
            "escape": f"{self.escape:.1e}",
            "network": NOT_MEASURED,
        }


def scu(profile: str, vector: dict[str, float]) -> float | None:
    """Return the SCU of a profile, None where a resource of it was not measured."""
    weights = PROFILES[profile]
    if any(name not in vector for name in weights):
        return None
    ratios = {name: vector[name] / REFERENCE[name] for name in weights}
    mean = math.prod(ratio ** weights[name] for name, ratio in ratios.items())
    return float(min(mean, ROOFLINE * min(ratios.values())))


def scu_text(profile: str, vector: dict[str, float]) -> str:
    """Return the SCU as text."""
    value = scu(profile, vector)
    return NOT_MEASURED if value is None else f"{value:.6f}"
