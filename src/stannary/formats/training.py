"""The optimizer and data settings of a training job, as the buyer signs them (docs/receipt.md R7.3).

Everything a round depends on besides weights, data and the recipe's own code is here or beside it in
`jobspec.RecipeSpec`, every default explicit, so that prover, auditor and whoever holds the receipt
compute with the same numbers. Fractions are decimal strings (canonical rule 1); they become floats
once, by `float()`, which rounds correctly and so gives the same bits everywhere.

What the numbers do is in train/ (schedule, data, muon, round, merge).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from stannary.errors import SpecError
from stannary.formats import record
from stannary.formats.lean import dataclass
from stannary.formats.quantity import NUMBER, PPM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stannary.formats.canonical import Json

MAX_BATCH = 1_048_576
MAX_THREADS = 1_024  # one a core of the largest machine
MAX_STEPS = 1_000_000
MAX_FRACTION_CHARS = 40  # more than any float's shortest text
MANY_ROUNDS = 50  # m 0.6 is best at 20-36 rounds, 0.8 at 58 (byte GPTs of 135k parameters)

_FRACTION = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{2,3})?")

Options = dict[str, "Options"] | list["Options"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Training:
    """Settings of inner and outer optimizer; the defaults are the best found on byte GPTs of 135k weights.

    Parameters with fewer than two dimensions, or with a part of their dotted name that begins with
    one of `adamw_names`, are AdamW's; the rest are Muon's.
    """

    batch_size: int = 16  # examples of one lane in one inner step
    microbatch_size: int = 16  # examples of one forward pass: the split changes the bits, so it is signed
    dtype: str = "float32"
    threads: int = 1  # 1 and 2 threads sum in another order and give other bits: signed, at most resources.cpus
    data_order: str = "shake256-v1"
    optimizer: str = "muon"  # muon (with AdamW beside it) | adamw
    muon_lr: str = "0.01"
    muon_momentum: str = "0.9"
    adamw_lr: str = "0.004"
    adamw_beta1: str = "0.9"
    adamw_beta2: str = "0.95"
    weight_decay: str = "0"
    adamw_names: tuple[str, ...] = ("emb", "head", "lm_head", "wpe", "wte")
    warmup_steps: int = 20
    constant_ppm: int = 400_000  # share of all steps before the linear decay begins
    final_lr_ppm: int = 50_000
    rewarm_steps: int = 1  # steps of each round while the fresh optimizer has no moments yet
    outer_lr: str = "1"
    outer_momentum: str = "0.6"  # see MANY_ROUNDS


FRACTIONS = (
    "muon_lr", "muon_momentum", "adamw_lr", "adamw_beta1", "adamw_beta2", "weight_decay", "outer_lr", "outer_momentum",
)  # fmt: skip
ONLY = {"dtype": "float32", "data_order": "shake256-v1"}  # what this release can compute


def read(members: Mapping[str, Json], rounds: int = 1) -> Training:
    """Return the settings with the defaults of absent members filled in.

    More rounds carry more outer momentum; the value for this many is what is signed.

    Raises:
        FormatError: an unknown or ill-typed member.
        SpecError: a value that makes no sense.
    """
    defaults = {**record.to_json(Training()), "outer_momentum": "0.6" if rounds < MANY_ROUNDS else "0.8"}
    training = record.from_json(Training, {**defaults, **members}, what="recipe.training")
    check(training)
    return training


def check(training: Training) -> None:
    """Check ranges and names.

    Raises:
        SpecError: naming the member and the observed value.
    """
    for name, only in ONLY.items():
        if getattr(training, name) != only:
            raise SpecError(
                f"recipe.training.{name} is not yet possible",
                why=f"only {only!r} is",
                hint=f"leave it out, or write {only!r}",
            )
    if training.optimizer not in {"muon", "adamw"}:
        raise SpecError("recipe.training.optimizer is unknown", why=f"{training.optimizer!r:.40}", hint="muon or adamw")
    _range("threads", training.threads, 1, MAX_THREADS)
    _range("batch_size", training.batch_size, 1, MAX_BATCH)
    _range("microbatch_size", training.microbatch_size, 1, training.batch_size)
    _range("warmup_steps", training.warmup_steps, 0, MAX_STEPS)
    _range("rewarm_steps", training.rewarm_steps, 0, MAX_STEPS)
    _range("constant_ppm", training.constant_ppm, 0, PPM)
    _range("final_lr_ppm", training.final_lr_ppm, 0, PPM)
    for name in FRACTIONS:
        fraction(getattr(training, name), name)


def spell_number(value: float) -> str:
    """Return the text a fraction is signed as: the shortest that names it."""
    return repr(value)


def read_options(signed: Json) -> Options:
    """Return options as a recipe gets them: a copy of its own, and fractions as numbers again.

    Text is a fraction where it is spelled exactly as `spell_number` would: `0.1` and `1e-05` are, `1.10` and `v1.1`
    are text.
    """
    if isinstance(signed, dict):
        return {name: read_options(item) for name, item in signed.items()}
    if isinstance(signed, list):
        return [read_options(item) for item in signed]
    if isinstance(signed, str) and _FRACTION.fullmatch(signed) and spell_number(float(signed)) == signed:
        return float(signed)
    return signed


def fraction(text: str, name: str) -> float:
    """Return the float nearest to a decimal string from 0 to 1,000."""
    if len(text) > MAX_FRACTION_CHARS or NUMBER.fullmatch(text) is None:
        raise SpecError(
            f"recipe.training.{name} is not a decimal string", why=f"{text!r:.80}", hint="write a number such as 0.02"
        )
    value = Decimal(text)
    if not 0 <= value <= 1_000:
        raise SpecError(
            f"recipe.training.{name} is out of range",
            why=f"{text!r:.80}, expected 0 to 1000",
            hint="write a number from 0 to 1000",
        )
    return float(value)


def _range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SpecError(
            f"recipe.training.{name} is out of range",
            why=f"{value:,}, expected {low:,} to {high:,}",
            hint=f"write a number from {low} to {high}",
        )
