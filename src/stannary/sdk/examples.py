"""The examples that come with the package."""

from __future__ import annotations

from pathlib import Path

import stannary
from stannary.errors import UsageError


def find(name: str) -> Path:
    """Return the job file of an example.

    Raises:
        UsageError: no such example; the known ones are named.
    """
    known = {path.parent.name: path for root in _roots() for path in sorted(root.glob("*/job.yaml"))}
    if name not in known:
        raise UsageError(
            f"no example {name!r:.60}",
            why=f"known: {', '.join(sorted(known)) or 'none'}",
            hint="stannary run --example hello",
        )
    return known[name]


def _roots() -> tuple[Path, ...]:
    package = Path(stannary.__file__).parent
    # Inside an installed wheel, and in a checkout (src/stannary/../../examples).
    return (package.parents[1] / "examples", package / "examples")
