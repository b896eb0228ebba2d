"""What a job sends to strangers, and what stays here: lines of the plan, and their JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from stannary.cli.output import plain
from stannary.sdk import lock
from stannary.sdk.submit import Prepared
from stannary.sdk.travel import Stay
from stannary.workdir import IGNORE_FILE

NUM_SHOWN = 6  # of what stays; --json has all
WIDTH = 79


def lines(prepared: Prepared) -> list[str]:
    """Return the lines that say what travels, what stays and what should be looked at."""
    travel = prepared.travel
    text = [f"  travels   {_count(len(travel.entries))} of the work directory, {size(travel.size_bytes)}"]
    if travel.size_bytes:
        text += _wrapped("largest", ", ".join(f"{entry.path} {size(entry.size_bytes)}" for entry in travel.largest))
    for name, item in prepared.spec.inputs.items():
        text += _wrapped("input", f"{name}  {item.source}, {size(item.size_bytes)}")
    if prepared.is_locked_here:
        text += _wrapped("locked", f"{prepared.spec.setup} with hashes, for {lock.target()}  (keep it: stannary lock)")
    if travel.stays:
        text += _wrapped("stays", f"{_stays(travel.stays)}  ({IGNORE_FILE} decides, !name sends)")
    for doubt in travel.doubts[:NUM_SHOWN]:
        text += _wrapped("look at", f"{doubt}: it will be read by strangers")
    if len(travel.doubts) > NUM_SHOWN:
        text += _wrapped("look at", f"{len(travel.doubts) - NUM_SHOWN} more files that hold what looks like a secret")
    return text


def to_json(prepared: Prepared) -> dict[str, object]:
    """Return the same as members."""
    travel = prepared.travel
    return {
        "num_files": len(travel.entries),
        "size_bytes": travel.size_bytes,
        "upload_bytes": prepared.size_bytes,
        "files": [{"path": entry.path, "size_bytes": entry.size_bytes} for entry in travel.entries],
        "largest": [{"path": entry.path, "size_bytes": entry.size_bytes} for entry in travel.largest],
        "stays": [{"path": stay.path, "reason": stay.reason, "is_folder": stay.is_folder} for stay in travel.stays],
        "doubts": list(travel.doubts),
    }


def size(num_bytes: int) -> str:
    """Spell a size for people, in the units specs are written in."""
    amount, units = float(num_bytes), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if amount < 1024 or unit == units[-1]:
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit returns")


def _wrapped(label: str, text: str) -> list[str]:
    """Return a line of the plan, broken between words at WIDTH; strangers' names cannot move the cursor."""
    return textwrap.wrap(
        plain(text), WIDTH, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12, break_on_hyphens=False
    )


def _count(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def _stays(stays: Sequence[Stay]) -> str:
    """Name what stays: what holds secrets first, since it is there that a mistake costs most."""
    ranked = sorted(stays, key=lambda stay: (stay.reason.startswith(("history", ".")), stay.path))
    named = ", ".join(f"{stay.path}{'/' if stay.is_folder else ''}" for stay in ranked[:NUM_SHOWN])
    return named + (f" and {len(stays) - NUM_SHOWN} more" if len(stays) > NUM_SHOWN else "")
