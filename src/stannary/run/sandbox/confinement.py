"""The first process of the fallback sandbox: makes the namespaces and the root, then runs the job.

    python -m stannary.run.sandbox.confinement PLAN_FD        (started by unshare.py, empty environment)

Order matters and is the security of it:
1. New user, mount, PID, network, IPC, UTS and cgroup namespaces; one user id is mapped, groups denied.
2. In the new PID namespace this process is number 1: when it ends, everything ends. It dies with the
   agent (PR_SET_PDEATHSIG) and reaps what the job leaves.
3. A root of tmpfs with read-only binds, a fresh read-only /proc, a /dev of harmless devices, /tmp of a
   fixed size; pivot_root, and the old root is gone.
4. In the child that becomes the job: a session of its own, every capability dropped, Landlock, no new
   privileges, the system call filter, exec.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stannary.run.sandbox import landlock, seccomp
from stannary.run.sandbox.contract import INTERPRETER

_NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x02000000, 0x04000000, 0x08000000
_NEW_NS, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_FLAGS = _NEW_NS | _NEW_USER | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_CGROUP

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_NUM_CAPABILITIES = 64
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

JOB_ID = 65534
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOT_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ROOT_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp")  # noqa: S108 - covered by our own tmpfs first
_EXIT_SETUP_FAILED = 125

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan_fd: int) -> int:
    """Set everything up and return the job's exit code."""
    with os.fdopen(plan_fd, "rb") as file:
        plan = json.loads(file.read())
    _call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the agent")
    uid, gid = os.geteuid(), os.getegid()
    _call(_libc.unshare(_FLAGS), "new namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{JOB_ID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{JOB_ID} {gid} 1")
    first = os.fork()
    if first != 0:
        return _exit_code(os.waitpid(first, 0)[1])
    _call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the agent")
    _make_root(plan)
    job = os.fork()
    if job == 0:
        _become(plan)
    while True:  # as process 1: adopt and reap what the job leaves, end when the job itself ends
        pid, status = os.wait()
        if pid == job:
            return _exit_code(status)


def _make_root(plan: dict[str, Any]) -> None:
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")
    root = _place([source for source, _ in plan["mounts"]])
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    _bind("/usr", root / "usr")
    for name in _ROOT_LINKS:
        if Path(name).is_symlink():
            (root / name.lstrip("/")).symlink_to(Path(name).readlink())
        elif Path(name).is_dir():
            _bind(name, root / name.lstrip("/"))
    for name in _ROOT_FILES:
        if Path(name).exists():
            _bind(name, root / name.lstrip("/"))
    # /tmp before the mounts: an interpreter or checkout below the host's /tmp is shown inside ours.
    _make_directory(root / "tmp")
    _mount("tmpfs", str(root / "tmp"), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={plan['tmp_bytes']},mode=0700")
    for source, target in plan["mounts"]:
        _bind(source, root / target.lstrip("/"))
    _make_devices(root, plan["shm_bytes"])
    _make_directory(root / "proc")
    _mount("proc", str(root / "proc"), "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY, "")
    (root / INTERPRETER.lstrip("/")).symlink_to(plan["interpreter"])
    _make_directory(root / ".old")
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    _call(_libc.syscall(number, b".", b".old"), "pivot_root")
    os.chdir("/")
    _call(_libc.umount2(b"/.old", _MNT_DETACH), "leave the old root")
    Path("/.old").rmdir()
    _mount("none", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "")


def _place(sources: list[str]) -> Path:
    """Return a directory to build the root on: covering it must not cover what is to be bound."""
    for name in _PLACES:
        if Path(name).is_dir() and not any(Path(source).is_relative_to(name) for source in sources):
            return Path(name)
    sys.stderr.write("sandbox: no directory to build a root on\n")
    os._exit(_EXIT_SETUP_FAILED)


def _make_devices(root: Path, shm_bytes: int) -> None:
    _make_directory(root / "dev")
    _mount("tmpfs", str(root / "dev"), "tmpfs", _MS_NOSUID, "size=64k,mode=0755")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", str(root / "dev" / name), "", _MS_BIND, "")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / name).symlink_to(f"/proc/self/{target}")
    _make_directory(root / "dev/shm")
    _mount("tmpfs", str(root / "dev/shm"), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={shm_bytes},mode=0700")
    _mount("none", str(root / "dev"), "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID, "")


def _become(plan: dict[str, Any]) -> None:
    """Give up everything, then become the job; never returns."""
    os.setsid()
    os.chdir(plan["workdir"])
    for number in range(_NUM_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # EINVAL past the last one this kernel has
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _drop_capabilities()
    if plan["landlock"]:
        landlock.restrict(("/",), ("/tmp", "/dev/shm", "/dev/null", "/proc/self"))  # noqa: S108 - inside the sandbox
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    _close_all_but({0, 1, 2, *plan["inherited_fds"]})
    _filter_calls()
    os.execve(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606 - the job, where it belongs


def _drop_capabilities() -> None:
    header = ctypes.create_string_buffer((0x20080522).to_bytes(4, sys.byteorder) + bytes(4), 8)  # version 3, self
    nothing = ctypes.create_string_buffer(bytes(24), 24)
    _call(_libc.capset(header, nothing), "drop capabilities")


def _filter_calls() -> None:
    program = seccomp.program(seccomp.this_machine())
    lines = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(lines))
    _call(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0), "filter calls")


def _close_all_but(kept: set[int]) -> None:
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd in kept:
            os.set_inheritable(fd, True)
            continue
        try:
            os.close(fd)
        except OSError:
            continue  # the descriptor of the listing itself, closed by now


def _bind(source: str, target: Path) -> None:
    if Path(source).is_dir():
        _make_directory(target)
    else:
        _make_directory(target.parent)
        target.touch()
    _mount(source, str(target), "", _MS_BIND | _MS_REC, "")
    # A user namespace may not take away flags a mount came with: they are repeated.
    kept = os.statvfs(target).f_flag & (os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    _mount("none", str(target), "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | kept, "")


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _call(result, f"mount {target}")


def _call(result: int, what: str) -> None:
    if result != 0:
        sys.stderr.write(f"sandbox: {what}: {os.strerror(ctypes.get_errno())}\n")
        sys.stderr.flush()
        os._exit(_EXIT_SETUP_FAILED)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))  # at once: nothing of the interpreter's own is left to do
