"""Kill a transfer at a random moment, and tell what it had finished."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stannary.seal.opening import DONE_FILE, RECORD

DEADLINE_S = 120.0


def finished_shards(folder: Path) -> int:
    """Count the shards an unfinished run has listed as done."""
    listed = [path.stat().st_size for path in folder.glob(f".*.partial/{DONE_FILE}")]
    return sum(listed) // RECORD.size


def kill_midway(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, *, share: float, total: int
) -> int:
    """Start a command, kill -9 it once it has done `share` of `total` shards; return how many it listed."""
    process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + DEADLINE_S
    while finished_shards(folder) < share * total:
        if process.poll() is not None:
            error = process.stderr.read().decode() if process.stderr else ""
            raise AssertionError(f"ended before it could be killed: {error}")
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return finished_shards(folder)


def random_shares(seed: int, count: int) -> list[float]:
    """Return growing random moments, as shares of the whole."""
    source = random.Random(seed)
    return sorted(source.uniform(0.1, 0.8) for _ in range(count))
