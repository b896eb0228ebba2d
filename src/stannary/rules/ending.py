"""Whether how a program ended is part of its result (docs/receipt.md R9.11 to R9.13).

A program that raises an exit code or a signal has done what it was asked: that is a result like its outputs, compared
like them and paid. A command always says how it ended; a recipe only where it *broke off* and hands in nothing: what it
raises itself in the buyer's own code, what a clock or a limit cut in any. Our own code that raises is a fault of the
node's. Jobs of rules 2 took no result but that of a program that ended well.

Who broke off ends the job, so that is never taken unseen: such a round is always drawn, and no merge admits it.
"""

from __future__ import annotations

from stannary.formats import bounds
from stannary.formats import ended as words
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.rules import blame, edition
from stannary.rules.kinds import TASKS


def is_stated(spec: JobSpec, kind: TaskKind) -> bool:
    """Return whether every contribution to a task of this kind says how its program ended."""
    return edition.of(spec).states_endings and TASKS[kind].is_program


def may_break_off(spec: JobSpec, kind: TaskKind) -> bool:
    """Return whether a task of this kind may hand in how its recipe ended in place of its outputs."""
    return edition.of(spec).states_endings and TASKS[kind].trains


def raises_itself(spec: JobSpec) -> bool:
    """Return whether what a job's recipe raises is its own doing, and no fault of the node's."""
    return edition.of(spec).states_endings and not blame.convicts(spec)


def has_broken_off(kind: TaskKind, ended: str | None) -> bool:
    """Return whether a result is that a recipe broke off."""
    return TASKS[kind].trains and ended is not None


def fits(spec: JobSpec, kind: TaskKind, ended: str | None, num_outputs: int) -> bool:
    """Return whether a result of a task may say that its program ended so (R9.11, R9.13)."""
    if is_stated(spec, kind):
        return bounds.ENDED.fits(ended)
    if ended is None:
        return True
    is_allowed = may_break_off(spec, kind) and num_outputs == 0 and bounds.ENDED.fits(ended)
    return is_allowed and (words.is_cut(ended) or raises_itself(spec))
