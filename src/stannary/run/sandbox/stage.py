"""What root does before a sandbox is made, so that the job is not root's: shows its files, then leaves root.

    python -I -S stage.py PLAN_FD PROGRAM ARGUMENT...    (where the agent is root; imports as little as inside.py)

1. In a mount namespace of its own, each directory the job shall see is shown below a place that every
   user reaches, as if the job's user owned what root owns there (an idmapped mount, Linux 5.12): the
   node's folders may stay closed (0700). Where the kernel or file system has none, modes decide.
2. The job's pipes are given to its user, or `> /dev/stderr` would be refused.
3. Then this process becomes that user for good (`leave`), or keeps root for confinement.py, which
   needs it to make the sandbox and leaves root inside.

The user is one that nobody else on the machine is: FIRST_UID plus this process's number.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import sys

_NEW_NS, _NEW_USER = 0x00020000, 0x10000000
_SIGKILL = 9
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same numbers on every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _OPEN_TREE_CLONE, _MOVE_EMPTY_PATH = -100, 0x1000, 0x8000, 1, 4
_MOUNT_ATTR_IDMAP = 0x00100000
_EXIT_SETUP_FAILED = 125

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan_fd: int, program: list[str]) -> None:
    """Do what the plan says and become the sandbox program; `{uid}` in its arguments is the job's user."""
    with os.fdopen(plan_fd, "rb") as file:
        plan = marshal.loads(file.read())  # noqa: S302 - the agent's own words, of the same interpreter
    os.umask(0o022)  # the agent's own would close the place to the job's user
    uid = plan["first_uid"] + os.getpid() if _is_mapped(plan["first_uid"] + os.getpid()) else plan["nobody"]
    _call(_libc.unshare(_NEW_NS), "a mount namespace")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")
    _mount("tmpfs", plan["place"], "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    owner = _namespace_of(uid)
    for source, target in plan["mounts"]:
        _show(source, target, owner)
    os.close(owner)
    for fd in (1, 2, *plan["inherited_fds"]):
        os.fchown(fd, uid, uid)
    if plan["leave"]:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _call(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "die with the agent")
    argv = [str(uid) if word == "{uid}" else word for word in program]
    os.execve(argv[0], argv, {})  # noqa: S606 - the sandbox program


def _is_mapped(uid: int) -> bool:
    """Say whether this machine (or the container the agent lives in) has such a user."""
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs a third of the start
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def _namespace_of(uid: int) -> int:
    """Return a user namespace in which id 0 is `uid`: how an idmapped mount is told whose files these are."""
    ready_in, ready_out = os.pipe()
    done_in, done_out = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done_out)
        _call(_libc.unshare(_NEW_USER), "a user namespace")
        os.write(ready_out, b"x")
        os.read(done_in, 1)
        os._exit(0)
    os.close(ready_out)
    os.read(ready_in, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(f"0 {uid} 1")
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    for fd in (ready_in, done_in, done_out):
        os.close(fd)
    os.waitpid(child, 0)
    return namespace


def _show(source: str, target: str, owner: int) -> None:
    if os.path.isdir(source):  # noqa: PTH112
        os.mkdir(target, 0o755)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC)
    if tree < 0:  # before Linux 5.2
        _mount(source, target, "", _MS_BIND | _MS_REC, "")
        return

    class Attributes(ctypes.Structure):  # struct mount_attr
        _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd"))

    wanted = Attributes(_MOUNT_ATTR_IDMAP, 0, 0, owner)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _libc.syscall(_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(wanted), ctypes.sizeof(wanted))  # rule 1: or not
    moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_EMPTY_PATH)
    _call(moved, f"show {source}")
    os.close(tree)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _call(result, f"mount {target}")


def _call(result: int, what: str) -> None:
    if result != 0:
        sys.stderr.write(f"sandbox: {what}: {os.strerror(ctypes.get_errno())}\n")
        sys.stderr.flush()
        os._exit(_EXIT_SETUP_FAILED)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
