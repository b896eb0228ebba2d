"""Processes this machine started and must find again: by pid *and* start time.

Rule: a pid alone names nobody; it may belong to a stranger by now. A process is ours only if it
started when our record says (field 22 of /proc/<pid>/stat; proc(5)). Where there is no /proc, the
record's pid must be alive and nothing more can be said.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stannary import errors, files
from stannary.errors import EnvironmentProblem, FormatError, StannaryError
from stannary.formats import canonical, record
from stannary.formats.canonical import Json

POLL_S = 0.05
LOG_TAIL_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Started:
    """One process of ours."""

    name: str
    pid: int
    born: int  # clock ticks since boot, 0 where unknown

    @property
    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        return _exists(self.pid) and _born(self.pid) == self.born


class Register:
    """The processes of one directory, kept in processes.json."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "processes.json"

    def all(self) -> list[Started]:
        """Return the living ones, in the order they were started."""
        return [item for item in self._read() if item.is_alive]

    def find(self, name: str) -> Started | None:
        """Return the living process of this name."""
        return next((item for item in self.all() if item.name == name), None)

    def start(self, name: str, arguments: Sequence[str], *, secret: str = "") -> Started:
        """Start `python -P <arguments>` in its own session, its output in <name>.log, and record it.

        `secret` is the one line on its standard input: its command line is seen by every account.
        -P: a file of the working directory, such as a job's own random.py, is no module of our processes.

        Raises:
            EnvironmentProblem: it cannot be started, or not recorded; then it is ended, or nobody would find it again.
        """
        files.make_private_dir(self._directory)
        with (self._directory / f"{name}.log").open("ab") as log:
            try:
                process = subprocess.Popen(  # noqa: S603  our own modules, no shell
                    [sys.executable, "-P", *arguments],
                    stdin=subprocess.PIPE if secret else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C on the terminal detaches from a job, it kills nothing
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            except OSError as err:
                raise EnvironmentProblem(f"cannot start {name}", why=str(err)) from err
        _CHILDREN[process.pid] = process
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it ended already; its log says why
                pipe.write(f"{secret}\n".encode())
        try:
            return self.adopt(of(name, process.pid))
        except (OSError, StannaryError):
            process.kill()
            process.wait()
            raise

    def adopt(self, started: Started) -> Started:
        """Record a process that runs already, in the place of one of the same name."""
        self._write([*(item for item in self.all() if item.name != started.name), started])
        return started

    def log_tail(self, name: str) -> str:
        """Return the end of a process's log."""
        try:
            data = files.tail(self._directory / f"{name}.log", LOG_TAIL_BYTES)
        except OSError:
            return ""
        return data.decode("utf-8", "replace").strip()

    def last_words(self, name: str) -> str:
        """Return why a process ended, as its log tells: the reason of its last error, else its last line."""
        lines = self.log_tail(name).splitlines() or ["no output"]
        why = next((line.strip() for line in reversed(lines) if line.startswith("  why ")), lines[-1])
        return why.removeprefix("why").strip()[:300]

    def stop(self, started: Started, *, patience_s: float) -> None:
        """Ask a process to end, and kill it after `patience_s`."""
        if started.is_alive:
            _signal(started, signal.SIGTERM)
            if not wait_until(lambda: not started.is_alive, patience_s):
                _signal(started, signal.SIGKILL)
                wait_until(lambda: not started.is_alive, patience_s)
        self._write([item for item in self.all() if item.pid != started.pid])

    def kill(self, started: Started) -> None:
        """Kill -9 one process of ours, as a power cut would."""
        _signal(started, signal.SIGKILL)
        wait_until(lambda: not started.is_alive, 5.0)

    def _read(self) -> list[Started]:
        try:
            value = canonical.decode(self._path.read_bytes())
            return [_parse(item) for item in value] if isinstance(value, list) else []
        except (FileNotFoundError, FormatError):  # a record that cannot be read finds nobody
            return []

    def _write(self, items: Sequence[Started]) -> None:
        value: list[Json] = [record.to_json(item) for item in items]
        files.replace(self._path, canonical.encode(value))


def ask(arguments: Sequence[str], tell: Callable[[str], None], *, secret: str = "") -> dict[str, Any]:
    """Run `python -P <arguments>` to its end, pass its talk on, and return the one document it printed.

    Raises:
        StannaryError: the process's own, with its code.
    """
    done = subprocess.run(  # noqa: S603  our own modules, no shell
        [sys.executable, "-P", *arguments],
        input=f"{secret}\n",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise told_error(done.stderr)
    for line in done.stderr.splitlines():
        tell(line)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def told_error(text: str) -> StannaryError:
    """Return the error whose three lines stand at the end of a process's output."""
    lines = text.splitlines() or ["no output"]
    start = next((number for number in reversed(range(len(lines))) if lines[number].startswith("E-")), None)
    if start is None:
        return EnvironmentProblem("a process of ours ended without a result", why=lines[-1][:300])
    code, _, what = lines[start].partition("  ")
    said = {line[:8].strip(): line[8:] for line in lines[start + 1 :]}
    return errors.by_code(code)(what, why=said.get("why", ""), hint=said.get("next", ""))


def of(name: str, pid: int) -> Started:
    """Return the process that has this pid now."""
    return Started(name, pid, _born(pid))


def this(name: str) -> Started:
    """Return this very process."""
    return of(name, os.getpid())


def write(path: Path, started: Started) -> None:
    """Keep one process in a file of its own."""
    files.replace(path, canonical.encode(record.to_json(started)))


def read(path: Path) -> Started | None:
    """Return the process kept in a file, living or not; a file that cannot be read names nobody."""
    try:
        return _parse(canonical.decode(path.read_bytes()))
    except (FileNotFoundError, FormatError):
        return None


def _parse(value: Json) -> Started:
    return record.from_json(Started, value)


def wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Poll a condition until it holds or patience ends; return whether it holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # reaped here, or a dead child would seem alive as a zombie


def _exists(pid: int) -> bool:
    child = _CHILDREN.get(pid)
    if child is not None and child.poll() is not None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _born(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command name, in parentheses, may itself hold spaces and parentheses: count from the last one.
    rest = text.rpartition(")")[2].split()
    return 0 if rest[0] == "Z" else int(rest[19])


def _signal(started: Started, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if started.is_alive:
            os.kill(started.pid, number)
