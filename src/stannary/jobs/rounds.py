"""Decisions about the rounds of a training job, as pure functions of plain records.

    may_merge     when a merge may be assigned (W)
    admission     what a merge admits, in which order, and what it leaves out
    merge_stands  whether a merge still counts after a conviction or a late silence

Rules (docs/rounds.md, docs/audits.md):
- A round closes when every lane has contributed; or with a quorum, once the deadline has passed or
  the grace after the quorum's arrival is over, whichever is later (rules/pace.py). It never closes without quorum.
- W (rules/kinds.py): merge t is not assigned before every audit of round and merge t - W is closed.
- A merge admits in the order of log indexes: the order is evidence, not the market's choice.
- A conviction makes void the merge that admitted the work and everything computed from it: whatever does not
  start from the weights of a merge that stands. What was void is planned again as the next attempt
  (jobs/course/kinds/train.py); nothing is ever subtracted from a result.

The core executes these decisions (jobs/course/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stannary.formats.ids import TaskKind
from stannary.jobs.states import TaskState
from stannary.rules.kinds import TASKS


@dataclass(frozen=True, slots=True)
class UnitAttempt:
    """A task as the decisions see it."""

    task: str
    kind: TaskKind
    round: int
    lane: int
    attempt: int
    state: TaskState
    log_index: int | None = None  # of its contribution
    admitted: frozenset[str] = frozenset()  # merges: the tasks admitted


VOID = frozenset({TaskState.SUPERSEDED, TaskState.ABANDONED})
JUDGED = frozenset({TaskState.PASSED, TaskState.VERIFIED, TaskState.UNVERIFIED, TaskState.REFUTED})
ADMISSIBLE = frozenset({TaskState.CONTRIBUTED, TaskState.DRAWN, TaskState.PASSED, TaskState.VERIFIED})


def audits_closed(units: Iterable[UnitAttempt], round_index: int) -> bool:
    """Tell whether nothing of a round or its merge waits for a draw, an audit or a verdict."""
    of_round = [unit for unit in units if unit.round == round_index and unit.state not in VOID]
    return bool(of_round) and all(unit.state in JUDGED for unit in of_round)


def may_merge(units: Sequence[UnitAttempt], round_index: int, window: int) -> bool:
    """Tell whether merge `round_index` may be assigned: all audits of the round `window` before it are closed."""
    return round_index < window or audits_closed(units, round_index - window)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a merge takes, in log order, and what it leaves out, by name."""

    admitted: tuple[str, ...]
    excluded: tuple[str, ...]


def admission(units: Iterable[UnitAttempt], round_index: int) -> Admission:
    """Decide what the merge of a closed round admits.

    Left out are the convicted, the silent (`unverified` before the merge) and the late; attempts that
    were superseded are no candidates at all.
    """
    lanes = [unit for unit in units if not TASKS[unit.kind].is_merge and unit.round == round_index]
    counted = [unit for unit in lanes if unit.state is not TaskState.SUPERSEDED]
    taken = [unit for unit in counted if unit.state in ADMISSIBLE and unit.log_index is not None]
    taken.sort(key=lambda unit: (unit.log_index or 0, unit.task))
    names = tuple(unit.task for unit in taken)
    return Admission(names, tuple(sorted(unit.task for unit in counted if unit.task not in set(names))))


def merge_stands(merge: UnitAttempt, lanes: Iterable[UnitAttempt]) -> bool:
    """Tell whether a merge still counts: not void itself, and all it admitted, newest attempts of its round, counts."""
    counted = {unit.task for unit in lanes if unit.state in ADMISSIBLE}
    lapsed = merge.state in VOID or merge.state in {TaskState.REFUTED, TaskState.UNVERIFIED}
    return not lapsed and merge.admitted <= counted
