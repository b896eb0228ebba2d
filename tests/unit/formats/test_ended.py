"""How a program ended, as its result says it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats import bounds, ended


@given(st.integers(0, 255), st.integers(1, 64))
def test_every_end_of_a_process_can_be_signed(code: int, number: int) -> None:
    """Whatever a process is waited for with fits the table, and no two ends are spelled alike."""
    well, by_signal = ended.of_return_code(code), ended.of_return_code(-number)
    assert bounds.ENDED.fits(well)
    assert bounds.ENDED.fits(by_signal)
    assert well != by_signal


@pytest.mark.parametrize("said", ["", "exit", "exit-", "exit-03", "exit--1", "exit-1000", "signal-0", "exit-3 ", 3])
def test_other_words_are_none(said: object) -> None:
    """One spelling each."""
    assert not bounds.ENDED.fits(said)


def test_people_read_codes_and_names() -> None:
    """A number for a code, a name for a signal; a signal without a name has its number."""
    assert ended.words("exit-3") == "ended with exit code 3"
    assert ended.words("signal-11") == "ended with SIGSEGV (Segmentation fault)"
    assert ended.words("signal-99") == "ended with signal 99"
    assert ended.sentence({0: "exit-3"}, 1) == "The program ended with exit code 3"
    assert ended.sentence({0: "wall-limit"}, 1).startswith("The program was cut at resources.wall_s")
    several = ended.sentence({1: "exit-3", 2: "out-of-memory"}, 3)
    assert several.endswith("lane 1 ended with exit code 3, lane 2 cut at resources.memory")
