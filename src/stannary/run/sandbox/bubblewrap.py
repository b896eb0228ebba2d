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

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import process, seccomp
from stannary.run.sandbox.cgroup import Hierarchy
from stannary.run.sandbox.contract import INTERPRETER, Command, Mount
from stannary.run.sandbox.process import SandboxedProcess

JOB_UID = 65534
HOSTNAME = "job"
PROBE_TIMEOUT_S = 20.0
DISABLE_USERNS_SINCE = (0, 8, 0)
_ROOT_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ROOT_FILES = ("/etc/ld.so.cache", "/etc/alternatives")  # where shared libraries and system commands are found


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """bwrap with a system call filter, in a control group where there is one."""

    program: str
    version: tuple[int, ...]
    hierarchy: Hierarchy | None

    def describe(self) -> str:
        """Name the parts in force."""
        version = ".".join(str(part) for part in self.version)
        return f"bubblewrap-{version}+seccomp+{self.hierarchy.name if self.hierarchy else 'rlimits'}"

    def start(self, command: Command) -> SandboxedProcess:
        """Start a command inside (contract.py: stay in the calling thread while it shall live)."""
        with process.as_file(seccomp.program(seccomp.this_machine())) as filter_file:
            options = "\0".join(self._options(command, filter_file.fileno())) + "\0"
            with process.as_file(options.encode()) as options_file:
                argv = [self.program, "--args", str(options_file.fileno()), "--", *command.argv]
                fds = (filter_file.fileno(), options_file.fileno())
                return process.start(argv, command, self.hierarchy, fds)

    def _options(self, command: Command, filter_fd: int) -> list[str]:
        limits = command.limits
        options = [*_root_options(), "--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
        options += ["--size", str(limits.shm_bytes), "--tmpfs", "/dev/shm"]  # noqa: S108 - inside the sandbox
        options += ["--remount-ro", "/dev", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp"]  # noqa: S108
        for mount in command.mounts:
            options += ["--ro-bind", str(mount.source), mount.target]
        options += ["--symlink", str(Path(sys.prefix).resolve()), INTERPRETER]
        options += ["--unshare-all", "--unshare-user"]
        if self.version >= DISABLE_USERNS_SINCE:
            options.append("--disable-userns")
        options += ["--uid", str(JOB_UID), "--gid", str(JOB_UID), "--hostname", HOSTNAME, "--clearenv"]
        for name, value in sorted(command.environment.items()):
            options += ["--setenv", name, value]
        options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--chdir", command.workdir]
        return [*options, "--remount-ro", "/", "--seccomp", str(filter_fd)]


def find(hierarchy: Hierarchy | None) -> Bubblewrap | None:
    """Return the sandbox if bwrap is here and really works here, else None."""
    program = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if program is None:
        return None
    asked = subprocess.run([program, "--version"], capture_output=True, env={}, check=False)  # noqa: S603
    match = re.search(rb"(\d+)\.(\d+)\.(\d+)", asked.stdout)
    if match is None:
        return None
    found = Bubblewrap(program, tuple(int(part) for part in match.groups()), hierarchy)
    return found if _works(found) else None


def interpreter_mounts() -> tuple[Mount, ...]:
    """Return what Python itself needs inside, at the paths it has outside.

    The interpreter's prefixes and our own package, and nothing around them: the directory an editable
    installation lies in may hold anything.
    """
    package = Path(__file__).resolve().parents[2]
    wanted = (Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent, package)
    outside: list[Path] = []
    for path in sorted({path.resolve() for path in wanted}):
        if not any(path.is_relative_to(parent) for parent in (Path("/usr"), *outside)):
            outside.append(path)
    return tuple(Mount(path, str(path)) for path in outside)


def _works(sandbox: Bubblewrap) -> bool:
    """Start `true` inside: kernels and containers forbid user namespaces in more ways than can be asked."""
    try:
        with sandbox.start(Command(("/usr/bin/true",))) as running:
            return running.wait(PROBE_TIMEOUT_S) == 0
    except EnvironmentProblem:
        return False


def _root_options() -> list[str]:
    """Show /usr and the old names that lead into it; nothing of /etc but how to find libraries."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_LINKS:
        path = Path(name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            options += ["--ro-bind", name, name]
    for name in _ROOT_FILES:
        options += ["--ro-bind-try", name, name]
    return options
