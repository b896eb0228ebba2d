"""What the worker answers: each request of the agent, one handler (__main__.py lists them).

The composition root of train/ and audit/ inside the sandbox. torch is imported with the first
request that trains, so a command job starts without it.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stannary import heap
from stannary.border import endings, frames
from stannary.errors import FormatError, SpecError, StannaryError, UsageError
from stannary.formats import jobspec, record, workdir
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Assignment, Output
from stannary.worker.processors import Processors

if TYPE_CHECKING:
    from stannary.border.blobs import Blobs
    from stannary.worker.collect import Collected
    from stannary.worker.command import Places
    from stannary.worker.tasks import Prepared, TaskRunner

PROGRESS_INTERVAL_S = 0.25  # the market shows progress; it does not need every step
MAX_MESSAGE_CHARS = 2_000
_CLOSED = contextlib.suppress(OSError, ValueError)  # a recipe may close the streams of its log; its worker works on


class Service:
    """One worker's state and its handlers."""

    def __init__(self, job: Path, requests: BinaryIO, replies: BinaryIO, scratch: Path | None = None) -> None:
        self.job = job
        self.scratch = scratch
        self.requests = requests
        self.replies = replies
        self.runner: TaskRunner | None = None
        self.processors = Processors()

    def serve(self) -> None:
        """Answer requests until `stop` or the end of the stream."""
        while (frame := frames.read(self.requests)) is not None:
            if frame.header.get("op") == "stop":
                return
            self.handle(frame.header)

    def handle(self, request: dict[str, Json]) -> None:
        """Answer one request; a failure is an answer too."""
        handlers: dict[str, Callable[[dict[str, Json]], dict[str, Json]]] = {
            "prepare": self.prepare,
            "task": self.task,
            "forget": self.forget,
            "answer": self.answer,
            "command": self.command,
        }
        operation = request.get("op")
        try:
            handler = handlers.get(operation) if isinstance(operation, str) else None
            if handler is None:
                raise UsageError("unknown operation", why=f"{operation!r:.80}")
            self.reply(handler(request))
        except StannaryError as err:
            self.refuse(_reason(err), err.what, err.why, err.hint)
        except (Exception, SystemExit) as err:  # noqa: BLE001  # process edge: somebody else's code may raise anything
            with _CLOSED:
                traceback.print_exc()
            whose = "the command's worker" if operation == "command" else "the recipe"
            self.refuse("recipe-error", f"{whose} raised {type(err).__name__}", str(err))
        finally:
            self.processors.release()
        with _CLOSED:
            sys.stdout.flush()
        heap.give_back()  # the next task of this job needs the machine's room whole

    def prepare(self, request: dict[str, Json]) -> dict[str, Json]:
        """Load the recipe, check that it gives the same bits twice, and describe this engine."""
        from stannary.border.blobs import Blobs
        from stannary.train import engine, recipe
        from stannary.worker.tasks import Prepared, TaskRunner

        engine.pin()
        engine_class = engine.engine_class()
        spec = jobspec.from_canonical(request["spec"])
        settings = jobspec.recipe_of(spec)
        engine.pin(settings.training.threads)
        self.processors.take(spec.resources.cpus)
        inputs = self._inputs(request)
        loaded = recipe.load(self.job / "workdir", settings, inputs)
        self.runner = None  # nothing is done for a recipe that does not pass
        prepared, blobs = Prepared(spec, settings, loaded), Blobs(self.job / "blobs")
        if request.get("tried") is True:  # by an earlier worker of the same job on this node
            runner, parted = TaskRunner(prepared, blobs), ""
        else:
            runner, parted = self._try(prepared, blobs, inputs)
        if parted:
            return {
                "ok": False,
                "reason": "recipe-not-deterministic",
                "message": f"two runs of the same steps in {parted}; "
                "randomness must come from torch's, random's or numpy's global generators",
            }
        self.runner = runner
        return {
            "ok": True,
            "engine_class": engine_class,
            "delta_bytes": self.runner.delta_bytes,
            "theta_bytes": self.runner.theta_bytes,
            "environment": _environment(),
        }

    def _try(self, prepared: Prepared, blobs: Blobs, inputs: dict[str, Path]) -> tuple[TaskRunner, str]:
        """Return the runner of a recipe, and where two runs of it part (empty: nowhere)."""
        from stannary.worker import determinism
        from stannary.worker.tasks import TaskRunner

        try:  # before memory is taken
            elsewhere = determinism.probe_elsewhere(self.job, prepared.spec, inputs, self._progress())
        except SpecError:
            # What fails here as well is told in its own words, with the traceback the other process had nowhere to put.
            TaskRunner(prepared, blobs)
            determinism.probe(prepared.recipe, prepared.settings, self._progress())
            raise
        runner = TaskRunner(prepared, blobs)
        here, again = (determinism.probe(prepared.recipe, prepared.settings, self._progress()) for _ in range(2))
        for other, where in ((again, "one process"), (elsewhere, "another process, at another time and under load")):
            step = determinism.parted(here, other)
            if step is not None:
                return runner, f"{where} differ after step {step}"
        return runner, ""

    def task(self, request: dict[str, Json]) -> dict[str, Json]:
        """Do a task, be it work or an audit, hand in its outputs and answer the question about it."""
        runner, assignment = self._task(request)
        result, answer = runner.task(assignment, *_question(request))
        for note in result.notes:
            sys.stderr.write(note + "\n")
        for name in sorted(result.outputs):
            self.reply({"output": name, "size": len(result.outputs[name])}, result.outputs[name])
        return {
            "ok": True,
            "answer": answer,
            "metrics": dict(result.metrics),
            "compute_ms": result.compute_ms,
            "num_steps": result.num_steps,
        }

    def forget(self, request: dict[str, Json]) -> dict[str, Json]:
        """Let go of a task that nobody will ask this worker about."""
        runner, assignment = self._task(request)
        runner.forget(assignment)
        return {"ok": True}

    def answer(self, request: dict[str, Json]) -> dict[str, Json]:
        """Answer a question about a task done here (or, after a loss, done again)."""
        from stannary.audit import replay

        runner, assignment = self._task(request)
        step, salt = _question(request)
        replay.check_step(assignment, step)
        return {"ok": True, "answer": runner.answer(assignment, step, salt)}

    def command(self, request: dict[str, Json]) -> dict[str, Json]:
        """Run a command job and hand in what it declared."""
        from stannary.worker.command import Places

        spec = jobspec.from_canonical(request["spec"])
        if self.scratch is not None:
            return self._run_in(Places(self.scratch), spec, request)
        with tempfile.TemporaryDirectory(prefix="job-") as scratch:  # outside a sandbox: a place of its own
            return self._run_in(Places(Path(scratch)), spec, request)

    def _run_in(self, places: Places, spec: jobspec.JobSpec, request: dict[str, Json]) -> dict[str, Json]:
        from stannary.worker import collect
        from stannary.worker.command import Rank, run_command

        shard = Rank(_number(request, "rank"), spec.num_nodes)
        started = time.monotonic()
        exit_code = run_command(spec, places, self.job / "workdir", self._inputs(request), shard)
        compute_ms = round((time.monotonic() - started) * 1000)
        if exit_code != 0:
            return {
                "ok": False,
                "exit_code": exit_code,
                "compute_ms": compute_ms,
                "reason": "command-failed",
                "message": f"the command ended with {endings.describe(exit_code)}",
            }
        found = collect.collect(places.work, spec.outputs, spec.resources.disk_bytes)
        said = [*collect.words(found.refusals)]
        if found.is_archived:
            said.append(f"{len(found.files):,} outputs travel as one file, {collect.ARCHIVE}")
        if said:  # the command's last line may have no end
            sys.stderr.write("\n".join(["", *said, ""]))
        self._hand_in(found)
        metrics: dict[str, Json] = {"outputs_left_out": str(len(found.refusals))} if found.refusals else {}
        return {"ok": True, "exit_code": 0, "compute_ms": compute_ms, "metrics": metrics}

    def _hand_in(self, found: Collected) -> None:
        from stannary.worker import collect

        if found.is_archived:
            size = collect.archive_bytes(found.files)
            header: dict[str, Json] = {"output": collect.ARCHIVE, "size": size}
            frames.write_parts(self.replies, header, size, collect.archive(found.files))
            return
        for file in found.files:
            header = {"output": file.name, "size": file.size_bytes}
            frames.write_parts(self.replies, header, file.size_bytes, collect.read(file))

    def reply(self, header: dict[str, Json], body: bytes = b"") -> None:
        """Send one frame."""
        frames.write(self.replies, header, body)

    def refuse(self, reason: str, message: str, why: str = "", hint: str = "") -> None:
        """Say why a request was not done."""
        said = {"message": message, "why": why, "hint": hint}
        # A recipe's words may hold lone surrogates.
        clean = {name: text.encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARS] for name, text in said.items()}
        self.reply({"ok": False, "reason": reason, **clean})

    def _task(self, request: dict[str, Json]) -> tuple[TaskRunner, Assignment]:
        if self.runner is None:
            raise UsageError("worker is not prepared", why="the first request must be prepare")
        listed = request.get("unfetched", {})
        if not isinstance(listed, dict):
            raise FormatError("unfetched is not an object")
        self.processors.take(self.runner.prepared.spec.resources.cpus)
        self.runner.progress = self._progress()
        self.runner.unfetched = {TaskId(task): record.from_json(Output, item) for task, item in listed.items()}
        return self.runner, record.from_json(Assignment, request.get("assignment"), what="assignment")

    def _inputs(self, request: dict[str, Json]) -> dict[str, Path]:
        from stannary.border.blobs import Blobs

        listed = request.get("inputs", {})
        if not isinstance(listed, dict):
            raise FormatError("inputs is not an object")
        blobs = Blobs(self.job / "blobs")
        paths: dict[str, Path] = {}
        for name, value in listed.items():
            digest = Digest(PREFIX + str(value))
            workdir.refuse_pickle_bytes(name, blobs.head(digest, workdir.PICKLE_MAGIC_BYTES))
            paths[name] = blobs.path(digest)
        return paths

    def _progress(self) -> Callable[[int, int, float], None]:
        due = 0.0

        def tell(step: int, steps: int, loss: float) -> None:
            nonlocal due
            now = time.monotonic()
            if now >= due or step == steps:
                due = now + PROGRESS_INTERVAL_S
                self.reply({"progress": {"step": step, "steps": steps, "loss": f"{loss:.6f}"}})

        return tell


def _question(request: dict[str, Json]) -> tuple[int, bytes]:
    step, salt = request.get("step"), request.get("salt")
    if type(step) is not int or not isinstance(salt, str):
        raise FormatError("question has no step or salt")
    try:
        return step, bytes.fromhex(salt)
    except ValueError as err:
        raise FormatError("audit salt is not hex") from err


def _number(request: dict[str, Json], name: str) -> int:
    value = request.get(name, 0)
    if type(value) is not int or value < 0:
        raise FormatError(f"{name} is no number", why=f"{value!r:.40}")
    return value


def _reason(err: StannaryError) -> str:
    if err.detail == workdir.PICKLE_REFUSED:
        return workdir.PICKLE_REFUSED
    return "recipe-error" if isinstance(err, UsageError) else "worker-error"


def _environment() -> dict[str, Json]:
    import torch

    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
