"""Recipes that hang, flood the log or bomb while they are prepared end with their limit, and leave no process."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from tests.integration.train import small_job

from stannary.errors import JobFailed
from stannary.run import holding
from stannary.run.sandbox import choice
from stannary.run.sandbox.contract import Limits
from stannary.run.worker_process import WALL_LIMIT, Worker, Workplace

LIMIT_S = 12.0  # the interpreter and torch start within a few on a busy machine


def alive(word: str) -> list[str]:
    """Return the processes whose environment holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue  # ended meanwhile
    return found


HANGS = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
FLOODS = "while True: print('x' * 1000)"
FORKS = """
import os, signal
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.pause()
raise KeyError("width")
"""


@pytest.mark.parametrize(
    ("at_import", "reason"),
    [(HANGS, WALL_LIMIT), (FLOODS, WALL_LIMIT), (FORKS, "recipe-error")],
    ids=["hangs", "floods", "forks"],
)
def test_a_prepare_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_import: str, reason: str
) -> None:
    """Whatever the recipe's file does when it is run, the true cause is told and everything it started is gone."""
    try:
        sandbox = choice.choose("private", lambda _: None)
    except choice.EnvironmentProblem as err:
        pytest.skip(f"no sandbox works here: {err}")
    monkeypatch.setattr(holding, "START_S", LIMIT_S if reason == WALL_LIMIT else 280.0)
    small_job.lay_out(tmp_path / "job")
    (tmp_path / "job/workdir/recipe.py").write_text(at_import + "\n")
    (tmp_path / "outbox").mkdir()
    mark = f"MARK{uuid.uuid4().hex}"
    environment = {"PATH": os.environ["PATH"], "MARK": mark}
    lines: list[str] = []
    worker = Worker.start(
        sandbox,
        Workplace(tmp_path / "job", tmp_path / "outbox", environment, Limits(), 2**20),
        lambda _, text: lines.append(text),
    )
    try:
        with pytest.raises(JobFailed) as caught:
            holding.prepare(worker, small_job.train_spec())
    finally:
        worker.close()
    assert caught.value.detail == reason
    assert "not prepared" not in str(caught.value)
    assert alive(mark) == []
