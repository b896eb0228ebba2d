"""Whose job begins next: a turn for each buyer, in order of arrival within each.

Rules:
- The buyer with the fewest jobs under way comes first; among equals the one whose job has waited longest.
- One buyer has at most half of all slots, however many jobs he sent: whoever comes second finds one free.
- A job that waits for nothing but its own buyer's beacon value holds no slot; a buyer who owes MAX_OWED values begins
  nothing more until he has given some.
- What no offer fits holds nobody up, nor others of the same buyer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from stannary.rules.masks import Requirement

MAX_ACTIVE = 256  # jobs moved at a time; later ones stay queued
SHARE = 2  # of the slots: one buyer has at most this part of them
MAX_OWED = 64  # jobs of one buyer that wait for him


@dataclass(frozen=True, slots=True)
class Queued:
    """A job that waits for its turn."""

    wanted: Requirement
    since_ms: int


@dataclass(frozen=True, slots=True)
class Slots:
    """What is taken: jobs under way of each buyer, and of those the ones that wait for him alone."""

    active: Mapping[str, int]
    owed: Mapping[str, int]

    @property
    def num_taken(self) -> int:
        """Return how many slots are held."""
        return sum(self.active.values()) - sum(self.owed.values())


class Queue:
    """Accepted jobs that wait for their turn."""

    def __init__(self) -> None:
        self._of_buyer: dict[str, dict[str, Queued]] = {}
        self._buyer_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._buyer_of)

    def __contains__(self, job: str) -> bool:
        return job in self._buyer_of

    def add(self, job: str, buyer: str, queued: Queued) -> None:
        """Take a job in behind its buyer's others."""
        self._of_buyer.setdefault(buyer, {})[job] = queued
        self._buyer_of[job] = buyer

    def remove(self, job: str) -> bool:
        """Take a job out; tell whether it was here."""
        buyer = self._buyer_of.pop(job, None)
        if buyer is None:
            return False
        del self._of_buyer[buyer][job]
        if not self._of_buyer[buyer]:
            del self._of_buyer[buyer]
        return True

    def turns(self, slots: Slots, room: int, has_turn: Callable[[Queued], bool]) -> list[str]:
        """Return the jobs that begin now, in order.

        Args:
            slots: what is taken.
            room: lanes for which there is work to give out.
            has_turn: whether a job fits now, or has waited too long not to be told.
        """
        held = {buyer: slots.active.get(buyer, 0) - slots.owed.get(buyer, 0) for buyer in self._of_buyer}
        waiting = {
            buyer: iter(listed.items())
            for buyer, listed in self._of_buyer.items()
            if slots.owed.get(buyer, 0) < MAX_OWED
        }
        heads = {buyer: head for buyer in list(waiting) if (head := _next(waiting[buyer], has_turn)) is not None}
        free, begun = MAX_ACTIVE - slots.num_taken, list[str]()
        while heads and free > 0 and room > 0:
            buyer = min(heads, key=lambda name: (held[name], heads[name][1].since_ms))
            if held[buyer] >= MAX_ACTIVE // SHARE:
                break  # he has the fewest of all who wait
            job, queued = heads.pop(buyer)
            begun.append(job)
            held[buyer] += 1
            free, room = free - 1, room - queued.wanted.num_nodes
            following = _next(waiting[buyer], has_turn)
            if following is not None:
                heads[buyer] = following
        return begun


def _next(listed: Iterator[tuple[str, Queued]], has_turn: Callable[[Queued], bool]) -> tuple[str, Queued] | None:
    for job, queued in listed:
        if has_turn(queued):
            return job, queued
    return None
