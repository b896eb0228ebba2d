"""Who may take what, in memory: the tasks that wait for a node, of every job under way, found without a query.

A cache of the store. Each time a job is read or moved, its entry is made anew (`note`); what it says may be a moment
old, so whoever takes a task asks for it in a transaction, and looks again where another was quicker.

A poll costs what few jobs cost, not what all tasks do: each job keeps its tasks in the order they are given out, and
a node's own lane's task is found by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stannary.jobs.course import masks, offering
from stannary.jobs.course.offering import Vacancy
from stannary.jobs.course.state import ONE_PIECE, JobOrder, JobState, Node, Task, World
from stannary.jobs.states import LeaseState

MAX_LOOKS = 64  # tasks of one job looked at for one node: of more, the oldest are the first to be anybody's


@dataclass(slots=True)
class _Entry:
    """The waiting tasks of one job."""

    order: JobOrder
    engine_class: str
    convicted: frozenset[str]
    waiting: dict[str, Vacancy] = field(default_factory=dict)  # oldest first
    own: dict[str, str] = field(default_factory=dict)  # node -> the oldest task of its own lane that nobody had
    holders: frozenset[str] = frozenset()  # nodes with a piece of this job in hand
    barred: dict[str, bool] = field(default_factory=dict)  # node -> whether it may do none of it
    directory_version: int = -1


class Ready:
    """The waiting tasks of all jobs under way."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._occupied: dict[str, int] = {}  # node -> jobs it holds a piece of
        self.num_waiting = 0

    def note(self, state: JobState, engine_class: str) -> bool:
        """Take a job as it stands now; tell whether a task waits that did not before."""
        before = self._entries.get(state.order.job)
        self.drop(state.order.job)
        entry = _Entry(state.order, engine_class, state.convicted)
        for vacancy in offering.vacancies(state):
            entry.waiting[vacancy.task.task] = vacancy
            if vacancy.own is not None and vacancy.task.epoch == 0:
                entry.own.setdefault(vacancy.own, vacancy.task.task)
        entry.holders = frozenset(
            item.node for item in state.leases.values() if item.state is LeaseState.GRANTED and item.type in ONE_PIECE
        )
        for node in entry.holders:
            self._occupied[node] = self._occupied.get(node, 0) + 1
        if entry.waiting or entry.holders:
            self._entries[state.order.job] = entry
            self.num_waiting += len(entry.waiting)
        return not entry.waiting.keys() <= (before.waiting.keys() if before is not None else set())

    def drop(self, job: str) -> None:
        """Forget a job."""
        entry = self._entries.pop(job, None)
        if entry is None:
            return
        self.num_waiting -= len(entry.waiting)
        for node in entry.holders:
            self._occupied[node] -= 1
            if not self._occupied[node]:
                del self._occupied[node]

    def taken(self, task: Task, node: str) -> None:
        """Note that a task has found its node, before its job is read again."""
        entry = self._entries.get(task.job)
        if entry is not None and entry.waiting.pop(task.task, None) is not None:
            self.num_waiting -= 1
            if node not in entry.holders:
                entry.holders |= {node}
                self._occupied[node] = self._occupied.get(node, 0) + 1

    def choose(self, node: Node, world: World, directory_version: int) -> tuple[JobOrder, Task] | None:
        """Return what a node should do next, None if there is nothing for it."""
        best: tuple[tuple[int, int, str], JobOrder, Task] | None = None
        for entry in self._entries.values():
            if not entry.waiting or self._is_barred(entry, node, world, directory_version):
                continue
            for vacancy in self._looked_at(entry, node.node):
                rank = offering.rank(vacancy, node, world, entry.convicted, self._occupied)
                if rank is None:
                    continue
                task = vacancy.task
                key = (rank, task.planned_at_ms, task.task)
                if best is None or key < best[0]:
                    best = (key, entry.order, task)
                if rank <= 1:  # none of this job is more its own, and none older
                    break
        return (best[1], best[2]) if best is not None else None

    def _looked_at(self, entry: _Entry, node: str) -> Iterator[Vacancy]:
        own = entry.own.get(node)
        if own is not None and own in entry.waiting:
            yield entry.waiting[own]
        for number, vacancy in enumerate(entry.waiting.values()):
            if number >= MAX_LOOKS:
                return
            yield vacancy

    def _is_barred(self, entry: _Entry, node: Node, world: World, directory_version: int) -> bool:
        if entry.directory_version != directory_version:
            entry.barred.clear()
            entry.directory_version = directory_version
        found = entry.barred.get(node.node)
        if found is None:
            found = bool(masks.why_barred(node, entry.order, world, entry.engine_class, entry.convicted))
            entry.barred[node.node] = found
        return found
