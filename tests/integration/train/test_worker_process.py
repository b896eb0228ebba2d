"""The worker as a process: every request over real pipes, on the hello recipe."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.train.small_job import CORPUS, JOB, a_round, command_spec, lay_out, put, train_spec

from stannary.border import frames
from stannary.formats import digest, record
from stannary.formats.digest import PREFIX
from stannary.formats.ids import TaskKind, merge_task, round_task
from stannary.formats.jobspec import JobKind, Verification, to_canonical
from stannary.formats.predicates import Admitted, Assignment, Output, result_root

SALT = bytes(range(32))


class Worker:
    """A worker process and both ends of its pipes."""

    def __init__(self, job: Path, environment: dict[str, str]) -> None:
        ask_r, ask_w = os.pipe()
        tell_r, tell_w = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stannary.worker", str(ask_r), str(tell_w), str(job)],
            pass_fds=(ask_r, tell_w),
            env={"PATH": os.environ["PATH"], "TMPDIR": "/tmp", **environment},
            stdout=subprocess.DEVNULL,
        )
        os.close(ask_r)
        os.close(tell_w)
        self.asking = os.fdopen(ask_w, "wb")
        self.hearing = os.fdopen(tell_r, "rb")

    def ask(self, **request):
        """Return the last reply, and the outputs that came before it."""
        frames.write(self.asking, request)
        outputs: dict[str, bytes] = {}
        while (frame := frames.read(self.hearing)) is not None:
            if "output" in frame.header:
                outputs[frame.header["output"]] = frame.body
            elif "ok" in frame.header:
                return frame.header, outputs
        raise AssertionError("worker ended without a reply")

    def close(self) -> int:
        """Stop it and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self.asking.close()
        self.hearing.close()
        return self.process.wait(60)


@pytest.fixture(name="job")
def fixture_job(tmp_path):
    """A job directory as the agent lays it out, with the hello recipe and corpus."""
    lay_out(tmp_path)
    return tmp_path


@pytest.fixture(name="start")
def fixture_start():
    """Start workers that are stopped at the end whatever happens."""
    workers: list[Worker] = []

    def start(job: Path, **environment: str) -> Worker:
        workers.append(Worker(job, environment))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def prepare(worker: Worker, spec=None, corpus=None, **more):
    named = digest.digest(CORPUS) if corpus is None else corpus
    request = {"spec": to_canonical(spec or train_spec()), "inputs": {"corpus": named.removeprefix(PREFIX)}}
    return worker.ask(op="prepare", **request, **more)[0]


def assigned(*arguments) -> dict:
    return record.to_json(a_round(*arguments))


def test_a_job_runs_and_its_audit_by_another_process_agrees(job, start):
    """Two rounds and a merge by one worker are recomputed bit for bit by another, answers included."""
    prover, auditor = start(job), start(job, PYTHONHASHSEED="77")
    described = prepare(prover)
    assert described == prepare(auditor)
    assert described["ok"] and described["engine_class"].startswith("cpu-fp32-torch")

    admitted = []
    for lane in (0, 1):
        done, outputs = prover.ask(op="task", assignment=assigned(lane), step=2, salt=SALT.hex())
        assert done["ok"] and done["num_steps"] == 2 and float(done["metrics"]["loss"]) > 0
        listed = Output("delta", put(job, outputs["delta"]), len(outputs["delta"]))
        admitted.append(Admitted(round_task(JOB, 0, lane), result_root((listed,)), lane, 1_000_000))
        replayed, found = auditor.ask(op="task", assignment=assigned(lane), step=1, salt=SALT.hex())
        assert found == outputs
        assert prover.ask(op="answer", assignment=assigned(lane), step=1, salt=SALT.hex())[0] == {
            "ok": True,
            "answer": replayed["answer"],
        }

    merge = record.to_json(
        Assignment(JOB, merge_task(JOB, 0), TaskKind.MERGE, 0, 0, 2, 0, 0, admitted=tuple(admitted), excluded=())
    )
    done, outputs = prover.ask(op="task", assignment=merge, step=1, salt=SALT.hex())
    assert set(outputs) == {"theta", "outer"} and float(done["metrics"]["heldout_bits_per_byte"]) > 0
    replayed, found = auditor.ask(op="task", assignment=merge, step=2, salt=SALT.hex())
    assert found == outputs and replayed["metrics"] == done["metrics"]
    # A worker that never saw round 0 starts from the weights alone and answers what it never ran.
    after = assigned(1, 1, put(job, outputs["theta"]))
    assert prover.ask(op="task", assignment=after, step=1, salt=SALT.hex())[0]["ok"]
    answers = {w.ask(op="answer", assignment=after, step=3, salt=SALT.hex())[0]["answer"] for w in (prover, auditor)}
    assert len(answers) == 1


def test_failures_are_answers(job, start):
    """An unknown operation, a missing input and a step too far are answered, and the worker lives on."""
    worker = start(job)
    assert worker.ask(op="task", assignment=assigned(0), step=1, salt=SALT.hex())[0]["ok"] is False
    assert worker.ask(op="dance")[0]["reason"] == "recipe-error"
    assert prepare(worker)["ok"]
    missing = assigned(0, 1, digest.digest(b"nobody has this"))
    assert "not in the sandbox" in worker.ask(op="task", assignment=missing, step=1, salt=SALT.hex())[0]["message"]
    assert (
        "step the task does not have"
        in worker.ask(op="answer", assignment=assigned(0), step=9, salt=SALT.hex())[0]["message"]
    )
    frames.write(worker.asking, {"op": "stop"})
    assert worker.process.wait(30) == 0


NOT_DETERMINISTIC = """
import os
from recipe import Hello
class Odd(Hello):
    def loss(self, model, examples):
        return super().loss(model, examples) * (1 + os.urandom(1)[0] / 1000)
"""


def test_a_recipe_that_is_not_deterministic_is_found_before_pay(job, start):
    """Two steps are run twice before any work is taken."""
    (job / "workdir/odd.py").write_text(NOT_DETERMINISTIC)
    reply = prepare(start(job), train_spec("odd.py:Odd"))
    assert reply["reason"] == "recipe-not-deterministic" and "step 1" in reply["message"]


COUNTING = """
import itertools, subprocess, torch
from recipe import Hello
CALLS = itertools.count()
class Counting(Hello):
    def loss(self, model, examples):
        torch.manual_seed(next(CALLS))  # what was done before in this process would show in every result
        subprocess.Popen(["sleep", "600"])
        return super().loss(model, examples) * (1 + torch.rand(1))
"""


def test_what_a_recipe_remembers_ends_with_its_task(job, start):
    """A recipe that counts its calls gives an auditor who never saw the task before the bytes of a busy prover, whether
    it was tried there or not; what it left running is gone."""
    (job / "workdir/counting.py").write_text(COUNTING)
    prover, auditor = start(job), start(job)
    assert prepare(prover, train_spec("counting.py:Counting"))["ok"]
    assert prepare(auditor, train_spec("counting.py:Counting"), tried=True)["ok"]
    agree(prover, auditor)
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    mine = {str(worker.process.pid) for worker in (prover, auditor)}
    assert not [line for line in listed.splitlines() if "sleep 600" in line and line.split()[0] in mine]


def agree(prover, auditor):
    """Have one do some tasks and another only the last of them: outputs and answers are the same."""
    for lane in (1, 1, 0):
        assert prover.ask(op="task", assignment=assigned(lane), step=1, salt=SALT.hex())[0]["ok"]
    question = {"assignment": assigned(0), "step": 2, "salt": SALT.hex()}
    done, outputs = prover.ask(op="task", **question)
    assert done["ok"], done
    replayed, found = auditor.ask(op="task", **question)
    assert found == outputs
    assert replayed["answer"] == done["answer"]
    assert auditor.ask(op="answer", **question)[0]["answer"] == done["answer"]


@pytest.mark.parametrize(("end", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 11)", -11)])
def test_a_task_that_ends_its_process_ends_the_worker_alike(job, start, end, code):
    """The agent sees the signal or exit code that the recipe's own process ended with."""
    (job / "workdir/odd.py").write_text(
        f"import os\nfrom recipe import Hello\nclass Odd(Hello):\n    def loss(self, model, examples):\n        {end}\n"
    )
    worker = start(job)
    assert prepare(worker, train_spec("odd.py:Odd"), tried=True)["ok"]
    with pytest.raises(AssertionError, match="without a reply"):
        worker.ask(op="task", assignment=assigned(0), step=1, salt=SALT.hex())
    assert worker.process.wait(60) == code


@pytest.mark.parametrize(
    ("member", "message", "told"),
    [
        ("def build(self): return torch.nn.BatchNorm1d(3)", "recipe has persistent buffers", "GroupNorm"),
        ("def loss(self, model, examples): return undefined", "the recipe raised NameError", "line 4, in loss"),
        ("def build(self): raise SystemExit(7)", "the recipe raised SystemExit", "line 4, in build"),
    ],
)
def test_what_fails_in_every_process_is_told_in_its_own_words(job, start, capfd, member, message, told):
    """A recipe that runs nowhere is not said to fail in a second process: its error comes with hint or traceback."""
    (job / "workdir/odd.py").write_text(f"import torch\nfrom recipe import Hello\nclass Odd(Hello):\n    {member}\n")
    reply = prepare(start(job), train_spec("odd.py:Odd"))
    assert reply["message"] == message
    assert told in reply["hint"] + capfd.readouterr().err


def test_a_pickle_input_is_refused(job, start):
    """A pickle is refused by its first bytes, before the recipe could load it."""
    name = put(job, b"\x80\x04\x95\x10\x00\x00")
    reply = prepare(start(job), corpus=name)
    assert reply["reason"] == "pickle-refused"


def test_a_command_sees_what_it_was_promised_and_its_outputs_come_back(job, start):
    """A command runs beside a copy of the work directory, with named inputs and nothing of the agent."""
    line = (
        'wc -c < "$STANNARY_INPUT_CORPUS" > size.txt; echo $GREETING$SECRET > sub.txt; '
        "ls >> sub.txt; ln -s /etc/passwd l.txt"
    )
    spec = to_canonical(command_spec(line, ["s*.txt"]))
    worker = start(job, SECRET="agent")
    done, outputs = worker.ask(op="command", spec=spec, inputs={"corpus": digest.digest(CORPUS)[7:]})
    assert done["ok"]
    assert set(outputs) == {"size.txt", "sub.txt"}
    assert int(outputs["size.txt"]) == len(CORPUS)
    assert outputs["sub.txt"].splitlines()[0] == b"hello" and b"recipe.py" in outputs["sub.txt"]
    for run, pattern, says in (("true", "none.bin", "no such output"), ("ln -s /etc/passwd l", "l", "no such output")):
        spec = to_canonical(command_spec(run, [pattern]))
        assert says in worker.ask(op="command", spec=spec)[0]["message"]
    spec = to_canonical(command_spec("exit 7", verify=Verification.NONE))
    assert "exit code 7" in worker.ask(op="command", spec=spec)[0]["message"]


def test_a_recipe_that_closes_its_log(job, start):
    """Closed streams cost the recipe its log, and the node no worker: requests are answered as before."""
    recipe, closed = job / "workdir/recipe.py", "\nimport sys\nsys.stdout.close(); sys.stderr.close()\n"
    recipe.write_text(recipe.read_text() + closed)
    worker = start(job)
    assert prepare(worker)["ok"]
    recipe.write_text(closed + "raise KeyError('width')\n")
    for _ in range(2):
        assert "raised KeyError" in prepare(worker)["message"]


def test_a_recipe_that_was_tried_is_only_loaded(job, start, tmp_path):
    """The check before pay runs the recipe's file in a second process; a worker that is told so leaves it out."""
    recipe, runs = job / "workdir/recipe.py", tmp_path / "runs"
    recipe.write_text(recipe.read_text() + f"\nopen({str(runs)!r}, 'a').write('x')\n")
    worker = start(job)
    assert prepare(worker)["ok"]
    assert runs.read_text() == "xx"
    assert prepare(worker, tried=True)["ok"]
    assert runs.read_text() == "xxx"


ROOMS = {"audit", "border", "builtin", "errors", "formats", "heap", "rules", "train", "worker"}
SIGNING = {"cryptography", "pyrage", *(f"stannary.formats.{name}" for name in ("dsse", "ed25519", "note", "statement"))}
CLIENTS = {"httpx2", "httpcore2", "requests", "urllib3", "obstore", "pydantic", "sqlalchemy", "fastapi", "uvicorn"}


@pytest.mark.parametrize("kind", [JobKind.COMMAND, JobKind.TRAIN])
def test_a_worker_holds_no_key_no_market_and_no_client(job, start, capfd, kind):
    """Beside the buyer's code lies nothing that signs, asks a market or reads a database: only what computes."""
    worker = start(job, PYTHONPROFILEIMPORTTIME="1")
    if kind is JobKind.TRAIN:
        assert prepare(worker)["ok"]
        assert worker.ask(op="task", assignment=assigned(0), step=1, salt=SALT.hex())[0]["ok"]
    else:
        spec = to_canonical(command_spec("echo hello > out.txt", ["out.txt"]))
        assert worker.ask(op="command", spec=spec, inputs={})[1] == {"out.txt": b"hello\n"}
    worker.close()
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in told}
    assert {name.split(".")[1] for name in imported if name.startswith("stannary.")} <= ROOMS
    assert "stannary.worker.service" in imported
    assert imported & {*SIGNING, *CLIENTS} == set()
    if kind is JobKind.COMMAND:  # torch brings the standard library's with it
        assert imported & {"ssl", "http.client", "urllib.request", "socket"} == set()
