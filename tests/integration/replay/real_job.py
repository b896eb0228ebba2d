"""A world whose nodes really train: the hello recipe at a size of milliseconds, every output kept as a blob.

`flipped` names a unit whose bytes are wrong for everybody, prover and auditors alike: a whole fleet in collusion, whose
receipt verifies, and which only a recomputation by somebody else can catch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.integration.train.small_job import CORPUS, EXAMPLES, SMALL
from tests.unit.verify.world import World

from stannary.border.blobs import Blobs
from stannary.formats import digest
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.jobspec import Input, JobSpec, RecipeSpec, Resources
from stannary.formats.predicates import Assignment, Output
from stannary.formats.workdir import WorkFile
from stannary.train import engine, recipe
from stannary.worker.tasks import Prepared, TaskRunner

RECIPE = (EXAMPLES / "hello/recipe.py").read_bytes()


class RealJob(World):
    """Two lanes, two rounds, all of it computed."""

    def __init__(self, blobs: Path, *, flipped: str = "", engine_class: str = "") -> None:
        super().__init__(rounds=2, lanes=2)
        engine.pin()
        self.blobs, self.flipped = blobs, flipped
        for node in self.nodes.values():
            node.engine_class = engine_class or engine.engine_class()
        workdir = blobs.with_name("workdir")
        workdir.mkdir()
        (workdir / "recipe.py").write_bytes(RECIPE)
        blobs.mkdir()
        self.keep(RECIPE)
        corpus = self.keep(CORPUS)
        spec = self.spec()
        loaded = recipe.load(workdir, spec.recipe, {"corpus": self.path(corpus)})
        self.runner = TaskRunner(Prepared(spec, spec.recipe, loaded), Blobs(blobs))
        self.computed: dict[str, dict[str, bytes]] = {}

    def spec(self) -> JobSpec:
        made = super().spec()
        return replace(
            made,
            workdir=(WorkFile("recipe.py", 0o644, digest.digest(RECIPE), len(RECIPE)),),
            inputs={"corpus": Input(digest.digest(CORPUS), len(CORPUS), "module pydoc_data.topics")},
            resources=Resources(1, 2**30, 2**26, 120),
            recipe=RecipeSpec("recipe.py:recipe", 2, 2, (2, 3), 7, 40, dict(SMALL)),
        )

    def outputs(self, assignment: Assignment, lie: str = "") -> tuple[Output, ...]:
        if assignment.task not in self.computed:
            made = dict(self.runner.compute(assignment, assignment.num_steps).outputs)
            if self.flipped and assignment.task.endswith(self.flipped):
                name, data = next(iter(made.items()))
                made[name] = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
            self.computed[assignment.task] = made
            for data in made.values():
                self.keep(data)
        made = self.computed[assignment.task]
        return tuple(Output(name, digest.digest(data), len(data)) for name, data in sorted(made.items()))

    def state(self, assignment: Assignment, step: int, lie: str = "") -> bytes:
        return self.runner.compute(assignment, step).states[step]

    def keep(self, data: bytes) -> Digest:
        """Keep bytes as a blob."""
        named = digest.digest(data)
        self.path(named).write_bytes(data)
        return named

    def path(self, named: Digest) -> Path:
        """Return where a blob lies."""
        return self.blobs / named.removeprefix(PREFIX)
