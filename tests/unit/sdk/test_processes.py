"""Processes are found again by pid and start time, and only ours are signalled."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from stannary.sdk.processes import Register, this, wait_until

WAITER = ["-c", "import sys, time; print('up', flush=True); time.sleep(600)"]
DEAF = ["-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"]


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


def test_a_dead_process_is_forgotten(register):
    """One that ended by itself is not listed."""
    started = register.start("brief", ["-c", "pass"])
    assert wait_until(lambda: not started.is_alive, 20)
    assert register.find("brief") is None
