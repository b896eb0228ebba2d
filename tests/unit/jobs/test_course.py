"""The table of the course: whole, closed, and what the page shows."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from stannary.jobs.states import COURSE, NODES_WORD, TRANSITIONS, JobStatus, TaskState

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = sorted((ROOT / "tests" / "recorded" / "golden").rglob("*.json"))


def test_the_page_shows_the_table() -> None:
    """docs/course.md holds the table as the code has it."""
    script = runpy.run_path(str(ROOT / "scripts" / "course.py"))
    text = script["PAGE"].read_text("utf-8")
    assert script["table"]() in text
    assert script["renewed"](text) == text


def test_every_stage_says_what_it_waits_for_and_leads_somewhere() -> None:
    """A row that waits says for what, until when and who moves it; every way leads to a row."""
    states = {stage.state for stage in COURSE}
    assert len(states) == len(COURSE)
    for stage in COURSE:
        assert bool(stage.waits_for) == bool(stage.until) == bool(stage.mover), stage.state
        assert not stage.waits_for or stage.ways, f"{stage.state} waits, and nothing follows"
        assert set(stage.ways) <= states
        assert all(stage.ways.values()), f"a way out of {stage.state} has no reason"
    for machine in (JobStatus, TaskState):
        assert set(machine) <= states
        assert set(TRANSITIONS[machine]) == set(machine)


@pytest.mark.parametrize("machine", [JobStatus, TaskState])
def test_every_stage_is_entered(machine: type[JobStatus] | type[TaskState]) -> None:
    """In the recorded runs every status of a job and every state of a task occurs: none stands there for show."""
    subject = "job" if machine is JobStatus else "task"
    seen = {line.split(" ")[1] for _, history in _histories() for line in history}
    assert {f"{subject}.{state}" for state in machine} - seen == set()


def test_every_recorded_change_goes_a_way_of_the_table() -> None:
    """Each change in the recorded runs is a way of the table, for a reason its row names (or a node's own word)."""
    rows = {stage.state: stage for stage in COURSE}
    num_changes = 0
    for run, history in _histories():
        at: dict[str, JobStatus | TaskState] = {}
        for line in history:
            subject, to, reason = _change(line)
            before = at.get(subject)
            if to is None:
                continue
            if before is not None:
                reasons = rows[before].ways[to]
                assert reason in reasons or NODES_WORD in reasons, f"{run}: {subject} {before} -> {to}: {reason}"
                num_changes += 1
            at[subject] = to
    assert num_changes > 500


def _histories() -> Iterator[tuple[str, list[str]]]:
    for path in GOLDEN:
        for name, job in json.loads(path.read_text("utf-8"))["jobs"].items():
            yield f"{path.stem}, {name}", job["events"]


def _change(line: str) -> tuple[str, JobStatus | TaskState | None, str]:
    """Return subject, new state and reason of an event: `1.000 task.leased run/l0/a0 n1 ... {"reason": "leased"}`."""
    _, kind, *rest = line.split(" ")
    machine, _, state = kind.partition(".")
    said = json.loads(line[line.index("{") :]) if "{" in line else {}
    if machine == "job":
        return "job", JobStatus(state), said.get("reason", "")
    return rest[0], TaskState(state) if machine == "task" else None, said.get("reason", "")
