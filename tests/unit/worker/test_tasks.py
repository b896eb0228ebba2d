"""Tasks inside the worker: inputs by digest and root, states within a cap."""

from __future__ import annotations

import dataclasses

import pytest
from tests.integration.train.small_job import train_spec
from tests.unit.train.conftest import Tiny, a_merge, a_round

from stannary.audit import answer as answers
from stannary.border.blobs import Blobs
from stannary.errors import FormatError, NotFound
from stannary.formats import digest
from stannary.formats.digest import PREFIX
from stannary.formats.predicates import Output, result_root
from stannary.rules.shape import first_step
from stannary.train import engine
from stannary.worker.tasks import Prepared, TaskRunner


@pytest.fixture(name="blobs")
def fixture_blobs(tmp_path):
    (tmp_path / "half-fetched.part").write_bytes(b"agent is still writing")
    return Blobs(tmp_path)


SALT = bytes(range(32))


def put(blobs: Blobs, data: bytes) -> digest.Digest:
    name = digest.digest(data)
    blobs.path(name).write_bytes(data)
    return name


def runner(blobs: Blobs, state_limit_bytes: int) -> TaskRunner:
    engine.pin()
    spec = train_spec()
    made = TaskRunner(Prepared(spec, spec.recipe, Tiny()), blobs)
    made.state_limit_bytes = state_limit_bytes
    return made


def rounds(made: TaskRunner, count: int):
    settings = dataclasses.replace(made.prepared.settings, rounds=9)
    return [
        dataclasses.replace(a_round(settings, index, 0), first_step=first_step(settings.inner_steps, index))
        for index in range(count)
    ]


def test_an_input_is_hashed_before_use(blobs):
    """A file with other bytes than its name says is refused, a missing one named."""
    name = put(blobs, b"good")
    assert blobs.read(name) == b"good"
    blobs.path(name).write_bytes(b"evil")
    with pytest.raises(FormatError, match="other bytes"):
        blobs.read(name)
    with pytest.raises(NotFound, match="not in the sandbox"):
        blobs.read(digest.digest(b"absent"))


def test_a_contribution_is_found_by_its_root_alone(blobs):
    """Only the blob whose output list has the logged root is read, whatever else lies there."""
    for data in (b"one", b"two", b"three"):
        put(blobs, data)
    root = result_root((Output("delta", digest.digest(b"two"), 3),))
    assert blobs.contribution(root).read_bytes() == b"two"
    with pytest.raises(NotFound, match="contribution"):
        blobs.contribution(result_root((Output("theta", digest.digest(b"two"), 3),)))


@pytest.mark.parametrize("limit", [0, 2**30])
def test_work_and_audit_are_one_way(blobs, limit):
    """Whatever step is asked about, the outputs are the same and the answer is the one given later; states are handed
    back as far as there is room for them."""
    made = runner(blobs, limit)
    (assignment,) = rounds(made, 1)
    (first, answer), (second, other) = (made.task(assignment, step, SALT) for step in (1, 2))
    assert first.outputs == second.outputs
    assert [answer, other] == [made.answer(assignment, step, SALT) for step in (1, 2)]
    assert set(first.states) == (set(range(1, assignment.num_steps + 1)) if limit else set())


def test_a_question_is_answered_without_holding_the_state(blobs):
    """The answer about rounds and merges is that of the whole state, of which no more than a hash is kept."""
    made = runner(blobs, 0)
    settings = made.prepared.settings
    deltas = [made.task(a_round(settings, 0, lane), 1, SALT)[0].outputs["delta"] for lane in range(2)]
    roots = [result_root((Output("delta", put(blobs, data), len(data)),)) for data in deltas]
    merge = a_merge(0, [0, 1])
    admitted = tuple(dataclasses.replace(item, root=root) for item, root in zip(merge.admitted, roots, strict=True))
    merge = dataclasses.replace(merge, admitted=admitted)
    for assignment in (*rounds(made, 1), merge):
        for step in range(1, assignment.num_steps + 1):
            whole = made.compute(assignment, step)
            asked = made.asked(SALT).compute(assignment, step)
            assert asked.outputs == whole.outputs
            assert asked.states[step].hex() == answers.answer(whole.states[step], SALT)
            assert made.answer(assignment, step, SALT) == asked.states[step].hex()
            assert len(asked.states[step]) == digest.SIZE_BYTES


def test_a_guessable_salt_is_refused(blobs):
    """An answer that could have been prepared is given neither from memory nor by computing."""
    made = runner(blobs, 2**30)
    (assignment,) = rounds(made, 1)
    for _ in range(2):
        with pytest.raises(FormatError, match="too short"):
            made.answer(assignment, 1, b"salt")
        made.task(assignment, 1, SALT)


def test_blobs_live_under_their_hex(blobs):
    """The agent and the worker agree on one spelling."""
    assert blobs.path(digest.digest(b"")).name == digest.digest(b"").removeprefix(PREFIX)


def test_a_contribution_left_out_for_its_size_weighs_nothing(blobs):
    """What the agent did not fetch is believed as far as the logged root names its size, and no further."""
    made = runner(blobs, 2**30)
    settings = made.prepared.settings
    deltas = [made.task(a_round(settings, 0, lane), 1, SALT)[0].outputs["delta"] for lane in range(2)]
    listed = [Output("delta", put(blobs, data), len(data)) for data in deltas]
    huge = Output("delta", digest.digest(b"never fetched"), 800 * 2**20)
    merge = a_merge(0, [0, 1, 2])
    roots = [result_root((item,)) for item in (*listed, huge)]
    admitted = tuple(dataclasses.replace(item, root=root) for item, root in zip(merge.admitted, roots, strict=True))
    merge = dataclasses.replace(merge, admitted=admitted)
    honest = dataclasses.replace(merge, admitted=admitted[:2], num_steps=2)
    with pytest.raises(NotFound):
        made.task(merge, 1, SALT)[0]
    made.unfetched = {admitted[2].task: dataclasses.replace(huge, size_bytes=7)}
    with pytest.raises(NotFound):  # not the size that was signed
        made.task(merge, 1, SALT)[0]
    made.unfetched = {admitted[2].task: huge, admitted[0].task: huge}
    assert made.task(merge, 1, SALT)[0].outputs == made.task(honest, 1, SALT)[0].outputs


def test_the_sizes_that_are_told_are_those_of_what_is_made(blobs):
    """By them others refuse what they were announced: deltas and outer states are of one size, weights of another."""
    made = runner(blobs, 2**30)
    round_ = a_round(made.prepared.settings, 0, 0)
    delta = made.task(round_, 1, SALT)[0].outputs["delta"]
    root = result_root((Output("delta", put(blobs, delta), len(delta)),))
    merge = a_merge(0, [0])
    whole = dataclasses.replace(merge, admitted=(dataclasses.replace(merge.admitted[0], root=root),))
    merged = made.task(whole, 1, SALT)[0].outputs
    assert {len(delta), len(merged["outer"])} == {made.delta_bytes}
    assert len(merged["theta"]) == made.theta_bytes


def test_a_state_costs_no_step_beyond_it(blobs):
    """Where a state was not kept, a round is computed up to the step asked about and no further."""
    made = runner(blobs, 0)
    assignment = rounds(made, 2)[1]
    seen: list[int] = []
    loss = made.prepared.recipe.loss
    made.prepared.recipe.loss = lambda model, examples: seen.append(1) or loss(model, examples)
    full = made.compute(assignment, 2)
    num_full = len(seen)
    assert made.answer(assignment, 2, SALT) == answers.answer(full.states[2], SALT)
    assert (len(seen) - num_full) * assignment.num_steps == num_full * 2
