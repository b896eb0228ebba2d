"""Merges: the aggregator's sum, bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.unit.train.conftest import JOB, a_merge, a_round, round_task

from stannary.train import checkpoint, recipe
from stannary.train.merge import MergeInputs, Support, factors, run_merge
from stannary.train.round import run_round


@pytest.fixture(name="deltas")
def fixture_deltas(tiny, settings):
    return {
        round_task(JOB, 0, lane): run_round(tiny, a_round(settings, 0, lane), settings, None).outputs["delta"]
        for lane in range(3)
    }


def tensors(data: bytes):
    return checkpoint.decode(data).tensors


def test_the_merge_is_what_the_formula_says(tiny, settings, deltas):
    """Clipped mean, then one Nesterov step from zero momentum."""
    done = run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, deltas))
    start = recipe.weights_of(recipe.build(tiny, settings, None))
    opened = [tensors(deltas[round_task(JOB, 0, lane)]) for lane in range(3)]
    norms = [float(torch.cat([t.flatten() for t in delta.values()]).norm()) for delta in opened]
    middle = sorted(norms)[1]
    for name, weight in start.items():
        mean = sum(delta[name] * min(1, middle / norm) for delta, norm in zip(opened, norms, strict=True)) / 3
        assert torch.allclose(tensors(done.outputs["outer"])[name], mean, atol=1e-6)
        assert torch.allclose(tensors(done.outputs["theta"])[name], weight - 1.6 * mean, atol=1e-6)
    assert sorted(done.states) == [1, 2, 3]
    assert float(done.metrics["heldout_loss"]) > 0


def test_after_a_conviction_theta_is_that_of_a_run_without_the_contribution(tiny, settings, deltas):
    """Merging again without the convicted is, bit for bit, never having admitted him, in the next round too."""
    liar = round_task(JOB, 0, 1)
    with_liar = {**deltas, liar: checkpoint.encode({n: -3 * t for n, t in tensors(deltas[liar]).items()})}
    never = {task: data for task, data in deltas.items() if task != liar}
    tainted = run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, with_liar))
    again = dataclasses.replace(a_merge(0, [0, 2]), excluded=(liar,))
    remerged = run_merge(tiny, again, settings, MergeInputs(None, None, with_liar))
    clean = run_merge(tiny, a_merge(0, [0, 2]), settings, MergeInputs(None, None, never))
    assert remerged.outputs == clean.outputs != tainted.outputs
    theta = remerged.outputs["theta"]
    assert (
        run_round(tiny, a_round(settings, 1, 0), settings, theta).outputs
        == run_round(tiny, a_round(settings, 1, 0), settings, clean.outputs["theta"]).outputs
    )


def test_order_is_that_of_the_log(tiny, settings, deltas):
    """The order in which contributions are listed or held does not matter, their log indices do."""
    merge = a_merge(0, [2, 0, 1])
    shuffled = dataclasses.replace(merge, admitted=tuple(reversed(merge.admitted)))
    inputs = MergeInputs(None, None, dict(reversed(deltas.items())))
    assert run_merge(tiny, shuffled, settings, inputs).outputs == run_merge(tiny, merge, settings, inputs).outputs


def test_outer_momentum_is_carried(tiny, settings, deltas):
    """The second merge depends on the outer state of the first."""
    first = run_merge(tiny, a_merge(0, [0, 1]), settings, MergeInputs(None, None, deltas)).outputs
    moved = {
        outer is None: run_merge(
            tiny, a_merge(0, [0, 1]), settings, MergeInputs(first["theta"], outer, deltas)
        ).outputs["theta"]
        for outer in (None, first["outer"])
    }
    assert moved[True] != moved[False]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_contribution_that_is_not_finite_weighs_nothing(tiny, settings, deltas, value):
    """It can neither poison nor stop a merge."""
    liar = round_task(JOB, 0, 1)
    poison = {name: tensor.clone() for name, tensor in tensors(deltas[liar]).items()}
    poison["mix.bias"][3] = value
    inputs = MergeInputs(None, None, {**deltas, liar: checkpoint.encode(poison)})
    done = run_merge(tiny, a_merge(0, [0, 1, 2]), settings, inputs)
    without = run_merge(tiny, a_merge(0, [0, 2]), settings, inputs)
    assert done.outputs == without.outputs and "weighs nothing" in done.notes[0]


@pytest.mark.parametrize("data", [b"", b"\x80\x04 pickle", checkpoint.encode({"other": torch.zeros(3)})])
def test_bytes_that_are_no_contribution_weigh_nothing(tiny, settings, deltas, data):
    """A liar's bytes do not decide whether a merge can be made, not even if all lie."""
    liar = round_task(JOB, 0, 1)
    inputs = MergeInputs(None, None, {**deltas, liar: data})
    done = run_merge(tiny, a_merge(0, [0, 1, 2]), settings, inputs)
    assert done.outputs == run_merge(tiny, a_merge(0, [0, 2]), settings, inputs).outputs
    alone = run_merge(tiny, a_merge(0, [1]), settings, inputs)
    start = recipe.weights_of(recipe.build(tiny, settings, None))
    assert all(torch.equal(tensors(alone.outputs["theta"])[name], start[name]) for name in start)


def test_one_loud_contribution_moves_no_more_than_the_middle_one():
    """Norms are clipped to the median, and weights are shares of those heard."""
    admitted = a_merge(0, [0, 1, 2, 3], weights={0: 2_000_000}).admitted
    sizes = (1.0, 2.0, 3000.0)
    supports = [Support(item, {"w": torch.full((1,), size)}) for item, size in zip(admitted, sizes, strict=False)]
    supports.append(Support(admitted[3], None))
    assert factors(supports) == pytest.approx([2 / 4, 1 / 4, 1 / 4 * 2 / 3000, 0.0])
    assert factors([]) == []
