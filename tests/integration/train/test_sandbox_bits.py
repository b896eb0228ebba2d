"""A sandbox changes what a job may touch, never a bit of what it computes."""

from __future__ import annotations

import hashlib

import pytest
from tests.integration.train import small_job

from stannary.formats import digest, record
from stannary.formats.jobspec import to_canonical
from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.contract import Limits
from stannary.run.worker_process import Worker, Workplace, outbox_path
from stannary.train import engine, recipe
from stannary.train.round import run_round

WALL_S = 120.0


@pytest.fixture(name="sandbox", params=["bubblewrap", "unshare"])
def fixture_sandbox(request):
    """Both sandboxes; skipped only where the program or the kernel cannot have it."""
    found = {"bubblewrap": bubblewrap, "unshare": unshare}[request.param].find(cgroup.find())
    if found is None:
        pytest.skip(f"{request.param} is not installed or may make no user namespace here")
    return found


def test_the_same_bits_inside_and_outside(sandbox, tmp_path):
    """A round in the sandbox has the digest of the round in this process: read-only root, no network, no home."""
    job, outbox = tmp_path / "job", tmp_path / "outbox"
    outbox.mkdir()
    small_job.lay_out(job)
    workplace = Workplace(job, outbox, {"PATH": "/usr/bin:/bin"}, Limits(), 2**28)
    lines: list[str] = []
    worker = Worker.start(sandbox, workplace, lambda stream, text: lines.append(text))
    try:
        spec = small_job.train_spec()
        inputs = {"corpus": digest.digest(small_job.CORPUS).removeprefix(digest.PREFIX)}
        described = worker.request(
            {"op": "prepare", "spec": to_canonical(spec), "inputs": inputs}, WALL_S, print
        ).header
        asked = {"step": 1, "salt": bytes(32).hex()}
        request = {"op": "task", "assignment": record.to_json(small_job.a_round(0)), **asked}
        (delta,) = worker.request(request, WALL_S, lambda _: None).outputs
    finally:
        worker.close()
    engine.pin()
    assert described["engine_class"] == engine.engine_class(), lines
    loaded = recipe.load(job / "workdir", spec.recipe, {"corpus": small_job.blob(job, digest.digest(small_job.CORPUS))})
    expected = run_round(loaded, small_job.a_round(0), spec.recipe, None).outputs["delta"]
    assert delta.digest == digest.digest(expected)
    assert hashlib.sha256(outbox_path(outbox, delta.digest).read_bytes()).hexdigest() == delta.digest[7:]
