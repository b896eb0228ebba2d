"""Commands inside the sandbox: run the spec's lines as their author wrote them, and end what they leave.

    /tmp/job/work   a writable copy of the work directory, where the command runs
    /tmp/job/home   HOME       /tmp/job/tmp   TMPDIR       /tmp/job/command   the lines, where they name a shell

Rules:
1. The lines are the buyer's and go to `/bin/sh -c`; lines that begin with `#!` are a program of their
   own and run by what they name (`#!/bin/bash`). The border around them is the sandbox, not quoting.
2. The environment is fixed: the same names, paths and values on every node, so that nothing a command
   prints tells one honest node from another (border/variables.py): the pinned variables, the installed
   requirements on PATH and PYTHONPATH, `STANNARY_INPUT_<NAME>` for each input, the shard where
   `num_nodes` is above one, and the spec's `envs` over all.
3. A command that runs longer than it may, where it was told a limit, or that its buyer stops, is asked to end: SIGTERM
   to all it started, SIGKILL after GRACE_S. What it left until then is handed in, and said to be cut or stopped.
4. When the command's first process ends, whatever it left in the background is killed before an output
   is looked at: nothing changes a file while it is handed in, and nothing runs into the next task.
5. Where the job's memory ends, the kernel kills of the command and not its worker, which hands in what is there.
6. A command cannot stop or kill its worker (Landlock's signal scope, Linux 6.12 and later), which would
   read as a fault of the node.

What is handed in is collect.py's to say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stannary.border import landlock
from stannary.border.variables import command_environment
from stannary.errors import LimitExceeded, UsageError
from stannary.formats import ended
from stannary.formats.jobspec import JobSpec
from stannary.formats.workdir import FILE_TIME_S
from stannary.worker.processors import Processors

SHELL = "/bin/sh"
OURS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EIO, errno.EMFILE, errno.ENFILE})  # not the program's doing
GRACE_S = 5.0  # between SIGTERM and SIGKILL, to write down what there is
STRAYS_TIMEOUT_S = 10.0  # a fork bomb of as many processes as the sandbox allows ends within one
STRAYS_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Rank:
    """Which part of the work is this task's."""

    rank: int = 0
    world_size: int = 1

    def variables(self) -> dict[str, str]:
        """Return the variables of a job on several nodes, none for one on a single node."""
        if self.world_size == 1:
            return {}
        rank, world_size = str(self.rank), str(self.world_size)
        return {
            "RANK": rank,  # the names torchrun gives
            "WORLD_SIZE": world_size,
            "STANNARY_RANK": rank,
            "STANNARY_WORLD_SIZE": world_size,
            "STANNARY_SHARD": f"{rank}/{world_size}",
        }


@dataclass(frozen=True, slots=True)
class Places:
    """Where a command runs and keeps its things."""

    root: Path

    @property
    def work(self) -> Path:
        """The copy of the work directory."""
        return self.root / "work"

    @property
    def home(self) -> Path:
        """HOME: outside the work directory, so that no cache is taken for an output."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """TMPDIR."""
        return self.root / "tmp"

    @property
    def script(self) -> Path:
        """The lines, where they are a program."""
        return self.root / "command"


@dataclass(frozen=True, slots=True)
class Until:
    """When a command is asked to end, if it has not ended by itself."""

    wall_s: float
    told: int | None = None  # the pipe of its worker's requests: whatever comes there asks for the end


class NotStarted(UsageError):
    """A command that its node cannot start, because of what it says."""

    def __init__(self, first_line: str, err: OSError) -> None:
        super().__init__(
            "the command cannot be started",
            why=f"{first_line!r:.120}: {err.strerror}",
            hint="name a program that every node has, such as #!/bin/bash or #!/usr/bin/env python",
        )
        self.exit_status = 127 if err.errno == errno.ENOENT else 126  # as POSIX has a shell say it (XCU 2.8.2)


def run_command(
    spec: JobSpec, places: Places, workdir: Path, inputs: Mapping[str, Path], shard: Rank, until: Until | None = None
) -> int | str:
    """Run the command of a spec and return how it ended; its stdout and stderr are this process's.

    Args:
        spec: the signed spec.
        places: its root is emptied first.
        workdir: the buyer's files, not changed.
        inputs: where each input lies.
        shard: which part of the work this is.
        until: None leaves that to whoever may kill this process.

    Returns: its exit code, or a signal below zero; `wall-limit` or `stopped` where it was asked to end.

    Raises:
        NotStarted: its `#!` line names no program of this node.
        LimitExceeded: what it left in the background does not end.
    """
    _lay_out(places, workdir)
    argv = _argv(spec.run or ":", places)
    named = {f"STANNARY_INPUT_{name.upper().replace('-', '_')}": str(path) for name, path in inputs.items()}
    own = {"HOME": str(places.home), "TMPDIR": str(places.tmp), **named, **shard.variables()}
    try:
        running = subprocess.Popen(  # noqa: S603  # the sandbox is the border, see rule 1
            argv,
            cwd=places.work,
            env=command_environment(spec, os.environ, own),
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _begin(spec.resources.cpus),  # noqa: PLW1509  # a command's worker has no threads
        )
        return _wait(running, until)
    except OSError as err:
        if err.errno in OURS:
            raise
        raise NotStarted((spec.run or "").partition("\n")[0], err) from err
    finally:
        end_strays()


def _wait(running: subprocess.Popen[bytes], until: Until | None) -> int | str:
    """Wait for a command; one that runs too long, or is stopped, is asked to end, and given a moment for it."""
    if until is None:
        return running.wait()
    ended_fd = os.pidfd_open(running.pid)
    try:
        watched = [ended_fd] if until.told is None else [ended_fd, until.told]
        woken, _, _ = select.select(watched, [], [], until.wall_s)
    finally:
        os.close(ended_fd)
    if ended_fd in woken:
        return running.wait()
    _signal_all(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(GRACE_S)
    return ended.STOPPED if woken else ended.WALL_LIMIT


def _signal_all(number: int) -> None:
    for pid in list(_descendants(os.getpid())):
        with contextlib.suppress(OSError):  # gone meanwhile
            os.kill(pid, number)


def go_first() -> None:
    """Let the kernel kill this process, and what it starts, before its worker where the job's memory ends.

    The worker then hands in what is there, and says by what it was cut (docs.kernel.org, proc, oom_score_adj).
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"1000")  # anybody may raise his own


def _begin(cpus: int) -> None:
    go_first()
    Processors().take(cpus)
    landlock.scope_signals()


def _lay_out(places: Places, workdir: Path) -> None:
    shutil.rmtree(places.root, ignore_errors=True)
    for path in (places.root, places.home, places.tmp):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (places.home, places.tmp):
        os.utime(path, (FILE_TIME_S, FILE_TIME_S))
    _copy(workdir, places.work)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory name by name: the order in which a program finds its files is that in which they were made."""
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            _copy(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)
    os.utime(target, (FILE_TIME_S, FILE_TIME_S))


def _argv(lines: str, places: Places) -> list[str]:
    if not lines.startswith("#!"):
        return [SHELL, "-c", lines]
    places.script.write_text(lines if lines.endswith("\n") else lines + "\n")
    places.script.chmod(0o700)
    return [str(places.script)]


def end_strays() -> None:
    """Kill every descendant of this process, which adopts what a command orphans (__main__.py)."""
    deadline = time.monotonic() + STRAYS_TIMEOUT_S
    while strays := list(_descendants(os.getpid())):
        if time.monotonic() > deadline:
            raise LimitExceeded("the command left processes that do not end", why=f"{len(strays)} processes")
        for pid in strays:
            with contextlib.suppress(OSError):  # gone meanwhile
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(STRAYS_POLL_S)  # an orphan changes its parent a moment after the parent's end


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            continue
    except ChildProcessError:
        return


def _descendants(ancestor: int) -> Iterator[int]:
    """Yield the processes below `ancestor`, from one look at /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text(errors="replace").rpartition(")")[2]
            except OSError:
                continue  # gone meanwhile
            children.setdefault(int(after_name.split()[1]), []).append(int(entry.name))  # proc(5): state, then ppid
    pending = [ancestor]
    while pending:
        found = children.get(pending.pop(), [])
        yield from found
        pending += found
