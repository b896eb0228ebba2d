"""What people write in a job file who come from other tools: words and what they mean here.

Rule: a hint never misleads. A word another tool uses for one of our keys names that key wherever it
lies; a word for what comes later says so; only then are letters compared, with a bound (`timeout` is
not `setup`, `cancel` is not `lanes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORT_WORD = 4  # letters; in so short a key two slips make another word
MAX_DISTANCE = 2  # slips in a longer one

# Words of neighbouring tools, and the path here of what they mean.
SYNONYMS: Mapping[str, str] = {
    **dict.fromkeys(("cmd", "command", "commands", "script", "entrypoint", "args", "exec"), "run"),
    **dict.fromkeys(("env", "environment", "env_vars", "environ", "variables", "vars"), "envs"),
    **dict.fromkeys(("nodes", "replicas", "workers", "num_workers", "world_size", "instances"), "num_nodes"),
    **dict.fromkeys(("cost", "max_cost", "limit", "price_limit"), "budget"),
    **dict.fromkeys(("price", "max_hourly_cost", "hourly", "bid"), "trust.max_price"),
    **dict.fromkeys(("region", "zone", "location", "country", "infra"), "trust.regions"),
    **dict.fromkeys(("verification", "check"), "trust.verify"),
    **dict.fromkeys(
        ("timeout", "time", "time_limit", "max_duration", "duration", "walltime", "wall_time", "wall", "timeout_s",
         "timeout_seconds", "max_time", "deadline"), "resources.wall_s"
    ),
    **dict.fromkeys(("mem", "ram", "memory_mb", "memory_gb", "memory_bytes"), "resources.memory"),
    **dict.fromkeys(("cpu", "cores", "vcpu", "vcpus", "threads", "num_cpus"), "resources.cpus"),
    **dict.fromkeys(("disk_size", "storage", "disk_bytes", "disk_gb", "tmp"), "resources.disk"),
    **dict.fromkeys(("requirements", "pip", "packages", "dependencies", "conda", "install"), "setup"),
    **dict.fromkeys(("input", "data", "dataset", "datasets", "files", "mounts"), "inputs"),
    **dict.fromkeys(("output", "artifacts", "artifact", "results", "result"), "outputs"),
    **dict.fromkeys(("cwd", "dir", "directory", "working_dir", "work_dir", "repo", "code"), "workdir"),
    **dict.fromkeys(("title", "job", "job_name", "id"), "name"),
    **dict.fromkeys(("type",), "kind"),
    **dict.fromkeys(("steps", "h", "local_steps", "num_steps"), "recipe.inner_steps"),
    **dict.fromkeys(("epochs", "num_rounds", "iterations"), "recipe.rounds"),
    **dict.fromkeys(("entry_point", "module", "recipe_file"), "recipe.entry"),
    **dict.fromkeys(("config", "params", "hyperparameters", "hparams", "arguments"), "recipe.options"),
    **dict.fromkeys(("optimizer", "lr", "learning_rate"), "recipe.training"),
}  # fmt: skip

_GPU = "GPU nodes come with hardware certification"
# Words that name something this release does otherwise or not at all.
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("cancel", "stop", "delete", "kill"), "a job is ended by: stannary stop JOB"),
    **dict.fromkeys(
        ("retries", "retry", "attempts", "max_retries", "restart", "max_restarts", "job_recovery"),
        "leave it out: work of a lost node goes to another by itself",
    ),
    **dict.fromkeys(("priority", "spot", "use_spot", "preemptible", "queue"), "leave it out: nodes have one price"),
    **dict.fromkeys(("detach", "background"), "stannary run --detach"),
    **dict.fromkeys(
        ("step_ms", "step_time"), "leave it out: steps are measured; resources.wall_s and budget are the ceilings"
    ),
    **dict.fromkeys(("python", "python_version"), "leave it out: nodes run the Python that `stannary lock` names"),
    **dict.fromkeys(("region_exclude", "exclude"), "trust: {exclude_operators: [NAME]}"),
}

LATER: Mapping[str, str] = {
    "secrets": "sealed secrets come with the buyer's key broker",
    "service": "serving models comes with its own command",
    "file_mounts": "sealed data mounts come with the artifact format; use inputs",
    "volumes": "sealed volumes come with the artifact format; use inputs and outputs",
    "image": "container images come later; use setup for packages",
    **dict.fromkeys(
        ("gpu", "gpus", "num_gpus", "gpu_type", "gpu_count", "accelerator", "accelerators", "cuda", "device"), _GPU
    ),
    **dict.fromkeys(("resources.gpu", "resources.gpus", "resources.num_gpus", "resources.accelerator"), _GPU),
    **dict.fromkeys(("docker", "container", "dockerfile"), "container images come later; use setup for packages"),
    **dict.fromkeys(("schedule", "cron"), "jobs at set times come later; call stannary run from cron"),
    "ports": "interactive access comes later and will lower the verdict",
    "resources.accelerators": "GPU nodes come with hardware certification; leave it out or write none",
    "trust.privacy": "sealed jobs come with the key broker; write privacy: open",
    "trust.tier": "hardware tiers come with hardware certification; write tier: T0",
    "trust.verify": "attested results come with hardware certification",
    "trust.policy": "named policies come with hardware certification; write policy: local",
}


def meant(key: str, section: str, keys: Mapping[str, tuple[str, ...]]) -> str:
    """Return what an unknown key likely means, as a hint.

    In this order: a neighbour's word, a key of another section, a slip of the pen; else the known keys.

    Args:
        key: as it was written.
        section: where it was written, "" at the top.
        keys: the known keys of each section; one under `inputs` is called `inputs.*`.
    """
    known = keys.get(section, keys["inputs.*"])
    word = key.lower().replace("-", "_")
    if word in ELSEWHERE:
        return ELSEWHERE[word]
    full = SYNONYMS.get(word)
    if full is None:
        homes = [f"{name}.{word}".strip(".") for name, listed in keys.items() if word in listed and "*" not in name]
        full = homes[0] if homes else None
    if full is not None:
        home, _, name = full.rpartition(".")
        if home == section:
            return f"did you mean {name}?"
        return (
            f"did you mean {full}? write it as: {home}: {{{name}: ...}}"
            if home
            else f"did you mean {full}, at the top?"
        )
    near = min(known, key=lambda item: _distance(word, item))
    if _distance(word, near) <= (1 if len(word) <= SHORT_WORD else 2):
        return f"did you mean {near}?"
    return f"known keys: {', '.join(known)}"


def _distance(one: str, other: str) -> int:
    """Return how many letters must be added, dropped, replaced or swapped with their neighbour."""
    if abs(len(one) - len(other)) > MAX_DISTANCE:
        return MAX_DISTANCE + 1
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, before, row = row, above, [i]
        for j, wanted in enumerate(other, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], wanted):
                best = min(best, before[j - 2] + 1)
            row.append(best)
    return row[-1]
