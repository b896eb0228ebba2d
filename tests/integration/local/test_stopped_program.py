"""A buyer stops a program that runs on a real node, and takes home what it had."""

from __future__ import annotations

import json

import pytest

from stannary.sdk.client import Client
from stannary.sdk.processes import wait_until

from .conftest import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOB = """\
name: endless
kind: command
run: |
  trap 'echo asked to end; mkdir -p out; echo half > out/answer.txt; exit 0' TERM
  echo up
  while :; do sleep 0.1; done
outputs: [out]
trust: {tier: T0, policy: local, privacy: open, verify: rerun-compare, assurance: full, max_price: 0.50}
resources: {cpus: 1, memory: 256MiB, disk: 256MiB, wall_s: 600}
budget: 1.00
"""


def test_what_a_stopped_program_wrote_on_sigterm_is_fetched_as_partial(private, stannary, home):
    """Minutes before its limit: file and last line arrive behind the receipt, which says nothing of them."""
    used = private.ensure()
    (home / "job.yaml").write_text(JOB)
    job = document(stannary("run", "job.yaml", "--detach", "--yes", "--json"))["job"]
    assert wait_until(lambda: "up" in stannary("logs", job).stdout, 120)
    assert stannary("stop", job).returncode == 0
    with Client.open(used) as client:
        assert wait_until(lambda: client.outputs(job).outputs, 60)
        assert client.job(job).status == "cancelled"
    got = stannary("get", job, "-o", "home", "--json")
    assert "partial, what there was when it was stopped or cut" in got.stderr
    assert [item["partial"] for item in json.loads(got.stdout)["outputs"]] == [True]
    assert (home / "home" / "out" / "answer.txt").read_text() == "half\n"
    assert "asked to end" in stannary("logs", job).stdout
    stannary("wait", job)
    receipt = home / f"{job}.receipt.json"
    assert stannary("verify", str(receipt)).returncode != 3
