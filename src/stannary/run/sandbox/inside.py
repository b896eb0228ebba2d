"""The first process of a sandbox: hides the mounts, gives up everything, runs the job as its child.

    python -I -S inside.py PLAN_FD          (by bwrap as process 1; confinement.py calls `run` itself)

A file of its own that imports nothing of ours and nothing that is not built in but ctypes, so that it starts in the
time of a bare interpreter (bench/sandbox_start.py): `json`, `base64` and `signal` together cost more than that.

1. A job that reads /proc/self/mountinfo learns where on the host its files lie. The list is that of a
   process's mount *namespace*, seen from its *root*: so this process steps into a copy of the namespace
   and takes its root from the old one. Every mount of the copy is out of that root's sight and the
   list is empty, while paths lead where they did. A process with such a root makes no user namespace
   either (user_namespaces(7)). The old namespace lives as long as this process has it open.
2. This process is not dumpable: its descriptors are closed to the job, which has the same user id.
3. The job's own: a user without privileges (where the sandbox was made by root), no capability in any
   set, no way to gain one, the system call filter, exactly the descriptors it was given, from 3 on.
   What else a process inherits (mask, limits, signals, names, the place of addresses) is fixed.
4. It reaps what the job orphans, and ends with the job; then the kernel ends all that is left.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_NEW_NS, _NEW_UTS = 0x00020000, 0x04000000
_SIGINT, _SIGKILL, _NUM_SIGNALS = 2, 9, 64  # the same on every architecture
_SIG_DFL, _SIG_IGN = ctypes.c_void_p(0), ctypes.c_void_p(1)
_SIG_SETMASK, _SIGNAL_SET_BYTES = 2, 128
_HOST_NAME, _DOMAIN_NAME = b"job", b"(none)"
_ADDR_NO_RANDOMIZE = 0x0040000
UMASK = 0o022
_FIRST_FD = 3  # a job's pipes are this and those after it
# What a session may have set otherwise, and a job is told when it asks: (resource, largest) of getrlimit(2).
_RLIMITS = ((3, 8 * 1024**2), (6, 4096), (8, 64 * 1024), (11, 1024), (12, 819_200), (13, 0), (14, 0))
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_NUM_CAPABILITIES = 64
_CAPABILITY_VERSION_3 = 0x20080522
EXIT_SETUP_FAILED = 125

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan_fd: int) -> int:
    """Read the plan and run the job; return its exit code."""
    with os.fdopen(plan_fd, "rb") as file:
        plan = marshal.loads(file.read())  # noqa: S302 - the agent's own words
    return run(plan)


def run(plan: dict[str, Any], fence: Callable[[], None] | None = None) -> int:
    """Run the job of a plan and return its exit code.

    Args:
        plan: argv, environment, workdir, inherited_fds, filter, uid (None: it is the job's already).
        fence: called in the job's process before its system calls are filtered.
    """
    call(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "die with the agent")
    namespace = _hide_mounts()
    _name_machine()
    call(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "close /proc to the job")
    job = os.fork()
    if job == 0:
        _become(plan, fence)
    _libc.signal(_SIGINT, _SIG_IGN)  # the only signal this interpreter listens to
    _give_up(plan)
    _close_all_but({0, 1, 2, namespace})
    while True:
        pid, status = os.wait()
        if pid == job:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def call(result: int, what: str) -> None:
    """End this process where a system call failed."""
    if result != 0:
        fail(f"{what}: {os.strerror(ctypes.get_errno())}")


def fail(why: str) -> NoReturn:
    """End this process with a reason."""
    sys.stderr.write(f"sandbox: {why}\n")
    sys.stderr.flush()
    os._exit(EXIT_SETUP_FAILED)


def _hide_mounts() -> int:
    """Step into a copy of the mount namespace, keep the old root; return the descriptor that keeps it alive."""
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    call(_libc.unshare(_NEW_NS), "a mount namespace to hide behind")
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    return namespace


def _name_machine() -> None:
    """Have names of our own: the host's domain name would be seen in a namespace that was made beside it."""
    call(_libc.unshare(_NEW_UTS), "a namespace of names")
    call(_libc.sethostname(_HOST_NAME, len(_HOST_NAME)), "the host name")
    call(_libc.setdomainname(_DOMAIN_NAME, len(_DOMAIN_NAME)), "the domain name")


def _become(plan: dict[str, Any], fence: Callable[[], None] | None) -> NoReturn:
    """Give up everything, then become the job."""
    os.setsid()
    os.chdir(plan["workdir"])
    _put_in_order(plan["inherited_fds"])
    _begin_alike()
    _give_up(plan, fence)
    try:
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606 - the job, where it belongs
    except OSError as err:
        fail(f"{plan['argv'][0]}: {err.strerror}")


def _put_in_order(fds: list[int]) -> None:
    """Have the job's pipes at _FIRST_FD and after, whatever numbers the agent had left, and nothing else open."""
    _close_all_but({0, 1, 2, *fds})
    wanted = range(_FIRST_FD, _FIRST_FD + len(fds))
    copies = [_copy_above(fd, wanted.stop) for fd in fds]
    for copy, fd in zip(copies, wanted, strict=True):
        os.dup2(copy, fd)
    _close_all_but({0, 1, 2, *wanted})


def _copy_above(fd: int, first: int) -> int:
    while (copy := os.dup(fd)) < first:
        pass  # closed with all that has no place
    return copy


def _begin_alike() -> None:
    """Take from the job what it would inherit of the session the agent was started in, and the chance in addresses."""
    os.umask(UMASK)
    for resource, largest in _RLIMITS:
        limits = (ctypes.c_ulong * 2)()
        _libc.getrlimit(resource, limits)
        lowered = (ctypes.c_ulong * 2)(*(min(limit, largest) for limit in limits))
        call(_libc.setrlimit(resource, lowered), f"limit {resource}")
    for number in range(1, _NUM_SIGNALS + 1):
        _libc.signal(number, _SIG_DFL)  # EINVAL for those nobody may change
    call(_libc.sigprocmask(_SIG_SETMASK, bytes(_SIGNAL_SET_BYTES), None), "unblock signals")
    if _libc.personality(_ADDR_NO_RANDOMIZE) < 0:
        fail("addresses cannot be fixed")


def _give_up(plan: dict[str, Any], fence: Callable[[], None] | None = None) -> None:
    for number in range(_NUM_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # EINVAL past the last one this kernel has
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if plan["uid"] is not None:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        call(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "die with the sandbox")  # a new id forgets it
    header = ctypes.create_string_buffer(_CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4), 8)
    call(_libc.capset(header, ctypes.create_string_buffer(24)), "drop capabilities")
    call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if fence is not None:
        fence()
    _filter_calls(plan["filter"])


def _filter_calls(program: bytes) -> None:
    lines = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(lines))
    call(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0), "filter calls")


def _close_all_but(kept: set[int]) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - pathlib costs a third of the start
        if fd in kept:
            if fd > 2:
                os.set_inheritable(fd, True)
            continue
        try:
            os.close(fd)
        except OSError:
            continue  # the descriptor of the listing itself, closed by now


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))  # at once: nothing of the interpreter's own is left to do
