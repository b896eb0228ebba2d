"""Recipes that raise, die, take too much memory or too long: what the node signs of it, as prover and as auditor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.train import small_job

from stannary.errors import JobFailed
from stannary.formats import digest, predicates
from stannary.formats.ids import TaskKind, merge_task
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assurance
from stannary.run.holding import BrokenOff, Holding, Prepared, make_workplace, prepare
from stannary.run.sandbox import choice
from stannary.run.work import Brought, SandboxedWork, TaskInHand
from stannary.run.worker_process import Worker

SALT = bytes(range(32)).hex()
MIB = 1024**2
BREAKING = """
import os, signal, sys, time


class Breaking:
    def __init__(self, made):
        self.made = made
        self.num_examples, self.tokens_per_example = made.num_examples, made.tokens_per_example
        self.num_steps = 0

    def build(self):
        return self.made.build()

    def loss(self, model, examples):
        self.num_steps += 1
        if self.num_steps == 2:
            breaks_off()
        return self.made.loss(model, examples)

    def evaluate(self, model):
        return self.made.evaluate(model)


def breaking(options, inputs):
    return Breaking(recipe(options, inputs))


def breaks_off():
    {act}
"""
ACTS = {
    "raises": ("raise ValueError('a loss that is no number')", "exit-1"),
    "exits": ("sys.exit(7)", "exit-7"),
    "exits at once": ("os._exit(3)", "exit-3"),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "signal-11"),
    "kills its zygote": ("os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)", "signal-9"),
    "hangs": ("time.sleep(600)", "wall-limit"),
    "takes all memory": ("held = [bytearray(16 << 20) for _ in range(10_000)]", "out-of-memory"),
}


class Node:
    """A job laid out on a node, and its worker."""

    def __init__(self, root: Path, recipe: str, spec: JobSpec) -> None:
        self.lines: list[str] = []
        self.spec, self.job, self.outbox = spec, root / "job", root / "outbox"
        self.outbox.mkdir(parents=True)
        small_job.lay_out(self.job)
        with (self.job / "workdir/recipe.py").open("a") as file:
            file.write(recipe)
        self.holding = Holding(small_job.JOB, spec, self.job, digest.digest(b""), None, 1_700_000_000)
        self.holding.make_directories()

    def prepare(self) -> Prepared | BrokenOff | None:
        """Start the worker; the recipe is tried before, elsewhere."""
        try:
            sandbox = choice.choose("private", lambda _: None)
        except choice.EnvironmentProblem as err:
            pytest.skip(f"no sandbox works here: {err}")
        workplace = make_workplace(self.holding, self.outbox, {})
        self.holding.worker = Worker.start(sandbox, workplace, lambda _, text: self.lines.append(text))
        made = prepare(self.holding.worker, self.spec, is_tried=True)
        self.holding.broken_off = made if isinstance(made, BrokenOff) else None
        return made


def spec_of(act: str) -> JobSpec:
    """Return the job of a recipe that breaks off."""
    spec = small_job.train_spec("recipe.py:breaking")
    assert spec.recipe is not None
    wall_s = 8 if act == "hangs" else 120
    resources = replace(spec.resources, wall_s=wall_s, memory_bytes=768 * MIB)
    trust = replace(spec.trust, assurance=Assurance.FULL)
    return replace(spec, recipe=replace(spec.recipe, step_ms=None), resources=resources, trust=trust, rules=3)


@pytest.mark.parametrize("act", list(ACTS))
def test_a_recipe_that_breaks_off_has_a_result_both_ways(act: str, tmp_path: Path) -> None:
    """Prover, auditor and who answers for it later sign the same; nothing is handed in, and its use was measured."""
    what, how = ACTS[act]
    found = {}
    for way in ("work", "audit"):
        node = Node(tmp_path / way, BREAKING.replace("{act}", what), spec_of(act))
        try:
            assert isinstance(node.prepare(), Prepared)
            task = TaskInHand(node.holding, small_job.a_round(1), lambda _: None)
            if way == "work":
                done = SandboxedWork().do(task)
                found[way] = (done.ended, done.root)
                assert (done.outputs, done.used.wall_ms > 0) == ((), True)
                kept = Brought(done.outputs, done.ended)
                answered = SandboxedWork().answer(task, kept, 1, SALT)
                found["answer"] = (answered.ended, answered.root)
            else:
                audited = SandboxedWork().audit(task, 1, SALT)
                found[way] = (audited.ended, audited.root)
                assert audited.used.wall_ms > 0
        finally:
            node.holding.end_worker()
    assert set(found.values()) == {(how, predicates.result_root((), how))}


def test_the_log_says_why(tmp_path: Path) -> None:
    """Of a result nobody sends words: the traceback is in the log, where the buyer looks."""
    node = Node(tmp_path, BREAKING.replace("{act}", ACTS["raises"][0]), spec_of("raises"))
    try:
        node.prepare()
        SandboxedWork().do(TaskInHand(node.holding, small_job.a_round(1), lambda _: None))
    finally:
        node.holding.end_worker()
    assert any("a loss that is no number" in line for line in node.lines)


@pytest.mark.parametrize(
    ("at_import", "how"), [("raise KeyError('width')", "exit-1"), ("import os; os._exit(4)", "exit-4")]
)
def test_a_recipe_that_breaks_off_when_it_is_loaded_does_so_in_every_round(
    at_import: str, how: str, tmp_path: Path
) -> None:
    """Its rounds have that result, without a worker; a merge is no round, and is not done."""
    node = Node(tmp_path, f"\n{at_import}\n", spec_of("raises"))
    try:
        made = node.prepare()
        assert isinstance(made, BrokenOff)
        assert (made.ended, made.used.wall_ms > 0) == (how, True)
        done = SandboxedWork().do(TaskInHand(node.holding, small_job.a_round(0), lambda _: None))
        assert (done.ended, done.outputs, done.used) == (how, (), made.used)
        merge = replace(
            small_job.a_round(0), task=merge_task(small_job.JOB, 0), kind=TaskKind.MERGE, num_steps=1, admitted=()
        )
        with pytest.raises(JobFailed) as caught:
            SandboxedWork().do(TaskInHand(node.holding, merge, lambda _: None))
        assert caught.value.detail == "recipe-error"
    finally:
        node.holding.end_worker()
