"""What a program can ask of its surroundings: the same bytes on two hosts with nothing in common but their kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.sandbox.test_commands import SUBMITTED_S

from stannary.formats.workdir import FILE_TIME_S
from stannary.run.sandbox.process import Sandbox
from stannary.run.sandbox.unshare import Unshare

ROOT = Path(__file__).parents[3]

ASKING = r"""
import glob, json, locale, os, platform, resource, signal, socket, stat, sys, tempfile, time

def read(path):
    try:
        return open(path).read()
    except OSError as err:
        return err.errno

def listed(top):
    found = []
    for parent, folders, names in os.walk(top):
        for name in ["", *folders, *names]:
            path = os.path.join(parent, name)
            told = os.lstat(path)
            is_file = stat.S_ISREG(told.st_mode)
            found.append([path, oct(told.st_mode), told.st_size if is_file else 0, told.st_mtime_ns, told.st_uid])
    return found

def domain_name():
    import ctypes
    names = ctypes.create_string_buffer(6 * 65)  # struct utsname: the sixth is the domain
    ctypes.CDLL(None).uname(names)
    return names.raw[5 * 65:].rstrip(b"\0").decode()

def fds():
    return sorted([int(name), oct(os.fstat(int(name)).st_mode)] for name in os.listdir("/proc/self/fd")
                  if os.path.exists("/proc/self/fd/" + name))

mask = os.umask(0); os.umask(mask)
status = [line for line in read("/proc/self/status").splitlines()
          if line.split(":")[0] in ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapEff", "Seccomp", "NSpid")]
class Thing: pass
told = {
    "argv": sys.argv, "executable": sys.executable, "prefix": sys.prefix, "path": sys.path[:1],
    "environ": dict(os.environ), "cwd": os.getcwd(), "umask": mask, "status": status, "fds": fds(),
    "cpus": [os.cpu_count(), len(os.sched_getaffinity(0)), os.sysconf("SC_NPROCESSORS_ONLN"), os.popen("nproc").read()],
    "names": [socket.gethostname(), platform.node(), read("/etc/hostname"), read("/etc/machine-id"),
              read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/domainname"),
              domain_name()],
    "limits": [resource.getrlimit(kind) for kind in range(16)],
    "ignored": [n for n in range(1, 65) if n not in (32, 33, 9, 19) and signal.getsignal(n) == signal.SIG_IGN],
    "time": [time.tzname, time.timezone, time.strftime("%c %Z", time.localtime(0)), locale.getpreferredencoding()],
    "hash": [hash("tin"), id(Thing()), id(object()), sorted(map(id, [Thing, listed, read]))],
    "proc": {name: read("/proc/" + name) for name in (
        "cpuinfo", "meminfo", "stat", "loadavg", "uptime", "vmstat", "version", "filesystems", "mounts", "self/mounts",
        "sys/kernel/random/boot_id", "sys/kernel/osrelease", "sys/kernel/pid_max", "sys/vm/overcommit_memory",
        "sys/kernel/threads-max", "sys/fs/file-max", "self/cgroup", "self/maps", "self/limits", "self/cmdline")},
    "sys": [item[:2] for item in listed("/sys")], "cpu": read("/sys/devices/system/cpu/online"),
    "tmp": [tempfile.gettempdir(), os.path.expanduser("~"), sorted(os.listdir("/tmp"))],
    "files": [listed("/tmp/job/work"), os.listdir("."), glob.glob("*"), listed("/job"), os.statvfs("/tmp").f_blocks],
    "root": [sorted(os.listdir("/")), sorted(os.listdir("/dev")), oct(os.stat("/").st_mode)],
}
open("out.txt", "w").write(json.dumps(told, indent=1))
"""
FILES = ["z.txt", "a.txt", "m/inner.txt", "m/deep/er.txt", "b.sh", "B.txt", *(f"n{index}.txt" for index in range(30))]
RUN = "#!/python/bin/python3\n" + ASKING
HERE: dict[str, Any] = {
    "name": "basalt", "domain": "one.example", "umask": 0o022, "processors": [0], "cwd": "/", "nice": 0, "limits": {},
    "ignored": [], "descriptors": 0,
}  # fmt: skip
THERE: dict[str, Any] = {
    "name": "granite", "domain": "two.example", "umask": 0o077, "processors": sorted(os.sched_getaffinity(0)),
    "cwd": "/usr", "nice": 0, "ignored": [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1], "descriptors": 60,
    "limits": {"RLIMIT_STACK": 16 * 1024**2, "RLIMIT_NPROC": 9000, "RLIMIT_MEMLOCK": 256 * 1024, "RLIMIT_CORE": 0},
}  # fmt: skip
SESSIONS: tuple[dict[str, str], ...] = (
    {"TZ": "UTC", "HOME": "/root", "LANG": "C.UTF-8", "USER": "root"},
    {"TZ": "Asia/Tokyo", "HOME": "/nonexistent", "LANG": "de_DE.UTF-8", "LC_ALL": "C", "USER": "smelter",
     "LOGNAME": "x", "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "3", "CI": "true"},
)  # fmt: skip


def ask(
    sandbox: Sandbox, root: Path, host: dict[str, Any], session: dict[str, str], files: list[str]
) -> dict[str, Any]:
    plan = {"root": str(root), "unshare": isinstance(sandbox, Unshare), "run": RUN, "host": host, "files": files}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.sandbox.host", json.dumps(plan)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **session}, cwd=ROOT, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_two_hosts_tell_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    """Session, names, limits, signals, processors, memory, times, order of files, addresses: all is alike."""
    (tmp_path / "one").mkdir()
    (tmp_path / "another-place").mkdir()
    here = ask(sandbox, tmp_path / "one", HERE, SESSIONS[0], FILES)
    there = ask(sandbox, tmp_path / "another-place", THERE, SESSIONS[1], FILES[::-1])
    assert {name: (here[name], there[name]) for name in here if here[name] != there[name]} == {}
    assert here["cpus"] == [1, 1, 1, "1\n"]
    assert [here["names"][place] for place in (0, 1, 6)] == ["job", "job", "(none)"]
    assert here["environ"]["SOURCE_DATE_EPOCH"] == str(SUBMITTED_S)
    assert here["environ"]["TZ"] == "UTC"
    assert here["proc"]["self/maps"] != ""
    assert {changed for _, mode, _, changed, _ in here["files"][0] if mode.startswith("0o100")} >= {FILE_TIME_S * 10**9}
    assert here["files"][3] != []


def test_a_job_is_told_what_it_asked_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """Memory and processors are those of the job, not of the machine."""
    told = ask(sandbox, tmp_path, HERE, SESSIONS[0], [])
    assert told["proc"]["meminfo"].startswith(f"MemTotal: {256 * 1024} kB\n")
    assert told["proc"]["cpuinfo"].count("processor\t:") == 1
    assert told["cpu"] == "0\n"
