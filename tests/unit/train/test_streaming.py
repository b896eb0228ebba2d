"""Checkpoints read and written tensor by tensor: the same bits, less memory, and no trust in what lies there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from tests.unit.train.conftest import JOB, a_merge, a_round, round_task
from torch import Tensor

from stannary.errors import FormatError, NotFound
from stannary.formats.training import fraction
from stannary.train import checkpoint, recipe
from stannary.train.merge import MergeInputs, OfSize, Support, factors, run_merge
from stannary.train.round import Recording, keep_none, run_round

QUIET = Recording(keep=keep_none)


@pytest.fixture(name="deltas")
def fixture_deltas(tiny, settings):
    return {
        round_task(JOB, 0, lane): run_round(tiny, a_round(settings, 0, lane), settings, None).outputs["delta"]
        for lane in range(3)
    }


@pytest.fixture(name="files")
def fixture_files(tmp_path: Path, deltas):
    for number, data in enumerate(deltas.values()):
        (tmp_path / str(number)).write_bytes(data)
    return {task: tmp_path / str(number) for number, task in enumerate(deltas)}


@torch.no_grad()
def whole(tiny, settings, merge, deltas, theta=None, outer=None):
    """Merge with everything in memory at once, as the formula is written."""
    weights = recipe.weights_of(recipe.build(tiny, settings, theta))
    listed = sorted(merge.admitted, key=lambda item: item.log_index)
    supports = [Support(item, checkpoint.decode(deltas[item.task]).tensors) for item in listed]
    sums: list[dict[str, Tensor]] = []
    gradient = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for support, factor in zip(supports, factors(supports), strict=True):
        for name, total in gradient.items():
            total.add_(support.delta[name], alpha=factor)
        sums.append({name: total.clone() for name, total in gradient.items()})
    eta, mu = fraction(settings.training.outer_lr, ""), fraction(settings.training.outer_momentum, "")
    momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    if outer is not None:
        momentum = checkpoint.decode(outer).tensors
    for name, weight in weights.items():
        momentum[name].mul_(mu).add_(gradient[name])
        weight.sub_(eta * (gradient[name] + mu * momentum[name]))
    return checkpoint.encode(weights, {"recipe": "{}"}), checkpoint.encode(momentum), [*map(checkpoint.encode, sums)]


def test_a_merge_from_files_has_the_bits_of_one_in_memory(tiny, settings, deltas, files):
    """Weights, momentum and every inner state are those of the plain formula, in the first merge and the second."""
    merge = a_merge(0, [0, 1, 2], weights={1: 3_000_000})
    theta = outer = None
    for _ in range(2):
        expected = whole(tiny, settings, merge, deltas, theta, outer)
        done = run_merge(tiny, merge, settings, MergeInputs(theta, outer, files))
        assert (done.outputs["theta"], done.outputs["outer"]) == expected[:2]
        assert [done.states[count] for count in (1, 2, 3)] == expected[2]
        theta, outer = done.outputs["theta"], done.outputs["outer"]


def test_a_round_from_a_file_has_the_bits_of_one_in_memory(tiny, settings, deltas, tmp_path):
    """Where the weights lie changes nothing."""
    theta = run_merge(tiny, a_merge(0, [0, 1]), settings, MergeInputs(None, None, deltas)).outputs["theta"]
    (tmp_path / "theta").write_bytes(theta)
    made = [run_round(tiny, a_round(settings, 1, 0), settings, lies) for lies in (theta, tmp_path / "theta")]
    assert made[0].outputs == made[1].outputs
    assert made[0].states == made[1].states


def test_another_size_weighs_nothing_fetched_or_not(tiny, settings, deltas, files):
    """A delta with one byte more, one padded, and one of 800 MiB that nobody fetched: the merge of the others."""
    liar = round_task(JOB, 0, 1)
    without = run_merge(tiny, a_merge(0, [0, 2]), settings, MergeInputs(None, None, deltas)).outputs
    opened = checkpoint.decode(deltas[liar]).tensors
    sizes = [deltas[liar] + b"\0", deltas[liar][:-4], checkpoint.encode(opened, {"a": "b"}), OfSize(800 * 2**20)]
    for given in sizes:
        done = run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, {**files, liar: given}))
        assert done.outputs == without
        assert "weighs nothing" in done.notes[0]
    with pytest.raises(NotFound):  # the right size, and not there: no merge rather than a false one
        inputs = MergeInputs(None, None, {**files, liar: OfSize(len(deltas[liar]))})
        run_merge(tiny, a_merge(0, [0, 1, 2]), settings, inputs)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_weighs_nothing(tiny, settings, deltas, files, keep):
    """A contribution cut short anywhere is one that weighs nothing, also where the rest is filled with zeros."""
    liar = round_task(JOB, 0, 1)
    whole_bytes = files[liar].read_bytes()
    without = run_merge(tiny, a_merge(0, [0, 2]), settings, MergeInputs(None, None, deltas)).outputs
    files[liar].write_bytes(whole_bytes[:keep])
    assert run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, files)).outputs == without
    if 0 <= keep < 9:
        os.truncate(files[liar], len(whole_bytes))
        assert run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, files)).outputs == without


def test_a_hostile_header_weighs_nothing(tiny, settings, deltas, files):
    """A header that claims to be larger than its limit ends no merge: it is no contribution."""
    liar = round_task(JOB, 0, 1)
    size = len(deltas[liar])
    files[liar].write_bytes((2**40).to_bytes(8, "little") + bytes(size - 8))
    without = run_merge(tiny, a_merge(0, [0, 2]), settings, MergeInputs(None, None, deltas)).outputs
    assert run_merge(tiny, a_merge(0, [0, 1, 2]), settings, MergeInputs(None, None, files)).outputs == without


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path):
    """What was checked at the start and is gone when a tensor is asked for is an error, not zeros."""
    path = tmp_path / "w"
    path.write_bytes(checkpoint.encode({"a": torch.ones(8), "b": torch.ones(8)}))
    stored = checkpoint.Stored(path)
    os.truncate(path, path.stat().st_size - 4)
    assert torch.equal(stored["a"], torch.ones(8))
    with pytest.raises(FormatError, match="cut short"):
        stored["b"]
    with pytest.raises(NotFound):
        checkpoint.Stored(tmp_path / "absent")


def test_fingerprint_and_size_are_those_of_the_encoding():
    """Neither is measured on the bytes, both are true of them."""
    tensors = {"b": torch.arange(7.0), "a": torch.zeros(2, 3), "empty": torch.zeros(0, 4)}
    data = checkpoint.encode(tensors)
    assert checkpoint.encoded_bytes(checkpoint.describe(tensors)) == len(data)
    changed = {**tensors, "b": torch.arange(7.0) + 1}
    assert checkpoint.spelled(tensors, checkpoint.Hasher) == hashlib.sha256(data).digest()
    assert checkpoint.spelled(changed, checkpoint.Hasher) != hashlib.sha256(data).digest()


def test_an_encoder_takes_each_tensor_once_in_order():
    """Whoever streams out of order or stops early gets no checkpoint."""
    described = checkpoint.describe({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(FormatError):
        checkpoint.Encoder(described).add("b", torch.zeros(1))
    encoder = checkpoint.Encoder(described)
    encoder.add("a", torch.zeros(1))
    with pytest.raises(FormatError):
        encoder.finish()


def test_encoding_holds_one_copy(tmp_path):
    """Encoding a large model takes its size and a little, not twice that."""
    tensors = {str(number): torch.zeros(1_000_000) for number in range(10)}
    tracemalloc.start()
    data = checkpoint.encode(tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * len(data)


def test_many_lanes_cost_a_merge_no_memory(tiny, settings, deltas, files):
    """The bytes held at the peak do not grow with the number of contributions."""
    peaks = []
    for lanes in ([0], [0, 1, 2]):
        merge = dataclasses.replace(a_merge(0, lanes))
        tracemalloc.start()
        run_merge(tiny, merge, settings, MergeInputs(None, None, files), recording=QUIET)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + len(next(iter(deltas.values())))
