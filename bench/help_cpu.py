"""CPU time of `stannary --help` and `stannary verify` as processes of their own (goals 200 and 300 ms).

    python bench/help_cpu.py [RECEIPT]

Prints the smallest of several runs: noise of a busy machine only adds. Beside them, in the same run, a
bare interpreter and one that imports click and cryptography: what no command built on them can go below.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

RUNS = 7
GOALS_MS = {"stannary --help": 200, "stannary verify": 300}


def cpu_ms(arguments: list[str]) -> float:
    """Return the CPU milliseconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Print one line per command."""
    python = sys.executable
    cases = {
        "python -c pass": [python, "-c", "pass"],
        "import click, ed25519": [
            python, "-c", "import click; import cryptography.hazmat.primitives.asymmetric.ed25519",
        ],
        "stannary --help": [python, "-m", "stannary", "--help"],
    }  # fmt: skip
    receipt = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if receipt is not None:
        cases["stannary verify"] = [python, "-m", "stannary", "verify", str(receipt)]
    print(f"{'command':<24}{'CPU ms':>8}{'goal':>8}   ({os.cpu_count()} cores, best of {RUNS})")
    for name, arguments in cases.items():
        best = min(cpu_ms(arguments) for _ in range(RUNS))
        goal = GOALS_MS.get(name)
        print(f"{name:<24}{best:>8.0f}{goal if goal else '-':>8}")


if __name__ == "__main__":
    main()
