"""The meter: a chain that cannot be cut, bent or run fast."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metered import check_chain

from stannary.errors import Refuted
from stannary.formats.digest import digest
from stannary.formats.ids import JobId, NodeId
from stannary.formats.predicates import Reading, Spent
from stannary.settle.meter import check_next, origin, reading_digest, total_ms

JOB, NODE = JobId("j-000000000000"), NodeId("n-000000000000")
PARTS = [part.name for part in fields(Spent)]
STEPS = st.lists(st.lists(st.integers(0, 1000), min_size=5, max_size=5), min_size=1, max_size=8)


def chain(steps: list[list[int]]) -> list[Reading]:
    readings: list[Reading] = []
    previous, spent = origin(JOB, NODE), [0] * 5
    for seq, step in enumerate(steps):
        spent = [total + more for total, more in zip(spent, step, strict=True)]
        at = f"2026-01-01T00:00:{seq:02}Z"
        readings.append(Reading(JOB, NODE, seq, previous, Spent(*spent), at))
        previous = reading_digest(readings[-1])
    return readings


@given(STEPS)
def test_an_honest_chain_holds_and_says_its_last_total(steps: list[list[int]]) -> None:
    """Any growing chain is accepted and its sum is that of its last reading."""
    total = sum(map(sum, steps))
    assert total_ms(check_chain(chain(steps), elapsed_ms=total)) == total


@given(STEPS.filter(lambda steps: len(steps) > 1), st.data())
def test_no_reading_can_be_left_out_or_changed(steps: list[list[int]], data: st.DataObject) -> None:
    """Dropping or altering any reading but the last breaks the chain behind it."""
    readings = chain(steps)
    index = data.draw(st.integers(0, len(readings) - 2))
    with pytest.raises(Refuted):
        check_chain(readings[:index] + readings[index + 1 :], elapsed_ms=10**9)
    grown = replace(readings[index].spent, idle_ms=readings[index].spent.idle_ms + 1)
    readings[index] = replace(readings[index], spent=grown)
    with pytest.raises(Refuted):
        check_chain(readings, elapsed_ms=10**9)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_ever_falls(part: str) -> None:
    """A cumulative part that falls is refused and named."""
    last = chain([[5] * 5])[0]
    spent = replace(last.spent, **{part: 4})
    following = Reading(JOB, NODE, 1, reading_digest(last), spent, last.read_at)
    with pytest.raises(Refuted, match=part):
        check_next(last, following, elapsed_ms=10**9)


def test_a_meter_cannot_run_faster_than_the_clock() -> None:
    """More metered time than has passed (with a little slack) is refused."""
    with pytest.raises(Refuted, match="metered in"):
        check_chain(chain([[60_000, 0, 0, 0, 0]]), elapsed_ms=30_000)


def test_a_chain_belongs_to_one_node_and_job() -> None:
    """Readings moved under another node's name are refused at the first one."""
    stolen = [replace(reading, node=NodeId("n-111111111111")) for reading in chain([[1] * 5])]
    with pytest.raises(Refuted, match="before it"):
        check_chain(stolen, elapsed_ms=10**9)


def test_a_chain_does_not_pass_from_one_node_to_another() -> None:
    """A reading of another node or job is refused although it names the reading before it."""
    first, second = chain([[1] * 5, [1] * 5])
    for other in (replace(second, node=NodeId("n-111111111111")), replace(second, job=JobId("j-111111111111"))):
        with pytest.raises(Refuted, match="another chain"):
            check_next(first, other, elapsed_ms=10**9)


@pytest.mark.parametrize("read_at", ["2025-12-31T23:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_clock_that_was_set_breaks_no_chain(read_at: str) -> None:
    """A chain is numbers, links and sums: the time a node says of a reading may fall, as its clock does."""
    first, second = chain([[1] * 5, [1] * 5])
    check_next(first, replace(second, read_at=read_at), elapsed_ms=10**9)


def test_the_origin_differs_between_jobs() -> None:
    """Two jobs never share the start of a chain."""
    assert origin(JOB, NODE) != origin(JobId("j-000000000001"), NODE)
    assert origin(JOB, NODE) != digest(b"")
