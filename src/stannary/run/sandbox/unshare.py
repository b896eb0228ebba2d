"""The fallback sandbox of a private market: namespaces and a root of our own, Landlock, seccomp.

It shows a job the same paths as bubblewrap does. It is weaker: written in Python, younger, and never
reviewed by as many; so it is printed, recorded in every contribution, and refused by shared markets.

The parts inside are in confinement.py, which runs as the first process of the sandbox.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import landlock, process
from stannary.run.sandbox.bubblewrap import interpreter_mounts
from stannary.run.sandbox.cgroup import Hierarchy
from stannary.run.sandbox.contract import Command
from stannary.run.sandbox.process import SandboxedProcess

PROBE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Unshare:
    """Namespaces of our own, in a control group where there is one."""

    landlock_abi: int
    hierarchy: Hierarchy | None

    def describe(self) -> str:
        """Name the parts in force."""
        fence = f"+landlock{self.landlock_abi}" if self.landlock_abi else ""
        return f"unshare{fence}+seccomp+{self.hierarchy.name if self.hierarchy else 'rlimits'}"

    def start(self, command: Command) -> SandboxedProcess:
        """Start a command inside (contract.py: stay in the calling thread while it shall live)."""
        with process.as_file(json.dumps(self._plan(command)).encode()) as plan:
            module = "stannary.run.sandbox.confinement"
            argv = [sys.executable, "-I", "-m", module, str(plan.fileno())]
            return process.start(argv, command, self.hierarchy, (plan.fileno(),))

    def _plan(self, command: Command) -> dict[str, object]:
        return {
            "argv": list(command.argv),
            "environment": dict(command.environment),
            "mounts": [[str(mount.source), mount.target] for mount in command.mounts],
            "interpreter": str(Path(sys.prefix).resolve()),
            "workdir": command.workdir,
            "tmp_bytes": command.limits.tmp_bytes,
            "shm_bytes": command.limits.shm_bytes,
            "inherited_fds": list(command.inherited_fds),
            "landlock": self.landlock_abi > 0,
        }


def find(hierarchy: Hierarchy | None) -> Unshare | None:
    """Return the sandbox if the kernel lets us make namespaces, else None."""
    found = Unshare(landlock.abi(), hierarchy)
    try:
        with found.start(Command(("/usr/bin/true",), mounts=interpreter_mounts())) as running:
            return found if running.wait(PROBE_TIMEOUT_S) == 0 else None
    except EnvironmentProblem:
        return None
