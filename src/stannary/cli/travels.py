"""What a job sends to strangers, and what stays here: lines of the plan, and their JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from stannary.cli.output import plain
from stannary.sdk import lock, travel
from stannary.sdk.submit import Prepared
from stannary.sdk.travel import Stay
from stannary.workdir import IGNORE_FILE

NUM_SHOWN = 6  # of what stays; --json has all
WIDTH = 79


def lines(prepared: Prepared) -> list[str]:
    """Return the lines that say what travels, what stays and what should be looked at."""
    sent = prepared.travel
    text = [f"  travels   {_count(len(sent.entries))} of the work directory, {size(sent.size_bytes)}"]
    if sent.size_bytes:
        text += _wrapped("largest", ", ".join(f"{entry.path} {size(entry.size_bytes)}" for entry in sent.largest))
    for name, item in prepared.spec.inputs.items():
        text += _wrapped("input", f"{name}  {item.source}, {size(item.size_bytes)}")
    if prepared.is_locked_here:
        text += _wrapped("locked", f"{prepared.spec.setup} with hashes, for {lock.target()}  (keep it: stannary lock)")
    if staying := _stays(sent.stays):
        text += _wrapped("stays", f"{staying}  ({IGNORE_FILE} decides, !name sends)")
    for doubt in sent.doubts[:NUM_SHOWN]:
        text += _wrapped("look at", f"{doubt}: it will be read by strangers")
    if len(sent.doubts) > NUM_SHOWN:
        text += _wrapped("look at", f"{len(sent.doubts) - NUM_SHOWN} more files that hold what looks like a secret")
    return text


def to_json(prepared: Prepared) -> dict[str, object]:
    """Return the same as members."""
    sent = prepared.travel
    return {
        "num_files": len(sent.entries),
        "size_bytes": sent.size_bytes,
        "upload_bytes": prepared.size_bytes,
        "files": [{"path": entry.path, "size_bytes": entry.size_bytes} for entry in sent.entries],
        "largest": [{"path": entry.path, "size_bytes": entry.size_bytes} for entry in sent.largest],
        "stays": [{"path": stay.path, "reason": stay.reason, "is_folder": stay.is_folder} for stay in sent.stays],
        "doubts": list(sent.doubts),
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
    """Name what stays: what holds secrets first, since it is there that a mistake costs most; clutter by kind."""
    named = {_shown(stay): None for stay in sorted(stays, key=_rank) if not stay.reason.startswith(travel.AS_INPUT)}
    shown = ", ".join(list(named)[:NUM_SHOWN])
    return shown + (f" and {len(named) - NUM_SHOWN} more" if len(named) > NUM_SHOWN else "")


def _rank(stay: Stay) -> tuple[bool, bool, str]:
    return stay.reason == travel.CLUTTER, stay.reason.startswith("."), stay.path


def _shown(stay: Stay) -> str:
    path = stay.path.rpartition("/")[2] if stay.reason == travel.CLUTTER else stay.path
    return f"{path}/" if stay.is_folder else path
