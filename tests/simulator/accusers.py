"""Buyers who aim their programs at honest nodes, many accounts each, against the standing the market keeps.

An account knows what its jobs show it: whom they were placed on, who was struck, who is offered as suspended. It hits
whom it likes: every job it sends strikes its victim (in truth placement and draws would have to favour it). It buys
itself a voice by honest jobs at other operators, or by money that a friend among them gives back (`num_friends`).
Nodes are honest and there at once. Decided is by jobs/standing.py alone; time runs in minutes.

Each suspended node is asked a canary in its turn (jobs/canary.py): the market has so many out at a time, and computes
so many a minute. Who cannot be asked, or has no turn in time, waits for its ten minutes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stannary.jobs import canary, standing
from stannary.jobs.standing import NodeStanding, StandingChange, StruckBy

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a malicious buyer does with his accounts."""

    num_paid: int  # other operators at which each account buys honest work first
    usd_each: float  # spent at each
    interval_min: int  # between two jobs of one account
    num_victims: int  # of each buyer at a time
    is_joined: bool  # all buyers have the same victims
    is_stubborn: bool  # stays with a victim that was restored, else goes on to the next
    is_burst: bool  # all accounts at once, else spread over the interval
    num_friends: int = 0  # of the operators paid: they give it back

    @property
    def usd_an_account(self) -> float:
        """What an account's voice costs, but for what friends give back."""
        return max(self.num_paid - self.num_friends, 0) * self.usd_each


@dataclass(frozen=True, slots=True)
class World:
    """How large it is, and how canaries go."""

    num_nodes: int = 10_000
    num_buyers: int = 50
    num_accounts: int = 20
    days: int = 2
    canary_min: tuple[int, int] = (1, 2)  # from its order to the verdict, if the market computes it at once
    computed_a_minute: int = 4  # by two processes at a time (bench/standing.py --measure)
    max_out: int = canary.MAX_OPEN
    no_canary: float = 0.1  # nodes that cannot be asked, or compared


@dataclass(slots=True)
class Outcome:
    """What the honest nodes lost."""

    num_strikes: int = 0
    num_suspended: int = 0  # nodes, once or more often
    num_suspensions: int = 0
    longest_min: int = 0  # without a break
    most_a_day_min: int = 0  # of one node, in any of the days
    num_unseen: int = 0  # suspensions that time ended
    lost_min: int = 0  # of all nodes together
    usd_spent: float = 0.0


@dataclass(slots=True, eq=False)
class _Node:
    standing: NodeStanding = field(default_factory=NodeStanding)
    strikes: list[StruckBy] = field(default_factory=list)
    since_min: int | None = None
    can_run: bool = True
    passes_min: int | None = None
    rests_until_min: int | None = None
    heard: set[tuple[int, int]] = field(default_factory=set)  # accounts whose strikes count already
    on_day: dict[int, int] = field(default_factory=dict)


def drawn(chance: random.Random) -> Strategy:
    """Return a strategy at random."""
    return Strategy(
        num_paid=(num_paid := chance.randint(0, 6)),
        num_friends=chance.randint(0, num_paid),
        usd_each=chance.choice([0.0, 0.1, 0.5, 1.0, 2.0, 10.0]),
        interval_min=round(10 * 144 ** chance.random()),
        num_victims=round(1_000 ** chance.random()),
        is_joined=chance.random() < 0.5,
        is_stubborn=chance.random() < 0.5,
        is_burst=chance.random() < 0.5,
    )


def play(world: World, strategy: Strategy, seed: int) -> Outcome:
    """Let all malicious buyers follow one strategy, and return what honest nodes lost."""
    chance = random.Random(f"accusers {seed}")
    nodes: dict[int, _Node] = {}
    suspended: list[_Node] = []
    made = Outcome(usd_spent=strategy.usd_an_account * world.num_buyers * world.num_accounts)
    spent = {f"other-{at}": round(strategy.usd_each * 1_000_000) for at in range(strategy.num_paid)}
    weight = standing.weight_ppm(spent, "victim")
    targets = _Targets(world, strategy, chance)
    jobs = _schedule(world, strategy, chance)
    for now_min in range(world.days * 1440 + 1):
        for owner, account in jobs.get(now_min, ()):
            made.num_strikes += 1
            name = targets.next_of(owner, account, nodes)
            node = nodes.setdefault(name, _Node())
            is_new = (owner, account) not in node.heard  # a buyer counts once
            if is_new:
                node.heard.add((owner, account))
                node.strikes.append(StruckBy(f"j-{made.num_strikes}", f"{owner}-{account}", now_min * MINUTE_MS))
            is_rested = node.rests_until_min is not None and now_min >= node.rests_until_min
            if is_rested:
                node.rests_until_min = None
            # else nothing has changed since it was last decided about, or nothing can follow
            if (is_new or is_rested) and len(node.heard) * weight >= standing.THRESHOLD_PPM:
                node.standing = replace(node.standing, strikes=tuple(node.strikes))
                _advance(node, weight, now_min, world, chance, made)
            if node.since_min == now_min and node not in suspended:
                suspended.append(node)
        _ask(suspended, now_min, world, chance)
        for node in list(suspended):
            _advance(node, weight, now_min, world, chance, made)
            if node.since_min is None:
                suspended.remove(node)
    for node in nodes.values():
        made.most_a_day_min = max(made.most_a_day_min, *node.on_day.values(), 0)
        made.num_suspended += bool(node.on_day)
    return made


def _advance(node: _Node, weight: int, now_min: int, world: World, chance: random.Random, made: Outcome) -> None:
    now_ms = now_min * MINUTE_MS
    if node.passes_min is not None and now_min >= node.passes_min:
        node.standing = replace(node.standing, passed_at_ms=now_ms)
        node.passes_min = None
    is_over = node.since_min is not None and now_ms >= node.since_min * MINUTE_MS + standing.HOLD_MS
    known = replace(node.standing, is_over=True) if is_over else node.standing
    change = standing.decide(known, lambda _: weight, now_ms)
    if change is StandingChange.SUSPEND:
        node.standing = replace(node.standing, suspended_at_ms=now_ms)
        node.since_min = now_min
        node.can_run = chance.random() >= world.no_canary
        made.num_suspensions += 1
        node.on_day.setdefault(now_min // 1440, 0)
    elif change is not None and node.since_min is not None:
        lasted = now_min - node.since_min
        made.num_unseen += change is StandingChange.RESTORE_UNSEEN
        made.longest_min = max(made.longest_min, lasted)
        made.lost_min += lasted
        for minute in range(node.since_min, now_min):
            node.on_day[minute // 1440] = node.on_day.get(minute // 1440, 0) + 1
        # of strikes before a restoration none is ever looked at again
        node.standing = NodeStanding(restored_at_ms=now_ms, passed_at_ms=node.standing.passed_at_ms)
        node.since_min = node.passes_min = None
        node.rests_until_min = now_min + standing.GRACE_MS // MINUTE_MS
        node.heard.clear()
        node.strikes.clear()


def _ask(suspended: list[_Node], now_min: int, world: World, chance: random.Random) -> None:
    """Ask whose turn it is: those suspended first, as many as the market has room and time for."""
    num_out = sum(node.passes_min is not None for node in suspended)
    waiting = [node for node in suspended if node.can_run and node.passes_min is None]
    for node in waiting[: max(min(world.max_out - num_out, world.computed_a_minute), 0)]:
        node.passes_min = now_min + chance.randint(*world.canary_min)


class _Targets:
    """Whom each buyer has in view."""

    def __init__(self, world: World, strategy: Strategy, chance: random.Random) -> None:
        self._world, self._strategy = world, strategy
        self._first = [0 if strategy.is_joined else chance.randrange(world.num_nodes) for _ in range(world.num_buyers)]
        self._moved: dict[tuple[int, int], int] = {}

    def next_of(self, owner: int, account: int, nodes: Mapping[int, _Node]) -> int:
        """Return whom an account aims at now: whoever is suspended has had his fill."""
        slot = account % self._strategy.num_victims
        moved = self._moved.get((owner, slot), 0)
        name = self._name(owner, slot, moved)
        known = nodes.get(name)
        is_done = known is not None and (known.since_min is not None or known.standing.restored_at_ms is not None)
        if is_done and not self._strategy.is_stubborn:
            self._moved[(owner, slot)] = moved + 1
            name = self._name(owner, slot, moved + 1)
        return name

    def _name(self, owner: int, slot: int, moved: int) -> int:
        return (self._first[owner] + slot + moved * self._strategy.num_victims) % self._world.num_nodes


def _schedule(world: World, strategy: Strategy, chance: random.Random) -> dict[int, list[tuple[int, int]]]:
    """Return by minute which accounts send a job."""
    jobs: dict[int, list[tuple[int, int]]] = {}
    for owner in range(world.num_buyers):
        for account in range(world.num_accounts):
            first = 0 if strategy.is_burst else chance.randrange(strategy.interval_min)
            for minute in range(first, world.days * 1440, strategy.interval_min):
                jobs.setdefault(minute, []).append((owner, account))
    return jobs
