"""A lossy wide-area link between two network namespaces, in user space: rate, delay, loss, a finite queue.

Each namespace gets one end of a TUN pair; this process carries packets between them on a schedule. It is
the link of which the published figures speak: `WanLink(rate, delay, loss)`, both ways alike, losses seeded.
Needs root on Linux. Run as a program it is the relay: `wan.py FD FD RATE DELAY LOSS`.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from types import TracebackType

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
QUEUE_S = 0.2  # tail drop: a packet that would wait longer is lost
BATCH = 64
A_ADDRESS, B_ADDRESS = "10.77.0.1", "10.77.0.2"


class WanLink:
    """Namespaces A and B with a link between them, for the time of a `with`."""

    def __init__(self, *, rate_bits: int = 200_000_000, delay_s: float = 0.05, loss: float = 0.01) -> None:
        self._settings = (str(rate_bits), str(delay_s), str(loss))
        tag = f"{os.getpid() % 100_000:05d}"
        self._names = (f"wa{tag}", f"wb{tag}")
        self._relay: subprocess.Popen[bytes] | None = None

    @property
    def a(self) -> tuple[str, ...]:
        """Command prefix that runs a program at the A end."""
        return ("ip", "netns", "exec", self._names[0])

    @property
    def b(self) -> tuple[str, ...]:
        """Command prefix that runs a program at the B end."""
        return ("ip", "netns", "exec", self._names[1])

    def __enter__(self) -> WanLink:
        ends = [self._make_end(name) for name in self._names]
        addresses = [(A_ADDRESS, B_ADDRESS), (B_ADDRESS, A_ADDRESS)]
        for name, (own, peer) in zip(self._names, addresses, strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", own, "peer", peer, "dev", name)
            _ip("-n", name, "link", "set", name, "mtu", "1500", "txqueuelen", "10000", "up")
        command = [sys.executable, __file__, *map(str, ends), *self._settings]
        self._relay = subprocess.Popen(command, pass_fds=ends)
        for end in ends:
            os.close(end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is not None:
            self._relay.terminate()
            self._relay.wait()
        for name in self._names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def _make_end(self, name: str) -> int:
        _ip("netns", "add", name)
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
        _ip("link", "set", name, "netns", name)
        return descriptor


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def relay(ends: tuple[int, int], rate_bits: float, delay_s: float, loss: float) -> None:
    """Carry packets until terminated."""
    source = random.Random(7)
    seconds_per_byte = 8 / rate_bits
    queues: tuple[collections.deque[tuple[float, bytes]], ...] = (collections.deque(), collections.deque())
    free = [0.0, 0.0]
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    while True:
        now = time.monotonic()
        for direction in (0, 1):
            queue, target = queues[direction], ends[1 - direction]
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):
                    os.write(target, queue.popleft()[1])
        due = min((queue[0][0] for queue in queues if queue), default=now + 1.0)
        for descriptor, _ in poll.poll(max(0.0, (due - time.monotonic()) * 1000)):
            direction = ends.index(descriptor)
            for _ in range(BATCH):
                try:
                    packet = os.read(descriptor, 65536)
                except OSError as err:
                    if err.errno == errno.EAGAIN:
                        break
                    raise
                now = time.monotonic()
                start = max(free[direction], now)
                if source.random() < loss or start - now > QUEUE_S:
                    continue
                free[direction] = start + len(packet) * seconds_per_byte
                queues[direction].append((free[direction] + delay_s, packet))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    relay((int(sys.argv[1]), int(sys.argv[2])), float(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
