"""Numbers people write: money, shares, sizes."""

from __future__ import annotations

import pytest

from stannary.errors import SpecError
from stannary.formats import quantity


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("$5", "did you mean 5?"), ("5 USD", "did you mean 5?"), ("1_000", "did you mean 1000?"),
        ("1,000", "did you mean 1000?"), ("1,5", "did you mean 1.5?"), ("50%", "did you mean 0.5?"),
        ("a lot", "write a plain number"), (None, "write a plain number"), (2**200, "write a plain number"),
        ("1e99", "write a plain number"), ([1], "write a plain number"),
    ],
)  # fmt: skip
def test_a_number_in_other_clothes_is_asked_about(value: object, hint: str) -> None:
    """What reads like a number to people is spelled back as one, never taken silently."""
    with pytest.raises(SpecError) as caught:
        quantity.usd_micros(value, "budget")
    assert caught.value.hint == hint


def test_nothing_is_nothing_however_it_is_spelled() -> None:
    """A zero with a far exponent is zero; a negative or a huge amount is out of range."""
    assert quantity.usd_micros("0e99", "budget") == 0
    for value in (-1, 10**11):
        with pytest.raises(SpecError, match="out of range"):
            quantity.usd_micros(value, "budget")


@pytest.mark.parametrize(
    ("value", "what"),
    [("1.5B", "is no whole number of bytes"), (0, "is out of range"), ("2000TiB", "is out of range"),
     (1.5, "is not a size"), ("2G", "is not a size")],
)  # fmt: skip
def test_a_size_is_whole_and_of_this_world(value: object, what: str) -> None:
    """Half a byte, no byte and more than any disk are refused in words."""
    with pytest.raises(SpecError, match=what):
        quantity.size_bytes(value, "resources.disk")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nothing"), (True, "true"), (False, "false"), (7, "7"), (2**200, "an integer of 201 bits"),
        ([1, 2], "a list of 2"), (b"abc", "a bytes of 3"), ("x" * 100, repr("x" * 57 + "...")), (object(), "a object"),
    ],
)  # fmt: skip
def test_whatever_was_written_is_shown_briefly(value: object, shown: str) -> None:
    """An error message is short whatever it is about."""
    assert quantity.show(value) == shown
