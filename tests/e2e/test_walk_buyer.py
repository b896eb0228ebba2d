"""Walk 1: a buyer brings a program and data of his own to a market he was only told of, and takes the result home."""

from __future__ import annotations

import hashlib
import json

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
]

BIG_BYTES = 2 * 1024**3
SECRET = "hf_" + "a1B2c3D4e5F6g7H8" * 2
JOB = """\
name: lines
run: |
  #!/bin/bash
  set -euo pipefail
  shopt -s nullglob
  python count.py "$STANNARY_INPUT_TEXT" "$STANNARY_INPUT_BIG"
inputs:
  text: {path: lines.txt}
  big: {path: big.bin}
outputs: [out, "*.json"]
resources: {cpus: 1, memory: 512MiB, disk: 256MiB, wall_s: 300}
budget: 1.00
"""
PROGRAM = '''\
"""Count lines, and look at the head of something large."""
import json, os, pathlib, sys

text, big = map(pathlib.Path, sys.argv[1:])
words = 0
for number, line in enumerate(text.open(encoding="utf-8"), 1):
    words += len(line.split())
    if number % 500 == 0:
        print(f"\\rlines {number}", end="", file=sys.stderr)
print(file=sys.stderr)
with big.open("rb") as file:
    head = file.read(1024)
pathlib.Path("out/deep").mkdir(parents=True)
pathlib.Path("out/deep/words.txt").write_text(f"{words}\\n")
pathlib.Path("out/naïve name.txt").write_text(head.hex())
pathlib.Path("summary.json").write_text(json.dumps({"words": words, "user": os.environ["USER"]}))
print("counted", words, "words", flush=True)
'''


@pytest.fixture(scope="module")
def ada(town):
    return town.ada


@pytest.fixture(scope="module")
def job(ada):
    """A folder as people have it: a program, data, and much that is nobody's business."""
    folder = ada.cwd / "project"
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "count.py").write_text(PROGRAM)
    (folder / "lines.txt").write_text("a line of five words\n" * 2_000)
    with (folder / "big.bin").open("wb") as big:
        big.write(b"head of something large")
        big.truncate(BIG_BYTES)
    (folder / ".env").write_text(f"HF_TOKEN={SECRET}\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]\n")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "noise.log").write_text("noise\n" * 1_000)
    return "project/job.yaml"


def test_the_plan_says_what_travels(ada, job):
    """--dry-run names what would be sent and what stays, and neither .env, .git nor an ignored log is sent."""
    plan = ada.json("run", job, "--dry-run")
    told = json.dumps(plan)
    assert "count.py" in told
    assert SECRET not in told
    assert len(plan["chosen"]) >= 1


@pytest.fixture(scope="module")
def done(ada, job):
    return ada.stannary("run", job, timeout_s=600)


def test_the_job_ends_verified(done):
    """A program nobody here wrote and 2 GB of input end verified, and what it printed is seen as it ran."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Verified")
    assert "counted 10000 words" in done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr + done.stdout


def test_the_results_are_what_the_program_wrote(ada, done):
    """Folders, odd names and patterns come home byte for byte, and `verify --result` knows them again."""
    (receipt,) = ada.cwd.glob("*.receipt.json")
    job = receipt.name.split(".")[0]
    fetched = ada.json("get", job, "-o", "results")["outputs"]
    assert {item["path"].split("results/")[-1] for item in fetched} >= {"summary.json"}
    assert (ada.cwd / "results" / "out" / "deep" / "words.txt").read_text() == "10000\n"
    assert (ada.cwd / "results" / "out" / "naïve name.txt").read_text().startswith(b"head of something".hex())
    assert json.loads((ada.cwd / "results" / "summary.json").read_text())["words"] == 10_000
    good = ada.stannary("verify", receipt.name, "--result", "results")
    assert good.returncode == 0, good.stdout + good.stderr
    (ada.cwd / "results" / "summary.json").write_text("{}")
    bent = ada.stannary("verify", receipt.name, "--result", "results")
    assert bent.returncode == 3, bent.stdout + bent.stderr
    assert "summary.json" in bent.stdout + bent.stderr


def test_nothing_private_left_the_machine(ada, done):
    """No blob of the market and no file of its directory holds the secret, the key or the token of the buyer."""
    market = next(path for path in ada.cwd.parent.parent.iterdir() if path.name.endswith("-market"))
    key_files = [path for path in ada.data.rglob("*") if path.is_file() and "key" in path.name]
    forbidden = [SECRET.encode(), *(path.read_bytes() for path in key_files)]
    digests = {hashlib.sha256(words).hexdigest() for words in forbidden if words}
    for path in (market / "market").rglob("*"):
        if path.is_file() and path.stat().st_size < 64 * 1024**2:
            data = path.read_bytes()
            assert not any(words in data for words in forbidden if words), path
            assert path.name not in digests


def test_money_adds_up_by_node(ada, done):
    """`cost` splits what was paid by node and gives back the rest."""
    (receipt,) = ada.cwd.glob("*.receipt.json")
    cost = ada.json("cost", receipt.name.split(".")[0])
    assert cost["escrow_usd_micros"] == cost["paid_usd_micros"] + cost["refunded_usd_micros"]
