"""Standing offers, and what they answer: pricing a submit asks the store nothing.

Rules:
- Offers come from the directory, presence from the roster, at each change of either; once in FRESH_S in any case, since
  credentials end with time: what a buyer is quoted may be that old.
- Equal requirements have one answer until then.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.errors import NoCapacity
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec
from stannary.jobs.course.state import Node
from stannary.market import terms
from stannary.market.clock import Clock, now_ms
from stannary.market.directory import Directory
from stannary.market.presence import Roster
from stannary.place import match
from stannary.rules import edition
from stannary.rules.masks import Requirement, required_by
from stannary.rules.price import WorstCase, worst_case

FRESH_S = 1.0
MAX_ANSWERS = 1024  # distinct requirements; buyers ask for a few


@dataclass(frozen=True, slots=True)
class Estimate:
    """A match, its dearest hour, and what the job costs at most on it."""

    match: match.Match
    hour_usd_micros: int
    worst: WorstCase


def asked(spec: JobSpec) -> Requirement:
    """Return what a spec asks of its nodes on this market."""
    return required_by(spec, terms=terms.accepted(spec))


class OfferBook:
    """The offers of one market."""

    def __init__(self, directory: Directory, roster: Roster, clock: Clock) -> None:
        self._directory = directory
        self._roster = roster
        self._clock = clock
        self._seen: tuple[int, int] | None = None  # versions of directory and roster that `_offers` was made for
        self._read_s = 0.0
        self._offers: list[Node] = []
        self._away: dict[NodeId, str] = {}  # node -> why it takes no work now
        self._answers: dict[Requirement, match.Match | NoCapacity] = {}

    def estimate(self, spec: JobSpec) -> Estimate:
        """Match a spec and price its worst case.

        Raises:
            NoCapacity: no engine class can hold it.
        """
        matched = self._matched(asked(spec))
        is_by_use = edition.of(spec).pays_by_use
        dearest = matched.highest_rate_usd_micros_per_hour if is_by_use else matched.highest_ask_usd_micros_per_hour
        return Estimate(matched, dearest, worst_case(spec, dearest))

    def fits(self, wanted: Requirement) -> bool:
        """Tell whether there is room for a job of these masks."""
        try:
            self._matched(wanted)
        except NoCapacity:
            return False
        return True

    def standing(self) -> list[tuple[Node, str]]:
        """Return every standing offer, and why its node takes no work now, empty if it does."""
        self._refresh()
        return [(node, self._away.get(node.node, "")) for node in self._offers]

    def _refresh(self) -> None:
        steady_s = self._clock.steady()
        versions = self._directory.version, self._roster.version
        if self._seen != versions or not 0 <= steady_s - self._read_s < FRESH_S:
            self._seen, self._read_s = versions, steady_s
            offers = self._directory.offers(now_ms(self._clock))
            reasons = {
                node.node: "suspended" if node.is_suspended else self._roster.not_ready(node.node, steady_s)
                for node in offers
            }
            away = {node: reason for node, reason in reasons.items() if reason}
            if (offers, away) != (self._offers, self._away):
                self._offers, self._away = offers, away
                self._answers.clear()

    def _matched(self, wanted: Requirement) -> match.Match:
        self._refresh()
        known = self._answers.get(wanted)
        if known is None:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            try:
                known = match.match(self._offers, wanted, self._away)
            except NoCapacity as err:
                known = err
            self._answers[wanted] = known
        if isinstance(known, NoCapacity):
            raise NoCapacity(known.what, why=known.why, hint=known.hint)
        return known
