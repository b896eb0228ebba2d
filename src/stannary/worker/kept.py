"""States of the tasks that were done here, kept within a cap to answer questions about them.

What was dropped is computed again, since a task is a pure function of its assignment.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from stannary.formats.digest import Digest
from stannary.formats.predicates import Assignment, assignment_digest

STATE_SHARE = 4  # at most this part of the job's memory holds states


@dataclass(slots=True)
class KeptStates:
    """States by task and step."""

    limit_bytes: int
    rounds: int  # the audits of those before are closed
    _tasks: OrderedDict[Digest, tuple[int, dict[int, bytes]]] = field(default_factory=OrderedDict)

    def keep(self, assignment: Assignment, step: int, state: bytes) -> None:
        """Keep one state of a task; those of old rounds go, and the oldest beyond the cap."""
        named = assignment_digest(assignment)
        _, states = self._tasks.setdefault(named, (assignment.round, {}))
        states[step] = state
        while self._tasks and self._is_over_cap(assignment.round):
            self._tasks.popitem(last=False)

    def state(self, assignment: Assignment, step: int) -> bytes | None:
        """Return a state, None where it is not kept."""
        _, states = self._tasks.get(assignment_digest(assignment), (0, {}))
        return states.get(step)

    def forget(self, assignment: Assignment) -> None:
        """Make room for the states of tasks that questions may come about."""
        self._tasks.pop(assignment_digest(assignment), None)

    def _is_over_cap(self, round_index: int) -> bool:
        oldest, _ = next(iter(self._tasks.values()))
        num_bytes = sum(len(state) for _, states in self._tasks.values() for state in states.values())
        return oldest <= round_index - self.rounds or num_bytes > self.limit_bytes
