"""Run every file of bench/ in turn and print what each prints: `make bench`.

A file that fails is named at the end and makes the exit code 1.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run all, return the exit code."""
    failed = []
    for path in sorted(HERE.glob("*.py")):
        if path.name == Path(__file__).name or path.name.startswith("_"):
            continue
        print(f"\n== bench/{path.name}", flush=True)
        start = time.monotonic()
        if subprocess.run([sys.executable, str(path)], check=False).returncode != 0:
            failed.append(path.name)
        print(f"   ({time.monotonic() - start:.1f} s)", flush=True)
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
