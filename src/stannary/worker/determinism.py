"""The check before pay: a recipe must give the same bits twice, here and in another process.

    python -m stannary.worker.determinism JOB_DIRECTORY REPORTS_FD      {"spec", "inputs"} on stdin, one JSON line each:
                                                     {"step", "steps", "loss"}* then {"found": [...]} or {"failed": ""}

Two steps from the same weights are run in two fresh processes of the worker (fresh.py), and in one of its own with
another number, start time and load; the states after each step and the delta are compared. That covers what the
recipe's file does when it is run, too. Hash order of strings is fixed by the worker's environment; what still slips
through is met by the first audit, and costs the prover nothing but a second look, since his auditors cannot agree
against him either.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from stannary.errors import SpecError
from stannary.formats import digest, jobspec
from stannary.formats.canonical import Json
from stannary.formats.ids import JobId, TaskId, TaskKind
from stannary.formats.predicates import Assignment
from stannary.train import checkpoint, engine
from stannary.train import recipe as recipes
from stannary.train.recipe import Recipe
from stannary.train.round import Progress, Recording, ignore_progress, run_round

CHECKED_STEPS = 2
LOAD_S = 0.5  # how long the other process has a competitor: enough to cover steps of small models
OTHER_NICE = 5


def probe(recipe: Recipe, settings: jobspec.RecipeSpec, progress: Progress = ignore_progress) -> list[str]:
    """Return the digests of the states after each of CHECKED_STEPS steps, and of the delta."""
    assignment = Assignment(
        job=JobId("j-000000000000"),
        task=TaskId("j-000000000000/r0/l0/a0"),
        kind=TaskKind.ROUND,
        round=0,
        lane=0,
        num_steps=CHECKED_STEPS,
        first_step=0,
        tokens=0,
    )
    recording = Recording(spell=checkpoint.Hasher, progress=progress)  # a state is as large as the model
    done = run_round(recipe, assignment, settings, None, recording)
    states = [done.states[step].hex() for step in range(1, CHECKED_STEPS + 1)]
    return [*states, *(digest.digest(done.outputs[name]) for name in sorted(done.outputs))]


def parted(first: list[str], second: list[str]) -> int | None:
    """Return the first inner step after which two probes differ (one more: their delta), None where they agree."""
    if len(first) != len(second):
        return 1
    return next(
        (step for step, both in enumerate(zip(first, second, strict=True), start=1) if len(set(both)) > 1), None
    )


def probe_elsewhere(
    job: Path, spec: jobspec.JobSpec, inputs: Mapping[str, Path], progress: Progress = ignore_progress
) -> list[str]:
    """Load the recipe in a process of its own and return its probe.

    What that process prints is dropped: the job's log has the same from this one.

    Raises:
        SpecError: it cannot be run there.
    """
    reports_in, reports_out = os.pipe()
    argv = [sys.executable, "-s", "-P", "-m", "stannary.worker.determinism", str(job), str(reports_out)]
    told: dict[str, Json] = {
        "spec": jobspec.to_canonical(spec),
        "inputs": {name: str(path) for name, path in inputs.items()},
    }
    with subprocess.Popen(  # noqa: S603 - our own module
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(reports_out,)
    ) as other:
        os.close(reports_out)
        assert other.stdin is not None
        other.stdin.write(json.dumps(told).encode())
        other.stdin.close()
        with os.fdopen(reports_in, "r") as reports:
            for line in reports:
                event = json.loads(line)
                if "found" in event:
                    return [str(item) for item in event["found"]]
                if "failed" in event:
                    raise SpecError("the recipe does not run in a second process", why=str(event["failed"])[:500])
                progress(int(event["step"]), int(event["steps"]), float(event["loss"]))
        raise SpecError("the recipe does not run in a second process", why=f"it ended with exit code {other.wait()}")


def main(arguments: list[str]) -> int:
    """Be that process."""
    told = json.loads(sys.stdin.read())
    os.nice(OTHER_NICE)
    threading.Thread(target=_compete, daemon=True).start()
    with os.fdopen(int(arguments[1]), "w", buffering=1) as reports:

        def report(event: dict[str, object]) -> None:
            reports.write(json.dumps(event) + "\n")

        try:
            spec = jobspec.from_canonical(told["spec"])
            settings = jobspec.recipe_of(spec)
            engine.pin()  # as in the worker (fresh.py rule 4)
            inputs = {name: Path(path) for name, path in told["inputs"].items()}
            loaded = recipes.load(Path(arguments[0]) / "workdir", settings, inputs)
            engine.pin(settings.training.threads)
            report({"found": probe(loaded, settings, lambda step, steps, loss: report(
                {"step": step, "steps": steps, "loss": loss}
            ))})  # fmt: skip
        except Exception as err:  # noqa: BLE001  # process edge: the recipe is somebody else's code and may raise anything
            report({"failed": f"{type(err).__name__}: {err}"})
            return 1
    return 0


def _compete() -> None:
    until = time.monotonic() + LOAD_S
    while time.monotonic() < until:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
