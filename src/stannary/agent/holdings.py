"""The jobs a node holds: manifest checked, files in place, environment installed, worker ready.

    DIR/jobs/<job>/blobs/<64 hex>   inputs, read-only inside; the agent adds files while the job runs
    DIR/jobs/<job>/workdir/         the buyer's files

Rules:
1. The buyer's signed spec decides, not what the market says beside it: the job id must be the digest of
   the signed bytes, and every file and input is fetched by the digest in the spec.
2. A worker is kept across rounds. At most MAX_WORKERS are alive; the one longest unused goes first.
3. A worker whose engine class is not the node's is a fault of the operator, said before any work is done.
"""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from stannary import workdir
from stannary.agent.client import MarketClient
from stannary.agent.executor import Bench, TakeLine, Worker
from stannary.agent.settings import NodeSettings, job_environment
from stannary.errors import EnvironmentProblem, JobFailed, Refuted
from stannary.formats import digest, dsse, ids, jobspec, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import JobId
from stannary.formats.jobspec import JobKind, JobSpec
from stannary.formats.predicates import Job
from stannary.run.environment import Environments, Source, environment_digest
from stannary.run.sandbox.contract import Limits, Sandbox

MAX_WORKERS = 2
PREPARE_WALL_S = 600.0  # loading a recipe and running two of its steps twice
JOB_KEPT_S = 86_400.0  # files of a job nobody asked about for a day

Tell = Callable[[str], None]


@dataclass(slots=True)
class Holding:
    """One job on this node."""

    job: JobId
    spec: JobSpec
    directory: Path
    environment: Digest
    packages: Path | None
    worker: Worker | None = None
    used_at_s: float = field(default_factory=time.monotonic)

    @property
    def blobs(self) -> Path:
        """Where inputs lie."""
        return self.directory / "blobs"

    def blob_path(self, named: Digest) -> Path:
        """Return where one input lies."""
        return self.blobs / named.removeprefix(PREFIX)


class Holdings:
    """The jobs of one node; used from the agent's main thread, which the workers' lives are tied to."""

    def __init__(self, root: Path, settings: NodeSettings, client: MarketClient, sandbox: Sandbox) -> None:
        self.root = root
        self.settings = settings
        self.client = client
        self.sandbox = sandbox
        source = Source(settings.find_links, settings.index_url, settings.no_index)
        self.environments = Environments(root / "environments", source)
        self._held: OrderedDict[JobId, Holding] = OrderedDict()

    @property
    def outbox(self) -> Path:
        """Where outputs wait for their upload."""
        return self.root / "outbox"

    def get(self, job: JobId, tell: Tell, take_line: TakeLine) -> Holding:
        """Return a job with a living worker, preparing whatever is missing.

        Args:
            tell: gets a line about each step.
            take_line: gets the worker's own lines.

        Raises:
            JobFailed: the job cannot run (its worker says why).
            EnvironmentProblem: this machine cannot run it (disk, installer, engine class).
            Refuted: the market's answer is not what the buyer signed.
        """
        holding = self._held.get(job) or self._fetch(job, tell)
        self._held[job] = holding
        self._held.move_to_end(job)
        holding.used_at_s = time.monotonic()
        if holding.worker is None or not holding.worker.is_alive():
            self._close_worker(holding)
            self._make_room(job)
            self._start_worker(holding, take_line)
        return holding

    def bring(self, holding: Holding, named: Digest, size_bytes: int) -> None:
        """Have one more input in place."""
        path = holding.blob_path(named)
        if path.exists():
            return
        made_here = self.outbox / path.name
        if made_here.exists():  # our own output of an earlier round: no need to fetch it
            _copy(made_here, path)
            return
        self.client.fetch(named, size_bytes, path)

    def kill_worker(self, job: JobId, why: str) -> None:
        """End a job's worker at once, from any thread."""
        holding = self._held.get(job)
        if holding is not None and holding.worker is not None:
            holding.worker.kill(why)

    def close(self) -> None:
        """End every worker."""
        for holding in self._held.values():
            self._close_worker(holding)

    def forget_old(self, now_s: float | None = None) -> None:
        """Remove the files of jobs and outputs that were not used for a day."""
        oldest_s = (time.time() if now_s is None else now_s) - JOB_KEPT_S
        for path in (*self.root.glob("jobs/*"), *self.outbox.glob("*")):
            if path.stat().st_mtime < oldest_s and path.name not in self._held:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _fetch(self, job: JobId, tell: Tell) -> Holding:
        manifest = self.client.manifest(job)
        spec = read_job(job, manifest.job.envelope.open())
        directory = self.root / "jobs" / job
        (directory / "blobs").mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_disk(directory, spec)
        holding = Holding(job, spec, directory, environment_digest(None, self.sandbox.describe()), None)
        for entry in spec.workdir:
            self.bring(holding, entry.digest, entry.size_bytes)
        for item in spec.inputs.values():
            self.bring(holding, item.digest, item.size_bytes)
        self._place_workdir(holding)
        if spec.setup is not None:
            self._install(holding, spec.setup, tell)
        return holding

    def _place_workdir(self, holding: Holding) -> None:
        target = holding.directory / "workdir"
        shutil.rmtree(target, ignore_errors=True)  # what a killed agent left half written

        def open_blob(named: Digest) -> BinaryIO:
            return holding.blob_path(named).open("rb")

        workdir.materialise(holding.spec.workdir, target, open_blob)

    def _install(self, holding: Holding, setup: str, tell: Tell) -> None:
        entry = next(entry for entry in holding.spec.workdir if entry.path == setup)
        requirements = holding.blob_path(entry.digest).read_bytes()
        holding.packages = self.environments.prepare(requirements, tell)
        holding.environment = environment_digest(entry.digest, self.sandbox.describe())

    def _start_worker(self, holding: Holding, take_line: TakeLine) -> None:
        holding.worker = Worker.start(self.sandbox, self.bench(holding), take_line)
        if holding.spec.kind is not JobKind.TRAIN:
            return
        inputs: dict[str, Json] = {name: item.digest.removeprefix(PREFIX) for name, item in holding.spec.inputs.items()}
        request: dict[str, Json] = {"op": "prepare", "spec": jobspec.to_canonical(holding.spec), "inputs": inputs}
        reply = holding.worker.request(request, PREPARE_WALL_S, lambda _: None)
        found = reply.header.get("engine_class")
        if found != self.settings.engine_class:
            raise EnvironmentProblem(
                "this node's engine class has changed",
                why=f"the worker says {found!r:.80}, the credential says {self.settings.engine_class}",
                hint="stannary node join TOKEN with a new directory",
            )

    def bench(self, holding: Holding) -> Bench:
        """Return what a job's worker is given."""
        wanted = holding.spec.resources
        limits = Limits(memory_bytes=wanted.memory_bytes, cpu_millis=wanted.cpus * 1000, tmp_bytes=wanted.disk_bytes)
        environment = job_environment(holding.spec.envs, self.settings.kernel)
        return Bench(holding.directory, self.outbox, environment, limits, output_bytes(holding.spec), holding.packages)

    def _make_room(self, job: JobId) -> None:
        alive = [held for held in self._held.values() if held.worker is not None and held.job != job]
        for holding in alive[: max(0, len(alive) - MAX_WORKERS + 1)]:
            self._close_worker(holding)

    def _close_worker(self, holding: Holding) -> None:
        if holding.worker is not None:
            holding.worker.close()
            holding.worker = None


def read_job(job: JobId, envelope: dsse.Envelope) -> JobSpec:
    """Return the spec of a job, checked against its id and its buyer's signature.

    Raises:
        Refuted: another job's bytes, or bytes the buyer named inside did not sign.
        FormatError, SpecError: a statement or spec that breaks a rule.
    """
    if ids.job_id(digest.digest(envelope.payload)) != job:
        raise Refuted("the market gave another job's spec", why=f"asked for {job}")
    unchecked = statement.read(envelope.payload, "job", Job).predicate
    buyer = dsse.decode_base64(unchecked.buyer, "buyer")
    checked = statement.open_envelope(envelope, "job", Job, buyer).predicate
    return jobspec.from_canonical(checked.spec)


def output_bytes(spec: JobSpec) -> int:
    """Bound what one task may hand in: a training job's weights fit in its memory, files on its disk."""
    return spec.resources.memory_bytes if spec.kind is JobKind.TRAIN else spec.resources.disk_bytes


def _check_disk(directory: Path, spec: JobSpec) -> None:
    wanted = spec.workdir_bytes * 2 + sum(item.size_bytes for item in spec.inputs.values()) + output_bytes(spec)
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise EnvironmentProblem(
            "not enough disk for this job", why=f"{free:,} bytes free, {wanted:,} wanted", hint="free disk space"
        )


def _copy(source: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, fresh)
        fresh.chmod(0o444)
        fresh.rename(target)
    except OSError as err:
        raise EnvironmentProblem("cannot keep a blob", why=str(err), hint="free disk space") from err
    finally:
        fresh.unlink(missing_ok=True)


def worker_of(holding: Holding) -> Worker:
    """Return the living worker of a job."""
    if holding.worker is None:
        raise JobFailed("the worker is lost", why="it was closed", detail="worker-died")
    return holding.worker
