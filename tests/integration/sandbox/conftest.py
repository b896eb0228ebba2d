"""Real sandboxes on this machine; skipped only where the kernel or the program cannot be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.contract import Command, Limits, Mount
from stannary.run.sandbox.process import Sandbox
from stannary.run.sandbox.system import interpreter_mounts

REPORT_TIMEOUT_S = 60.0
DEFAULT_LIMITS = Limits()


@pytest.fixture(scope="session")
def hierarchy() -> cgroup.Hierarchy:
    found = cgroup.find()
    if found is None:
        pytest.skip("no control group can be written here (needs root or delegation)")
    return found


@pytest.fixture(scope="session", params=["bubblewrap", "unshare"])
def sandbox(request: pytest.FixtureRequest, hierarchy: cgroup.Hierarchy) -> Sandbox:
    """Each attack meets both sandboxes: the fallback keeps the same promises."""
    found: Sandbox | None
    if request.param == "bubblewrap":
        found = bubblewrap.find(hierarchy)
    else:
        found = unshare.find(hierarchy)
    if found is None:
        pytest.skip(f"{request.param} is not installed or may make no user namespace here")
    return found


@dataclass(frozen=True)
class Report:
    """What a job printed and how it ended."""

    code: int | None
    out: str
    err: str
    usage: Any

    @property
    def json(self) -> Any:
        assert self.out.strip(), f"no report; exit {self.code}; {self.err}"
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass(frozen=True)
class Attempt:
    """Run a Python text as a job."""

    sandbox: Sandbox
    mounts: tuple[Mount, ...] = field(default_factory=interpreter_mounts)

    def __call__(
        self, text: str, *, limits: Limits = DEFAULT_LIMITS, wall_s: float = REPORT_TIMEOUT_S, **more: Any
    ) -> Report:
        mounts = (*self.mounts, *more.pop("mounts", ()))
        command = Command((sys.executable, "-I", "-S", "-c", text), mounts=mounts, limits=limits, **more)
        with self.sandbox.start(command) as running:
            running.kill_after(wall_s)
            out, err = running.popen.communicate()
            return Report(running.wait(5), out.decode(), err.decode(), running.close())


@pytest.fixture
def attempt(sandbox: Sandbox) -> Attempt:
    return Attempt(sandbox)


@pytest.fixture
def residue() -> Iterator[Callable[[], list[str]]]:
    """List what jobs of this test left behind in control groups."""

    def left() -> list[str]:
        return [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/stannary-{os.getpid()}-*")]

    yield left


@pytest.fixture
def processes_with() -> Callable[[str], list[int]]:
    """Find processes on the host by a mark in their command line."""

    def find(mark: str) -> list[int]:
        listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        return [int(line.split()[0]) for line in listed.splitlines()[1:] if mark in line]

    return find
