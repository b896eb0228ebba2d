"""Processes are found again by pid and start time, and only ours are signalled."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from stannary import files
from stannary.errors import EnvironmentProblem
from stannary.sdk import processes
from stannary.sdk.processes import Register, this, wait_until

WAITER = ["-c", "import signal; print('up', flush=True); signal.pause()"]
DEAF = ["-c", "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"]


@pytest.fixture
def register(tmp_path):
    register = Register(tmp_path)
    yield register
    for started in register.all():
        register.kill(started)


def test_a_started_process_is_found_by_another_command(register, tmp_path):
    """The record on disk is enough to find it and to stop it."""
    started = register.start("waiter", WAITER)
    assert Register(tmp_path).find("waiter") == started
    register.stop(started, patience_s=10)
    assert not started.is_alive and register.all() == []


def test_a_process_that_ignores_sigterm_is_killed(register):
    """Stopping does not depend on good will."""
    started = register.start("deaf", DEAF)
    assert wait_until(lambda: "up" in register.log_tail("deaf"), 20)
    register.stop(started, patience_s=0.2)
    assert not started.is_alive


def test_a_recycled_pid_is_not_ours():
    """A living process with another start time is a stranger: never signalled, never reused."""
    mine = this("test")
    assert mine.is_alive and mine.pid == os.getpid()
    assert not replace(mine, born=mine.born + 1).is_alive


def test_what_cannot_be_recorded_is_not_left_running(register, tmp_path, monkeypatch):
    """On a full disk nobody could find the process again: it is ended before the error is told."""

    def full(*_):
        raise EnvironmentProblem("cannot write a file", why="No space left on device")

    monkeypatch.setattr(files, "replace", full)
    program = "import os, signal, sys; print(os.getpid(), flush=True); sys.stdin.read(); signal.pause()"
    before = set(processes._CHILDREN)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        register.start("orphan", ["-c", program], secret="x")
    (pid,) = set(processes._CHILDREN) - before
    assert processes._CHILDREN[pid].returncode == -signal.SIGKILL


def test_a_child_that_died_is_reaped(register):
    """Who asks whether it lives takes the zombie away: a command that starts many for days keeps none."""
    started = register.start("brief", ["-c", "pass"])
    assert wait_until(lambda: not started.is_alive, 20)
    assert processes._CHILDREN[started.pid].returncode == 0


def test_a_dead_process_is_forgotten(register):
    """One that ended by itself is not listed."""
    started = register.start("brief", ["-c", "pass"])
    assert wait_until(lambda: not started.is_alive, 20)
    assert register.find("brief") is None


def test_a_secret_is_on_no_command_line(register):
    """It is the one line of the process's standard input."""
    program = "import sys; print(sys.stdin.readline().strip()[::-1], flush=True); sys.stdin.read()"
    started = register.start("told", ["-c", program], secret="snt_secret")
    command = Path(f"/proc/{started.pid}/cmdline").read_bytes()
    assert b"secret" not in command
    assert wait_until(lambda: "terces_tns" in register.log_tail("told"), 20)


def test_why_a_process_ended_is_its_last_error(register, tmp_path):
    """The reason of the last error in its log, not the log's last line; without one, that line."""
    (tmp_path / "broken.log").write_text("start\nE-X  it failed\n  why   port taken\n  next  do something\n")
    (tmp_path / "other.log").write_text("Traceback\nValueError: 3\n")
    assert register.last_words("broken") == "port taken"
    assert register.last_words("other") == "ValueError: 3"
    assert register.last_words("none") == "no output"


def test_a_record_that_cannot_be_read_finds_nobody(register, tmp_path):
    """Half a file, or one of something else, is no reason to fail."""
    for text in ("", "[", '[{"name": 3}]', "{}"):
        (tmp_path / "processes.json").write_text(text)
        assert register.all() == []
        assert processes.read(tmp_path / "processes.json") is None
