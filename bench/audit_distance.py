"""Honest-max and cheat-min distance of pseudo-gradients, per optimizer, H and pair of engine classes.

    OMP_NUM_THREADS=1 python bench/audit_distance.py [--json]

Other kernels of this machine stand for another vendor's node: environment variables make torch, MKL
and oneDNN take other code paths with other rounding. An honest pair is one round computed by both;
each cheat is computed by the first class and compared with the honest replay of the second.

The last column is what audit/compare.py would do with the cell: a threshold where cheat-min is at
least thirty times honest-max, else `bitwise in class only`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from stannary.audit.compare import Tolerance, family_of, relative_distance
from stannary.formats import jobspec
from stannary.formats.ids import JobId, TaskKind, round_task
from stannary.formats.predicates import Assignment
from stannary.formats.training import Training
from stannary.train import checkpoint, engine, muon, recipe
from stannary.train.recipe import Recipe
from stannary.train.round import Recording, keep_none, run_round

HELLO = Path(__file__).parents[1] / "examples/hello"
JOB = JobId("j-000000000000")
NATIVE = "native"
CLASSES = {
    NATIVE: {},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
BF16_MUON = "muon, bf16"  # Newton-Schulz as it is usually written: why ours is in fp32
OPTIMIZERS = ("muon", BF16_MUON, "adamw")
INNER_STEPS = (4, 10, 30)
WARM_STEPS = 12  # the compared rounds start from weights that have learnt something
NOISE = 0.05
LR_OFF = 1.02
OPTIONS = {"width": 64, "layers": 2, "heads": 4, "context": 64, "buckets": 1024}


class HalfBatch:
    """A recipe that looks at half of each batch."""

    def __init__(self, honest: Recipe) -> None:
        self.honest = honest

    def __getattr__(self, name: str) -> object:
        return getattr(self.honest, name)

    def loss(self, model, examples):
        return self.honest.loss(model, examples[: max(1, len(examples) // 2)])


class LowPrecision(HalfBatch):
    """A recipe that computes in bf16 and hands in fp32."""

    def loss(self, model, examples):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.honest.loss(model, examples)


class NoisyGradient(HalfBatch):
    """A recipe whose gradients carry noise of a twentieth of their norm."""

    def build(self):
        model = self.honest.build()
        for weight in model.parameters():
            weight.register_hook(lambda g: g + NOISE * g.norm() / math.sqrt(g.numel()) * torch.randn_like(g))
        return model

    def loss(self, model, examples):
        return self.honest.loss(model, examples)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell's round and the weights it starts from."""

    recipe: Recipe
    settings: jobspec.RecipeSpec
    assignment: Assignment
    theta: bytes
    stale: bytes


Cheat = Callable[[Setting], Setting]


def off_rate(setting: Setting) -> Setting:
    """Return the round at a rate 2 % off."""
    training = setting.settings.training
    rates = {name: str(float(getattr(training, name)) * LR_OFF) for name in ("muon_lr", "adamw_lr")}
    off = dataclasses.replace(setting.settings, training=dataclasses.replace(training, **rates))
    return dataclasses.replace(setting, settings=off)


def skipped(setting: Setting) -> Setting:
    """Return the round without its last step."""
    fewer = dataclasses.replace(setting.assignment, num_steps=setting.assignment.num_steps - 1)
    return dataclasses.replace(setting, assignment=fewer)


FP32_NEWTON_SCHULZ = muon.newton_schulz

CHEATS: dict[str, Cheat] = {
    "skipped step": skipped,
    "lr 2 % off": off_rate,
    "stale base": lambda s: dataclasses.replace(s, theta=s.stale),
    "half batch": lambda s: dataclasses.replace(s, recipe=HalfBatch(s.recipe)),
    "bf16 as fp32": lambda s: dataclasses.replace(s, recipe=LowPrecision(s.recipe)),
    "5 % gradient noise": lambda s: dataclasses.replace(s, recipe=NoisyGradient(s.recipe)),
}


def settings_of(optimizer: str) -> jobspec.RecipeSpec:
    """Return settings whose learning rate is constant, so that every H is compared at full rate."""
    training = Training(
        batch_size=8,
        microbatch_size=8,
        optimizer=optimizer.partition(",")[0],
        warmup_steps=0,
        constant_ppm=1_000_000,
        rewarm_steps=1,
    )
    return jobspec.RecipeSpec("recipe.py:recipe", 1_000, 1, (max(INNER_STEPS),), 0, 40, OPTIONS, training)


def run(setting: Setting) -> bytes:
    """Return the pseudo-gradient of a round."""
    recording = Recording(keep=keep_none)
    return run_round(setting.recipe, setting.assignment, setting.settings, setting.theta, recording).outputs["delta"]


def low_precision_newton_schulz(G_MN: torch.Tensor) -> torch.Tensor:
    """Return the iteration of train/muon.py computed in bf16."""
    return FP32_NEWTON_SCHULZ(G_MN.bfloat16()).float()


def work(directory: Path, name: str) -> None:
    """Compute every cell in this process' engine class; cheats only in the native one."""
    engine.pin()
    (directory / f"{name}.class").write_text(engine.engine_class())
    for optimizer in OPTIMIZERS:
        muon.newton_schulz = low_precision_newton_schulz if optimizer == BF16_MUON else FP32_NEWTON_SCHULZ
        settings = settings_of(optimizer)
        hello = recipe.load(HELLO, settings, {"corpus": directory / "corpus"})
        theta, stale = (
            bases(directory, hello, settings, optimizer) if name == NATIVE else read_bases(directory, optimizer)
        )
        for steps in INNER_STEPS:
            assignment = Assignment(JOB, round_task(JOB, 1, 0), TaskKind.ROUND, 1, 0, steps, 2 * WARM_STEPS, 0)
            setting = Setting(hello, settings, assignment, theta, stale)
            (directory / f"{name}.{optimizer}.{steps}.honest").write_bytes(run(setting))
            for cheat, change in CHEATS.items() if name == NATIVE else ():
                (directory / f"{name}.{optimizer}.{steps}.{cheat}").write_bytes(run(change(setting)))


def bases(directory: Path, hello: Recipe, settings: jobspec.RecipeSpec, optimizer: str) -> tuple[bytes, bytes]:
    """Train a little natively and leave the weights for the other classes; return (theta, one round older)."""
    first = Assignment(JOB, round_task(JOB, 0, 0), TaskKind.ROUND, 0, 0, 2 * WARM_STEPS, 0, 0)
    states = run_round(hello, first, settings, None).states
    theta, stale = states[2 * WARM_STEPS], states[WARM_STEPS]
    (directory / f"{optimizer}.theta").write_bytes(theta)
    return theta, stale


def read_bases(directory: Path, optimizer: str) -> tuple[bytes, bytes]:
    """Return the weights the native class left; a stale base is a cheat and only computed there."""
    theta = (directory / f"{optimizer}.theta").read_bytes()
    return theta, theta


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a stored pseudo-gradient."""
    return checkpoint.decode(path.read_bytes()).tensors


def rows(directory: Path) -> Iterator[dict[str, object]]:
    """Compare every class with the native one, cell by cell."""
    for optimizer in OPTIMIZERS:
        for steps in INNER_STEPS:
            cell = f"{NATIVE}.{optimizer}.{steps}."
            cheats = {cheat: tensors(directory / (cell + cheat)) for cheat in CHEATS}
            honest = tensors(directory / (cell + "honest"))
            for name in CLASSES:
                replayed = tensors(directory / f"{name}.{optimizer}.{steps}.honest")
                distances = {cheat: relative_distance(delta, replayed) for cheat, delta in cheats.items()}
                family = family_of((directory / f"{name}.class").read_text())
                smallest = min(distances, key=lambda cheat: distances[cheat])
                measured = Tolerance(family, optimizer, steps, relative_distance(honest, replayed), distances[smallest])
                yield {
                    "optimizer": optimizer,
                    "inner_steps": steps,
                    "pair": f"{NATIVE} / {name}",
                    "classes": [(directory / f"{side}.class").read_text() for side in (NATIVE, name)],
                    "honest_max": measured.honest_max,
                    "cheat_min": measured.cheat_min,
                    "smallest_cheat": smallest,
                    "threshold": measured.threshold,
                    "cheats": distances,
                }


def report(row: dict[str, object]) -> str:
    """Return one line of the table."""
    honest, cheat = float(str(row["honest_max"])), float(str(row["cheat_min"]))
    if honest == 0.0:
        rule, ratio = "bitwise equal", "-"
    else:
        threshold = row["threshold"]
        rule = "bitwise in class only" if threshold is None else f"tolerance {threshold:.1e}"
        ratio = f"{cheat / honest:,.0f}"
    return (
        f"{row['optimizer']:<10} {row['inner_steps']:>3}  {row['pair']:<24} {honest:9.1e} {cheat:9.1e} "
        f"{ratio:>9}  {row['smallest_cheat']:<19} {rule}"
    )


def main() -> None:
    """Run one process per engine class, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("DIRECTORY", "CLASS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(Path(arguments.work[0]), arguments.work[1])
        return
    from pydoc_data.topics import topics

    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        (directory / "corpus").write_text("".join(topics[key] for key in sorted(topics)), encoding="utf-8")
        for name, variables in CLASSES.items():
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
            subprocess.run([sys.executable, __file__, "--work", path, name], env=environment, check=True)
        table = list(rows(directory))
    if arguments.json:
        print(json.dumps(table, indent=1))
        return
    print("optimizer    H  pair                     honest-max cheat-min    ratio  smallest cheat      rule")
    for row in table:
        print(report(row))


if __name__ == "__main__":
    main()
