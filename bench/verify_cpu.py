"""CPU time of verifying receipts offline, as a process of its own (goal: 300 ms in all, 150 ms beyond the start).

    python bench/verify_cpu.py

The receipts come from the in-memory world of the tests: about 100, 250 and 500 statements in evidence. Beside them a
bare interpreter, the imports alone, and as the floor the Ed25519 checks alone, which no verifier of that many
signatures can go below. Each figure is the smallest of several runs: noise of a busy machine only adds.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from verify.world import World  # noqa: E402  the path is made above

from stannary.verify import trust  # noqa: E402

RUNS = 5
IMPORTS = "from stannary.verify.receipt import verify_receipt; from stannary.verify import trust"
VERIFY = (
    f"import sys, pathlib; {IMPORTS}; "
    "report = verify_receipt(pathlib.Path(sys.argv[1]).read_bytes(),"
    " trust.parse(pathlib.Path(sys.argv[2]).read_text()), int(sys.argv[3])); sys.exit(report.exit_code)"
)
SIGNATURES = (
    "import sys; from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as K; "
    "k = K.generate(); s = k.sign(b'x'); p = k.public_key(); [p.verify(s, b'x') for _ in range(int(sys.argv[1]))]"
)


def cpu_ms(arguments: list[str]) -> float:
    """Return the least CPU milliseconds of a child process that must succeed."""
    best = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", *arguments], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return best


def main() -> None:
    """Print one line per case."""
    start = cpu_ms(["pass"])
    rows = [("interpreter alone", start), ("with imports", cpu_ms([IMPORTS]))]
    with tempfile.TemporaryDirectory() as directory:
        receipt, pins = Path(directory) / "job.receipt.json", Path(directory) / "trust.toml"
        for rounds in (2, 6, 13):
            world = World(rounds=rounds).play()
            receipt.write_bytes(world.receipt())
            pins.write_text(trust.serialise(world.trust()))
            count = len(world.entries)
            rows.append((f"{count} signatures alone", cpu_ms([SIGNATURES, str(count)])))
            size_kib = receipt.stat().st_size // 1024
            name = f"receipt of {count} ({size_kib} KiB)"
            rows.append((name, cpu_ms([VERIFY, str(receipt), str(pins), str(world.now)])))
    print(f"{'process':<32}{'CPU ms':>8}{'beyond start':>14}   ({os.cpu_count()} cores, best of {RUNS})")
    for name, value in rows:
        print(f"{name:<32}{value:>8.0f}{value - start:>14.0f}")


if __name__ == "__main__":
    main()
