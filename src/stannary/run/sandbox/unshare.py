"""The fallback sandbox of a private market: namespaces and a root of our own, Landlock, seccomp.

It shows a job the same paths as bubblewrap does. It is weaker: written in Python, younger, and never
reviewed by as many; so it is printed, recorded in every contribution, and refused by shared markets.

The parts inside are in confinement.py, which runs as the first process of the sandbox.
"""

from __future__ import annotations

import contextlib
import marshal
import sys
from dataclasses import dataclass

from stannary.border import landlock
from stannary.border.paths import INTERPRETER
from stannary.run.sandbox import machine, process, unprivileged
from stannary.run.sandbox import system as systems
from stannary.run.sandbox.bubblewrap import inside_plan, masked_in_proc, with_system, works
from stannary.run.sandbox.cgroup import Hierarchy
from stannary.run.sandbox.contract import Command, Mount, own_path
from stannary.run.sandbox.process import SandboxedProcess
from stannary.run.sandbox.system import System
from stannary.run.sandbox.unprivileged import Stage

# `python -m`, but from this copy of our package; -I drops PYTHONPATH.
CONFINE = (
    "import runpy, sys; sys.path[:0] = [sys.argv.pop(1)] if sys.argv[1].startswith('/') else []; "
    "runpy.run_module('stannary.run.sandbox.confinement', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True, slots=True)
class Unshare:
    """Namespaces of our own, in a control group where there is one."""

    landlock_abi: int
    hierarchy: Hierarchy | None
    leaves_root: bool = True  # where the agent is root (unprivileged.py)

    def describe(self) -> str:
        """Name the parts in force."""
        fence = f"+landlock{self.landlock_abi}" if self.landlock_abi else ""
        root = "" if self.leaves_root else "+root"
        return f"unshare{fence}+seccomp+{self.hierarchy.name if self.hierarchy else 'rlimits'}{root}"

    def start(self, command: Command) -> SandboxedProcess:
        """Start a command inside (contract.py: stay in the calling thread while it shall live)."""
        system = systems.of(command.root)
        wanted = with_system(command, system)
        with contextlib.ExitStack() as stack:
            stage = Stage(wanted.mounts)
            if self.leaves_root:
                stage = stack.enter_context(unprivileged.staged(wanted, leave=False))
            plan = stack.enter_context(process.as_file(marshal.dumps(self._plan(wanted, system, stage.mounts))))
            argv = [*stage.prefix, sys.executable, "-I", "-c", CONFINE, *own_path().values(), str(plan.fileno())]
            if stage.prefix:
                argv.append("{uid}")
            return process.start(argv, command, self.hierarchy, (plan.fileno(), *stage.fds()))

    def _plan(self, command: Command, system: System, mounts: tuple[Mount, ...]) -> dict[str, object]:
        told = machine.told_files(command.limits)
        directories, files = masked_in_proc(told)
        place = unprivileged.find_place(mount.source for mount in mounts)
        return {
            **inside_plan(command),
            "mounts": [[str(mount.source), mount.target] for mount in mounts],
            "place": str(place),
            "masked_directories": directories,
            "masked_files": files,
            "told": dict(told),
            "links": {**system.links, INTERPRETER: system.prefix},
            "binds": list(system.binds),
            "tmp_bytes": command.limits.tmp_bytes,
            "shm_bytes": command.limits.shm_bytes,
            "landlock": self.landlock_abi > 0,
        }


def find(hierarchy: Hierarchy | None) -> Unshare | None:
    """Return the sandbox if the kernel lets us make namespaces, else None."""
    ways = (True, False) if unprivileged.is_needed() else (True,)
    made = (Unshare(landlock.abi(), hierarchy, leaves_root) for leaves_root in ways)
    return next((sandbox for sandbox in made if works(sandbox)), None)
