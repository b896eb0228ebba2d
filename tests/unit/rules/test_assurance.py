"""Assurance: the rate a word needs, the units it needs drawn, and the word that figures bear."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.market.fake_buyer import TRUST, command_spec

from stannary.errors import SpecError
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Assurance, Verdict
from stannary.formats.quantity import PPM
from stannary.rules import assurance

D = 990_000


@pytest.mark.parametrize(("num_units", "percent"), [(1, 100), (10, 100), (100, 37.28), (1_000, 4.55)])
def test_the_rate_of_verified_follows_from_the_number_of_units(num_units: int, percent: float) -> None:
    """Few units are all recomputed; of many a share that catches a tenth."""
    assert assurance.least_ppm(Assurance.VERIFIED, num_units, D) / 10_000 == pytest.approx(percent, abs=0.005)


@given(num_units=st.integers(1, 400), detection_ppm=st.integers(500_000, PPM))
def test_the_least_rate_is_enough_and_one_less_is_not(num_units: int, detection_ppm: int) -> None:
    """Reckoned with fractions, a tenth of the units escapes with 0.01 at most, unless even all is not enough."""
    least = assurance.least_ppm(Assurance.VERIFIED, num_units, detection_ppm)
    faked = max(num_units // 10, 1)

    def escapes(ppm: int) -> Fraction:
        return (1 - Fraction(ppm * detection_ppm, PPM * PPM)) ** faked

    assert escapes(least) <= Fraction(1, 100) or least == PPM
    assert least == 1 or escapes(least - 1) > Fraction(1, 100)


@given(num_units=st.integers(1, 300))
def test_the_units_a_word_needs_bear_it(num_units: int) -> None:
    """So many checked are called verified at any rate that is signed for it, and one less is not."""
    wanted = assurance.needed(Assurance.VERIFIED, num_units, D)

    def word(checked: int) -> Verdict:
        return assurance.reached(PPM, 1, D, units=num_units, checked=checked, unheard=0)

    assert word(wanted) is Verdict.VERIFIED
    assert word(wanted - 1) is Verdict.SAMPLED
    assert assurance.needed(Assurance.FULL, num_units, D) == num_units
    assert assurance.needed(Assurance.SAMPLED, num_units, D) == 0


def test_nothing_recomputed_is_never_verified() -> None:
    """0 of 15 units recomputed at a rate of 5 % (one fake escapes with 0.95) are a sample at best."""
    assert assurance.reached(50_000, 20_000, D, units=15, checked=0, unheard=0) is Verdict.SAMPLED
    assert assurance.reached(50_000, 60_000, D, units=15, checked=0, unheard=0) is Verdict.UNVERIFIED
    assert assurance.reached(50_000, 20_000, D, units=0, checked=0, unheard=0) is Verdict.SAMPLED


@pytest.mark.parametrize(
    ("asked", "word", "is_full", "short"),
    [
        (Assurance.SAMPLED, Verdict.SAMPLED, False, False),
        (Assurance.SAMPLED, Verdict.UNVERIFIED, False, True),
        (Assurance.VERIFIED, Verdict.SAMPLED, False, True),
        (Assurance.VERIFIED, Verdict.VERIFIED, False, False),
        (Assurance.FULL, Verdict.VERIFIED, False, True),
        (Assurance.FULL, Verdict.VERIFIED, True, False),
    ],
)
def test_a_word_below_the_one_asked_for_falls_short(
    asked: Assurance, word: Verdict, is_full: bool, short: bool
) -> None:
    """`full` asks for every unit, whatever the others' figures come to."""
    assert assurance.falls_short(asked, word, is_full=is_full) is short


def test_a_rate_below_its_word_is_refused() -> None:
    """It may be raised; where nothing is checked there is no rate."""
    for word, ppm in ((Assurance.VERIFIED, PPM - 1), (Assurance.FULL, PPM - 1)):
        with pytest.raises(SpecError, match="below what assurance"):
            assurance.check_rate(_spec(word, ppm))
        assurance.check_rate(_spec(word, PPM))
        assurance.check_rate(_spec(word, 1, Verification.NONE))
    assurance.check_rate(_spec(Assurance.SAMPLED, 1))


def _spec(word: Assurance, ppm: int, verify: Verification = Verification.RERUN_COMPARE) -> JobSpec:
    return command_spec(trust=replace(TRUST, assurance=word, audit_ppm=ppm, verify=verify))
