"""What a hostile worker may say, and what the agent makes of it."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stannary.agent.settings import PINNED_ENVIRONMENT, check_kernel, job_environment
from stannary.border import frames
from stannary.errors import JobFailed, UsageError
from stannary.formats import digest
from stannary.run.sandbox.contract import Limits, Usage
from stannary.run.worker_process import Worker, Workplace


@dataclass
class DeadProcess:
    """Stands for a sandbox that can only be killed."""

    kills: int = 0
    num_oom_kills: int = 0
    popen: Any = field(default_factory=lambda: None)

    def kill(self) -> None:
        self.kills += 1

    def threads(self) -> list[str]:
        return []

    def usage(self) -> Usage:
        return Usage(0, 0, self.num_oom_kills)

    def wait(self, timeout_s: float | None = None) -> int | None:
        return -9


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Send one request to a worker that answers with the given bytes."""

    def request(*answer: tuple[dict[str, Any], bytes] | bytes, process: DeadProcess | None = None) -> Any:
        said = io.BytesIO()
        for part in answer:
            if isinstance(part, bytes):
                said.write(part)
            else:
                frames.write(said, *part)
        said.seek(0)
        workplace = Workplace(tmp_path, tmp_path / "outbox", {}, Limits(), output_bytes=100)
        used = process or DeadProcess()
        worker = Worker(used, workplace, io.BytesIO(), said)  # type: ignore[arg-type]  # a stand-in
        return worker.request({"op": "run"}, 30.0, lambda _: None)

    return request


def test_outputs_are_kept_by_digest(ask: Callable[..., Any], tmp_path: Path) -> None:
    """An output lies in the outbox under its digest; progress in between is no answer."""
    reply = ask(
        ({"progress": {"step": 1, "steps": 2}}, b""), ({"output": "delta", "size": 3}, b"abc"), ({"ok": True}, b"")
    )
    (output,) = reply.outputs
    assert output.digest == digest.digest(b"abc")
    assert (tmp_path / "outbox" / output.digest[7:]).read_bytes() == b"abc"


@pytest.mark.parametrize(
    "said",
    [
        [({"output": "../../etc/cron.d/x", "size": 1}, b"x")],
        [({"output": "/etc/x", "size": 1}, b"x")],
        [({"output": "a", "size": 2}, b"x")],
        [({"output": 7, "size": 1}, b"x")],
        [({"output": "a", "size": 1}, b"x"), ({"output": "a", "size": 1}, b"y")],
        [({"output": "a", "size": 101}, b"x" * 101)],
        [({"output": "a", "size": 60}, b"x" * 60), ({"output": "b", "size": 60}, b"y" * 60)],
        [b"\xff\xff\xff\xff"],
    ],
)
def test_a_broken_rule_ends_the_worker(ask: Callable[..., Any], said: list[Any], tmp_path: Path) -> None:
    """A name that leads out, a false size, a name twice, too many bytes or a false length kill everything."""
    process = DeadProcess()
    with pytest.raises(JobFailed) as caught:
        ask(*said, ({"ok": True}, b""), process=process)
    assert caught.value.detail == "bad-frame"
    assert process.kills == 1
    assert all(path.parent == tmp_path / "outbox" for path in tmp_path.rglob("*") if path.is_file())


def test_a_lost_worker_has_a_reason(ask: Callable[..., Any]) -> None:
    """A stream that ends is a dead worker, or memory when the kernel says so."""
    with pytest.raises(JobFailed) as caught:
        ask()
    assert caught.value.detail == "worker-died"
    assert str(caught.value) == "the worker is lost: SIGKILL (Killed), exit code 137"
    with pytest.raises(JobFailed) as caught:
        ask(process=DeadProcess(num_oom_kills=1))
    assert caught.value.detail == "out-of-memory"


def test_memory_and_time_are_said_in_words(ask: Callable[..., Any], tmp_path: Path) -> None:
    """What the kernel killed for its memory behind a worker that lives, and what took too long, is said as such."""
    process = DeadProcess()
    counts = itertools.chain((0,), itertools.repeat(1))
    process.usage = lambda: Usage(0, 0, next(counts))  # type: ignore[method-assign]
    with pytest.raises(JobFailed) as caught:
        ask(({"ok": False, "reason": "command-failed", "message": "exit code 137"}, b""), process=process)
    assert (caught.value.detail, caught.value.what) == ("out-of-memory", "killed: out of memory")
    worker = Worker(DeadProcess(), Workplace(tmp_path, tmp_path, {}, Limits(), 1), io.BytesIO(), io.BytesIO())  # type: ignore[arg-type]
    worker.kill("wall-limit")
    with pytest.raises(JobFailed) as caught:
        worker.request({"op": "run"}, 3600.0, lambda _: None)
    assert (caught.value.detail, str(caught.value)) == ("wall-limit", "killed: longer than it may take: 3,600 s")


def test_only_who_was_asked_to_end_was_stopped(tmp_path: Path) -> None:
    """A worker that says of itself that its program was stopped lies: nothing would be compared with it."""
    for is_asked in (False, True):
        said, asked = io.BytesIO(), io.BytesIO()
        frames.write(said, {"ok": True, "ended": "stopped"})
        said.seek(0)
        worker = Worker(DeadProcess(), Workplace(tmp_path, tmp_path, {}, Limits(), 1), asked, said)  # type: ignore[arg-type]
        if is_asked:
            worker.wind_down()
            worker.wind_down()
            assert asked.getvalue().count(b'"stop"') == 1
            assert worker.run_program({"op": "command"}, 60.0, lambda _: None).header["ended"] == "stopped"
            continue
        with pytest.raises(JobFailed) as caught:
            worker.run_program({"op": "command"}, 60.0, lambda _: None)
        assert caught.value.detail == "bad-frame"


def test_a_refusal_keeps_its_lines(ask: Callable[..., Any]) -> None:
    """What, why and what to do arrive as they were said, each once, several lines as several."""
    said = {
        "ok": False,
        "reason": "recipe-error",
        "message": "it broke",
        "why": "line 1\nline 2\x1b[2J",
        "hint": "mend it",
    }
    with pytest.raises(JobFailed) as caught:
        ask((said, b""))
    assert (caught.value.what, caught.value.why, caught.value.hint) == (
        "it broke", "line 1\nline 2\N{SYMBOL FOR ESCAPE}[2J", "mend it",
    )  # fmt: skip


def test_reasons_are_plain_words(ask: Callable[..., Any]) -> None:
    """A worker's reason travels under our name, so it is a word or none."""
    with pytest.raises(JobFailed) as caught:
        ask(({"ok": False, "reason": "recipe-not-deterministic", "message": "\x1b[2Jx"}, b""))
    assert caught.value.detail == "recipe-not-deterministic"
    assert "\x1b" not in caught.value.why
    with pytest.raises(JobFailed) as caught:
        ask(({"ok": False, "reason": "<script>", "message": 7}, b""))
    assert caught.value.detail == "worker-refused"


def test_environment_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job gets its own variables and the pinned ones, which it cannot change, and nothing of the agent's."""
    monkeypatch.setenv("SECRET_TOKEN", "x")
    given = job_environment({"A": "1", "OMP_NUM_THREADS": "8", "MKL_CBWR": "AVX2"}, {})
    assert given == {**PINNED_ENVIRONMENT, "A": "1"}
    assert set(os.environ) - set(given)
    kernel = check_kernel({"MKL_CBWR": "COMPATIBLE"})
    assert job_environment({"MKL_CBWR": "AVX2"}, kernel)["MKL_CBWR"] == "COMPATIBLE"
    with pytest.raises(UsageError):
        check_kernel({"LD_PRELOAD": "x"})
