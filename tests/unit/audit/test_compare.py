"""Comparison of two results, bitwise and with measured tolerance."""

from __future__ import annotations

import math

import pytest
import torch

from stannary.audit.compare import Agreement, Tolerance, compare, find_tolerance, relative_distance

BASE = {"a": torch.linspace(-1, 1, 50), "b": torch.ones(3, 4)}
CELL = Tolerance("muon", 10, honest_max=1e-6, cheat_min=1e-2)


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


@pytest.mark.parametrize("cell", [None, Tolerance("muon", 10, 1e-3, 2.9e-2), Tolerance("muon", 10, 0.0, 1.0)])
def test_where_the_gap_is_narrow_nothing_is_said(cell):
    """Below a separation of thirty, or unmeasured, results of two classes are incomparable."""
    assert compare(shifted(1e-5), BASE, same_class=False, tolerance=cell) is Agreement.INCOMPARABLE


def test_a_cell_covers_shorter_rounds_of_its_optimizer():
    """Noise grows with steps, so the narrowest cell that reaches H is used."""
    table = (CELL, Tolerance("muon", 30, 1e-5, 1e-2), Tolerance("adamw", 10, 1e-5, 1e-2))
    assert find_tolerance(table, "muon", 7) is CELL
    assert find_tolerance(table, "muon", 30) is table[1]
    assert find_tolerance(table, "muon", 31) is None
    assert find_tolerance(table, "adamw", 10) is table[2]
