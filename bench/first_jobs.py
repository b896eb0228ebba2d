"""Wall time and six-part time split of the two jobs a user meets first: hello and the demo.

Prints, for `stannary run --example hello` (cold: market, nodes and torch start inside the measured time)
and for examples/demo/run.py, the wall seconds, the goal, and the line that says where the paid time went.
Both start from an empty home. n = 1 each: they are minutes, not micro-benchmarks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELLO_GOAL_S = 60
DEMO_GOAL_S = 180


def main() -> int:
    """Run both jobs and print a row each."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first")
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        stannary = [sys.executable, "-m", "stannary"]
        good = row("hello", HELLO_GOAL_S, [*stannary, "run", "--example", "hello"], home)
        subprocess.run([*stannary, "market", "stop"], env=environment(home), capture_output=True, check=False)
        good = row("demo", DEMO_GOAL_S, [sys.executable, str(ROOT / "examples" / "demo" / "run.py")], home) and good
    return 0 if good else 1


def row(name: str, goal_s: int, command: list[str], home: Path) -> bool:
    """Run one job and print its row; tell whether it ended verified."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    wall_s = time.monotonic() - start
    split = [line for line in done.stdout.splitlines() if line.startswith("useful ")]
    verdict = (done.stdout.splitlines() or ["no result"])[0]
    print(f"{name:<6} {wall_s:6.1f} s  (goal {goal_s} s)  {verdict}")
    print(f"       {split[0] if split else done.stderr[-400:]}", flush=True)
    return done.returncode == 0


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user with an empty home."""
    own = {"STANNARY_CONFIG_DIR": str(home / "config"), "STANNARY_DATA_DIR": str(home / "data"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


if __name__ == "__main__":
    sys.exit(main())
