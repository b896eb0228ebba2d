"""The hello recipe at a size that takes milliseconds, as a job directory and a spec."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

from stannary.formats import digest, jobspec
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import JobId, TaskKind, round_task
from stannary.formats.jobspec import Input, JobSpec, Privacy, Resources, Trust, Verification
from stannary.formats.predicates import Assignment, Tier
from stannary.formats.workdir import WorkFile

EXAMPLES = Path(__file__).parents[3] / "examples"
CORPUS = "".join(topics[key] for key in sorted(topics)).encode()
JOB = JobId("j-0123456789ab")
SMALL = {"width": 32, "layers": 1, "context": 32, "buckets": 256}
INNER_STEPS = (2, 3)


def lay_out(job: Path) -> None:
    """Make blobs/ and workdir/ as the agent does."""
    (job / "blobs").mkdir(parents=True)
    (job / "workdir").mkdir()
    (job / "workdir/recipe.py").write_bytes((EXAMPLES / "hello/recipe.py").read_bytes())
    put(job, CORPUS)


def blob(job: Path, name: Digest) -> Path:
    """Return where a blob lies."""
    return job / "blobs" / name.removeprefix(PREFIX)


def put(job: Path, data: bytes) -> Digest:
    """Add a blob and return its digest."""
    name = digest.digest(data)
    blob(job, name).write_bytes(data)
    return name


def train_spec(entry: str = "recipe.py:recipe") -> JobSpec:
    """Return a job of three rounds and two lanes."""
    recipe = jobspec.RecipeSpec(entry, 3, 2, INNER_STEPS, 7, 40, dict(SMALL))
    return spec_of(jobspec.JobKind.TRAIN, Verification.REPLAY, recipe=recipe)


def command_spec(run: str, outputs=(), verify: Verification = Verification.RERUN_COMPARE) -> JobSpec:
    """Return a job that runs one line."""
    return spec_of(jobspec.JobKind.COMMAND, verify, run=run, outputs=tuple(outputs))


def spec_of(kind, verify, *, recipe=None, run=None, outputs=()) -> JobSpec:
    """Return a spec with everything that does not matter here filled in."""
    file = recipe.file if recipe else "recipe.py"
    return JobSpec(
        name="test",
        kind=kind,
        workdir=(WorkFile(file, 0o644, digest.digest(b""), 0),),
        envs={"GREETING": "hello"},
        num_nodes=2 if recipe else 1,
        resources=Resources(1, 2**30, 2**20, 60),
        inputs={"corpus": Input(digest.digest(CORPUS), len(CORPUS), "module pydoc_data.topics")},
        outputs=outputs,
        trust=Trust(Tier.T0, "local", Privacy.OPEN, verify, 1_000_000, 600_000, 990_000, (), (), 500_000),
        budget_usd_micros=1_000_000,
        recipe=recipe,
        run=run,
    )


def a_round(lane: int, round_index: int = 0, theta: Digest | None = None) -> Assignment:
    """Return the assignment of a lane's round."""
    steps, first = INNER_STEPS[min(round_index, 1)], INNER_STEPS[0] * min(round_index, 1)
    task = round_task(JOB, round_index, lane)
    return Assignment(JOB, task, TaskKind.ROUND, round_index, lane, steps, first, 0, theta)
