"""The shape of a job: what follows from its spec for everybody who reckons with it."""

from __future__ import annotations

from dataclasses import replace

from tests.recorded import cast

from stannary.formats import beacon
from stannary.formats.ids import TaskKind
from stannary.rules.shape import CHAIN_VALUES_PER_ROUND, SPARE_VALUES, Shape, shape_of

COMMAND = shape_of(cast.spec(nodes=3))


def train(rounds: int = 3, inner_steps: tuple[int, ...] = (3, 6), lanes: int = 2, wall_s: int = 60) -> Shape:
    """Return the shape of a training job."""
    spec = cast.before(cast.train(rounds=rounds, lanes=lanes), step_ms=40)
    return replace(shape_of(spec), inner_steps=inner_steps, wall_s=wall_s)


def test_a_training_job_has_every_lane_and_a_merge_of_each_round() -> None:
    """The last inner step count repeats, and each round ends with a merge of one step a lane."""
    assert list(train().all_steps()) == [3, 3, 2, 6, 6, 2, 6, 6, 2]
    assert len(list(train().all_steps())) == train().num_units


def test_a_command_is_one_step_a_lane_of_its_wall_limit() -> None:
    """It is paid as it may last, has one round and no merge."""
    assert list(COMMAND.all_steps()) == [1, 1, 1]
    assert (COMMAND.num_rounds, COMMAND.step_ms, COMMAND.first_step(0)) == (1, 60_000, 0)
    assert COMMAND.num_steps(TaskKind.COMMAND, 0) == COMMAND.longest_steps == 1


def test_rounds_follow_one_another_without_a_gap() -> None:
    """A round begins at the step behind the last of the one before."""
    shape = train(rounds=5)
    for index in range(4):
        after = shape.first_step(index) + shape.num_steps(TaskKind.ROUND, index)
        assert shape.first_step(index + 1) == after


def test_the_longest_task_may_be_a_merge_and_only_of_steps_that_are_done() -> None:
    """Steps listed for rounds the job does not have make no task longer."""
    assert train(rounds=1, inner_steps=(3, 900)).longest_steps == 3
    assert train(lanes=7).longest_steps == 7
    assert train().longest_steps == max(train().all_steps())


def test_a_step_is_expected_as_measured_between_what_is_agreed_and_the_wall() -> None:
    """Nobody makes it shorter than what is paid, nor longer than the job lets any task last."""
    shape = train(wall_s=60)
    assert shape.step_s(0.0) == 0.04
    assert shape.step_s(5.0) == 5.0
    assert shape.step_s(1e9) == 60 / 6


def test_where_no_step_time_is_agreed_the_measured_one_is_expected() -> None:
    """Before anything was measured a task may take all of its wall limit; then as long as measured, however short."""
    shape = shape_of(cast.train(rounds=3, wall_s=60))
    assert (shape.step_ms, shape.longest_steps) == (1000, 4)
    assert [shape.step_s(measured_s) for measured_s in (0.0, 0.001, 5.0, 1e9)] == [15.0, 0.001, 5.0, 15.0]


def test_a_buyers_own_chain_is_long_enough_for_the_market() -> None:
    """What the client makes, the market takes, however long the job."""
    for rounds, lanes in ((1, 1), (3, 2), (600, 60), (8192, 4)):
        shape = train(rounds=rounds, lanes=lanes)
        assert shape.least_beacon_values <= shape.beacon_values <= beacon.MAX_LENGTH
    assert train().least_beacon_values == 9 + SPARE_VALUES
    assert train(rounds=1000).beacon_values == 1000 * CHAIN_VALUES_PER_ROUND
