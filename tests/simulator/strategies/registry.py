"""All strategies, in the order of the table."""

from __future__ import annotations

from tests.simulator.strategies import buyers, leagues, markets, nodes
from tests.simulator.strategies.strategy import Strategy

STRATEGIES: tuple[Strategy, ...] = (*buyers.STRATEGIES, *nodes.STRATEGIES, *leagues.STRATEGIES, *markets.STRATEGIES)


def named(name: str) -> Strategy:
    """Return one of them."""
    return next(item for item in STRATEGIES if item.name == name)
