"""A line that counts bytes, for transfers. Thread safe; prints nothing outside a terminal."""

from __future__ import annotations

import threading
import time

from stannary.cli.output import Output

REDRAW_S = 0.2


class ByteProgress:
    """Call it with the bytes just done."""

    def __init__(self, out: Output, verb: str, total_bytes: int | None = None) -> None:
        self._out = out
        self._verb = verb
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._began = time.monotonic()
        self._drawn = 0.0
        self._lock = threading.Lock()

    def __call__(self, num_bytes: int) -> None:
        """Count bytes and redraw the line now and then."""
        with self._lock:
            self._done_bytes += num_bytes
            now = time.monotonic()
            if now - self._drawn < REDRAW_S:
                return
            self._drawn = now
            rate = self._done_bytes / max(now - self._began, 1e-3) / 1e6
            whole = f" of {self._total_bytes / 1e6:,.0f}" if self._total_bytes else ""
            self._out.status(f"{self._verb} {self._done_bytes / 1e6:,.0f}{whole} MB, {rate:,.0f} MB/s")
