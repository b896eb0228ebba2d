"""Peak memory of a round, a merge and their audits, as a multiple of the model's size (goal of a merge: 4).

    python bench/merge_memory.py [LANES] [OPTION=NUMBER ...]

The model has the shape of SmolLM2-135M (bench/_llama.py; options change it, e.g. layers=2). Each line is a process
of its own that computes one task in a worker's environment, its resident peak read from the kernel; `bare` is one
that only imports torch and makes the recipe. Deltas are files, as on a node.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from stannary.border.variables import TRAINING_ENVIRONMENT

LANES = 4
GOAL = 4.0
AUDIT = ", audit"
TASKS = ("bare", "round", "round" + AUDIT, "theta", "merge", "merge" + AUDIT)
HERE = Path(__file__).resolve().parent


def compute(task: str, directory: Path, lanes: int, options: dict[str, int]) -> None:
    """Do one task in this process and print its size and peak."""
    from stannary.formats import digest, jobspec
    from stannary.formats.ids import JobId, TaskKind, merge_task, round_task
    from stannary.formats.predicates import Admitted, Assignment
    from stannary.formats.training import Training
    from stannary.train import checkpoint, engine, recipe
    from stannary.train.merge import MergeInputs, run_merge
    from stannary.train.round import Recording, keep_none, run_round

    engine.pin()
    recording = Recording(keep=keep_none)
    if task.endswith(AUDIT):
        recording = Recording(keep=lambda step: step == 1, spell=checkpoint.Hasher)
    training = Training(batch_size=1, microbatch_size=1)
    settings = jobspec.RecipeSpec("_llama.py:recipe", 2, lanes, (1,), 7, 40, dict(options), training)
    made = recipe.load(HERE, settings, {})
    job = JobId("j-000000000000")
    model_bytes = 0
    if task.startswith("round"):
        assignment = Assignment(job, round_task(job, 0, 0), TaskKind.ROUND, 0, 0, 1, 0, 0)
        done = run_round(made, assignment, settings, None, recording)
        model_bytes = len(done.outputs["delta"])
        (directory / "delta").write_bytes(done.outputs["delta"])
    if task.startswith("merge"):
        theta = directory / "theta"
        admitted = tuple(Admitted(round_task(job, 0, lane), digest.digest(b""), lane, 10**6) for lane in range(lanes))
        deltas = {item.task: directory / "delta" for item in admitted}
        assignment = Assignment(job, merge_task(job, 0), TaskKind.MERGE, 0, 0, lanes, 0, 0, admitted=admitted)
        inputs = MergeInputs(theta, theta, deltas)
        finished = run_merge(made, assignment, settings, inputs, recording)
        model_bytes = len(finished.outputs["outer"])
    if task == "theta":
        (directory / "theta").write_bytes(checkpoint.encode(recipe.weights_of(recipe.build(made, settings, None))))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(model_bytes, peak_bytes)


def main(arguments: list[str]) -> int:
    """Print one line per task; exit code 1 where the merge misses its goal."""
    lanes = int(arguments[0]) if arguments and arguments[0].isdigit() else LANES
    shape = [word for word in arguments if "=" in word]
    failed = False
    environment = {**os.environ, **TRAINING_ENVIRONMENT}
    with tempfile.TemporaryDirectory(dir=HERE.parent) as directory:
        size_bytes = 0
        print(f"{'task':<14}{'peak MB':>10}{'model MB':>10}{'ratio':>8}   ({lanes} lanes, goal of the merge {GOAL})")
        for task in TASKS:
            argv = [sys.executable, __file__, "--compute", task, directory, str(lanes), *shape]
            said = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout.split()
            size_bytes, peak_bytes = max(size_bytes, int(said[0])), int(said[1])
            if task == "theta":
                continue  # makes the merge's input
            ratio = peak_bytes / size_bytes if size_bytes and task != "bare" else 0.0
            failed |= task.startswith("merge") and ratio > GOAL
            print(f"{task:<14}{peak_bytes / 1e6:>10.0f}{size_bytes / 1e6:>10.0f}{ratio:>8.2f}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compute"]:
        words = dict(word.split("=") for word in sys.argv[5:])
        compute(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), {name: int(value) for name, value in words.items()})
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
