"""The jobs a node holds: manifest checked, files in place, environment installed, worker ready.

    DIR/jobs/<job>/blobs/<64 hex>   inputs, links into the node's cache (cache.py), read-only inside
    DIR/jobs/<job>/workdir/         the buyer's files

Rules:
1. The buyer's signed spec decides, not what the market says beside it: the job id must be the digest of
   the signed bytes, and every file and input is fetched by the digest in the spec.
2. The worker of a training job is kept across rounds; one of a command is ended with its task (work.py). At
   most MAX_WORKERS are alive; the one longest unused goes first, and each after IDLE_WORKER_S without a lease.
3. A worker that could not be prepared is ended: what it says later would hide why. One whose engine class is
   not the node's is a fault of the operator, said before any work is done.
4. Nothing of a job outlives it. Which jobs are over the market says in the answer to a heartbeat: the worker
   is ended at once, but that of a program its buyer stopped, which has a moment to hand in what is left. Its files go
   before the next lease is served. Directories a killed agent left are asked about in the same way.
5. Two threads have jobs in hand (daemon.py). One computes for a job at a time (`alone`); a worker in use is not ended
   for want of room, nor a job's files removed under it. A worker ends with the thread that started it: both live as
   long as the agent.
6. A lease's inputs beyond the spec's own (weights, contributions) leave the job's directory with the next lease.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from stannary import workdir
from stannary.agent.cache import BlobCache
from stannary.agent.client import MarketClient
from stannary.agent.settings import NodeSettings
from stannary.errors import ConflictError, EnvironmentProblem, Refuted, StannaryError
from stannary.formats import bounds, digest, dsse, ids, instants, jobspec, statement
from stannary.formats.bounds import MAX_OUTPUTS
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import JobId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Job
from stannary.rules import ending, kinds
from stannary.run import visible
from stannary.run.environment import Environments, WheelSource, environment_digest
from stannary.run.holding import BrokenOff, Holding, make_workplace, prepare
from stannary.run.sandbox.process import Sandbox
from stannary.run.sandbox.system import python_of
from stannary.run.worker_process import DROPPED, TakeLine, TakeProgress, Worker, outbox_path

MAX_WORKERS = 2
IDLE_WORKER_S = 600.0  # as long as the longest start: an idle worker holds memory others could use


Tell = Callable[[str], None]


class Holdings:
    """The jobs of one node."""

    def __init__(
        self,
        root: Path,
        settings: NodeSettings,
        client: MarketClient,
        sandbox: Sandbox,
        progress: TakeProgress = lambda _: None,
        moving: Callable[[], None] = lambda: None,
        system: Path | None = None,
    ) -> None:
        self.root = root
        self.settings = settings
        self.client = client
        self.sandbox = sandbox
        self.progress = progress  # gets what workers report while they prepare
        self.system = system  # the unpacked root file system its jobs run in; None: this machine's own
        self.moving = moving  # hears that bytes of an input came
        source = WheelSource(settings.find_links, settings.index_url, settings.no_index)
        self.environments = Environments(root / "environments", source, sandbox, python_of(system) if system else "")
        self.cache = BlobCache(root / "blobs")
        self._held: OrderedDict[JobId, Holding] = OrderedDict()
        self._locks: dict[JobId, threading.Lock] = {}  # held while something is computed for a job
        self._counting = threading.Lock()
        self._num_fetching = 0  # jobs whose files are on their way: what is installed then is no job's yet
        self._over: set[str] = set()  # jobs the market says are over; added to by the pulse

    @property
    def outbox(self) -> Path:
        """Where outputs wait for their upload."""
        return self.root / "outbox"

    @property
    def _root(self) -> Digest | None:
        return digest.parse(self.settings.root) if self.settings.root else None

    @contextlib.contextmanager
    def alone(self, job: JobId) -> Iterator[None]:
        """Compute for a job in one thread at a time."""
        with self._locks.setdefault(job, threading.Lock()):
            yield

    def known(self, job: JobId, tell: Tell) -> Holding:
        """Return a job as its buyer signed it, its files in place; whether its worker lives is not asked."""
        if job in self._held:
            return self._held[job]
        with self.alone(job):
            return self._hold(job, tell)

    def get(self, job: JobId, tell: Tell, take_line: TakeLine) -> Holding:
        """Return a job with a living worker, preparing whatever is missing.

        Args:
            tell: gets a line about each step.
            take_line: gets the worker's own lines.

        Raises:
            ConflictError: the job is over.
            JobFailed: the job cannot run (its worker says why).
            EnvironmentProblem: this machine cannot run it (disk, installer, engine class).
            Refuted: the market's answer is not what the buyer signed.
        """
        holding = self._hold(job, tell)
        if holding.worker is None or not holding.worker.is_alive():
            holding.end_worker()
            self._make_room(job)
            self._start_worker(holding, take_line)
        return holding

    def _hold(self, job: JobId, tell: Tell) -> Holding:
        holding = self._held.get(job)
        if holding is None:
            with self._fetching():
                holding = self._held[job] = self._fetch(job, tell)
        self._held.move_to_end(job)
        holding.used_at_s = time.monotonic()
        return holding

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[None]:
        """Count a job whose files are fetched; two threads do so for two jobs side by side."""
        with self._counting:
            self._num_fetching += 1
        try:
            yield
        finally:
            with self._counting:
                self._num_fetching -= 1

    def bring(self, holding: Holding, named: Digest, size_bytes: int) -> None:
        """Have one more input in place."""
        path = holding.blob_path(named)
        if path.exists() or self.cache.take(named, size_bytes, path):
            return
        self._make_disk_room(size_bytes, 1)
        self.client.fetch(named, size_bytes, path, self.moving)
        self.cache.keep(named, path)

    def release_inputs(self, holding: Holding, wanted: Iterable[Digest]) -> None:
        """Take from a job's directory what neither its spec nor the lease in hand names."""
        spec = holding.spec
        named = {*wanted, *(entry.digest for entry in spec.workdir), *(item.digest for item in spec.inputs.values())}
        kept = {digest.removeprefix(PREFIX) for digest in named}
        for path in holding.blobs.iterdir():
            if path.name not in kept:
                path.unlink()

    def put_back(self, job: JobId, claimed: Iterable[Digest], handed_in: Iterable[Digest]) -> None:
        """Be done with a lease of a job: the outbox keeps what an open claim names and nothing else.

        What was handed in goes to the cache: the next round may begin with it.
        """
        holding = self._held.get(job)
        if holding is not None:
            holding.used_at_s = time.monotonic()
        kept = {outbox_path(self.outbox, named) for named in claimed}
        for named in handed_in:
            path = outbox_path(self.outbox, named)
            if path.exists():
                self.cache.keep(named, path)
        for path in self.outbox.glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def kill_worker(self, job: JobId, why: str) -> None:
        """End a job's worker at once, from any thread."""
        holding = self._held.get(job)
        worker = holding.worker if holding is not None else None  # asked once: the main thread may end it meanwhile
        if worker is not None:
            worker.kill(why)

    def wind_down(self, job: JobId, why: str) -> None:
        """Have a job's program asked to end, and its worker hand in what it left; a recipe leaves nothing and dies."""
        holding = self._held.get(job)
        worker = holding.worker if holding is not None else None
        if holding is None or worker is None or not ending.is_stated(holding.spec, kinds.of(holding.spec).lane):
            self.kill_worker(job, why)
            return
        worker.wind_down()

    def jobs(self) -> list[str]:
        """Return the jobs of which anything is here, also after a kill."""
        found = {*list(self._held), *(path.name for path in self.root.glob("jobs/*"))} - self._over
        return sorted(job for job in found if bounds.JOB.fits(job))

    def end_jobs(self, jobs: Iterable[str]) -> None:
        """Hear that jobs are over; from any thread. Their workers end at once, the rest with `tidy`."""
        for job in jobs:
            if bounds.JOB.fits(job):  # the name of a directory from here on
                self._over.add(job)
                if not self._winds_down(JobId(job)):
                    self.kill_worker(JobId(job), DROPPED)

    def tidy(self, now_s: float | None = None) -> None:
        """Remove what is left of jobs that are over, and end workers nobody needed for IDLE_WORKER_S."""
        oldest_s = (time.monotonic() if now_s is None else now_s) - IDLE_WORKER_S
        for holding in list(self._held.values()):
            if holding.used_at_s < oldest_s and not self._is_used(holding.job):
                holding.end_worker()
        for job in sorted(self._over):
            if self._is_used(JobId(job)):  # its worker has been killed: the other thread is about to hear of it
                continue
            holding_over = self._held.pop(JobId(job), None)
            if holding_over is not None:
                holding_over.end_worker()
            _remove(self.root / "jobs" / job)
            self._locks.pop(JobId(job), None)
            self._over.discard(job)
        with self._counting:
            if not self._num_fetching:
                held = list(self._held.values())
                self.environments.prune(item.packages for item in held if item.packages is not None)

    def _winds_down(self, job: JobId) -> bool:
        holding = self._held.get(job)
        worker = holding.worker if holding is not None else None
        return worker is not None and worker.is_winding_down

    def _is_used(self, job: JobId) -> bool:
        lock = self._locks.get(job)
        return lock is not None and lock.locked()

    def close(self) -> None:
        """End every worker."""
        for holding in list(self._held.values()):
            holding.end_worker()

    def _fetch(self, job: JobId, tell: Tell) -> Holding:
        manifest = self.client.manifest(job)
        signed = read_job(job, manifest.job.envelope.open())
        spec = jobspec.from_canonical(signed.spec)
        directory = self.root / "jobs" / job
        self._make_disk_room(*self._disk_wanted(spec))
        submitted_s = instants.parse(signed.submitted_at)
        if spec.root is not None and spec.root != self.settings.root:
            raise ConflictError("the job runs in another root file system than this node's", why=spec.root)
        environment = environment_digest(None, self.sandbox.describe(), self._root)
        holding = Holding(job, spec, directory, environment, None, submitted_s, root=self.system)
        holding.make_directories()
        for entry in spec.workdir:
            self.bring(holding, entry.digest, entry.size_bytes)
        for item in spec.inputs.values():
            self.bring(holding, item.digest, item.size_bytes)
        self._place_workdir(holding)
        if spec.setup is not None:
            self._install(holding, spec.setup, tell)
        return holding

    def _disk_wanted(self, spec: JobSpec) -> tuple[int, int]:
        """Return the bytes and files a job needs beside the inputs that are here already."""
        inputs = [(entry.digest, entry.size_bytes) for entry in spec.workdir]
        inputs += [(item.digest, item.size_bytes) for item in spec.inputs.values()]
        missing = [size for named, size in inputs if not self.cache.has(named, size)]
        num_bytes = sum(missing) + spec.workdir_bytes + spec.output_bytes
        return num_bytes, len(missing) + 2 * len(spec.workdir) + MAX_OUTPUTS

    def _place_workdir(self, holding: Holding) -> None:
        target = holding.directory / "workdir"
        shutil.rmtree(target, ignore_errors=True)  # what a killed agent left half written

        def open_blob(named: Digest) -> BinaryIO:
            return holding.blob_path(named).open("rb")

        workdir.materialise(holding.spec.workdir, target, open_blob)

    def _install(self, holding: Holding, setup: str, tell: Tell) -> None:
        entry = next(entry for entry in holding.spec.workdir if entry.path == setup)
        requirements = holding.blob_path(entry.digest).read_bytes()
        holding.packages = self.environments.prepare(requirements, tell, holding.spec.resources.disk_bytes)
        holding.environment = environment_digest(entry.digest, self.sandbox.describe(), self._root)

    def _start_worker(self, holding: Holding, take_line: TakeLine) -> None:
        said = self.settings.engine_class
        if self.system is None and visible.name_of(said) not in ("", now := visible.visible_name()):
            raise EnvironmentProblem(
                "what jobs see of this node's system has changed",
                why=f"packages were installed or removed: {now} now, the credential says {said}",
                hint="stannary node join - with a new directory",
            )
        holding.worker = Worker.start(
            self.sandbox, make_workplace(holding, self.outbox, self.settings.kernel), take_line
        )
        try:
            if holding.job in self._over:  # heard while its files were fetched: there was no worker to end then
                raise ConflictError("the job is over", why=holding.job)
            made = prepare(holding.worker, holding.spec, self.progress, is_tried=holding.prepared is not None)
            holding.broken_off = made if isinstance(made, BrokenOff) else None
            if isinstance(made, BrokenOff):
                holding.end_worker()
                return
            if made is not None and made.engine_class != visible.without_name(said):
                raise EnvironmentProblem(
                    "this node's engine class has changed",
                    why=f"the worker says {made.engine_class:.80}, the credential says {said}",
                    hint="stannary node join - with a new directory",
                )
            holding.prepared = made
        except StannaryError:
            holding.end_worker()
            raise

    def _make_room(self, job: JobId) -> None:
        others = [held for held in list(self._held.values()) if held.worker is not None and held.job != job]
        alive = [held for held in others if not self._is_used(held.job)]
        for holding in alive[: max(0, len(others) - MAX_WORKERS + 1)]:
            holding.end_worker()

    def _make_disk_room(self, num_bytes: int, num_files: int) -> None:
        """Let cached inputs go where the disk is short of bytes or files.

        Raises:
            EnvironmentProblem: it is short all the same.
        """
        for is_last in (False, True):
            disk = os.statvfs(self.root)
            free_bytes = disk.f_bavail * disk.f_frsize
            # some file systems (btrfs) count no files and say 0 of 0
            has_files = disk.f_files == 0 or disk.f_favail >= num_files
            if free_bytes >= num_bytes and has_files:
                return
            if is_last:
                raise EnvironmentProblem(
                    "not enough disk for this job",
                    why=f"free: {free_bytes:,} bytes, {disk.f_favail:,} files; wanted: {num_bytes:,} and {num_files:,}",
                    hint="free disk space",
                )
            self.cache.trim(max(0, num_bytes - free_bytes), 0 if has_files else num_files)


def read_job(job: JobId, envelope: dsse.Envelope) -> Job:
    """Return what the buyer signed of a job, checked against its id and its buyer's signature.

    Raises:
        Refuted: another job's bytes, or bytes the buyer named inside did not sign.
        FormatError, SpecError: a statement or spec that breaks a rule.
    """
    if ids.job_id(digest.digest(envelope.payload)) != job:
        raise Refuted("the market gave another job's spec", why=f"asked for {job}")
    unchecked = statement.read(envelope.payload, "job", Job).predicate
    buyer = dsse.decode_base64(unchecked.buyer, "buyer")
    return statement.open_envelope(envelope, "job", Job, buyer).predicate


def _remove(directory: Path) -> None:
    """Remove a directory whatever modes its own owner gave it; what cannot be removed is asked about again."""
    for parent, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            Path(parent).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
