"""Record the runs anew: `make recorded`, or `python -m tests.recorded.write [RUN ...]`.

What is written is what this commit's engine does. Read the difference before it is committed: behaviour changed.
"""

from __future__ import annotations

import sys

from tests.recorded import golden
from tests.recorded.runs import RUNS


def main(wanted: list[str]) -> None:
    """Write the golden text of the runs named, of all where none is; remove what no run is left for."""
    golden.DIRECTORY.mkdir(exist_ok=True)
    for run in RUNS:
        if not wanted or run.name in wanted:
            text, _ = golden.replayed(run)
            golden.path_of(run.name).write_text(text, encoding="utf-8")
            sys.stdout.write(f"{run.name}\n")
    for path in set(golden.DIRECTORY.rglob("*.json")) - {golden.path_of(run.name) for run in RUNS}:
        path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
