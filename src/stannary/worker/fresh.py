"""A fresh process for each task of a recipe: what it keeps while it works is gone with the task.

    service            frames of the agent, states of finished tasks; loads neither torch nor a recipe
      zygote           forked by the service; loads the recipe once, then does nothing but fork and wait
        one task       forked before its request is known; answers it and ends

Rules:
1. Each task begins from the same memory, whatever was done before it on this node: a counter, a cache or a generator
   of a recipe's own is as it was when the recipe was loaded.
2. Whatever a task leaves in the background ends with it.
3. What ends a task in another way than by an answer (a signal, `os._exit`) ends its zygote in the same way, and is told
   to the service: where how a recipe ends is no result, it ends in the same way too, and the agent sees what it would
   see of one process.
4. While a recipe is loaded one thread computes: the threads of OpenMP do not outlive a fork, and who waits for them
   waits for ever. A task has the job's.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from stannary.border import frames, landlock
from stannary.border.frames import Frame
from stannary.errors import ServiceError
from stannary.formats.canonical import Json
from stannary.worker.command import end_strays, go_first

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NO_MORE = 77  # a child's exit code where the service is done

Handle = Callable[[dict[str, Json], BinaryIO], None]  # answers a request, its frames into the file
Act = Callable[[BinaryIO], None]


class ProcessLost(ServiceError):
    """A zygote that ended before its answer was whole."""

    def __init__(self, status: int) -> None:
        super().__init__("the recipe's process ended without an answer")
        self.status = status

    @property
    def return_code(self) -> int:
        """How it ended; a negative code is a signal."""
        return os.waitstatus_to_exitcode(self.status)

    def end_alike(self) -> NoReturn:
        """End this process in the same way."""
        _end_like(self.status)


@dataclass(slots=True)
class Zygote:
    """The process that has a recipe loaded, as the service sees it."""

    pid: int
    _requests: BinaryIO
    _results: BinaryIO

    @classmethod
    def start(cls, load: Handle, handle: Handle, request: dict[str, Json]) -> Zygote:
        """Fork a zygote that answers `request` by `load`, and each later one by `handle` in a process of its own."""
        requests_in, requests_out = os.pipe()
        results_in, results_out = os.pipe()
        pid = _fork()
        if pid == 0:
            os.close(requests_out)
            os.close(results_in)
            go_first()
            landlock.scope_signals()  # or a recipe could end its service, which reads as a fault of the node
            with open(requests_in, "rb", buffering=0) as requests, open(results_out, "wb") as results:  # noqa: PTH123
                _end(lambda: _serve(load, handle, request, requests, results))
        os.close(requests_in)
        os.close(results_out)
        return cls(pid, os.fdopen(requests_out, "wb"), os.fdopen(results_in, "rb"))

    def ask(self, request: dict[str, Json]) -> Iterator[Frame]:
        """Send a request and yield the frames of its answer, of which the last has a member `ok`."""
        frames.write(self._requests, request)
        yield from self.answer()

    def answer(self) -> Iterator[Frame]:
        """Yield the frames of an answer that was asked for.

        Raises:
            ProcessLost: it ended before its answer was whole (rule 3).
        """
        while (frame := frames.read(self._results)) is not None:
            yield frame
            if "ok" in frame.header:
                return
        raise ProcessLost(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """End it."""
        for file in (self._requests, self._results):
            with suppress(OSError):
                file.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def run(act: Act, sink: BinaryIO) -> None:
    """Act in a child and wait for it; end like a child that ended otherwise than by an answer."""
    pid = _fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _end(lambda: _act(act, sink))
    status = os.waitpid(pid, 0)[1]
    if os.waitstatus_to_exitcode(status) == _NO_MORE:
        os._exit(0)
    if status != 0:
        _end_like(status)


def once(act: Callable[[], dict[str, Json]]) -> dict[str, Json]:
    """Return what `act` answers in a process of its own, forked from this one."""
    results_in, results_out = os.pipe()
    with open(results_in, "rb") as results, open(results_out, "wb") as sink:  # noqa: PTH123
        run(lambda file: frames.write(file, act()), sink)  # it is small: a pipe holds it until it is read
        sink.close()
        frame = frames.read(results)
    if frame is None:
        raise ServiceError("a process of the worker ended without an answer")
    return frame.header


def _serve(load: Handle, handle: Handle, request: dict[str, Json], requests: BinaryIO, results: BinaryIO) -> None:
    load(request, results)
    results.flush()
    gc.collect()
    gc.freeze()  # or the first collection of each task would copy every page that holds an object

    def next_one(sink: BinaryIO) -> None:
        frame = frames.read(requests)
        if frame is None:
            os._exit(_NO_MORE)
        handle(frame.header, sink)

    while True:
        run(next_one, results)


def _act(act: Act, sink: BinaryIO) -> None:
    try:
        act(sink)
    finally:
        end_strays()
    sink.flush()


def _fork() -> int:
    with suppress(OSError, ValueError):  # a recipe may have closed its log
        sys.stdout.flush()
        sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return pid


def _end(act: Callable[[], None]) -> NoReturn:
    """Do the last thing of this process, and end it without what an interpreter does at its end."""
    code = 1
    try:
        act()
        code = 0
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_like(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)
