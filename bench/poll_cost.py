"""What a node's poll costs the market: CPU and SQL statements, at growing numbers of waiting tasks and of nodes.

    python bench/poll_cost.py [--polls 400]

A real store, the directory and the index of waiting tasks as a market keeps them. Two kinds of poll: of a node that
finds its own lane's task (giving it, a transaction, is left out), and of one for which there is nothing. Goal: at most
1 ms of CPU a poll, and within a factor of two from the smallest market to the largest.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.market.fake_buyer import command_spec
from tests.unit.market import moment

from stannary.formats.ids import JobId, NodeId
from stannary.jobs.course.decide import course
from stannary.jobs.course.state import JobState, Node, Placed
from stannary.market import terms
from stannary.market.directory import Directory
from stannary.market.engine.moving import Mover
from stannary.market.http import routes_node
from stannary.market.presence import Roster
from stannary.store.database import Store

TASKS = (30, 300, 3_000)
NODES = (10, 600, 10_000)
LANES = 10  # of each job
GOAL_MS = 1.0


class Hall(Directory):
    """Nodes without credentials to read: what is measured begins behind them."""

    def fill(self, listed: list[Node]) -> None:
        """Take nodes as they are."""
        self._nodes = {node.node: node for node in listed}
        self._of_class = {moment.CLASS: dict(sorted(self._nodes.items()))}
        self.version += 1


def placed(number: int, nodes: list[Node], now_ms: int) -> JobState:
    """Return a job just placed on some of the nodes, each of its lanes waiting for its own node."""
    first = number * LANES % len(nodes)
    chosen = [NodeId(nodes[(first + lane) % len(nodes)].node) for lane in range(LANES)]
    queued = moment.state(command_spec(num_nodes=LANES))
    order = queued.order
    named = moment.replace(queued, order=moment.replace(order, job=JobId(f"j-{number:012x}")))
    world = moment.world(*nodes[:1], now_ms=now_ms, place=lambda _: Placed(tuple(chosen), (), moment.CLASS))
    return course(named, world).state()


async def measure(store: Store, num_tasks: int, num_nodes: int, num_polls: int) -> tuple[float, float, float]:
    """Return CPU milliseconds of a poll that finds something and of one that does not, and SQL statements of each."""
    clock = SimpleNamespace(now=time.time, steady=time.monotonic, leaps=())
    hall, roster = Hall(), Roster(moment.Timing())
    agreed = {"terms": terms.DIGEST}
    nodes = [moment.node(f"n-{index:012x}", f"op-{index % 97}", **agreed) for index in range(num_nodes)]
    idle = moment.node("n-idle", "op-idle", **agreed)
    hall.fill([*nodes, idle])
    for node in (*nodes, idle):
        roster.beat(node.node, "idle", clock.steady())
    exchange: Any = SimpleNamespace(
        clock=clock,
        settings=SimpleNamespace(timing=moment.Timing(start_link_s=3600.0)),  # nobody gets impatient meanwhile
        log=SimpleNamespace(checkpoint=lambda: ""),
        directory=hall,
        roster=roster,
        store=store,
        bell=SimpleNamespace(ring=lambda *_: None),
    )
    mover = Mover(exchange)
    now_ms = int(time.time() * 1000)
    for number in range(num_tasks // LANES):
        mover.ready.note(placed(number, nodes, now_ms), moment.CLASS)
    assert mover.ready.num_waiting == num_tasks

    async def choose(node: str) -> object:
        chosen = mover.ready.choose(hall.get(node), mover.world(""), hall.version)
        return SimpleNamespace(job=chosen[0].job) if chosen is not None else None

    choosing, giving = SimpleNamespace(mover=SimpleNamespace(give=choose)), SimpleNamespace(mover=mover)
    own = [nodes[index % min(num_nodes, num_tasks)].node for index in range(num_polls)]
    num_sql = counted(store)
    found = await timed([poll(exchange, choosing, name) for name in own], expected=True)
    nothing = await timed([poll(exchange, giving, idle.node)] * num_polls, expected=False)
    return found, nothing, num_sql[0] / (2 * num_polls)


def poll(exchange: Any, engines: Any, node: str) -> Callable[[], Awaitable[object]]:
    """Return a poll of a node, as the route makes it."""
    return lambda: routes_node._next(exchange, engines, node, frozenset())


async def timed(polls: list[Callable[[], Awaitable[object]]], *, expected: bool) -> float:
    """Return the median CPU milliseconds of a poll."""
    spent = []
    for made in polls:
        begun = time.process_time()
        answer = await made()
        spent.append(1000 * (time.process_time() - begun))
        assert bool(answer) is expected, answer
    return statistics.median(spent)


def counted(store: Store) -> list[int]:
    """Count the statements that readers of the store run from now on."""
    number = [0]

    def count(*_: Any) -> None:
        number[0] += 1

    sa.event.listen(store._read_engine, "before_cursor_execute", count)
    return number


async def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polls", type=int, default=400)
    num_polls = parser.parse_args().polls
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {num_polls} polls, CPU ms of all threads")
    print(f"{'tasks':>7} {'nodes':>7} {'own lane':>10} {'nothing':>10} {'SQL':>6}")
    worst: dict[str, list[float]] = {"own": [], "nothing": []}
    with tempfile.TemporaryDirectory() as place, Store.open(Path(place) / "market.db") as store:
        for num_tasks in TASKS:
            for num_nodes in NODES:
                own, nothing, num_sql = await measure(store, num_tasks, num_nodes, num_polls)
                worst["own"].append(own)
                worst["nothing"].append(nothing)
                print(f"{num_tasks:>7} {num_nodes:>7} {own:>10.3f} {nothing:>10.3f} {num_sql:>6.1f}")
    for name, figures in worst.items():
        met = max(figures) <= GOAL_MS and max(figures) <= 2 * min(figures)
        words = f"goal {GOAL_MS} ms, flat within 2: {'met' if met else 'MISSED'}"
        print(f"{name}: {min(figures):.3f} to {max(figures):.3f} ms; {words}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
