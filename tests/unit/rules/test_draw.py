"""The draw: a fixed vector, the binomial band over 1,000 beacons, and the ranking of auditors."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError
from stannary.formats import digest
from stannary.formats.ids import JobId, NodeId, TaskId
from stannary.formats.predicates import Candidate, Draw, Drawable
from stannary.rules import draw

ROOT = digest.digest(b"checkpoint")
CLASS = "class-a"


def task(number, operator="oak", steps=10, engine_class=CLASS):
    name = TaskId(f"j-0123456789ab/r0/l{number}/a0")
    return Drawable(name, NodeId(f"n-{number:012x}"), operator, engine_class, steps, number)


def candidate(number, operator, engine_class=CLASS):
    return Candidate(NodeId(f"n-{number:012x}"), operator, engine_class)


def a_draw(tasks):
    return Draw(JobId("j-0123456789ab"), 0, ROOT, 100, ROOT, tuple(tasks), ROOT)


def select(tasks, randomness, *ppm, candidates=()):
    return draw.select(a_draw(tasks), candidates, randomness, *ppm)


CANDIDATES = [candidate(10 + number, operator) for number, operator in enumerate(["oak", "elm", "ash", "elm", "fir"])]


def test_the_fixed_vector():
    """The same signed inputs select the same task, step, salt and auditors for ever: these values are the format."""
    randomness = draw.beacon("11" * 32, ROOT)
    assert randomness.hex() == VECTOR["beacon"]
    first, second = select([task(1), task(2, steps=3)], randomness, 500_000, candidates=CANDIDATES)
    assert (first.drawn, first.step, first.canary) == VECTOR["first"]
    assert first.salt.hex() == VECTOR["salt"]
    assert [item.node for item in first.auditors] == VECTOR["auditors"]
    assert (second.drawn, second.step, second.canary) == VECTOR["second"]


VECTOR = {
    "beacon": "fbfe2913bde7304235fea609631a0c8302875d9f55e8285f366a73057c0a3ce7",
    "first": (False, 10, False),
    "salt": "bc6b58fdd84d1ab77fbe5aa1a280701178b9f0b0340cec1cee1a9fc3aad7cf2f",
    "auditors": ["n-00000000000d", "n-00000000000e", "n-00000000000c"],
    "second": (True, 3, False),
}


@pytest.mark.parametrize("ppm", [10_000, 100_000, 500_000])
def test_the_drawn_rate_lies_in_the_binomial_band(ppm):
    """Over 1,000 beacons the number of drawn tasks lies within four standard deviations of p."""
    drawn = canaries = 0
    for seed in range(1000):
        randomness = draw.beacon(f"{seed:064x}", ROOT)
        (selection,) = select([task(1)], randomness, ppm)
        drawn += selection.drawn
        canaries += selection.canary
    p = ppm / 1e6
    assert abs(drawn - 1000 * p) <= 4 * math.sqrt(1000 * p * (1 - p))
    assert abs(canaries - 10) <= 4 * math.sqrt(1000 * 0.01 * 0.99)


def test_everything_or_nothing_is_exact():
    """p = 1 draws every task, p = 0 none."""
    for seed in range(200):
        randomness = draw.beacon(f"{seed:064x}", ROOT)
        assert select([task(1)], randomness, 1_000_000, 1_000_000)[0].drawn
        assert not select([task(1)], randomness, 0, 0)[0].drawn


def test_a_conviction_needs_an_audit_at_the_stated_rate():
    """A liar audited with p over 30 tasks is found as often as 1 - (1 - p)^30 says, over 1,000 seeds."""
    p, tasks = 0.05, [task(number) for number in range(30)]
    found = sum(
        any(item.drawn for item in select(tasks, draw.beacon(f"{seed:064x}", ROOT), 50_000)) for seed in range(1000)
    )
    expected = 1 - (1 - p) ** 30
    assert abs(found - 1000 * expected) <= 4 * math.sqrt(1000 * expected * (1 - expected))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 1000))
def test_steps_and_auditors_stay_in_their_bounds(randomness, steps):
    """The step lies in 1..num_steps; auditors are of other operators, of the class, one for each operator."""
    odd = [candidate(90, "yew", "class-b"), *CANDIDATES]
    (selection,) = select([task(1, steps=steps)], randomness, 1_000_000, candidates=odd)
    assert 1 <= selection.step <= steps
    operators = [item.operator for item in selection.auditors]
    assert sorted(operators) == ["ash", "elm", "fir"]


def test_ranks_do_not_depend_on_the_order_of_candidates():
    """The list's order gives nobody an advantage."""
    randomness = draw.beacon("22" * 32, ROOT)
    assert draw.rank(task(1), CANDIDATES, randomness) == draw.rank(task(1), CANDIDATES[::-1], randomness)


def test_every_candidate_comes_first_about_equally_often():
    """No operator is favoured by the ranking."""
    firsts = {"ash": 0, "elm": 0, "fir": 0}
    for seed in range(900):
        firsts[draw.rank(task(1), CANDIDATES, draw.beacon(f"{seed:064x}", ROOT))[0].operator] += 1
    # elm has two candidates of four
    for operator, p in (("ash", 0.25), ("elm", 0.5), ("fir", 0.25)):
        assert abs(firsts[operator] - 900 * p) <= 4 * math.sqrt(900 * p * (1 - p))


@pytest.mark.parametrize("value", ["", "zz" * 32, "11" * 31, "AB" * 32])
def test_a_beacon_value_is_64_lower_case_digits(value):
    """Any other spelling is refused: two spellings would be two beacons."""
    with pytest.raises(FormatError):
        draw.beacon(value, ROOT)


def test_a_task_without_steps_is_refused():
    """There is no step to ask for."""
    with pytest.raises(FormatError):
        select([task(1, steps=0)], bytes(32), 1)
