"""What it costs to start `true` in each sandbox and to end it again.

    python bench/sandbox_start.py [N]

CPU time is the control group's, of everything from the shell that enters it to the job itself; it is the figure to
compare. Wall time is best of N too: noise of a busy machine only adds. Beside them a bare interpreter, of which a
sandbox starts one inside and, under a root agent, one outside.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.contract import Command
from stannary.run.sandbox.process import Sandbox

RUNS = 30
TRUE = "/usr/bin/true"


def start_ms(sandbox: Sandbox) -> tuple[float, float]:
    """Return (CPU, wall) milliseconds of one sandbox."""
    began = time.monotonic()
    with sandbox.start(Command((TRUE,))) as running:
        if running.wait(60) != 0:
            raise SystemExit(f"{sandbox.describe()} does not work: {running.stderr.read().decode()}")
        used = running.close()
    return used.cpu_ms, 1000 * (time.monotonic() - began)


def bare_ms() -> tuple[float, float]:
    """Return the same of an interpreter that does nothing."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], env={}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * cpu_s, 1000 * (time.monotonic() - began)


def main() -> None:
    """Print one line per sandbox."""
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    hierarchy = cgroup.find()
    cases: dict[str, Callable[[], tuple[float, float]]] = {"python -I -S -c pass": bare_ms}
    for sandbox in (bubblewrap.find(hierarchy), unshare.find(hierarchy)):
        if sandbox is not None:
            cases[sandbox.describe()] = lambda found=sandbox: start_ms(found)  # type: ignore[misc]
    print(f"{'start and end of true':<44}{'CPU ms, best':>14}{'median':>8}{'wall ms, best':>15}{'median':>8}")
    for name, measure in cases.items():
        cpu, wall = zip(*(measure() for _ in range(num_runs)), strict=True)
        print(f"{name:<44}{min(cpu):>14.0f}{statistics.median(cpu):>8.0f}{min(wall):>15.0f}"
              f"{statistics.median(wall):>8.0f}")  # fmt: skip
    print(f"n = {num_runs}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, user {os.geteuid()}")


if __name__ == "__main__":
    main()
