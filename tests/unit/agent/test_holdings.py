"""Workers of a node's jobs: a failed prepare ends one, the true cause stays, nothing idles for ever."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.integration.train.small_job import train_spec

from stannary.agent import holdings as module
from stannary.agent.holdings import IDLE_WORKER_S, Holdings
from stannary.agent.settings import NodeSettings
from stannary.errors import ConflictError, EnvironmentProblem, FormatError, JobFailed
from stannary.formats.digest import digest
from stannary.formats.ids import JobId, NodeId
from stannary.run.holding import Holding
from stannary.run.worker_process import Reply, Workplace

JOB = JobId("j-0123456789ab")


@dataclass
class FakeWorker:
    """Answers `prepare` as it is told."""

    engine_class: Any = "c1"
    failure: JobFailed | None = None
    is_closed: bool = False
    is_told_tried: bool = False
    killed: list[str] = field(default_factory=list)
    is_winding_down: bool = False

    def request(self, header: dict[str, Any], wall_s: float, progress: object) -> Reply:
        assert header["op"] == "prepare"
        self.is_told_tried = header["tried"]
        if self.failure is not None:
            raise self.failure
        return Reply({"ok": True, "engine_class": self.engine_class, "delta_bytes": 7, "theta_bytes": 9}, ())

    def is_alive(self) -> bool:
        return not self.is_closed

    def kill(self, why: str) -> None:
        self.killed.append(why)

    def close(self) -> None:
        self.is_closed = True


class NoSandbox:
    """Is never started: workers are stand-ins."""

    def describe(self) -> str:
        return "none"


@pytest.fixture(name="started")
def fixture_started() -> list[FakeWorker]:
    return []


@pytest.fixture(name="held")
def fixture_held(tmp_path: Path, started: list[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Holdings]:
    def make(*workers: FakeWorker) -> Holdings:
        waiting = list(workers)

        def start(sandbox: object, workplace: Workplace, take_line: object) -> FakeWorker:
            started.append(waiting.pop(0))
            return started[-1]

        monkeypatch.setattr(module.Worker, "start", start)
        settings = NodeSettings("n", NodeId("n-0123456789ab"), "http://x", "", "", "private", "basalt", "c1")
        made = Holdings(tmp_path, settings, None, NoSandbox())  # type: ignore[arg-type]  # no market is asked
        for name in (JOB, JobId("j-000000000001"), JobId("j-000000000002")):
            directory = tmp_path / "jobs" / name
            (directory / "blobs").mkdir(parents=True)
            made._held[name] = Holding(name, train_spec(), directory, digest(b""), None, 0)
        return made

    return make


def get(held: Holdings, job: JobId = JOB) -> Holding:
    return held.get(job, lambda _: None, lambda *_: None)


def test_a_failed_prepare_ends_the_worker_and_keeps_its_cause(held: Any, started: list[FakeWorker]) -> None:
    """Each lease of a broken recipe hears the recipe's own error from a worker of its own."""
    broken = JobFailed("the worker refused", why="KeyError: 'width'", detail="recipe-error")
    holdings = held(*(FakeWorker(failure=broken) for _ in range(2)))
    for _ in range(2):
        with pytest.raises(JobFailed) as caught:
            get(holdings)
        assert caught.value.detail == "recipe-error"
        assert "width" in caught.value.why
    assert len(started) == 2
    assert all(worker.is_closed for worker in started)
    assert holdings._held[JOB].worker is None


@pytest.mark.parametrize(
    ("said", "error"), [("c2", EnvironmentProblem), (None, FormatError), (7, FormatError), ("", FormatError)]
)
def test_no_work_is_done_under_a_wrong_engine_class(
    held: Any, started: list[FakeWorker], said: Any, error: type[Exception]
) -> None:
    """A worker of another class than the credential's is never reused: what it made would be signed falsely."""
    holdings = held(FakeWorker(said), FakeWorker(said), FakeWorker("c1"))
    for _ in range(2):
        with pytest.raises(EnvironmentProblem if said == "c2" else FormatError):
            get(holdings)
        assert holdings._held[JOB].worker is None
    assert get(holdings).worker is started[2]
    assert [worker.is_closed for worker in started] == [True, True, False]


def test_a_dead_worker_is_closed_before_the_next_is_started(held: Any, started: list[FakeWorker]) -> None:
    """What a dead worker left (its control group, its pipes) goes with it."""
    holdings = held(FakeWorker(), FakeWorker())
    get(holdings)
    started[0].is_alive = lambda: False  # type: ignore[method-assign]  # died by itself
    get(holdings)
    assert started[0].is_closed and not started[1].is_closed


def test_an_idle_worker_ends(held: Any, started: list[FakeWorker]) -> None:
    """After IDLE_WORKER_S without a lease of its job a worker is ended; the count begins when the lease ends."""
    holdings = held(FakeWorker(), FakeWorker())
    get(holdings)
    holdings._held[JOB].used_at_s = time.monotonic() - 2 * IDLE_WORKER_S  # one long lease
    holdings.put_back(JOB, [], [])
    holdings.tidy()
    assert not started[0].is_closed
    holdings.tidy(time.monotonic() + IDLE_WORKER_S + 1)
    assert started[0].is_closed


def test_a_job_that_is_over_leaves_nothing(held: Any, started: list[FakeWorker], tmp_path: Path) -> None:
    """Its worker is killed at once, from whatever thread; files go even where a job took the right to write."""
    holdings = held(FakeWorker())
    get(holdings)
    locked = tmp_path / "jobs" / JOB / "workdir/deep"
    locked.mkdir(parents=True)
    (locked / "file").write_bytes(b"x")
    locked.chmod(0o500)
    holdings.end_jobs([JOB, "../../etc"])
    assert started[0].killed == ["dropped"]
    assert JOB not in holdings.jobs()
    holdings.tidy()
    assert started[0].is_closed
    assert not (tmp_path / "jobs" / JOB).exists()
    assert holdings.jobs() == ["j-000000000001", "j-000000000002"]


def test_inputs_of_earlier_leases_leave_the_job(held: Any, tmp_path: Path) -> None:
    """Weights and contributions of past rounds do not pile up beside what the spec names."""
    holdings = held()
    holding = holdings._held[JOB]
    own = next(iter(holding.spec.inputs.values())).digest
    for named in (own, digest(b"theta 1"), digest(b"theta 2")):
        holding.blob_path(named).write_bytes(b"")
    holdings.release_inputs(holding, [digest(b"theta 2")])
    assert {path.name for path in holding.blobs.iterdir()} == {own[7:], digest(b"theta 2")[7:]}


def test_a_job_that_ends_while_it_is_fetched_starts_no_work(held: Any, started: list[FakeWorker]) -> None:
    """There was no worker to end when the word came: the one that is started then is not asked for anything."""
    holdings = held(FakeWorker(failure=JobFailed("asked")), FakeWorker())
    holdings.end_jobs([JOB])
    with pytest.raises(ConflictError):
        get(holdings)
    assert started[0].is_closed
    holdings.tidy()
    assert not (holdings.root / "jobs" / JOB).exists()


def test_a_recipe_that_passed_here_is_tried_once(held: Any, started: list[FakeWorker]) -> None:
    """The next worker of the same job loads it only; a worker that failed has shown nothing."""
    holdings = held(FakeWorker(failure=JobFailed("no")), FakeWorker(), FakeWorker())
    with pytest.raises(JobFailed):
        get(holdings)
    get(holdings)
    started[1].close()
    get(holdings)
    assert [worker.is_told_tried for worker in started] == [False, False, True]


def test_a_jobs_files_are_fetched_while_anothers_are_on_their_way(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question about a training job does not wait for the packages of other work; nothing is pruned meanwhile.

    Catches: one lock for all fetches, and a count that forgets who failed.
    """
    holdings, pruned = held(), []
    slow, quick = JobId("j-00000000000a"), JobId("j-00000000000b")
    has_begun, goes_on = threading.Event(), threading.Event()

    def fetch(job: JobId, tell: object) -> Holding:
        if job == slow:
            has_begun.set()
            goes_on.wait(60)
            raise EnvironmentProblem("the disk is full")
        return Holding(job, train_spec(), holdings.root / "jobs" / job, digest(b""), None, 0)

    def work() -> None:
        with contextlib.suppress(EnvironmentProblem):
            holdings.known(slow, lambda _: None)

    monkeypatch.setattr(holdings, "_fetch", fetch)
    monkeypatch.setattr(type(holdings.environments), "prune", lambda _, used: pruned.append(list(used)))
    working = threading.Thread(target=work, daemon=True)
    working.start()
    assert has_begun.wait(60)
    asked = threading.Thread(target=holdings.known, args=(quick, lambda _: None), daemon=True)
    asked.start()
    asked.join(30)
    assert not asked.is_alive() and quick in holdings._held
    holdings.tidy()
    assert pruned == []
    goes_on.set()
    working.join(30)
    holdings.tidy()
    assert len(pruned) == 1
