"""Recorded runs, replayed into the engine: every statement, event and ledger entry comes out as it was recorded."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys

import pytest
from tests.recorded import golden
from tests.recorded.runs import RUNS
from tests.recorded.stage import Run

MAX_LINES = 60  # of a difference that is shown
ELSEWHERE = ("liar-in-merge", "train-partly-drawn")  # runs that are replayed in another process


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_replayed(run: Run) -> None:
    """A recorded run comes out byte for byte as recorded, under either rules, and no receipt of it is refuted."""
    text, reports = golden.replayed(run)
    assert text == golden.path_of(run.name).read_text(encoding="utf-8"), _difference(run.name, text)
    for name, report in reports.items():
        refuted = [item for item in report.findings if item.severity == "refuted"]
        assert not refuted, (name, refuted)


def test_nothing_recorded_is_left_out() -> None:
    """Every golden text is of a run, every run has a name of its own and an end worth recording."""
    assert sorted(golden.DIRECTORY.rglob("*.json")) == sorted(golden.path_of(run.name) for run in RUNS)


def test_nothing_of_this_process_enters() -> None:
    """Hash seed, time zone and place of another process change no byte."""
    strange = {**os.environ, "PYTHONHASHSEED": "4242", "TZ": "Pacific/Chatham", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import sys; from tests.recorded import golden; golden.spell(sys.argv[1:])"
    command = [sys.executable, "-c", program, *ELSEWHERE]
    done = subprocess.run(command, env=strange, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(golden.path_of(name).read_text(encoding="utf-8") for name in ELSEWHERE)


def _difference(name: str, text: str) -> str:
    recorded = golden.path_of(name).read_text(encoding="utf-8").splitlines()
    lines = list(difflib.unified_diff(recorded, text.splitlines(), "recorded", "replayed", lineterm="", n=1))
    return "\n".join(["", *lines[:MAX_LINES], f"... {len(lines)} lines; `make recorded` records it anew"])
