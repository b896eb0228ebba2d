"""How the market says that this node stands: kept for `stannary node status`, and told when it changes.

DIR/suspended        exists while the market says so; how its canary stands (wire/node.py HeartbeatAnswer)
DIR/canary-wanted    `stannary node canary` was said: the market is asked with every beat until it has ordered one
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from stannary import files
from stannary.formats.quantity import dollars
from stannary.wire.node import DisputedHere

FILE = "suspended"
WANTED_FILE = "canary-wanted"
DISPUTES_FILE = "disputes.json"  # while its bond is disputed

SAID = {
    "failed": "a canary was failed: see stannary node status",
    "unanswered": "a canary was not answered: see stannary node status",
}


def note(directory: Path, tell: Callable[[str], None], *, is_suspended: bool, canary: str = "") -> None:
    """Take the market's word as it came with an answer to a beat."""
    mark, wanted = directory / FILE, directory / WANTED_FILE
    if not is_suspended or canary == "asked":
        wanted.unlink(missing_ok=True)
    known = mark.read_text("ascii") if mark.exists() else None
    if known == (canary if is_suspended else None):
        return
    if not is_suspended:
        mark.unlink()
        tell("not suspended any more")
        return
    files.replace(mark, canary.encode("ascii"))
    if known is None:
        tell("suspended: buyers of many jobs had this node struck; work in code of this package goes on")
    if canary in SAID:
        tell(SAID[canary])


def wants_canary(directory: Path) -> bool:
    """Tell whether the provider asks for another canary."""
    return (directory / WANTED_FILE).exists()


def note_disputes(directory: Path, tell: Callable[[str], None], disputes: Sequence[DisputedHere]) -> None:
    """Take what the market says is disputed of this node's bond."""
    kept = directory / DISPUTES_FILE
    was_there = kept.exists()
    if not disputes:
        if was_there:
            kept.unlink()
            tell("the bond is not disputed any more")
        return
    files.replace(kept, json.dumps([item.model_dump(mode="json") for item in disputes]).encode())
    if not was_there:
        said = ", ".join(f"{item.task} ({dollars(item.bond_usd_micros)})" for item in disputes)
        tell(f"two others computed otherwise, the bond is disputed: {said}; an appeal decides, nothing is lost yet")
