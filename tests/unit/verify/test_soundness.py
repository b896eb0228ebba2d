"""Soundness: the published figures, exactly, in integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError
from stannary.formats.quantity import PPM
from stannary.verify import soundness


@pytest.mark.parametrize(("stake", "percent"), [(5, 10.1), (20, 2.9), (50, 1.2), (100, 0.6)])
def test_required_p_is_that_of_the_published_table(stake, percent):
    """g = 0.6 and d = 0.99 give the figures of the literature the design rests on."""
    assert soundness.required_ppm(600_000, 990_000, stake * PPM) / 10_000 == pytest.approx(percent, abs=0.05)


@given(st.integers(1, PPM), st.integers(1, PPM), st.integers(0, 10**12))
def test_at_the_required_p_cheating_loses_and_just_below_it_does_not(gain, detection, stake):
    """The requirement is the smallest integer with p·d·(S + 1) > g."""
    p = soundness.required_ppm(gain, detection, stake)
    assert p * detection * (stake + PPM) > gain * PPM * PPM
    assert (p - 1) * detection * (stake + PPM) <= gain * PPM * PPM


def test_stake_counts_in_prices_of_the_dearest_task():
    """A bond of a dollar against tasks of ten cents is ten task prices."""
    assert soundness.stake_ppm(1_000_000, 100_000) == 10 * PPM
    assert soundness.stake_ppm(5, 0) == 5 * PPM


def test_escape_is_a_decimal_string():
    """What is signed is exact text, never a float."""
    assert soundness.escape(1_000_000) == "0.000000"
    assert soundness.escape(30_000) == "0.970000"


def test_a_requirement_above_one_is_never_met():
    """Where even auditing everything does not make cheating a loss, nothing is sound."""
    required = soundness.required_ppm(PPM, 500_000, 0)
    assert not soundness.is_sound(PPM, required)


@pytest.mark.parametrize("figures", [(-1, 1, 1), (1, 0, 1), (1, PPM + 1, 1), (1, 1, -1)])
def test_figures_out_of_range_are_refused(figures):
    """Probabilities lie between 0 and 1, stakes are not negative."""
    with pytest.raises(FormatError):
        soundness.required_ppm(*figures)
