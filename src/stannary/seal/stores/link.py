"""What the link is worth: congestion control of our own sockets, and whether coding pays.

BBR is set on the *sender's* socket only, where the kernel has it: a loss-based sender takes each lost
packet for a full link, and on a far one that loses 1 % gets a small part of it.
A kernel without it keeps its default; nothing depends on it but speed.

Coding pays when the whole of it is sooner done: size/coder + coded/link < size/link.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CONGESTION = b"bbr"
WEIGHT = 0.25  # of the newest transfer in the moving average


def prefer_bbr(sock: socket.socket) -> bool:
    """Ask for BBR on a sending socket; tell whether the kernel has it."""
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, CONGESTION)
    except OSError:
        return False  # not built, not loaded or not permitted: the default stays
    return True


def coding_pays(link_bytes_per_s: float, coder_bytes_per_s: float, ratio: float) -> bool:
    """Tell whether coding to `ratio` of the size is sooner done than sending raw."""
    if link_bytes_per_s <= 0 or coder_bytes_per_s <= 0:
        return False
    return 1 / coder_bytes_per_s + ratio / link_bytes_per_s < 1 / link_bytes_per_s


@dataclass(slots=True)
class Coding:
    """One measured run of the coder."""

    coded_bytes: int = 0


class LinkMeter:
    """Moving averages of how fast the store takes bytes and the coder makes them. Thread safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._link: float | None = None
        self._coder: float | None = None
        self._ratio = 0.68  # of bf16 weights, until measured

    @contextmanager
    def putting(self, num_bytes: int) -> Iterator[None]:
        """Measure one put."""
        began = self._clock()
        yield
        rate = num_bytes / max(self._clock() - began, 1e-9)
        with self._lock:
            self._link = rate if self._link is None else (1 - WEIGHT) * self._link + WEIGHT * rate

    @contextmanager
    def coding(self, num_bytes: int) -> Iterator[Coding]:
        """Measure one run of the coder; the caller fills in what came out."""
        result = Coding()
        began = self._clock()
        yield result
        rate = num_bytes / max(self._clock() - began, 1e-9)
        with self._lock:
            self._coder = rate if self._coder is None else (1 - WEIGHT) * self._coder + WEIGHT * rate
            self._ratio = (1 - WEIGHT) * self._ratio + WEIGHT * result.coded_bytes / num_bytes

    def coder_pays(self) -> bool:
        """Tell whether the next shard should be coded. Before the first put: no; before the first run: try."""
        with self._lock:
            if self._link is None:
                return False
            if self._coder is None:
                return True
            return coding_pays(self._link, self._coder, self._ratio)
