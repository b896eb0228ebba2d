"""`make fuzz`: atheris over every parser, or a plain mutation loop where atheris is not installed.

python -m tests.fuzz.fuzz [SECONDS] [TARGET]    default 600 seconds over all targets
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import SEEDS, TARGETS

from stannary.errors import StannaryError


def one(name: str, data: bytes) -> None:
    """Run one target; anything but our errors is a finding and ends the run."""
    try:
        TARGETS[name](data)
    except StannaryError:
        return


def mutate(generator: random.Random, seed: bytes) -> bytes:
    """Change, cut, repeat or splice a seed."""
    blob = bytearray(seed or b"\0")
    for _ in range(generator.randint(1, 8)):
        place = generator.randrange(len(blob))
        action = generator.randrange(5)
        if action == 0:
            blob[place] ^= 1 << generator.randrange(8)
        elif action == 1:
            blob[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif action == 2 and len(blob) > 1:
            del blob[place : place + generator.randint(1, 8)]
        elif action == 3:
            blob[place:place] = blob[place : place + generator.randint(1, 16)]
        else:
            blob[place:place] = generator.randbytes(generator.randint(1, 4))
        blob = blob or bytearray(b"\0")
    return bytes(blob)


def plain(seconds: float, names: list[str]) -> None:
    """Mutate seeds until the time is over."""
    generator, end, runs = random.Random(time.time_ns()), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for name in names:
            seed = SEEDS.get(name, b"")
            one(name, mutate(generator, seed) if seed else generator.randbytes(generator.randint(0, 300)))
            runs += 1
    print(f"{runs:,} runs over {len(names)} parsers, nothing but our errors")


def main() -> None:
    """Fuzz."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    names = sys.argv[2:] or sorted(TARGETS)
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: mutation loop without coverage feedback", file=sys.stderr)
        plain(seconds, names)
        return

    def target(data: bytes) -> None:
        if data:
            one(names[data[0] % len(names)], data[1:])

    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for index, name in enumerate(names):
            if name in SEEDS:
                (Path(corpus) / name).write_bytes(bytes([index]) + SEEDS[name])
        limits = [f"-max_total_time={int(seconds)}", "-max_len=8192", "-timeout=20"]
        atheris.Setup([sys.argv[0], *limits, corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
