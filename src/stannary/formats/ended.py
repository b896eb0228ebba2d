"""How a program ended, as its result says it (docs/receipt.md R9.11).

Words: `exit-3` by itself, with this exit code; `signal-11` by a signal of its own doing. What is *cut* was ended by a
clock or a limit and not by the program: `wall-limit`, it ran longer than the job allows; `out-of-memory`, the kernel
killed for its memory, as its control group counted. Its partial outputs are kept and never compared. `stopped` stands
in no result, for what its buyer stopped has none: it says of partial outputs alone why they are.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

EXIT, SIGNAL = "exit-", "signal-"
STOPPED = "stopped"
WALL_LIMIT, OUT_OF_MEMORY = "wall-limit", "out-of-memory"
CUTS = {WALL_LIMIT: "cut at resources.wall_s", OUT_OF_MEMORY: "cut at resources.memory"}  # what there is to raise
PATTERN = "exit-(?:0|[1-9][0-9]{0,2})|signal-[1-9][0-9]?|" + "|".join(CUTS)
MAX_CHARS = 16
MAX_NAMED = 3  # lanes in one sentence
WELL = "exit-0"


def of_return_code(code: int) -> str:
    """Return the end of a process that was waited for; a negative code is a signal."""
    return f"{EXIT}{code}" if code >= 0 else f"{SIGNAL}{-code}"


def is_cut(ended: str | None) -> bool:
    """Return whether a clock or a limit ended a program (R9.12)."""
    return ended in CUTS


def is_partial(ended: str | None) -> bool:
    """Return whether outputs are what a program had left when it was cut or stopped."""
    return is_cut(ended) or ended == STOPPED


def words(ended: str) -> str:
    """Return an end as people say it: `ended with exit code 3`, `ended with SIGSEGV (Segmentation fault)`."""
    if ended == STOPPED:
        return "stopped by its buyer"
    return CUTS.get(ended) or f"ended with {_own_words(ended)}"


def recipe_sentence(ended: str, where: str, *, wall_s: int, memory_bytes: int) -> str:
    """Say how a recipe broke off, of a limit which it was: `The recipe ended with exit code 1 in lane 0 of round 2`."""
    limits = {WALL_LIMIT: f"{wall_s:,} s", OUT_OF_MEMORY: f"{memory_bytes / 1024**2:,.0f} MiB"}
    more = f": {limits[ended]} were not enough, ask for more there" if is_cut(ended) else ""
    return f"The recipe {'was ' if is_cut(ended) else ''}{words(ended)} in {where}{more}"


def _own_words(ended: str) -> str:
    kind, _, number = ended.partition("-")
    if kind == "exit":
        return f"exit code {number}"
    if kind == "signal":
        try:
            known = signal.Signals(int(number))
        except ValueError:
            return f"signal {number}"
        return f"{known.name} ({signal.strsignal(known)})"
    return ended


def unwell(endings: Mapping[int, str]) -> dict[int, str]:
    """Return the lanes whose program did not end well, of how each ended."""
    return {lane: ended for lane, ended in endings.items() if ended != WELL}


def sentence(odd: Mapping[int, str], num_lanes: int) -> str:
    """Say how the programs of some lanes ended: `The program ended with exit code 3`."""
    if num_lanes == 1:
        (how,) = odd.values()
        kept = "; what it left until then is kept, and was compared with nothing" if is_cut(how) else ""
        return f"The program {'was ' if is_cut(how) else ''}{words(how)}{kept}"
    named = ", ".join(f"lane {lane} {words(ended)}" for lane, ended in list(odd.items())[:MAX_NAMED])
    more = f" and {len(odd) - MAX_NAMED} more" if len(odd) > MAX_NAMED else ""
    return f"{len(odd)} of {num_lanes} programs did not end with exit code 0: {named}{more}"
