"""The beacon chain: values prove themselves, and only in their place."""

import hashlib

import pytest

from stannary.errors import FormatError, Refuted
from stannary.formats import beacon

SEED = bytes(range(32))


def test_the_tip_is_the_seed_hashed_length_times():
    """The signed tip is SHA-256^length(seed)."""
    assert beacon.tip(SEED, 2) == hashlib.sha256(hashlib.sha256(SEED).digest()).hexdigest()


def test_each_value_hashes_to_the_one_before():
    """Value 0 hashes to the tip, value i to value i - 1, and the last is the seed."""
    previous = beacon.tip(SEED, 16)
    for index in range(16):
        value = beacon.value(SEED, 16, index)
        beacon.check(previous, value)
        previous = value
    assert previous == SEED.hex()


def test_a_value_in_another_place_is_refuted():
    """A value shown for another index is refuted."""
    with pytest.raises(Refuted):
        beacon.check(beacon.tip(SEED, 16), beacon.value(SEED, 16, 1))


@pytest.mark.parametrize("text", ["", "zz", "A" * 64, "0" * 62])
def test_what_is_no_value_is_a_format_error(text):
    """Anything but 64 lower-case hex digits is refused."""
    with pytest.raises(FormatError):
        beacon.check(beacon.tip(SEED, 4), text)


@pytest.mark.parametrize("index", [-1, 16])
def test_an_index_outside_the_chain_is_refused(index):
    """The chain ends; nothing is revealed beyond it."""
    with pytest.raises(FormatError):
        beacon.value(SEED, 16, index)


@pytest.mark.parametrize(("seed", "length"), [(SEED[1:], 2), (SEED, 0), (SEED, beacon.MAX_LENGTH + 1)])
def test_a_chain_has_a_whole_seed_and_a_length(seed, length):
    """A short seed could be guessed; a chain of no values reveals none."""
    with pytest.raises(FormatError, match="not a beacon chain"):
        beacon.tip(seed, length)
