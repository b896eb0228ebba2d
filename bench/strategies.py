"""What cheating pays: every strategy's best found profit beside honest play, and what honest parties lose by it.

    python bench/strategies.py [--quick] [--only NAME]... [--part 1/2] [--out FILE] [--json]
                               [--epochs 1000] [--settings 200]

Each strategy (tests/simulator/strategies/) is tried under settings drawn at random, one epoch each, the better ones in
more, and the best again in epochs with fresh seeds, which are what is printed: its profit, that of an honest twin in
the same seat, job and seed, and the mean of the difference with its standard error. An epoch is one job, decided and
settled by the core itself. The worst loss is that of one honest operator in one epoch, those of the search included.

With `--out` each row is appended to a file as it is done, and rows that stand there are not played again while the
rules they were played by are the same. `--part 1/2` and `2/2` share the rows between two processes, with one file.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.simulator.strategies.epoch import quickly  # noqa: E402
from tests.simulator.strategies.registry import STRATEGIES  # noqa: E402
from tests.simulator.strategies.search import QUICK, Plan, Row, Search, Twins, spelled  # noqa: E402

ROOMS = ("rules", "jobs/course", "verify", "place")
HEAD = (
    "strategy | settings | epochs | profit | honest | gain ± s.e. | one operator's worst loss | operators' mean loss | "
    "buyer's worst loss | honest struck"
)


def rules_digest() -> str:
    """Name the code that decides and settles: rows played by other code are played again."""
    state = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((ROOT / "src/stannary" / room).rglob("*.py")):
            state.update(path.read_bytes())
    for path in sorted((ROOT / "tests/simulator").rglob("*.py")):
        state.update(path.read_bytes())
    return state.hexdigest()[:12]


def known(path: Path | None, by: str, plan: Plan) -> dict[str, Row]:
    """Return the rows that need not be played again."""
    found: dict[str, Row] = {}
    if path is None or not path.exists():
        return found
    for line in path.read_text("utf-8").splitlines():
        said = json.loads(line)
        if (said.pop("rules"), said.pop("planned")) == (by, [plan.settings, plan.epochs]):
            row = Row(**said)
            found[row.strategy] = row
    return found


def mills(usd_micros: float) -> str:
    """Spell money in thousandths of a dollar."""
    return f"{usd_micros / 1000:.2f}"


def line_of(row: Row) -> str:
    """Return a row of the table in Markdown; what pays better than to be honest is marked."""
    name = f"**{row.strategy}: above honest play**" if row.is_above else row.strategy
    cells = (
        name, str(row.settings), f"{row.epochs:,}", mills(row.profit), mills(row.honest),
        f"{mills(row.gain)} ± {mills(row.error)}", mills(row.worst_loss), mills(row.mean_loss), mills(row.buyers_loss),
        f"{row.strikes:,}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Search, and print the table."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few settings and epochs of each: does it run at all")
    parser.add_argument("--only", action="append", choices=[item.name for item in STRATEGIES])
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument("--settings", type=int, default=usual.settings)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan(settings=options.settings, epochs=options.epochs)
    at, of = map(int, options.part.split("/"))
    wanted = [item for item in STRATEGIES if not options.only or item.name in options.only][at - 1 :: of]
    by = rules_digest()
    rows = known(options.out, by, plan)
    gc.freeze()
    gc.set_threshold(50_000)
    began, computed = time.monotonic(), 0
    twins: Twins = {}
    with quickly():
        for strategy in wanted:
            if strategy.name not in rows:
                rows[strategy.name] = row = Search(strategy, plan, twins).run()
                computed += 1
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        said = {**spelled(row), "rules": by, "planned": [plan.settings, plan.epochs]}
                        file.write(json.dumps(said) + "\n")
    shown = [rows[item.name] for item in STRATEGIES if item.name in rows]
    if options.json:
        print(json.dumps([{**spelled(row), "rules": by, "is_above": row.is_above} for row in shown]))
        return
    print(f"thousandths of a dollar an epoch; rules {by}, {platform.machine()}, Python {platform.python_version()}; "
          f"{computed} rows played in {time.monotonic() - began:.0f} s\n")  # fmt: skip
    columns = HEAD.split(" | ")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in shown:
        print(line_of(row))
    print()
    for row in shown:
        print(f"{row.strategy}: best {row.setting}; most harm {row.worst_setting}")


if __name__ == "__main__":
    main()
