"""The quick test of power: an honest answer passes, and nothing cheaper than doing it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary import power
from stannary.errors import EnvironmentProblem, FormatError, StannaryError
from stannary.power import OPENED, Digests, Proof

NONCE, OTHER = "ab" * 32, "cd" * 32
SECONDS = 0.0  # one round each: no test waits for a clock


def faking(share: float) -> Digests:
    """Return a prover that makes so large a share of its rows up."""
    honest, drawn = power.multiplier(NONCE), np.random.default_rng(7)

    def digests(seed: bytes) -> bytes:
        rows = np.frombuffer(honest(seed), dtype="<u4").copy()
        rows[drawn.random(len(rows)) < share] ^= 1
        return rows.tobytes()

    return digests


@pytest.fixture(scope="module")
def proof() -> Proof:
    """What two processors show in one round each."""
    return power.prove(NONCE, [power.multiplier(NONCE)] * 2, SECONDS)


def test_an_honest_answer_holds_and_is_read_back(proof: Proof) -> None:
    """The market computes the opened rows itself, and finds what was shown."""
    assert (proof.rounds, len(proof.chains), len(proof.opened)) == (2, 2, OPENED)
    assert power.parse(proof.to_bytes()) == proof
    assert power.why_false(proof, NONCE) == ""


def test_an_answer_to_another_nonce_does_not_hold(proof: Proof) -> None:
    """Nothing can be computed before the nonce is known, or answered twice."""
    assert power.why_false(proof, OTHER) != ""


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_rows_that_were_made_up_are_found(share: float) -> None:
    """So many are opened that a quarter made up escapes with 1e-16."""
    assert "opened rows are wrong" in power.why_false(power.prove(NONCE, [faking(share)], SECONDS), NONCE)


def test_one_processor_does_not_answer_for_two(proof: Proof) -> None:
    """Each has rounds of its own, of its own seed: the same shown twice is wrong."""
    alone = power.prove(NONCE, [power.multiplier(NONCE)], SECONDS)
    assert power.why_false(replace(alone, chains=alone.chains * 2), NONCE) != ""


def test_rounds_cannot_be_done_side_by_side() -> None:
    """The seed of a round is made of the root before it: a round done twice is no second round."""
    alone = power.prove(NONCE, [power.multiplier(NONCE)], SECONDS)
    assert power.why_false(replace(alone, chains=(alone.chains[0] * 2,)), NONCE) != ""


def test_digests_are_those_of_the_product() -> None:
    """By other arithmetic: whole numbers of 64 bits, not exact parts in floating point."""
    seed = power._first(NONCE, 0)
    A_nn, B_nn = (power._matrix(NONCE, name).astype(np.int64) for name in "AB")
    rows = slice(0, 3)
    C_kn = (A_nn[rows] @ B_nn[power._order(seed)]).astype(np.int32)
    shown = np.frombuffer(power.multiplier(NONCE)(seed), dtype="<u4")
    assert np.array_equal(shown[rows], power._fold(C_kn, seed))


def test_a_process_that_fails_is_told() -> None:
    """A machine without the memory for it has no power to show."""

    def failing(seed: bytes) -> bytes:
        raise SystemExit(1)

    with pytest.raises(EnvironmentProblem, match="did not run"):
        power.prove(NONCE, [failing], SECONDS)


@given(st.binary(max_size=300) | st.builds(lambda a, b: b'{"chains":[%s],"opened":[%s]}' % (a, b), *[st.binary()] * 2))
def test_a_proof_survives_any_bytes(data: bytes) -> None:
    """What is no proof is said to be none."""
    with pytest.raises(StannaryError):
        power.parse(data)


@pytest.mark.parametrize("changes", [{"chains": ()}, {"chains": ((),)}, {"opened": ()}, {"opened": (b"",) * OPENED}])
def test_a_proof_of_another_shape_is_none(proof: Proof, changes: dict[str, object]) -> None:
    """It opens as much as is asked, of rounds that were done."""
    with pytest.raises(FormatError):
        power.parse(replace(proof, **changes).to_bytes())  # type: ignore[arg-type]


def test_too_large_a_proof_is_none() -> None:
    """Before it is read."""
    with pytest.raises(FormatError, match="too large"):
        power.parse(b" " * (power.MAX_PROOF_BYTES + 1))
