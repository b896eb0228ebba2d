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
import marshal
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stannary.border import landlock
from stannary.run.sandbox import inside

_NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x02000000, 0x04000000, 0x08000000
_NEW_NS, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_FLAGS = _NEW_NS | _NEW_USER | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_CGROUP

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

JOB_ID = 65534
_DEVICES = ("null", "zero", "full", "random", "urandom")
_OWNED = f"mode=0700,uid={JOB_ID},gid={JOB_ID}"

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan_fd: int, uid: int | None) -> int:
    """Set everything up and return the job's exit code; `uid` is the job's user where the agent is root."""
    with os.fdopen(plan_fd, "rb") as file:
        plan = marshal.loads(file.read())  # noqa: S302 - the agent's own words, of the same interpreter
    os.umask(inside.UMASK)  # or the agent's own would say who may walk the root
    inside.call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the agent")
    _make_namespaces(uid)
    first = os.fork()
    if first != 0:
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        return code if code >= 0 else 128 - code
    inside.call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the agent")
    _make_root(plan)
    plan["uid"] = None if uid is None else JOB_ID
    return inside.run(plan, _fence if plan["landlock"] else None)


def _fence() -> None:
    landlock.restrict(("/",), ("/tmp", "/dev/shm", "/dev/null", "/proc/self"))  # noqa: S108 - inside the sandbox


def _make_namespaces(uid: int | None) -> None:
    """Make them; root keeps its id in the new one until the root directory stands (inside.py leaves it)."""
    if uid is None:
        own_uid, own_gid = os.geteuid(), os.getegid()
        inside.call(_libc.unshare(_FLAGS), "new namespaces")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{JOB_ID} {own_uid} 1")
        Path("/proc/self/gid_map").write_text(f"{JOB_ID} {own_gid} 1")
        return
    ready_in, ready_out = os.pipe()
    outside = os.fork()  # two ids are mapped by a process that stayed outside
    if outside == 0:
        os.read(ready_in, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{os.getppid()}/{name}").write_text(f"0 0 1\n{JOB_ID} {uid} 1\n")
        os._exit(0)
    inside.call(_libc.unshare(_FLAGS), "new namespaces")
    os.write(ready_out, b"x")
    if os.waitpid(outside, 0)[1] != 0:
        inside.fail("the job's user cannot be mapped")
    os.close(ready_in)
    os.close(ready_out)


def _make_root(plan: dict[str, Any]) -> None:
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")
    root = Path(plan["place"])
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    for name in plan["binds"]:
        _bind(name, root / name.lstrip("/"))
    for name, target in plan["links"].items():
        (root / name.lstrip("/")).symlink_to(target)
    # /tmp before the mounts: an interpreter or checkout below the host's /tmp is shown inside ours.
    _make_directory(root / "tmp")
    _mount("tmpfs", str(root / "tmp"), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={plan['tmp_bytes']},{_OWNED}")
    for source, target in plan["mounts"]:
        _bind(source, root / target.lstrip("/"))
    _make_devices(root, plan["shm_bytes"])
    _make_directory(root / "proc")
    _mount("proc", str(root / "proc"), "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY, "")
    for name in plan["masked_directories"]:
        _mount("tmpfs", str(root / name.lstrip("/")), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=256k,mode=0755")
    for name in plan["masked_files"]:
        _bind("/dev/null", root / name.lstrip("/"))
    _tell(root, plan["told"])
    for name in plan["masked_directories"]:
        _mount("none", str(root / name.lstrip("/")), "", _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "")
    _make_directory(root / ".old")
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    inside.call(_libc.syscall(number, b".", b".old"), "pivot_root")
    os.chdir("/")
    inside.call(_libc.umount2(b"/.old", _MNT_DETACH), "leave the old root")
    Path("/.old").rmdir()
    _mount("none", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "")


def _tell(root: Path, told: dict[str, bytes]) -> None:
    """Lay the files that tell of the machine where no file is, and over those that are."""
    store = root / ".told"
    store.mkdir()
    for index, (name, data) in enumerate(sorted(told.items())):
        target = root / name.lstrip("/")
        source = store / str(index) if target.exists() else target
        _make_directory(source.parent)
        source.write_bytes(data)
        source.chmod(0o444)
        if source is not target:
            _bind(str(source), target)
            source.unlink()
    store.rmdir()


def _make_devices(root: Path, shm_bytes: int) -> None:
    _make_directory(root / "dev")
    _mount("tmpfs", str(root / "dev"), "tmpfs", _MS_NOSUID, "size=64k,mode=0755")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", str(root / "dev" / name), "", _MS_BIND, "")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / name).symlink_to(f"/proc/self/{target}")
    _make_directory(root / "dev/shm")
    _mount("tmpfs", str(root / "dev/shm"), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={shm_bytes},{_OWNED}")
    _mount("none", str(root / "dev"), "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID, "")


def _bind(source: str, target: Path) -> None:
    if Path(source).is_dir():
        _make_directory(target)
    elif not target.exists():
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
    inside.call(result, f"mount {target}")


if __name__ == "__main__":
    job_uid = int(sys.argv[2]) if len(sys.argv) > 2 else None
    os._exit(main(int(sys.argv[1]), job_uid))  # at once: nothing of the interpreter's own is left to do
