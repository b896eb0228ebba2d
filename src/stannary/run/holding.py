"""One job on this machine, node or verifier's: where its files lie, what its worker is given, whether it can run.

Who fetches the files and how long they stay is the caller's (agent/holdings.py, replay/).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from stannary import files
from stannary.border.variables import worker_environment
from stannary.errors import FormatError, JobFailed
from stannary.formats import ended, jobspec
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import JobId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Used
from stannary.formats.workdir import MODE_EXECUTABLE
from stannary.rules import ending, kinds
from stannary.rules.kinds import THETA
from stannary.rules.pace import START_S
from stannary.run.sandbox.contract import DEFAULT_PIDS, Limits
from stannary.run.worker_process import TakeProgress, Worker, Workplace

PIDS_PER_CPU = 4  # a thread counts as a process: libraries keep pools of their own, each of a job's threads


@dataclass(slots=True)
class Holding:
    """One job on this node."""

    job: JobId
    spec: JobSpec
    directory: Path
    environment: Digest
    packages: Path | None
    submitted_s: int  # when its buyer says that he signed it: the time a job is told, POSIX seconds
    worker: Worker | None = None
    root: Path | None = None  # the unpacked root file system it runs in; None: this machine's own system
    prepared: Prepared | None = None  # what a training job's worker says of the model
    broken_off: BrokenOff | None = None  # how its recipe ended when its worker was started, in place of that
    used_at_s: float = field(default_factory=time.monotonic)

    @property
    def blobs(self) -> Path:
        """Where inputs lie."""
        return self.directory / "blobs"

    def blob_path(self, named: Digest) -> Path:
        """Return where one input lies."""
        return self.blobs / named.removeprefix(PREFIX)

    def make_directories(self) -> None:
        """Make what inputs will lie in, as every node's jobs see it."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        for path in (self.blobs, self.directory):
            files.show_alike(path, MODE_EXECUTABLE)

    def end_worker(self) -> None:
        """End the worker and everything it started."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def worker_of(holding: Holding) -> Worker:
    """Return the living worker of a job."""
    if holding.worker is None:
        raise JobFailed("the worker is lost", why="it was closed", detail="worker-died")
    return holding.worker


def make_workplace(holding: Holding, outbox: Path, kernel: dict[str, Json]) -> Workplace:
    """Return what a job's worker is given; /dev/shm, like /tmp, is memory and counted as such."""
    spec, wanted = holding.spec, holding.spec.resources
    limits = Limits(
        memory_bytes=wanted.memory_bytes,
        cpu_millis=wanted.cpus * 1000,
        pids=DEFAULT_PIDS + PIDS_PER_CPU * wanted.cpus,
        tmp_bytes=wanted.disk_bytes,
        shm_bytes=wanted.memory_bytes,
    )
    environment = worker_environment(spec, kernel, holding.packages, holding.submitted_s)
    return Workplace(holding.directory, outbox, environment, limits, spec.output_bytes, holding.packages, holding.root)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a training job's worker says of itself once its recipe is loaded."""

    engine_class: str
    delta_bytes: int  # the size of every contribution to this job, and of its outer states
    theta_bytes: int  # the size of the weights its tasks begin with

    def size_of(self, name: str) -> int:
        """Return the size an input of a task must have: `theta`, `outer`, or a contribution under its task's name."""
        return self.theta_bytes if name == THETA else self.delta_bytes


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """How a recipe ended while it was loaded or tried, and what that took: so ends every round of the job here."""

    ended: str
    used: Used


def prepare(
    worker: Worker, spec: JobSpec, progress: TakeProgress = lambda _: None, *, is_tried: bool = False
) -> Prepared | BrokenOff | None:
    """Have a training job's worker load its recipe; None for a command, which needs nothing.

    Args:
        worker: just started.
        spec: the job's.
        progress: gets what it reports meanwhile.
        is_tried: another worker of this job was prepared on this node, so that its recipe needs no second trial.

    Raises:
        JobFailed: the recipe cannot run, and that is no result; the worker is of no more use.
    """
    if not kinds.of(spec).loads_recipe:
        return None
    inputs: dict[str, Json] = {name: item.digest.removeprefix(PREFIX) for name, item in spec.inputs.items()}
    request: dict[str, Json] = {"op": "prepare", "spec": jobspec.to_canonical(spec), "inputs": inputs}
    request["tried"] = is_tried
    if ending.may_break_off(spec, kinds.of(spec).lane):
        request["states_ending"] = ending.raises_itself(spec)
        reply = worker.run_recipe(request, START_S, progress, is_kept=False)
        how = reply.header.get("ended")
        if isinstance(how, str):
            if how == ended.WALL_LIMIT:  # of a start, which is no limit of the job's
                raise JobFailed("the recipe takes too long to load", why=f"more than {START_S:,.0f} s", detail=how)
            return BrokenOff(how, reply.used)
        header = reply.header
    else:
        header = worker.request(request, START_S, progress).header
    engine_class = header.get("engine_class")
    sizes = [size for name in ("delta_bytes", "theta_bytes") if type(size := header.get(name)) is int]
    if not isinstance(engine_class, str) or not engine_class or len(sizes) != 2:
        raise FormatError("the worker does not say what it is", why=f"{engine_class!r:.80}, sizes {sizes}")
    return Prepared(engine_class, *sizes)
