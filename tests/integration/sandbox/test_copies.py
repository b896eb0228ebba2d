"""Two copies of our package on one machine: what runs inside a sandbox is the copy that started it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stannary
from stannary.run.engine_class import measure_engine_class
from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.contract import own_path
from stannary.run.visible import visible_name

ASKED = """\
import sys
from pathlib import Path
from stannary.run.worker_process import Workplace, Worker
from stannary.errors import JobFailed
from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.contract import Limits

directory = Path(sys.argv[2])
sandbox = {"bubblewrap": bubblewrap, "unshare": unshare}[sys.argv[1]].find(cgroup.find())
worker = Worker.start(sandbox, Workplace(directory / "job", directory / "outbox", {}, Limits(), 100), print)
try:
    worker.request({"op": "nothing"}, 120.0, print)
except JobFailed as err:
    print(err.what)
finally:
    worker.close()
"""


@pytest.mark.parametrize("name", ["bubblewrap", "unshare"])
def test_the_copy_that_starts_a_worker_is_the_one_inside(name: str, tmp_path: Path) -> None:
    """A copy found by PYTHONPATH starts its own worker in its own sandbox, not those of the installed one."""
    if {"bubblewrap": bubblewrap, "unshare": unshare}[name].find(cgroup.find()) is None:
        pytest.skip(f"{name} is not installed or may make no user namespace here")
    copy = tmp_path / "copy"
    tmp_path.chmod(0o755)
    shutil.copytree(Path(stannary.__file__).parent, copy / "stannary", ignore=shutil.ignore_patterns("__pycache__"))
    service = copy / "stannary/worker/service.py"
    service.write_text(service.read_text().replace("unknown operation", "unknown to the copy"))
    for needed in ("job", "outbox"):
        (tmp_path / needed).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    argv = [sys.executable, "-c", ASKED, name, str(tmp_path)]
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["unknown to the copy"], done.stdout + done.stderr


def test_only_a_copy_that_needs_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where PYTHONPATH leads elsewhere, nothing of it goes inside; a job's packages stay behind our own."""
    own = str(Path(stannary.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:")
    assert own_path() == {}
    assert own_path("/environment") == {"PYTHONPATH": "/environment"}
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{own}")
    assert own_path() == {"PYTHONPATH": own}
    assert own_path("/environment") == {"PYTHONPATH": f"{own}:/environment"}


def test_the_engine_is_measured_by_the_copy_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's engine class is that of the package which will compute."""
    seen: list[dict[str, str]] = []

    def run(_argv: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(env)
        return subprocess.CompletedProcess([], 0, "c1\n", "")

    own = str(Path(stannary.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", own)
    monkeypatch.setattr(subprocess, "run", run)
    assert measure_engine_class({}) == f"c1.{visible_name()}"
    assert seen[0]["PYTHONPATH"] == own
