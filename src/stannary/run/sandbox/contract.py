"""What every sandbox promises, whatever stands behind it.

A job inside sees: a read-only root made of the system's `/usr`, or of a root file system unpacked here
(system.py), the mounts it was given, a fresh `/proc`, a `/dev` of harmless devices, `/tmp` and `/dev/shm`
of a fixed size, and no network. It has no capabilities, cannot get any, and its environment is exactly
`Command.environment`. Everything it starts dies with it, with the agent, and at `kill()`, daemons included.

The one who starts it must live in the thread that called `start` for as long as the job shall live:
the kernel ties a child's death to the *thread* that forked it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]  # this copy of ours

DEFAULT_MEMORY_BYTES = 1024**3
DEFAULT_TMP_BYTES = 64 * 1024**2
DEFAULT_PIDS = 128
DEFAULT_OPEN_FILES = 1024
DEFAULT_SHM_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use of the machine."""

    memory_bytes: int = DEFAULT_MEMORY_BYTES  # resident, page cache of /tmp and swap together
    cpu_millis: int = 1000  # thousandths of a processor
    pids: int = DEFAULT_PIDS
    tmp_bytes: int = DEFAULT_TMP_BYTES
    shm_bytes: int = DEFAULT_SHM_BYTES
    open_files: int = DEFAULT_OPEN_FILES


@dataclass(frozen=True, slots=True)
class Mount:
    """A host directory or file shown read-only inside."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Command:
    """What to run inside, and with what."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    workdir: str = "/tmp"  # noqa: S108 - a path inside the sandbox, where /tmp is the job's own
    limits: Limits = Limits()
    inherited_fds: tuple[int, ...] = ()  # inside they are 3, 4, ... in this order
    root: Path | None = None  # an unpacked root file system, in place of the host's own


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job used so far, as far as this machine can tell."""

    cpu_ms: int
    peak_memory_bytes: int
    num_oom_kills: int


def own_path(*more: str) -> dict[str, str]:
    """Return the PYTHONPATH of a process of ours, `more` behind this copy of our package where it needs saying.

    A copy that was itself found by PYTHONPATH is not the one a bare interpreter finds: two would speak to each other.
    """
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [str(PACKAGE.parent)] if any(Path(item).resolve() == PACKAGE.parent for item in listed if item) else []
    path = os.pathsep.join([*own, *filter(None, more)])
    return {"PYTHONPATH": path} if path else {}
