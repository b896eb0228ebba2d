"""Schedules and data order: public functions of the step."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, SpecError
from stannary.formats import jobspec, training
from stannary.formats.training import Training
from stannary.rules.shape import first_step, num_steps
from stannary.train import data, schedule

SETTINGS = jobspec.RecipeSpec("r.py:r", 6, 2, (3, 6, 10), 0, 10, {}, Training(warmup_steps=4))


def test_inner_steps_are_small_early_and_add_up():
    """Listed H first, the last value repeats, and each round begins where the one before ended."""
    starts = [first_step(SETTINGS.inner_steps, index) for index in range(7)]
    assert starts == [0, 3, 9, 19, 29, 39, 49]
    assert schedule.total_steps(SETTINGS) == 49
    assert [starts[i + 1] - starts[i] for i in range(6)] == [num_steps(SETTINGS.inner_steps, i) for i in range(6)]


def test_the_rate_warms_holds_and_falls():
    """Warm-up to one, one until 40 %, then down to 5 % at the end."""
    rates = [schedule.lr_factor(SETTINGS.training, step, 49) for step in range(49)]
    assert rates[0] == pytest.approx(0.2) and rates[3] == pytest.approx(0.8)
    assert set(rates[4:20]) == {1.0}
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0.05 <= rates[-1] < 0.1
    assert [schedule.rewarm_factor(SETTINGS.training, step) for step in range(3)] == [0.5, 1.0, 1.0]


@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 1_000_000))
def test_the_rate_is_a_share(num_steps, step, constant_ppm):
    """At any step of any schedule the factor lies between zero and one."""
    assert 0.0 <= schedule.lr_factor(Training(constant_ppm=constant_ppm), step, num_steps) <= 1.0


def test_the_data_order_is_fixed():
    """A fixed vector: the order is the same on every machine and in every release."""
    assert data.draw_examples(0, 0, 0, 4, num_examples=1000) == VECTOR
    assert data.step_seed(0, 0, 0) < 2**63


def test_lanes_and_steps_draw_differently():
    """No two of seed, step and lane share a batch, and indices stay below the number of examples."""
    drawn = {
        tuple(data.draw_examples(*key, 8, num_examples=10**9)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(drawn) == 4
    many = data.draw_examples(3, 5, 1, 5000, num_examples=10)
    counts = [many.count(value) for value in range(10)]
    assert min(counts) > 400 and max(counts) < 600
    with pytest.raises(SpecError, match="no examples"):
        data.draw_examples(0, 0, 0, 1, num_examples=0)


VECTOR = [260, 825, 820, 760]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"dtype": "bfloat16"}, "not yet"),
        ({"threads": 0}, "out of range"),
        ({"optimizer": "sgd"}, "unknown"),
        ({"microbatch_size": 17}, "out of range"),
        ({"batch_size": 0}, "out of range"),
        ({"muon_lr": "fast"}, "decimal string"),
        ({"muon_lr": "nan"}, "decimal string"),
        ({"muon_lr": "-1"}, "out of range"),
        ({"adamw_lr": "1e400"}, "out of range"),
        ({"constant_ppm": 1_000_001}, "out of range"),
        ({"muon": "0.1"}, "unknown members"),
        ({"batch_size": True}, "not a int"),
    ],
)
def test_senseless_settings_are_refused(members, says):
    """Each with the member and the value."""
    with pytest.raises((SpecError, FormatError), match=says):
        training.read(members)


def test_defaults_are_signed():
    """Absent members become explicit, and more rounds carry more outer momentum."""
    assert training.read({}) == Training()
    assert training.read({}, 80) == dataclasses.replace(Training(), outer_momentum="0.8")
    assert training.read({"outer_momentum": "0.7"}, 80).outer_momentum == "0.7"
