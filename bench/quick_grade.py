"""The quick test of power: how far ten runs are apart, alone and beside another busy process, and what a look costs."""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from stannary import power
from stannary.formats import digest
from stannary.formats.ids import NodeId
from stannary.formats.shown import ShownPower
from stannary.rules import grade

RUNS = 10
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SPIN = "while True: pass"


def tested(processors: int) -> tuple[int, float, float]:
    """Return the grade that one test shows, how long it took in seconds, and the CPU-seconds of looking at it."""
    nonce = secrets.token_hex(32)
    words = [sys.executable, "-P", "-m", "stannary.power", nonce, str(processors), str(power.SECONDS)]
    start = time.monotonic()
    shown = subprocess.run(words, check=True, capture_output=True, env={**os.environ, **ONE_THREAD}).stdout
    took_s = time.monotonic() - start
    proof, start_cpu = power.parse(shown), time.process_time()
    assert power.why_false(proof, nonce) == ""
    looked_s = time.process_time() - start_cpu
    said = ShownPower(NodeId("n-0"), nonce, processors, proof.rounds, digest.digest(shown), 1, "2026-01-01T00:00:00Z")
    return grade.of_test(said, int(1000 * took_s)), took_s, looked_s


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Have so many other processes take a processor each as far as they get one."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for item in started:
            item.kill()
            item.wait()


def main() -> None:
    """Print a row for each load."""
    processors = len(os.sched_getaffinity(0))
    for others in (0, 1):
        with busy(others):
            found = [tested(processors) for _ in range(RUNS)]
        grades = sorted(ppm / 1e6 for ppm, _, _ in found)
        print(f"{processors} processors, {others} other busy processes, load {os.getloadavg()[0]:.1f}: grade "
              f"{grades[0]:.3f} to {grades[-1]:.3f}, median {statistics.median(grades):.3f} of {RUNS} runs; "
              f"{statistics.median(item[1] for item in found):.1f} s a test, "
              f"{statistics.median(item[2] for item in found):.2f} CPU-s to look at it")  # fmt: skip


if __name__ == "__main__":
    main()
