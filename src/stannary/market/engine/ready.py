"""Who may take what, in memory: the tasks that wait for a node, of every job under way, found without a query.

A cache of the store. Each time a job is read or moved, its entry is made anew (`note`); what it says may be a moment
old, so whoever takes a task asks for it in a transaction, and looks again where another was quicker.

A poll costs the same however many tasks wait: a node's own lane's task is found by its name; of what is anybody's the
oldest are looked at, at most MAX_LOOKS; of what may have lost its own node MAX_LOOKS are, the next poll goes on behind.
An audit is one node's alone, and found by its name; so is the hearing of an appeal, whose job has ended.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from stannary.jobs.course import asking, masks, offering
from stannary.jobs.course.asking import OfferedAudit
from stannary.jobs.course.offering import Vacancy
from stannary.jobs.course.state import ONE_PIECE, JobOrder, JobState, Node, Task, World
from stannary.jobs.states import LeaseState
from stannary.rules.kinds import TASKS

MAX_LOOKS = 64

Key = tuple[int, str, str]  # planned at, task, job: the order in which tasks are anybody's


@dataclass(slots=True)
class _Entry:
    """The waiting tasks of one job, or the hearings of one appeal."""

    name: str  # the job, or the appeal
    order: JobOrder
    engine_class: str
    out: Mapping[str, str]
    waiting: dict[str, Vacancy] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)  # node with a piece of this job in hand -> since when
    offers: tuple[OfferedAudit, ...] = ()
    barred: dict[str, bool] = field(default_factory=dict)  # node -> whether it may do none of it
    directory_version: int = -1


@dataclass(slots=True)
class _Shelf:
    """What waits in one engine class, oldest first."""

    anybodys: list[Key] = field(default_factory=list)  # merges, and what another did not do
    lanes: list[Key] = field(default_factory=list)  # nobody had it yet: its own node's, for a while
    next_look: int = 0  # into `lanes`

    def of(self, vacancy: Vacancy) -> list[Key]:
        """Return the list a task belongs into."""
        task = vacancy.task
        return self.anybodys if TASKS[task.kind].is_merge or task.epoch > 0 else self.lanes


class Ready:
    """The waiting tasks of all jobs under way."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._shelves: dict[str, _Shelf] = {}
        self._own: dict[str, list[Key]] = {}  # node -> tasks of its own lanes that nobody had, oldest first
        self._offers: dict[str, list[Key]] = {}  # node -> opened at, audit, name of its entry; oldest first
        self.busy: dict[str, dict[str, int]] = {}  # node -> jobs it holds a piece of -> since when, ms
        self.num_waiting = 0

    def note(self, state: JobState, engine_class: str) -> bool:
        """Take a job as it stands now; tell whether a task or an audit waits that did not before."""
        before = self._entries.get(state.order.job)
        self.drop(state.order.job)
        entry = _Entry(state.order.job, state.order, engine_class, state.out)
        for vacancy in offering.vacancies(state):
            entry.waiting[vacancy.task.task] = vacancy
        entry.holders = {
            item.node: item.granted_at_ms
            for item in state.leases.values()
            if item.state is LeaseState.GRANTED and item.type in ONE_PIECE
        }
        entry.offers = tuple(asking.offers(state))
        if entry.waiting or entry.holders or entry.offers:
            self._entries[state.order.job] = entry
            for vacancy in entry.waiting.values():
                self._put(entry, vacancy)
            self._show(entry)
        known = {*before.waiting, *(item.audit.audit for item in before.offers)} if before is not None else set()
        return not {*entry.waiting, *(item.audit.audit for item in entry.offers)} <= known

    def note_hearings(
        self, name: str, order: JobOrder, offers: Iterable[OfferedAudit], holders: Mapping[str, int]
    ) -> None:
        """Take an appeal as it stands now; `holders` have one of its hearings in hand, since when (ms)."""
        self.drop(name)
        entry = _Entry(name, order, "", {}, holders=dict(holders), offers=tuple(offers))
        if entry.offers or entry.holders:
            self._entries[name] = entry
            self._show(entry)

    def drop(self, name: str) -> None:
        """Forget a job or an appeal."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        for vacancy in entry.waiting.values():
            self._take(entry, vacancy)
        for offer in entry.offers:
            self._withdraw(entry, offer)
        for node in entry.holders:
            del self.busy[node][name]
            if not self.busy[node]:
                del self.busy[node]

    def taken(self, task: Task, node: str, now_ms: int) -> None:
        """Note that a task has found its node, before its job is read again."""
        entry = self._entries.get(task.job)
        vacancy = entry.waiting.pop(task.task, None) if entry is not None else None
        if entry is None or vacancy is None:
            return
        self._take(entry, vacancy)
        self._hold(entry, node, now_ms)

    def offered(self, node: str) -> tuple[JobOrder, OfferedAudit] | None:
        """Return the audit that waits for a node, the oldest of several."""
        listed = self._offers.get(node)
        if not listed:
            return None
        _, audit, name = listed[0]
        entry = self._entries[name]
        return entry.order, next(item for item in entry.offers if item.audit.audit == audit)

    def took(self, offer: OfferedAudit, now_ms: int) -> None:
        """Note that an audit has been taken, before its job is read again."""
        listed = self._offers.get(offer.node, ())
        entry = next((self._entries[name] for _, audit, name in listed if audit == offer.audit.audit), None)
        if entry is None:
            return
        self._withdraw(entry, offer)
        entry.offers = tuple(item for item in entry.offers if item.audit.audit != offer.audit.audit)
        self._hold(entry, offer.node, now_ms)

    def choose(self, node: Node, world: World, directory_version: int) -> tuple[JobOrder, Task] | None:
        """Return what a node should do next, None if there is nothing for it."""
        best: tuple[int, int, str] | None = None
        found: tuple[JobOrder, Task] | None = None
        for keys in self._looks(node, world):
            for _, name, job in keys:
                entry = self._entries[job]
                if self._is_barred(entry, node, world, directory_version):
                    continue
                vacancy = entry.waiting[name]
                rank = offering.rank(vacancy, node, world, entry.out, self.busy)
                key = (rank, vacancy.task.planned_at_ms, name) if rank is not None else None
                if key is not None and (best is None or key < best):
                    best, found = key, (entry.order, vacancy.task)
                if rank == 0:  # its own, and the oldest of them
                    return found
            if best is not None and best[0] <= offering.OF_NOBODY:  # what is looked at next is less its own
                break
        return found

    def _looks(self, node: Node, world: World) -> Iterator[list[Key]]:
        """Yield what a node is shown: its own lanes', then what is anybody's, then what may have lost its own node."""
        yield self._own.get(node.node, [])
        shelf = self._shelves.get(node.engine_class)
        if shelf is None:
            return
        yield shelf.anybodys[:MAX_LOOKS]
        lanes = shelf.lanes
        if len(lanes) <= MAX_LOOKS or offering.is_anybodys(lanes[0][0], world):
            yield lanes[:MAX_LOOKS]
            return
        first = shelf.next_look % len(lanes)
        shelf.next_look = first + MAX_LOOKS
        yield lanes[first : first + MAX_LOOKS]

    def _put(self, entry: _Entry, vacancy: Vacancy) -> None:
        key = _key(entry, vacancy)
        shelf = self._shelves.setdefault(entry.engine_class, _Shelf())
        insort(shelf.of(vacancy), key)
        if vacancy.own is not None and vacancy.task.epoch == 0:
            insort(self._own.setdefault(vacancy.own, []), key)
        self.num_waiting += 1

    def _take(self, entry: _Entry, vacancy: Vacancy) -> None:
        key = _key(entry, vacancy)
        listed = self._shelves[entry.engine_class].of(vacancy)
        del listed[bisect_left(listed, key)]
        if vacancy.own is not None and vacancy.task.epoch == 0:
            own = self._own[vacancy.own]
            del own[bisect_left(own, key)]
            if not own:
                del self._own[vacancy.own]
        self.num_waiting -= 1

    def _show(self, entry: _Entry) -> None:
        for offer in entry.offers:
            insort(self._offers.setdefault(offer.node, []), _offer_key(entry, offer))
        for node, since_ms in entry.holders.items():
            self.busy.setdefault(node, {})[entry.name] = since_ms

    def _withdraw(self, entry: _Entry, offer: OfferedAudit) -> None:
        listed = self._offers[offer.node]
        listed.remove(_offer_key(entry, offer))
        if not listed:
            del self._offers[offer.node]

    def _hold(self, entry: _Entry, node: str, now_ms: int) -> None:
        if node not in entry.holders:
            entry.holders[node] = now_ms
            self.busy.setdefault(node, {})[entry.name] = now_ms

    def _is_barred(self, entry: _Entry, node: Node, world: World, directory_version: int) -> bool:
        if entry.directory_version != directory_version:
            entry.barred.clear()
            entry.directory_version = directory_version
        found = entry.barred.get(node.node)
        if found is None:
            found = bool(masks.why_barred(node, entry.order, world, entry.engine_class, entry.out))
            entry.barred[node.node] = found
        return found


def _key(entry: _Entry, vacancy: Vacancy) -> Key:
    return vacancy.task.planned_at_ms, vacancy.task.task, entry.order.job


def _offer_key(entry: _Entry, offer: OfferedAudit) -> Key:
    return offer.audit.opened_at_ms, offer.audit.audit, entry.name
