"""What the worker answers: each request of the agent, one handler (__main__.py lists them).

The composition root of train/ and audit/ inside the sandbox. A recipe is loaded, and its tasks are done, in processes
that are forked for it (fresh.py): this one holds states of finished tasks, and loads neither torch nor a recipe.
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
from typing import TYPE_CHECKING, BinaryIO, cast

from stannary import heap
from stannary.audit import answer as answers
from stannary.audit import replay
from stannary.border import endings, frames
from stannary.errors import FormatError, SpecError, StannaryError, UsageError
from stannary.formats import ended, jobspec, record, workdir
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Assignment, Output
from stannary.rules import kinds
from stannary.worker import fresh
from stannary.worker.fresh import Zygote
from stannary.worker.kept import STATE_SHARE, KeptStates
from stannary.worker.processors import Processors

if TYPE_CHECKING:
    from stannary.worker.collect import Collected
    from stannary.worker.command import Places
    from stannary.worker.tasks import Prepared, TaskRunner

PROGRESS_INTERVAL_S = 0.25  # the market shows progress; it does not need every step
MAX_MESSAGE_CHARS = 2_000
RECIPE_ERROR = "recipe-error"  # the reason of what the buyer's code raised
_CLOSED = contextlib.suppress(OSError, ValueError)  # a recipe may close the streams of its log; its worker works on


class Service:
    """One worker's state and its handlers."""

    def __init__(self, job: Path, requests: BinaryIO, replies: BinaryIO, scratch: Path | None = None) -> None:
        self.job = job
        self.scratch = scratch
        self.requests = requests
        self.replies = replies
        self.runner: TaskRunner | None = None  # in the zygote and what it forks
        self.zygote: Zygote | None = None
        self.kept: KeptStates | None = None
        self.processors = Processors()

    def serve(self) -> None:
        """Answer requests until `stop` or the end of the stream."""
        try:
            while (frame := frames.read(self.requests)) is not None:
                if frame.header.get("op") == "stop":
                    return
                self.handle(frame.header)
        finally:
            self._end_zygote()

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
        handler = handlers.get(operation) if isinstance(operation, str) else None
        if handler is None:
            self.reply(_refusal(_reason(UsageError("")), "unknown operation", f"{operation!r:.80}"))
            return
        self.reply(self._answered(operation, lambda: handler(request)))

    def prepare(self, request: dict[str, Json]) -> dict[str, Json]:
        """Have a zygote load the recipe, check that it gives the same bits twice, and describe this engine."""
        self._end_zygote()
        spec = jobspec.from_canonical(request["spec"])
        self.kept = KeptStates(spec.resources.memory_bytes // STATE_SHARE, kinds.of(spec).window + 1)
        self.zygote = Zygote.start(self._load, self._do_afresh, request)

        def load() -> dict[str, Json]:
            *_, answer = zygote.answer()
            return answer.header

        zygote = self.zygote
        answer = self._or_its_end(request, load)
        if answer["ok"] is not True or "ended" in answer:  # nothing is done for a recipe that does not pass
            self._end_zygote()
        return answer

    def task(self, request: dict[str, Json]) -> dict[str, Json]:
        """Have a task done in a fresh process, and keep its states for questions."""
        return self._or_its_end(request, lambda: self._afresh(request))

    def forget(self, request: dict[str, Json]) -> dict[str, Json]:
        """Let go of a task that nobody will ask this worker about."""
        self._kept().forget(_assignment(request))
        return {"ok": True}

    def answer(self, request: dict[str, Json]) -> dict[str, Json]:
        """Answer a question about a task done here (or, after a loss, done again)."""
        assignment, (step, salt) = _assignment(request), _question(request)
        replay.check_step(assignment, step)
        state = self._kept().state(assignment, step)
        if state is None:
            return self._or_its_end(request, lambda: self._afresh(request))
        return {"ok": True, "answer": answers.answer(state, salt)}

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
        from stannary.worker.command import NotStarted, Rank, Until, run_command

        shard = Rank(_number(request, "rank"), spec.num_nodes)
        started = time.monotonic()
        is_stated = request.get("states_ending") is True
        try:
            until = Until(float(spec.resources.wall_s), self.requests.fileno()) if is_stated else None
            how_it_ended = run_command(spec, places, self.job / "workdir", self._inputs(request), shard, until)
        except NotStarted as err:
            if not is_stated:
                raise
            sys.stderr.write(f"{err}\n")
            how_it_ended = err.exit_status
        compute_ms = round((time.monotonic() - started) * 1000)
        said_so = how_it_ended if isinstance(how_it_ended, str) else ended.of_return_code(how_it_ended)
        if how_it_ended != 0 and not is_stated:
            return {
                "ok": False,
                "reason": "command-failed",
                "message": f"the command ended with {endings.describe(cast('int', how_it_ended))}",
            }
        find = collect.collect if is_stated else collect.collect_all
        found = find(places.work, spec.outputs, spec.resources.disk_bytes)
        said = [*collect.words(found)]
        if found.is_archived:
            said.append(f"{len(found.files):,} outputs travel as one file, {collect.ARCHIVE}")
        if said:  # the command's last line may have no end
            sys.stderr.write("\n".join(["", *said, ""]))
        self._hand_in(found)
        metrics: dict[str, Json] = {"outputs_left_out": str(len(found.refusals))} if found.refusals else {}
        how: dict[str, Json] = {"ended": said_so} if is_stated else {}
        return {"ok": True, **how, "compute_ms": compute_ms, "metrics": metrics}

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

    def _load(self, request: dict[str, Json], results: BinaryIO) -> None:
        """Be the zygote: load the recipe, have it tried in a process of its own, and answer for it."""
        described = self._answered("prepare", lambda: self._loaded(request))
        if described["ok"] is not True or request.get("tried") is True:  # by an earlier worker of this job on this node
            frames.write(results, described)
            return
        fresh.run(
            lambda sink: frames.write(sink, self._answered("prepare", lambda: self._tried(request, described))), results
        )

    def _loaded(self, request: dict[str, Json]) -> dict[str, Json]:
        from stannary.border.blobs import Blobs
        from stannary.train import engine, recipe
        from stannary.worker.tasks import Prepared, TaskRunner

        engine.pin()
        measured = fresh.once(lambda: {"ok": True, "engine_class": engine.engine_class()})
        engine.probe()  # what a library makes at its first use is made once, and not by each task
        spec = jobspec.from_canonical(request["spec"])
        settings = jobspec.recipe_of(spec)
        self.processors.take(spec.resources.cpus)
        loaded = recipe.load(self.job / "workdir", settings, self._inputs(request))
        self.runner = TaskRunner(Prepared(spec, settings, loaded), Blobs(self.job / "blobs"))
        return {
            **measured,
            "delta_bytes": self.runner.delta_bytes,
            "theta_bytes": self.runner.theta_bytes,
            "environment": _environment(),
        }

    def _tried(self, request: dict[str, Json], described: dict[str, Json]) -> dict[str, Json]:
        """Return what was said of a recipe whose runs agree, else why it is of no use; each run is its own process."""
        from stannary.worker import determinism

        prepared = self._runner().prepared
        try:
            elsewhere = determinism.probe_elsewhere(self.job, prepared.spec, self._inputs(request), self._progress())
        except SpecError:
            # What fails here as well is told in its own words, with the traceback the other process had nowhere to put.
            here = fresh.once(lambda: self._probed(prepared))
            if here["ok"] is not True:
                return here
            raise
        found: list[list[str]] = []
        for _ in range(2):
            here = fresh.once(lambda: self._probed(prepared))
            if here["ok"] is not True:
                return here
            found.append(cast("list[str]", here["found"]))
        first, again = found
        for other, where in ((again, "one worker"), (elsewhere, "another process, at another time and under load")):
            step = determinism.parted(first, other)
            if step is not None:
                return _refusal(
                    "recipe-not-deterministic",
                    f"two runs of the same steps in {where} differ after step {step}; "
                    "randomness must come from torch's, random's or numpy's global generators",
                )
        return described

    def _probed(self, prepared: Prepared) -> dict[str, Json]:
        from stannary.train import engine
        from stannary.worker import determinism

        def probe() -> dict[str, Json]:
            engine.pin(prepared.settings.training.threads)
            return {"ok": True, "found": list(determinism.probe(prepared.recipe, prepared.settings, self._progress()))}

        return self._answered("prepare", probe)

    def _do_afresh(self, request: dict[str, Json], results: BinaryIO) -> None:
        """Be the process of one request: its states and its answer go to the service, all else to the agent."""
        acts = {"task": self._task_done, "answer": self._task_answered}
        frames.write(results, self._answered("task", lambda: acts[str(request["op"])](request, results)))

    def _task_done(self, request: dict[str, Json], results: BinaryIO) -> dict[str, Json]:
        """Do a task, be it work or an audit, hand in its outputs and answer the question about it."""
        runner, assignment = self._task(request)
        result, answer = runner.task(assignment, *_question(request))
        for note in result.notes:
            sys.stderr.write(note + "\n")
        for name in sorted(result.outputs):
            self.reply({"output": name, "size": len(result.outputs[name])}, result.outputs[name])
        for step in sorted(result.states):
            frames.write(results, {"step": step}, result.states.pop(step))
        return {
            "ok": True,
            "answer": answer,
            "metrics": dict(result.metrics),
            "compute_ms": result.compute_ms,
            "num_steps": result.num_steps,
        }

    def _task_answered(self, request: dict[str, Json], _: BinaryIO) -> dict[str, Json]:
        runner, assignment = self._task(request)
        return {"ok": True, "answer": runner.answer(assignment, *_question(request))}

    def reply(self, header: dict[str, Json], body: bytes = b"") -> None:
        """Send one frame."""
        frames.write(self.replies, header, body)

    def _answered(self, operation: object, act: Callable[[], dict[str, Json]]) -> dict[str, Json]:
        """Return what an act answers; a failure is an answer too."""
        try:
            return act()
        except StannaryError as err:
            refused = _refusal(_reason(err), err.what, err.why, err.hint)
            return {**refused, "ended": ended.of_return_code(1)} if refused["reason"] == RECIPE_ERROR else refused
        except (Exception, SystemExit) as err:  # noqa: BLE001  # process edge: somebody else's code may raise anything
            with _CLOSED:
                traceback.print_exc()
            whose = "the command's worker" if operation == "command" else "the recipe"
            refused = _refusal(RECIPE_ERROR, f"{whose} raised {type(err).__name__}", str(err))
            return {**refused, "ended": ended.of_return_code(_exit_code(err))}
        finally:
            self.processors.release()
            with _CLOSED:
                sys.stdout.flush()
            heap.give_back()  # the next task of this job needs the machine's room whole

    def _afresh(self, request: dict[str, Json]) -> dict[str, Json]:
        """Pass a request on to a fresh process, keep the states it gives back, and return its answer."""
        kept, zygote, assignment = self._kept(), self.zygote, _assignment(request)
        if zygote is None:
            raise _not_prepared()
        answer: dict[str, Json] = {}
        for frame in zygote.ask(request):
            step = frame.header.get("step")
            if type(step) is int:
                kept.keep(assignment, step, frame.body)
            answer = frame.header
        return answer

    def _or_its_end(self, request: dict[str, Json], act: Callable[[], dict[str, Json]]) -> dict[str, Json]:
        """Return an answer of the recipe's processes, or how the recipe broke off, where that is its result."""
        is_stated, started = request.get("states_ending") is True, time.monotonic()
        try:
            answer = act()
        except fresh.ProcessLost as err:
            if not is_stated:
                err.end_alike()
            self._end_zygote()
            how = ended.of_return_code(err.return_code)
            with _CLOSED:
                sys.stderr.write(f"the recipe {ended.words(how)}\n")
            answer = {"ok": False, "ended": how}
        how_it_ended = answer.pop("ended", None)
        if not is_stated or how_it_ended is None:
            return answer
        with _CLOSED:  # the market is told how it ended, and not why: that is in the log
            said = [str(answer.get(name)) for name in ("message", "why", "hint") if answer.get(name)]
            sys.stderr.write("".join(f"{line}\n" for line in said))
            sys.stderr.flush()
        return {"ok": True, "ended": how_it_ended, "compute_ms": round((time.monotonic() - started) * 1000)}

    def _runner(self) -> TaskRunner:
        if self.runner is None:
            raise _not_prepared()
        return self.runner

    def _kept(self) -> KeptStates:
        if self.kept is None:
            raise _not_prepared()
        return self.kept

    def _end_zygote(self) -> None:
        if self.zygote is not None:
            self.zygote.close()
            self.zygote = None

    def _task(self, request: dict[str, Json]) -> tuple[TaskRunner, Assignment]:
        from stannary.train import engine

        runner = self._runner()
        engine.pin(runner.prepared.settings.training.threads)
        listed = request.get("unfetched", {})
        if not isinstance(listed, dict):
            raise FormatError("unfetched is not an object")
        self.processors.take(runner.prepared.spec.resources.cpus)
        runner.progress = self._progress()
        runner.unfetched = {TaskId(task): record.from_json(Output, item) for task, item in listed.items()}
        return runner, _assignment(request)

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


def _assignment(request: dict[str, Json]) -> Assignment:
    return record.from_json(Assignment, request.get("assignment"), what="assignment")


def _not_prepared() -> UsageError:
    return UsageError("worker is not prepared", why="the first request must be prepare")


def _refusal(reason: str, message: str, why: str = "", hint: str = "") -> dict[str, Json]:
    """Return the answer that says why a request was not done."""
    said = {"message": message, "why": why, "hint": hint}
    # A recipe's words may hold lone surrogates.
    clean = {name: text.encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARS] for name, text in said.items()}
    return {"ok": False, "reason": reason, **clean}


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
    return RECIPE_ERROR if isinstance(err, UsageError) else "worker-error"


def _exit_code(err: BaseException) -> int:
    """Return the exit code that an interpreter gives to what a program raised (docs.python.org, SystemExit)."""
    code = err.code if isinstance(err, SystemExit) else 1
    return code & 0xFF if isinstance(code, int) else int(code is not None)


def _environment() -> dict[str, Json]:
    import torch

    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
