"""CPU time of a process that gets ready to train: `python -m stannary.train.engine` pins itself and prints its class.

    python bench/engine_cpu.py [N]

A worker does this once, and the check before pay once more in a second process. Beside it torch alone, and torch told
by its own call to be deterministic, which imports its compiler. Byte code is kept in a folder of this run, filled
first; `without` is the same where none may be kept, as in images that forbid it: each process compiles what it imports.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile

RUNS = 5
CASES = {
    "import torch": ["-c", "import torch"],
    "  and its own call": ["-c", "import torch; torch.use_deterministic_algorithms(True)"],
    "train.engine": ["-m", "stannary.train.engine"],
}


def cpu_s(arguments: list[str], environment: dict[str, str]) -> float:
    """Return the CPU seconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line per case."""
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    print(f"{'CPU s':<22}{'best':>6}{'median':>8}{'without: best':>15}{'median':>8}")
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as empty:
        warm = {**plain, "PYTHONPYCACHEPREFIX": kept}
        cold = {**plain, "PYTHONPYCACHEPREFIX": empty, "PYTHONDONTWRITEBYTECODE": "1"}
        for name, arguments in CASES.items():
            cpu_s(arguments, warm)
            with_code, without = ([cpu_s(arguments, one) for _ in range(num_runs)] for one in (warm, cold))
            print(f"{name:<22}{min(with_code):>6.1f}{statistics.median(with_code):>8.1f}"
                  f"{min(without):>15.1f}{statistics.median(without):>8.1f}", flush=True)  # fmt: skip
    print(f"n = {num_runs}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
