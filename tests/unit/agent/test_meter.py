"""The meter: disjoint phases, a signed chain, nothing lost in a kill."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.metered import check_chain

from stannary.agent.journal import EntryKind, Journal
from stannary.agent.meter import Meter, Phase
from stannary.formats import statement
from stannary.formats.ids import JobId, NodeId
from stannary.formats.predicates import Reading, Spent

JOB, OTHER = JobId("j-000000000001"), JobId("j-000000000002")
NODE = NodeId("n-000000000001")
KEY = Ed25519PrivateKey.generate()
AT = "2026-01-01T00:00:00Z"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(tmp_path: Path, clock: Clock) -> Meter:
    return Meter(Journal(tmp_path), clock)


def test_phases_are_disjoint(meter: Meter, clock: Clock) -> None:
    """Time falls into the innermost phase only, and idle time of a job ends when another begins."""
    with meter.phase(JOB, Phase.COMPUTE):
        clock.now_s += 2
        with meter.phase(JOB, Phase.LINK):
            clock.now_s += 1
        clock.now_s += 3
    meter.switch(JOB, Phase.IDLE)
    clock.now_s += 4
    with meter.phase(OTHER, Phase.AUDIT):
        clock.now_s += 5
    assert meter.spent(JOB) == Spent(0, 5000, 1000, 4000, 0)
    assert meter.spent(OTHER) == Spent(0, 0, 0, 0, 5000)


@given(st.lists(st.tuples(st.sampled_from(Phase), st.sampled_from([JOB, OTHER]), st.floats(0, 10)), max_size=20))
def test_every_second_once(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Phase, JobId, float]]) -> None:
    """Whatever the phases, the sum over jobs and phases is the time that passed."""
    clock = Clock()
    meter = Meter(Journal(tmp_path_factory.mktemp("j")), clock)
    for phase, job, seconds in steps:
        meter.switch(job, phase)
        clock.now_s += seconds
    total = sum(getattr(meter.spent(job), f"{phase.value}_ms") for job in (JOB, OTHER) for phase in Phase)
    assert total == pytest.approx(clock.now_s * 1000, abs=len(Phase) * 2)


def test_readings_chain(meter: Meter, clock: Clock) -> None:
    """An unacknowledged reading is repeated as it was; the next names its hash."""
    meter.switch(JOB, Phase.COMPUTE)
    clock.now_s += 1
    first = meter.reading(JOB, NODE, KEY, AT)
    clock.now_s += 1
    assert meter.reading(JOB, NODE, KEY, AT) == first
    meter.acknowledge(JOB, first)
    meter.acknowledge(JOB, first)
    readings = [
        statement.read(envelope.payload, "reading", Reading).predicate
        for envelope in (first, meter.reading(JOB, NODE, KEY, AT))
    ]
    assert readings[1].seq == 1
    assert check_chain(readings, elapsed_ms=2000) == Spent(0, 2000, 0, 0, 0)


def test_survives_a_kill(meter: Meter, clock: Clock, tmp_path: Path) -> None:
    """A new process goes on with the same numbers, and repeats a reading it does not know the fate of."""
    meter.switch(JOB, Phase.COMPUTE)
    clock.now_s += 1
    sent = meter.reading(JOB, NODE, KEY, AT)
    again = Meter(Journal(tmp_path), Clock())
    assert again.reading(JOB, NODE, KEY, AT) == sent
    assert again.spent(JOB).compute_ms == 1000


def test_claims_add_up(meter: Meter, clock: Clock) -> None:
    """What contributions name is disjoint and sums to the cumulative meter."""
    parts = []
    for _ in range(3):
        with meter.phase(JOB, Phase.COMPUTE):
            clock.now_s += 1.5
        parts.append(meter.claim(JOB).compute_ms)
    assert parts == [1500, 1500, 1500]
    assert sum(parts) == meter.spent(JOB).compute_ms


def test_unclaimed_work_is_written_off(meter: Meter, clock: Clock, tmp_path: Path) -> None:
    """Compute of abandoned work, or lost in a kill, stays in the meter and is claimed by no later task."""
    with meter.phase(JOB, Phase.COMPUTE):
        clock.now_s += 4
    meter.write_off(JOB)
    with meter.phase(JOB, Phase.COMPUTE):
        clock.now_s += 1
    assert meter.claim(JOB).compute_ms == 1000
    meter.switch(JOB, Phase.COMPUTE)
    clock.now_s += 2
    meter.reading(JOB, NODE, KEY, AT)  # in the middle of an operation: what runs now is in it
    later = Meter(Journal(tmp_path), clock)
    with later.phase(JOB, Phase.COMPUTE):
        clock.now_s += 3
    assert later.claim(JOB).compute_ms == 3000
    assert later.spent(JOB).compute_ms == 10_000


def test_journal_names_cannot_escape(tmp_path: Path) -> None:
    """An entry's name is the market's word and leads nowhere but into the journal."""
    journal = Journal(tmp_path / "journal")
    journal.put(EntryKind.CLAIM, "../../evil", {"a": 1})
    assert journal.get(EntryKind.CLAIM, "../../evil") == {"a": 1}
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["claim"]
    journal.drop(EntryKind.CLAIM, "../../evil")
    assert journal.get(EntryKind.CLAIM, "../../evil") is None
    journal.put(EntryKind.RESULT, "old", {})
    assert journal.prune(now_s=1e12) == 1


def test_two_threads_at_one_job_count_a_moment_once(meter: Meter, clock: Clock) -> None:
    """A question answered beside the work: what both spend is disjoint, and no more than the time that passed."""
    claimed: list[Spent] = []

    def beside(act: Callable[[], object]) -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join(60)

    meter.switch(JOB, Phase.COMPUTE)
    clock.now_s += 2

    def answer() -> None:
        with meter.phase(JOB, Phase.AUDIT):
            clock.now_s += 3
        with meter.phase(OTHER, Phase.AUDIT):
            clock.now_s += 4
        claimed.extend((meter.claim(JOB), meter.claim(OTHER)))

    beside(answer)
    assert meter.spent(JOB) == Spent(0, 9000, 0, 0, 0)
    assert claimed == [Spent(0, 0, 0, 0, 0), Spent(0, 0, 0, 0, 4000)]
    assert meter.claim(JOB) == Spent(0, 9000, 0, 0, 0)
    meter.switch(JOB, Phase.IDLE)

    def recompute() -> None:
        with meter.phase(JOB, Phase.AUDIT):
            clock.now_s += 5
        claimed.append(meter.claim(JOB))

    beside(recompute)
    assert claimed[-1] == Spent(0, 0, 0, 0, 5000)
    assert meter.claim(JOB) == Spent(0, 0, 0, 0, 0)
