"""What there is of each engine class: how many operators could check one another in it, and what that allows.

A node says its class itself, and nothing here vouches for it; operators are independent by their join tokens only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stannary.cli.output import cell
from stannary.formats.lean import dataclass
from stannary.formats.quantity import dollars
from stannary.wire.buyer import Offer

MAX_NAME = 56  # columns: a measured class takes 51
CONVICTING = 3  # a node, and two operators beside it who find otherwise (rules/verdict.py)
HERE = ("idle", "busy")  # states of an offer whose node could take work or audits
ALONE = "nobody of another operator can check work here"
PAIR = "no recomputation convicts anybody here: that needs three operators"


@dataclass(frozen=True, slots=True)
class Class:
    """One engine class of a market."""

    name: str
    num_operators: int
    num_nodes: int
    least_ask_usd_micros_per_hour: int

    @property
    def why_weak(self) -> str:
        """What so few operators do not allow; empty where they are enough."""
        if self.num_operators < CONVICTING - 1:
            return ALONE
        return PAIR if self.num_operators < CONVICTING else ""

    @property
    def shown(self) -> str:
        """Its name, safe and of at most MAX_NAME columns."""
        return cell(self.name, MAX_NAME)

    @property
    def text(self) -> str:
        """What there is of it, in a sentence of our own words."""
        counted = f"{_number(self.num_operators, 'operator')}, {_number(self.num_nodes, 'node')}"
        said = f"{counted}, from {dollars(self.least_ask_usd_micros_per_hour)}/h"
        return f"{said}; {self.why_weak}" if self.why_weak else said


def of(offers: Iterable[Offer]) -> list[Class]:
    """Return the classes of some offers in the order jobs go to them: most operators first, then the cheapest.

    Nodes count that are there (place/match.py).
    """
    found: dict[str, list[Offer]] = {}
    for offer in offers:
        if offer.state not in HERE:
            continue
        found.setdefault(offer.engine_class, []).append(offer)
    return sorted((_class(name, listed) for name, listed in found.items()), key=_order)


def _class(name: str, offers: Sequence[Offer]) -> Class:
    asks = [offer.ask_usd_micros_per_hour for offer in offers]
    return Class(name, len({offer.operator for offer in offers}), len(offers), min(asks))


def _order(item: Class) -> tuple[int, int, str]:
    return -item.num_operators, item.least_ask_usd_micros_per_hour, item.name


def _number(number: int, of_what: str) -> str:
    return f"{number} {of_what}{'s' if number != 1 else ''}"
