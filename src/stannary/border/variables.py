"""The environment variables of a job, the same on every node.

Environment variables of the agent never reach a job. What does is the job's own `envs`, the pinned
settings below, and the operator's kernel choice, which makes an honestly different engine class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stannary.border.paths import JOB_PATH, PACKAGES
from stannary.formats import jobspec
from stannary.formats.canonical import Json
from stannary.formats.jobspec import JobSpec
from stannary.rules import kinds

KERNEL_VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
ENGINE_VARIABLES = (*KERNEL_VARIABLES, "MKL_ENABLE_INSTRUCTIONS")  # what decides a class (train/engine.py)
# When the job was signed, in POSIX seconds: the one time that is the same for whoever computes it, now or in a year
# (reproducible-builds.org, SOURCE_DATE_EPOCH). The wall clock cannot be fixed (docs/sandbox.md).
TIME_VARIABLE = "SOURCE_DATE_EPOCH"
PINNED_ENVIRONMENT = {
    "PATH": JOB_PATH,
    "HOME": "/tmp",  # noqa: S108 - the job's own /tmp, inside the sandbox
    "USER": "job",
    "LOGNAME": "job",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",  # another thread count gives other weight bits, and two spin on a shared core
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",  # a library that sees fewer cores must not take fewer threads: the bits would differ
    "MKL_DYNAMIC": "FALSE",
    "PYTHONHASHSEED": "0",  # two runs are compared byte for byte
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
}

# Otherwise glibc raises this threshold by itself, up to 32 MB, and the room of freed tensors stays with the process:
# a worker then holds up to one model more than it uses (mallopt(3), M_MMAP_THRESHOLD; bench/merge_memory.py).
TRAINING_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1024**2)}


def threads_environment(threads: int) -> dict[str, str]:
    """Return the variables that say how many threads a library takes."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def job_environment(envs: Mapping[str, Json], kernel: Mapping[str, Json]) -> dict[str, str]:
    """Return a job's own variables under what is pinned here."""
    chosen = {name: str(value) for name, value in {**envs, **PINNED_ENVIRONMENT, **kernel}.items()}
    # A job that names a kernel setting would pass for another engine class than its node's.
    return {name: value for name, value in chosen.items() if name not in ENGINE_VARIABLES or name in kernel}


def worker_environment(
    spec: JobSpec, kernel: Mapping[str, Json], packages: Path | None, submitted_s: int
) -> dict[str, str]:
    """Return the environment of a job's worker.

    A recipe runs in the worker and gets the job's variables and packages there. A command gets them of its own
    (below): its worker must load nothing of the buyer's, or it would sign for more than it was asked to.
    """
    when = {TIME_VARIABLE: str(submitted_s)}
    if not kinds.of(spec).loads_recipe:
        return {**job_environment({}, kernel), **when}
    threads = threads_environment(jobspec.recipe_of(spec).training.threads)
    path = {"PYTHONPATH": PACKAGES} if packages is not None else {}
    return {**when, **job_environment(spec.envs, kernel), **TRAINING_ENVIRONMENT, **threads, **path}


def command_environment(spec: JobSpec, given: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a command.

    Args:
        spec: its `envs` come over everything but a kernel setting.
        given: the worker's environment, for the operator's kernel choice and the job's time.
        own: what the node says of inputs, places and shard.
    """
    kernel = {name: given[name] for name in (*ENGINE_VARIABLES, TIME_VARIABLE) if name in given}
    envs = {name: str(value) for name, value in spec.envs.items() if name not in ENGINE_VARIABLES}
    wanted = {**PINNED_ENVIRONMENT, **threads_environment(spec.resources.cpus), **kernel, **own, **envs}
    if Path(PACKAGES).is_dir():  # behind the buyer's own: he may have meant to shadow one
        wanted["PYTHONPATH"] = ":".join(filter(None, [wanted.get("PYTHONPATH"), PACKAGES]))
    return wanted
