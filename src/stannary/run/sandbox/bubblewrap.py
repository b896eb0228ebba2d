"""The bubblewrap sandbox: no network, read-only root, nothing of the host but what a job needs.

The four traps of this tool, each with a test in tests/integration/sandbox:
1. `--clearenv` clears the job's environment, not bwrap's own, which the job reads as
   /proc/1/environ: bwrap is started with an empty one (process.py rule 1).
2. bwrap filters no system calls by itself: the filter of seccomp.py is handed in.
3. A network namespace does not cover AF_VSOCK: the filter refuses the family.
4. `--disable-userns` works only with `--unshare-user`; without it a job nests a namespace of its own.
   bwrap before 0.8.0 lacks the option; there the filter alone refuses every way to make one.

And three more found here:
5. An agent that runs as root leaves the job root's *user id*, and /proc/sys asks for the id, not for a
   capability: the job could write kernel.core_pattern and so run a program on the host. /proc is
   made read-only.
6. /dev and /dev/shm are RAM disks that bwrap leaves writable without a bound: /dev is made read-only
   and /dev/shm gets a size.
7. The command line is readable inside as /proc/1/cmdline and outside in `ps`: options travel in a
   file descriptor, so neither the host's paths nor the job's environment are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import marshal
import re
import shutil
import subprocess
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from stannary.border.paths import INTERPRETER
from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import machine, process, seccomp, unprivileged
from stannary.run.sandbox import system as systems
from stannary.run.sandbox.cgroup import Hierarchy
from stannary.run.sandbox.contract import Command, Mount
from stannary.run.sandbox.process import Sandbox, SandboxedProcess
from stannary.run.sandbox.system import System
from stannary.run.sandbox.unprivileged import Stage

JOB_UID = 65534
PLAN_VERSION = 4  # of marshal: the interpreter of a root may be another than ours
MASK_BYTES = str(256 * 1024)  # of a masked directory; but for one they stay empty
# What programs ask about themselves; all else in /proc is of the host's kernel and other people's work.
SHOWN_IN_PROC = frozenset({"mounts", "net", "self", "thread-self"})  # and what machine.py tells
PROBE_TIMEOUT_S = 20.0
DISABLE_USERNS_SINCE = (0, 8, 0)


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """bwrap with a system call filter, in a control group where there is one."""

    program: str
    version: tuple[int, ...]
    hierarchy: Hierarchy | None
    leaves_root: bool = True  # where the agent is root (unprivileged.py)

    def describe(self) -> str:
        """Name the parts in force."""
        version = ".".join(str(part) for part in self.version)
        root = "" if self.leaves_root else "+root"
        return f"bubblewrap-{version}+seccomp+{self.hierarchy.name if self.hierarchy else 'rlimits'}{root}"

    def start(self, command: Command) -> SandboxedProcess:
        """Start a command inside (contract.py: stay in the calling thread while it shall live)."""
        system = systems.of(command.root)
        wanted = with_system(command, system)
        with contextlib.ExitStack() as stack:
            stage = Stage(wanted.mounts)
            if self.leaves_root:
                stage = stack.enter_context(unprivileged.staged(wanted, leave=True))
            plan_file = stack.enter_context(process.as_file(marshal.dumps(inside_plan(command), PLAN_VERSION)))
            told = {
                path: stack.enter_context(process.as_file(data)).fileno()
                for path, data in machine.told_files(command.limits).items()
            }
            options = "\0".join(self._options(command, system, stage.mounts, told)) + "\0"
            options_file = stack.enter_context(process.as_file(options.encode()))
            inner = [*system.finisher, str(plan_file.fileno())]
            argv = [*stage.prefix, self.program, "--args", str(options_file.fileno()), "--", *inner]
            fds = (plan_file.fileno(), options_file.fileno(), *told.values(), *stage.fds())
            return process.start(argv, command, self.hierarchy, fds)

    def _options(
        self, command: Command, system: System, mounts: tuple[Mount, ...], told: Mapping[str, int]
    ) -> list[str]:
        limits = command.limits
        options = [*_root_options(system), "--proc", "/proc", *_proc_masks(told)]
        for path, fd in told.items():
            options += ["--perms", "0444", "--ro-bind-data", str(fd), path]
        options += ["--remount-ro", machine.MASKED_IN_PROC, "--remount-ro", "/proc", "--dev", "/dev"]
        options += ["--size", str(limits.shm_bytes), "--tmpfs", "/dev/shm"]  # noqa: S108 - inside the sandbox
        options += ["--remount-ro", "/dev", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp"]  # noqa: S108
        for mount in mounts:
            options += ["--ro-bind", str(mount.source), mount.target]
        options += ["--symlink", system.prefix, INTERPRETER]
        options += ["--unshare-all", "--unshare-user"]
        if self.version >= DISABLE_USERNS_SINCE:
            options.append("--disable-userns")
        options += ["--uid", str(JOB_UID), "--gid", str(JOB_UID), "--clearenv"]
        options += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
        for capability in ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP"):  # inside.py needs them and drops them
            options += ["--cap-add", capability]
        return [*options, "--chdir", "/", "--remount-ro", "/"]


def find(hierarchy: Hierarchy | None) -> Bubblewrap | None:
    """Return the sandbox if bwrap is here and really works here, else None."""
    program = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if program is None:
        return None
    asked = subprocess.run([program, "--version"], capture_output=True, env={}, check=False)  # noqa: S603
    match = re.search(rb"(\d+)\.(\d+)\.(\d+)", asked.stdout)
    if match is None:
        return None
    version = tuple(int(part) for part in match.groups())
    ways = (True, False) if unprivileged.is_needed() else (True,)
    made = (Bubblewrap(program, version, hierarchy, leaves_root) for leaves_root in ways)
    return next((sandbox for sandbox in made if works(sandbox)), None)


def with_system(command: Command, system: System) -> Command:
    """Return a command that also sees the system's mounts, with the interpreter that finishes its sandbox inside."""
    seen = {mount.target for mount in command.mounts}
    own = tuple(mount for mount in system.mounts if mount.target not in seen)
    return dataclasses.replace(command, mounts=(*own, *command.mounts))


def inside_plan(command: Command) -> dict[str, object]:
    """Return what inside.py does for a command."""
    return {
        "argv": list(command.argv),
        "environment": dict(command.environment),
        "workdir": command.workdir,
        "inherited_fds": list(command.inherited_fds),
        "filter": seccomp.program(seccomp.this_machine()),
        "uid": None,
    }


def works(sandbox: Sandbox) -> bool:
    """Start `true` inside: kernels and containers forbid user namespaces in more ways than can be asked."""
    try:
        with sandbox.start(Command(("/usr/bin/true",))) as running:
            return running.wait(PROBE_TIMEOUT_S) == 0
    except EnvironmentProblem:
        return False


def masked_in_proc(told: Container[str]) -> tuple[list[str], list[str]]:
    """Return the directories and the files of /proc that a job does not see, `told` being laid over their own."""
    hidden = [
        path
        for path in Path("/proc").iterdir()
        if not path.name.isdigit() and path.name not in SHOWN_IN_PROC and str(path) not in told
    ]
    directories = sorted(str(path) for path in hidden if path.is_dir())
    return directories, sorted(str(path) for path in hidden if not path.is_dir())


def _proc_masks(told: Container[str]) -> list[str]:
    directories, files = masked_in_proc(told)
    options: list[str] = []
    for name in directories:
        options += ["--size", MASK_BYTES, "--tmpfs", name]
        options += ["--remount-ro", name] if name != machine.MASKED_IN_PROC else []
    for name in files:
        options += ["--ro-bind", "/dev/null", name]  # bound without devices: opening it is refused
    return options


def _root_options(system: System) -> list[str]:
    options: list[str] = []
    for name in system.binds:
        options += ["--ro-bind", name, name]
    for name, target in system.links.items():
        options += ["--symlink", target, name]
    return options
