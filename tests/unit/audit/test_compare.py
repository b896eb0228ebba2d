"""Comparison of two results, bitwise and with measured tolerance."""

from __future__ import annotations

import math

import pytest
import torch

from stannary.audit.compare import MEASURED, Agreement, Tolerance, compare, find_tolerance, relative_distance

BASE = {"a": torch.linspace(-1, 1, 50), "b": torch.ones(3, 4)}
FAMILY = "cpu-fp32-torch2.13.0"
PAIR = (f"{FAMILY}-0123456789ab", f"{FAMILY}-ba9876543210")
CELL = Tolerance(FAMILY, "muon", 10, honest_max=1e-6, cheat_min=1e-2)


def shifted(by: float) -> dict[str, torch.Tensor]:
    return {name: tensor * (1 + by) for name, tensor in BASE.items()}


def test_distance_is_relative_to_the_replay():
    """A result 2 % too long is at distance 0.02."""
    assert relative_distance(shifted(0.02), BASE) == pytest.approx(0.02, rel=1e-4)
    assert relative_distance(BASE, BASE) == 0.0


@pytest.mark.parametrize(
    "odd",
    [
        {"a": BASE["a"]},
        {**BASE, "c": torch.ones(1)},
        {**BASE, "b": torch.ones(4, 3)},
        {**BASE, "b": BASE["b"] * math.nan},
    ],
)
def test_another_shape_or_nan_is_infinitely_far(odd):
    """Nothing malformed slips below a threshold; nan compares false with everything."""
    assert relative_distance(odd, BASE) == math.inf
    assert compare(odd, BASE, same_class=False, tolerance=CELL) is Agreement.DIFFERENT


def test_inside_a_class_only_bits_count():
    """One bit of difference is a difference, the sign of zero included."""
    assert compare(BASE, BASE, same_class=True, tolerance=CELL) is Agreement.EQUAL
    assert compare(shifted(1e-6), BASE, same_class=True, tolerance=CELL) is Agreement.DIFFERENT
    plus, minus = {"z": torch.zeros(2)}, {"z": -torch.zeros(2)}
    assert compare(plus, minus, same_class=True, tolerance=None) is Agreement.DIFFERENT


def test_between_classes_the_measured_threshold_decides():
    """The geometric mean of honest-max and cheat-min, where they are far enough apart."""
    assert CELL.threshold == pytest.approx(1e-4)
    assert compare(shifted(1e-5), BASE, same_class=False, tolerance=CELL) is Agreement.WITHIN
    assert compare(shifted(1e-3), BASE, same_class=False, tolerance=CELL) is Agreement.DIFFERENT


@pytest.mark.parametrize(
    "cell", [None, Tolerance(FAMILY, "muon", 10, 1e-3, 2.9e-2), Tolerance(FAMILY, "muon", 10, 0.0, 1.0)]
)
def test_where_the_gap_is_narrow_nothing_is_said(cell):
    """Below a separation of thirty, or unmeasured, results of two classes are incomparable."""
    assert compare(shifted(1e-5), BASE, same_class=False, tolerance=cell) is Agreement.INCOMPARABLE


def test_a_cell_covers_shorter_rounds_of_its_optimizer():
    """Noise grows with steps, so the narrowest cell that reaches H is used."""
    table = (CELL, Tolerance(FAMILY, "muon", 30, 1e-5, 1e-2), Tolerance(FAMILY, "adamw", 10, 1e-5, 1e-2))
    assert find_tolerance(PAIR, "muon", 7, table) is CELL
    assert find_tolerance(PAIR, "muon", 30, table) is table[1]
    assert find_tolerance(PAIR, "muon", 31, table) is None
    assert find_tolerance(PAIR, "adamw", 10, table) is table[2]


def test_what_was_not_measured_has_no_tolerance():
    """Another torch, dtype or device on either side leaves bitwise comparison in class only."""
    for odd in ("cpu-fp32-torch2.14.0-0123456789ab", "cpu-bf16-torch2.13.0-0123456789ab", "sm90-fp32-torch2.13.0-01"):
        assert find_tolerance((PAIR[0], odd), "muon", 4) is None
        assert find_tolerance((odd, odd), "muon", 4) is None


def test_every_measured_cell_separates():
    """Each cell of the table keeps the promise of thirty, and its threshold lies between the two."""
    for cell in MEASURED:
        assert cell.threshold is not None
        assert cell.honest_max * 5 < cell.threshold < cell.cheat_min / 5
