"""Memory and disk passes: how fast bytes move, by the node's own clock.

They read back what they wrote (a keystream nobody can guess before the challenge), so a node cannot
skip the writing; how long it took is its own word, and the grade says so.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stannary.certify.grade import matrix
from stannary.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.formats.canonical import Json

MEMORY_BYTES = 256 << 20  # far above every last-level cache short of the largest servers'
DISK_BYTES = 128 << 20
_CHUNK_BYTES = 8 << 20
_MEMORY_ROUNDS = 5


def memory_mb_per_s(anchor: bytes, *, size: int = MEMORY_BYTES, clock: Callable[[], float] = time.monotonic) -> int:
    """Return the lowest of five copy rates (bytes read plus written), MB/s."""
    chunk = np.frombuffer(
        matrix.keystream(matrix.derive("memory", anchor), 0, min(size, _CHUNK_BYTES)), dtype=np.uint64
    )
    source = np.tile(chunk, max(1, size // chunk.nbytes))
    target = np.zeros_like(source)
    rates = []
    for _ in range(_MEMORY_ROUNDS):
        start = clock()
        np.copyto(target, source)
        rates.append(2 * source.nbytes / max(clock() - start, 1e-6))
        source, target = target, source
    return int(min(rates) / 1e6)


def disk_mb_per_s(
    anchor: bytes, folder: Path | None = None, *, size: int = DISK_BYTES, clock: Callable[[], float] = time.monotonic
) -> int:
    """Return the lower of write-with-fsync and read rates, MB/s."""
    data = matrix.keystream(matrix.derive("disk", anchor), 0, size)
    expected = hashlib.blake2b(data).digest()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as stream:
            start = clock()
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            wrote_s = max(clock() - start, 1e-6)
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else memory answers, not the disk
            stream.seek(0)
            start = clock()
            back = stream.read()
            read_s = max(clock() - start, 1e-6)
    except OSError as err:
        raise EnvironmentProblem("the disk pass did not run", why=str(err), hint="free 128 MiB in TMPDIR") from err
    if hashlib.blake2b(back).digest() != expected:
        raise EnvironmentProblem(
            "the disk returned other bytes than were written", why=f"{folder or Path(tempfile.gettempdir())}"
        )
    return int(size / max(wrote_s, read_s) / 1e6)


def run(anchor: bytes, folder: Path | None = None) -> dict[str, Json]:
    """Run both passes."""
    return {"memory_mb_per_s": memory_mb_per_s(anchor), "disk_mb_per_s": disk_mb_per_s(anchor, folder)}
