"""What a node does with what its worker reports: metrics it may not sign are left out and said, the task counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stannary.errors import FormatError
from stannary.formats import bounds
from stannary.formats.canonical import Json
from stannary.formats.ids import TaskKind
from stannary.run import work
from stannary.run.work import SandboxedWork, TaskInHand
from stannary.run.worker_process import Reply

HOLDING: Any = SimpleNamespace(spec=SimpleNamespace(rules=None))


def done(monkeypatch: pytest.MonkeyPatch, metrics: Json) -> work.Result:
    """Do a task whose worker reports these metrics."""
    monkeypatch.setattr(SandboxedWork, "compute", lambda *_: Reply({"metrics": metrics, "num_steps": 3}, ()))
    assignment: Any = SimpleNamespace(num_steps=3, kind=TaskKind.ROUND)
    task = TaskInHand(HOLDING, assignment, lambda _: None)
    return SandboxedWork().do(task)


def test_a_loss_that_became_nan_costs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """An honest recipe that diverges hands in its work; the log says which measure is missing and why."""
    result = done(monkeypatch, {"loss": "nan", "last_loss": "inf", "heldout_bits_per_byte": "1.250000"})
    assert result.metrics == {"heldout_bits_per_byte": "1.250000"}
    assert len(result.left_out) == 2
    assert "loss is left out: nan" in result.left_out[0]


@pytest.mark.parametrize("metrics", [None, [], "loss", 1, {"x" * 10_000: "1"}, {"loss": 1}, {"loss": None}, {"": "1"}])
def test_no_report_makes_an_unsignable_statement(monkeypatch: pytest.MonkeyPatch, metrics: Json) -> None:
    """Whatever a worker calls its metrics, what is signed fits the table."""
    result = done(monkeypatch, metrics)
    assert bounds.METRICS.fits(result.metrics)


def test_a_flood_of_odd_metrics_is_said_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand unusable metrics are nine lines of the log."""
    result = done(monkeypatch, {f"m{number}": "nan" for number in range(1000)})
    assert len(result.left_out) == work.MAX_LEFT_OUT_LINES + 1
    assert result.left_out[-1] == "992 more metrics are left out"


@pytest.mark.parametrize("said", [None, 3, "", "exit", "exit-0\n", "well", ["exit-0"]])
def test_a_worker_that_does_not_say_how_a_program_ended_has_no_result(
    monkeypatch: pytest.MonkeyPatch, said: Json
) -> None:
    """What its buyer's program may have made of the reply is never signed."""
    monkeypatch.setattr(SandboxedWork, "compute", lambda *_: Reply({"ended": said}, ()))
    holding: Any = SimpleNamespace(spec=SimpleNamespace(rules=3))
    assignment: Any = SimpleNamespace(num_steps=1, kind=TaskKind.COMMAND)
    with pytest.raises(FormatError, match="how the program ended"):
        SandboxedWork().do(TaskInHand(holding, assignment, lambda _: None))
