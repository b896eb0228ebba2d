"""One worker in its sandbox: requests in, replies out, everything bounded.

    worker REQUESTS_FD REPLIES_FD           over border/frames.py; what it answers: worker/__main__.py

Rules:
1. The worker is hostile: headers, bodies, their number and their sum are limited, names are paths of
   the work directory grammar, and a frame that breaks a rule ends the worker.
2. Outputs are written to the outbox under their digest as they arrive; nothing is believed of them.
3. Each request has a wall-clock limit; when it passes, everything of the job dies, daemons included.
4. What went wrong has a stable word: worker-died, out-of-memory, wall-limit, bad-frame, dropped, or the
   worker's own reason.

The thread that starts a worker must live as long as the worker (sandbox/contract.py).
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from stannary import files
from stannary.border import endings, frames
from stannary.border.frames import FrameLimits
from stannary.border.paths import PACKAGES
from stannary.errors import EnvironmentProblem, FormatError, JobFailed, LimitExceeded, ServiceError, StannaryError
from stannary.formats import digest, ended, workdir
from stannary.formats.bounds import MAX_OUTPUTS
from stannary.formats.canonical import Json
from stannary.formats.predicates import Output, Used
from stannary.run import logs
from stannary.run.sandbox import system as systems
from stannary.run.sandbox.contract import Command, Limits, Mount
from stannary.run.sandbox.metering import metered
from stannary.run.sandbox.process import Sandbox, SandboxedProcess

MAX_REPLY_HEADER_BYTES = 1024 * 1024
MAX_PROGRESS_FRAMES = 1_000_000  # a job of 100,000 steps that reports each one ten times
STOP_TIMEOUT_S = 5.0
EXIT_TIMEOUT_S = 1.0
MAX_SAID_CHARS = 2_000
NOT_MEASURED = Used(0, 0, 0)
CUT_S = 60.0  # beyond the limit of a program: to end it, and to hand in what it left
WIND_DOWN_S = 30.0  # the same where its buyer stops it: nobody pays for it
LOG_SETTLE_S = 1.0  # what was printed before an answer is read within milliseconds

WORKER_DIED = "worker-died"
OUT_OF_MEMORY = "out-of-memory"
WALL_LIMIT = "wall-limit"
BAD_FRAME = "bad-frame"
DROPPED = "dropped"

_MORE_MEMORY = "ask for more in resources.memory; /tmp and /dev/shm count"
_LONGER = "ask for more in resources.wall_s, or do less in one task"

TakeLine = Callable[[str, str], None]  # (stream, text)
TakeProgress = Callable[[dict[str, Json]], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """The last frame of an answer, and what was handed in before it."""

    header: dict[str, Json]
    outputs: tuple[Output, ...]
    used: Used = NOT_MEASURED  # what the sandbox measured of it


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a worker is given: its directories, environment and limits."""

    job_directory: Path  # holds blobs/ and workdir/; shown read-only as /job
    outbox: Path
    environment: Mapping[str, str]
    limits: Limits
    output_bytes: int
    packages: Path | None = None  # the installed requirements, shown read-only at PACKAGES
    root: Path | None = None  # the unpacked root file system of the job, in place of the host's own


@dataclass(slots=True)
class Worker:
    """A running worker."""

    process: SandboxedProcess
    workplace: Workplace
    _requests: BinaryIO
    _replies: BinaryIO
    _readers: list[threading.Thread] = field(default_factory=list)
    _captures: list[logs.Capture] = field(default_factory=list)
    _why_killed: str = ""
    _ending: threading.Timer | None = None  # since it was asked to end its program
    used: Used = NOT_MEASURED  # by the last request, however it ended

    @classmethod
    def start(cls, sandbox: Sandbox, workplace: Workplace, take_line: TakeLine) -> Worker:
        """Start a worker; its lines go to `take_line` from threads of their own."""
        requests_in, requests_out = os.pipe()
        replies_in, replies_out = os.pipe()
        system = systems.of(workplace.root)
        mounts = [Mount(workplace.job_directory, "/job")]
        if workplace.packages is not None:
            mounts.append(Mount(workplace.packages, PACKAGES))
        # -P: the current directory is no place to import from, or a work directory could shadow ours.
        argv = (system.interpreter, "-P", "-m", "stannary.worker", "3", "4")  # the pipes (sandbox/contract.py)
        environment = {**workplace.environment, **system.path(workplace.environment.get("PYTHONPATH", ""))}
        pipes = (requests_in, replies_out)
        command = Command(argv, environment, tuple(mounts), "/tmp", workplace.limits, pipes, workplace.root)  # noqa: S108
        try:
            process = sandbox.start(command)
        except EnvironmentProblem:
            for fd in (requests_out, replies_in):
                os.close(fd)
            raise
        finally:
            for fd in (requests_in, replies_out):
                os.close(fd)
        worker = cls(process, workplace, os.fdopen(requests_out, "wb"), os.fdopen(replies_in, "rb"))
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            worker._capture(name, pipe, take_line)
        return worker

    def run_recipe(self, header: dict[str, Json], wall_s: float, progress: TakeProgress, *, is_kept: bool) -> Reply:
        """Have the buyer's recipe run, which hands in what it should or breaks off, and then nothing.

        Its clock is kept here: what it has by then is no result.
        """
        reply = self._run(header, wall_s, progress, is_kept=is_kept)
        if reply.header.get("ended") is None:
            return reply
        if reply.header["ended"] == ended.WALL_LIMIT and self._why_killed != WALL_LIMIT:
            raise JobFailed("the worker says that time was over, and it was not", detail=BAD_FRAME)
        return replace(reply, outputs=())

    def run_program(self, header: dict[str, Json], wall_s: float, progress: TakeProgress) -> Reply:
        """Have the buyer's own program run, whose result says how it ended: cut, where its clock or memory ran out.

        The worker keeps the clock, so that it can hand in what is there. Where it does not, or was killed with its
        program, there is nothing left but that it was cut.
        """
        started_s = time.monotonic()
        reply = self._run(header, wall_s + CUT_S, progress)
        is_over = self._why_killed == WALL_LIMIT or time.monotonic() - started_s >= wall_s
        how = reply.header.get("ended")
        if (how == ended.WALL_LIMIT and not is_over) or (how == ended.STOPPED and not self.is_winding_down):
            raise JobFailed("the worker says that time was over, and it was not", detail=BAD_FRAME)
        return reply

    @property
    def is_winding_down(self) -> bool:
        """Whether it was asked to end its program."""
        return self._ending is not None

    def wind_down(self) -> None:
        """Have the running program ended, and what it left handed in; from any thread. What does not end is killed."""
        if self._ending is not None:
            return
        self._ending = threading.Timer(WIND_DOWN_S, self.kill, (DROPPED,))
        self._ending.daemon = True
        self._ending.start()
        with contextlib.suppress(ServiceError):  # it has ended
            frames.write(self._requests, {"op": "stop"})

    def _run(self, header: dict[str, Json], limit_s: float, progress: TakeProgress, *, is_kept: bool = True) -> Reply:
        """Ask, and return that the program was cut where the kernel or the clock ended it."""
        num_kills_before = self.process.usage().num_oom_kills
        try:
            reply = self.request(header, limit_s, progress, is_kept=is_kept)
        except JobFailed as err:
            if err.detail not in (OUT_OF_MEMORY, WALL_LIMIT):
                raise
            how = ended.WALL_LIMIT if err.detail == WALL_LIMIT else ended.OUT_OF_MEMORY
            return Reply({"ended": how}, (), self.used)
        if self.process.usage().num_oom_kills > num_kills_before:
            return replace(reply, header={**reply.header, "ended": ended.OUT_OF_MEMORY})
        if reply.header.get("ended") == ended.OUT_OF_MEMORY:
            raise JobFailed("the worker says that memory was short, and the kernel does not", detail=BAD_FRAME)
        return reply

    def request(self, header: dict[str, Json], wall_s: float, progress: TakeProgress, *, is_kept: bool = True) -> Reply:
        """Send a request and collect its answer; outputs that are not kept are only hashed.

        Raises:
            JobFailed: the worker refused, broke a rule, died or ran too long; `detail` is the reason.
            EnvironmentProblem: the outbox cannot be written.
        """
        # The limit is a timer of ours: whether it fired must not be mixed up with other kills.
        timer = threading.Timer(wall_s, self.kill, (WALL_LIMIT,))
        timer.daemon = True
        timer.start()
        num_kills_before = self.process.usage().num_oom_kills
        try:
            with self._measured():
                frames.write(self._requests, header)
                reply = self._collect(progress, is_kept=is_kept)
            return replace(reply, used=self.used)
        except JobFailed as err:  # the worker lives and says that something failed: it cannot know what killed it
            if self.process.usage().num_oom_kills > num_kills_before:
                raise self._out_of_memory() from err
            raise
        except (FormatError, ServiceError) as err:
            if isinstance(err, FormatError) and not self._why_killed and "cut short" not in err.what:
                self.kill(BAD_FRAME)
            raise self._lost(err, wall_s) from err
        finally:
            timer.cancel()
            for capture in self._captures:
                capture.settle(LOG_SETTLE_S)  # the answer's log is whole when the answer is told

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        try:
            with metered(self.process) as meter:
                yield
        finally:
            self.used = meter.used

    def kill(self, why: str) -> None:
        """End everything of the job at once; a request under way raises JobFailed with this reason."""
        self._why_killed = self._why_killed or why
        self.process.kill()

    def is_alive(self) -> bool:
        """Say whether the worker can take another request."""
        return not self._why_killed and self.process.popen.poll() is None

    def close(self) -> None:
        """End the worker and everything it started; it is not asked, since it might not listen."""
        if self._ending is not None:
            self._ending.cancel()
        self.process.close()
        for reader in self._readers:
            reader.join(STOP_TIMEOUT_S)
        for pipe in (self.process.stdout, self.process.stderr, self._replies, self._requests):
            with contextlib.suppress(OSError):  # what a request left unwritten has no reader any more
                pipe.close()

    def _collect(self, progress: TakeProgress, *, is_kept: bool) -> Reply:
        outputs: dict[str, Output] = {}
        num_left_bytes = self.workplace.output_bytes
        for _ in range(MAX_PROGRESS_FRAMES):
            started = frames.read_start(self._replies, FrameLimits(MAX_REPLY_HEADER_BYTES, num_left_bytes))
            if started is None:
                raise ServiceError("the worker ended", why="in the middle of a request")
            header, num_body_bytes = started
            if "output" in header:
                output = self._take(header["output"], header.get("size"), num_body_bytes, is_kept=is_kept)
                if output.name in outputs or len(outputs) >= MAX_OUTPUTS:
                    raise LimitExceeded("too many outputs, or one twice", why=f"{output.name!r:.120}")
                outputs[output.name] = output
                num_left_bytes -= output.size_bytes
                continue
            for _ in frames.pieces(self._replies, num_body_bytes):
                pass  # only an output has a body that is wanted
            if "progress" not in header:
                return _finish(header, outputs)
            reported = header["progress"]
            progress(reported if isinstance(reported, dict) else {})
        raise LimitExceeded("too many frames", why=f"{MAX_PROGRESS_FRAMES:,} in one request")

    def _take(self, name: Json, size_bytes: Json, num_body_bytes: int, *, is_kept: bool) -> Output:
        """Hash an output from the stream, and move it to the outbox: in pieces, it may be larger than our memory."""
        if not isinstance(name, str) or size_bytes != num_body_bytes:
            raise FormatError("output frame with a wrong name or size")
        workdir.parse_path(name)
        state = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in frames.pieces(self._replies, num_body_bytes):
                state.update(piece)
                yield piece

        fresh = self.workplace.outbox / f".{secrets.token_hex(16)}.part"
        try:
            if is_kept:
                files.write_pieces(fresh, hashed())
            else:
                collections.deque(hashed(), maxlen=0)
            named = digest.Digest(digest.PREFIX + state.hexdigest())
            if is_kept:
                fresh.replace(outbox_path(self.workplace.outbox, named))
        finally:
            fresh.unlink(missing_ok=True)
        return Output(name, named, num_body_bytes)

    def _capture(self, name: str, pipe: BinaryIO, take_line: TakeLine) -> None:
        capture = logs.Capture(pipe, lambda text: take_line(name, text))
        self._captures.append(capture)
        reader = threading.Thread(target=capture.run, name=f"job-{name}", daemon=True)
        reader.start()
        self._readers.append(reader)

    def _lost(self, err: StannaryError, wall_s: float) -> JobFailed:
        """Say what ended the worker, in words for the buyer."""
        if self.process.usage().num_oom_kills > 0:
            return self._out_of_memory()
        code = self.process.wait(EXIT_TIMEOUT_S)
        why = self._why_killed or WORKER_DIED
        if why == WALL_LIMIT:
            return JobFailed("killed: longer than it may take", why=f"{wall_s:,.0f} s", hint=_LONGER, detail=why)
        if why == BAD_FRAME:
            return JobFailed("killed: the worker broke a rule of its pipe", why=str(err), detail=why)
        ended = endings.describe(code) if code is not None else "it does not end"
        return JobFailed("the worker is lost", why=ended if why == WORKER_DIED else why, detail=why)

    def _out_of_memory(self) -> JobFailed:
        used = f"more than {self.workplace.limits.memory_bytes / 1024**2:,.0f} MiB, resources.memory"
        return JobFailed("killed: out of memory", why=used, hint=_MORE_MEMORY, detail=OUT_OF_MEMORY)


def outbox_path(outbox: Path, named: digest.Digest) -> Path:
    """Return where an output waits for its upload."""
    return outbox / named.removeprefix(digest.PREFIX)


def _finish(header: dict[str, Json], outputs: dict[str, Output]) -> Reply:
    if header.get("ok") is not True:
        said = {name: _said(header.get(name)) for name in ("message", "why", "hint")}
        raise JobFailed(
            said["message"] or "the worker refused",
            why=said["why"],
            hint=said["hint"],
            detail=_word(header.get("reason")) or "worker-refused",
        )
    return Reply(header, tuple(outputs[name] for name in sorted(outputs)))


def _said(value: Json) -> str:
    """Return a worker's words, line by line as it wrote them."""
    return logs.printable_lines(value)[:MAX_SAID_CHARS] if isinstance(value, str) else ""


def _word(value: object) -> str:
    """Return a worker's reason if it is a plain word, since it travels on under our name."""
    text = value if isinstance(value, str) else ""
    return text if len(text) <= 60 and text.replace("-", "").isalnum() and text.islower() else ""
