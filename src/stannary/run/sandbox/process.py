"""A confined process: entering its control group before it runs, and ending all of it.

Rules:
1. The process is born with an *empty* environment. What a sandbox clears inside stays readable in
   /proc/1/environ of the sandbox's own first process (measured with bwrap --clearenv), so the agent's
   secrets must not be there in the first place.
2. It enters the control group itself, before it becomes the sandbox: nothing runs outside the limits,
   not even for a moment. A `sh` of one line does this, since code between fork and exec is not safe in
   a process with threads.
3. Where no control group can be had, rlimits are the last resort, and say so in `describe`.
"""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass, field
from typing import IO, BinaryIO, Protocol, cast

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox.cgroup import Group, Hierarchy
from stannary.run.sandbox.contract import Command, Limits, Usage

SHELL = "/bin/sh"
# $1 open files, $2 kilobytes of data or "-", $3 processes or "-", then entrances, then "--", then the command.
_ENTER = (
    'ulimit -c 0; ulimit -n "$1"; [ "$2" = - ] || ulimit -d "$2"; [ "$3" = - ] || ulimit -u "$3" 2>/dev/null; shift 3; '
    'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'
)
KILL_TIMEOUT_S = 10.0


@dataclass(slots=True)
class SandboxedProcess:
    """A running sandbox; use as a context manager, which kills and cleans up at the end."""

    popen: subprocess.Popen[bytes]
    group: Group | None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _timer: threading.Timer | None = None
    _last_usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    _is_closed: bool = False

    @property
    def stdout(self) -> BinaryIO:
        """The read end of the job's standard output."""
        return _pipe(self.popen.stdout)

    @property
    def stderr(self) -> BinaryIO:
        """The read end of the job's standard error."""
        return _pipe(self.popen.stderr)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit code (negative: killed by that signal), None if it still runs after `timeout_s`."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def threads(self) -> list[str]:
        """Return the ids of the job's living threads, none without a control group."""
        with self._lock:
            return self.group.threads() if self.group is not None and not self._is_closed else []

    def usage(self) -> Usage:
        """Return what the job used so far, zeros without a control group."""
        with self._lock:
            if self.group is not None and not self._is_closed:
                self._last_usage = self.group.usage()
            return self._last_usage

    def kill_after(self, wall_s: float) -> None:
        """Kill everything unless `disarm` is called within `wall_s`."""
        self.disarm()
        self._timer = threading.Timer(wall_s, self.kill)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Call off `kill_after`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self) -> None:
        """Kill every process of the job, daemons in sessions of their own included."""
        with self._lock:
            if self._is_closed:
                return
            if self.group is not None:
                self.group.kill()
            if self.popen.poll() is None:  # the first process of a PID namespace takes the others with it
                self.popen.kill()

    def close(self) -> Usage:
        """Kill what is left, remove the control group, close the pipes; return the final usage."""
        self.disarm()
        self.kill()
        self.wait(KILL_TIMEOUT_S)  # one the kernel cannot end yet is left to it, and its group to the next sweep
        used = self.usage()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                if self.group is not None:
                    self.group.remove()
        return used

    def __enter__(self) -> SandboxedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.stdout.close()
        self.stderr.close()


class Sandbox(Protocol):
    """A way to confine a job."""

    def describe(self) -> str:
        """Name the parts in force, for the contribution: `bubblewrap-0.8.0+seccomp+cgroup1`."""
        ...

    def start(self, command: Command) -> SandboxedProcess:
        """Start a command inside, its stdout and stderr as pipes."""
        ...


def start(argv: list[str], command: Command, hierarchy: Hierarchy | None, own_fds: tuple[int, ...]) -> SandboxedProcess:
    """Start `argv` (the sandbox program with its arguments) inside a new control group.

    Args:
        argv: the whole command line; never taken apart by a shell.
        command: for limits and the descriptors the job inherits.
        hierarchy: where to make the group; None falls to rlimits.
        own_fds: descriptors the sandbox program itself needs.
    """
    group = hierarchy.create(command.limits) if hierarchy is not None else None
    entrances = [str(path) for path in group.entrances()] if group is not None else []
    try:
        popen = subprocess.Popen(  # noqa: S603 - the command line is ours; the job's part follows the sandbox's options
            [SHELL, "-c", _ENTER, "sh", *_rlimits(command.limits, hierarchy), *entrances, "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            close_fds=True,
            pass_fds=(*own_fds, *command.inherited_fds),
        )
    except OSError as err:
        if group is not None:
            group.remove()
        raise EnvironmentProblem("cannot start the sandbox", why=str(err)) from err
    return SandboxedProcess(popen, group)


def as_file(data: bytes) -> BinaryIO:
    """Return an open, unnamed file that reads `data` from its start: for what no command line should show.

    Raises:
        EnvironmentProblem: no descriptor or memory is left for it.
    """
    try:
        file = os.fdopen(os.memfd_create("stannary"), "w+b", buffering=0)
        file.write(data)
        file.seek(0)
    except OSError as err:
        raise EnvironmentProblem("cannot start the sandbox", why=str(err)) from err
    return cast(BinaryIO, file)


def _rlimits(limits: Limits, hierarchy: Hierarchy | None) -> tuple[str, str, str]:
    """Open files always; data and process count only where no control group does it better."""
    if hierarchy is not None:
        return str(limits.open_files), "-", "-"
    return str(limits.open_files), str(limits.memory_bytes // 1024), str(limits.pids)


def _pipe(stream: IO[bytes] | None) -> BinaryIO:
    if stream is None:
        raise EnvironmentProblem("the sandbox was started without pipes")
    return cast(BinaryIO, stream)
