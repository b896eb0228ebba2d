"""A job never has root's user id, also where the agent is root: how each sandbox is told to leave it.

An agent that is no root has nothing to leave: its sandbox maps the job to the agent's own user. For one
that is, stage.py runs before the sandbox program, shows the job's files where another user reaches
them, and becomes that user. Where the kernel does not let other users make sandboxes, `find` of each
back end falls to one that keeps root's id; it says `+root`, and shared markets refuse it.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import process
from stannary.run.sandbox.contract import Command, Mount

# Between the ranges systemd gives to containers (to 0x6fffffff) and to foreign images (from 0x7ffe0000): systemd's
# "Users, Groups, UIDs and GIDs". A process number is below 2^22 (proc(5), pid_max).
FIRST_UID = 0x70000000
NOBODY = 65534  # where a container maps no such user
STAGE = Path(__file__).with_name("stage.py")
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp")  # noqa: S108 - covered by a tmpfs of our own


@dataclass(frozen=True, slots=True)
class Stage:
    """What the sandbox program is given instead of the command's own mounts, and how it is started."""

    mounts: tuple[Mount, ...]
    prefix: tuple[str, ...] = ()
    plan_fd: int = -1

    def fds(self) -> tuple[int, ...]:
        """Return the descriptors the stage itself needs."""
        return (self.plan_fd,) if self.prefix else ()


def is_needed() -> bool:
    """Say whether the agent has an id that a job must not have."""
    return os.geteuid() == 0


@contextlib.contextmanager
def staged(command: Command, *, leave: bool) -> Iterator[Stage]:
    """Give the stage of a command; without need of one, its own mounts.

    Args:
        command: for its mounts and pipes.
        leave: become the job's user at once; else the program is told the user in place of `{uid}`.
    """
    if not is_needed():
        yield Stage(command.mounts)
        return
    place = find_place(mount.source for mount in command.mounts)
    shown = tuple(replace(mount, source=place / str(index)) for index, mount in enumerate(command.mounts))
    plan = {
        "place": str(place),
        "mounts": [[str(mount.source), str(there.source)] for mount, there in zip(command.mounts, shown, strict=True)],
        "inherited_fds": list(command.inherited_fds),
        "first_uid": FIRST_UID,
        "nobody": NOBODY,
        "leave": leave,
    }
    with process.as_file(marshal.dumps(plan)) as file:
        yield Stage(shown, (sys.executable, "-I", "-S", str(STAGE), str(file.fileno())), file.fileno())


def find_place(sources: Iterable[Path]) -> Path:
    """Return a directory whose covering hides nothing that is to be shown.

    Raises:
        EnvironmentProblem: there is none.
    """
    shown = list(sources)
    for name in _PLACES:
        if Path(name).is_dir() and not any(source.is_relative_to(name) for source in shown):
            return Path(name)
    raise EnvironmentProblem("no directory to show a job's files in", why=", ".join(_PLACES), hint="mkdir /mnt")
