"""What malicious buyers can do to honest nodes by strikes: the longest suspension over strategies drawn at random.

    python bench/standing.py [--settings 200] [--nodes 10000] [--buyers 50] [--accounts 20] [--days 2] [--json]

Every buyer sends jobs from many accounts whose programs aim at honest nodes (tests/simulator/accusers.py); what strikes
come to is decided by jobs/standing.py. Each setting is one strategy followed by all of them: how much is spent for a
voice and how much of that a friend gives back, how often, at how many victims, together or apart. Printed are the worst
figures over all settings, the strategies that reach them, and what the cheapest that suspends anybody costs.

A canary takes 1 to 2 minutes, the market computes 4 a minute (bench/canaries.py measures both), and one node in ten
cannot be asked.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.simulator import accusers


def main() -> None:
    """Search, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("settings", 200), ("nodes", 10_000), ("buyers", 50), ("accounts", 20), ("days", 2)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    world = accusers.World(options.nodes, options.buyers, options.accounts, options.days)
    chance, began = random.Random("bench standing"), time.monotonic()
    tried = []
    for seed in range(options.settings):
        strategy = accusers.drawn(chance)
        tried.append((accusers.play(world, strategy, seed), strategy))
    worst = {
        name: max(tried, key=lambda item, name=name: getattr(item[0], name))
        for name in ("longest_min", "most_a_day_min", "num_suspended", "num_unseen", "lost_min")
    }
    node_min = options.nodes * options.days * 1440
    found = {
        "settings": options.settings,
        "strikes": sum(made.num_strikes for made, _ in tried),
        "settings_that_suspend": sum(made.num_suspended > 0 for made, _ in tried),
        "cheapest_usd": min((made.usd_spent for made, _ in tried if made.num_suspended), default=None),
        "washed": sum(made.num_suspended > 0 and made.usd_spent == 0 for made, _ in tried),
        "worst": {name: {"outcome": asdict(made), "strategy": asdict(how)} for name, (made, how) in worst.items()},
        "seconds": round(time.monotonic() - began, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.settings} strategies, {found['strikes']:,} strikes, {found['seconds']} s, {found['machine']}")
    print(f"  suspend anybody at all  {found['settings_that_suspend']} of {options.settings}")
    print(f"  for nothing, by friends {found['washed']}; the cheapest for ${found['cheapest_usd']:,.0f}")
    for name, (made, how) in worst.items():
        print(f"  worst {name:<15} {getattr(made, name):>10,}   for ${made.usd_spent:,.0f}, by {how}")
    lost = worst["lost_min"][0].lost_min
    print(f"  of the nodes' time at most {100 * lost / node_min:.3f} % was lost")


if __name__ == "__main__":
    main()
