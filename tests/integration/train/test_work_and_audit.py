"""A recipe that asks what it is run for: work and audit look the same from inside."""

from __future__ import annotations

import json

import pytest
from tests.integration.train import small_job

from stannary.formats import digest
from stannary.run.holding import Holding, make_workplace, prepare
from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.work import SandboxedWork, TaskInHand
from stannary.run.worker_process import Worker

SALT = bytes(range(32)).hex()
TOLD = "told: "
ASKING = r"""
import hashlib, json, os, random, sys, threading

import numpy

FIRST = [random.random(), float(numpy.random.rand())]


def stack():
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append([frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name, frame.f_lineno])
        frame = frame.f_back
    return found


def fds():
    found = []
    for fd in range(64):
        try:
            found.append([fd, os.fstat(fd).st_mode])
        except OSError:
            pass
    return found


def below(root):
    for top, folders, names in os.walk(root):
        yield from (os.path.join(top, name) for name in [*folders, *names])
        if root == "/tmp":  # what is mounted there is the package itself, where this checkout lies below it
            folders[:] = [name for name in folders if not os.path.ismount(os.path.join(top, name))]


def told(where):
    listed = sorted(name for root in ("/tmp", "/job", "/dev/shm") for name in below(root))
    print("told: " + json.dumps([
        where, FIRST, random.random(), float(numpy.random.rand()), sys.argv, dict(os.environ),
        os.getcwd(), stack(), hashlib.sha256(repr(listed).encode()).hexdigest(), listed[-9:], fds(),
        os.umask(0o022), len(os.sched_getaffinity(0)), os.cpu_count(),
        sorted(item.name for item in threading.enumerate()),
    ]))


class Asking:
    def __init__(self, made):
        self.made = made
        self.num_examples, self.tokens_per_example = made.num_examples, made.tokens_per_example
        told("factory")

    def build(self):
        told("build")
        return self.made.build()

    def loss(self, model, examples):
        told("loss")
        return self.made.loss(model, examples)

    def evaluate(self, model):
        told("evaluate")
        return self.made.evaluate(model)


def asking(options, inputs):
    return Asking(recipe(options, inputs))
"""


@pytest.mark.parametrize("back_end", [bubblewrap, unshare])
def test_a_recipe_cannot_tell_work_from_an_audit(back_end, tmp_path):
    """Arguments, variables, directory, stack, files, descriptors, threads, chance: the same whichever step is asked."""
    sandbox = back_end.find(cgroup.find())
    if sandbox is None:
        pytest.skip(f"{back_end.__name__} is not installed or may make no user namespace here")
    spec = small_job.train_spec("recipe.py:asking")
    ways = {
        "work": lambda work, task: work.do(task).root,
        "audit": lambda work, task: work.audit(task, 2, SALT).root,
        "lost": lambda work, task: work.answer(task, None, 1, SALT).root,
    }
    found = {}
    for name, way in ways.items():
        job, outbox, lines = tmp_path / name / "job", tmp_path / name / "outbox", []
        outbox.mkdir(parents=True)
        small_job.lay_out(job)
        with (job / "workdir/recipe.py").open("a") as file:
            file.write(ASKING)
        holding = Holding(small_job.JOB, spec, job, digest.digest(b""), None, 1_700_000_000)
        holding.make_directories()
        holding.worker = Worker.start(
            sandbox, make_workplace(holding, outbox, {}), lambda _stream, text, lines=lines: lines.append(text)
        )
        try:
            prepare(holding.worker, spec, is_tried=True)
            root = way(SandboxedWork(), TaskInHand(holding, small_job.a_round(1), lambda _: None))
        finally:
            holding.end_worker()
        found[name] = (root, [json.loads(line.removeprefix(TOLD)) for line in lines if line.startswith(TOLD)])
    places = [where for where, *_ in found["work"][1]]
    assert places.count("loss") >= 2 and {"factory", "build", "evaluate"} <= set(places)
    assert found["work"] == found["audit"] == found["lost"]
