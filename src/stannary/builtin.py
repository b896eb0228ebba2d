"""Recipes of this package: which there are, and the digest of the code that decides what they compute.

A job whose recipe is one of these (`entry: builtin:bytegpt`) runs no line of its buyer's: data, options and settings
are all he gives. So a result that two others recompute otherwise can be nobody's doing but its node's. Which code it
is, is signed: whoever has another refuses the job.
"""

from __future__ import annotations

import functools
from pathlib import Path

from stannary.formats import canonical, digest
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest

TRAIN = Path(__file__).parent / "train"
RECIPES = TRAIN / "recipes"


def names() -> tuple[str, ...]:
    """Return the recipes of this package, by name."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__"))


@functools.cache
def code_digest() -> Digest:
    """Return the digest of everything a built-in recipe computes with: each file of train/, by path and digest."""
    listed: dict[str, Json] = {
        path.relative_to(TRAIN).as_posix(): digest.digest(path.read_bytes()) for path in sorted(TRAIN.rglob("*.py"))
    }
    return digest.digest(canonical.encode(listed))
