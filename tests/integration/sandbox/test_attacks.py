"""What a hostile job tries, and what it gets. Every attempt really runs."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stannary.border import frames
from stannary.run.sandbox.cgroup import Hierarchy
from stannary.run.sandbox.contract import Command, Limits, Mount
from stannary.run.sandbox.process import Sandbox
from stannary.run.sandbox.system import interpreter_mounts

from .conftest import Attempt

MIB = 1024**2
PAUSE = "import signal; signal.pause()"  # a program that only stays alive
REPORT = "import json\ndef report(x): print(json.dumps(x), flush=True)\n"


def job(text: str) -> str:
    return REPORT + textwrap.dedent(text)


CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return 0 if libc.syscall(ctypes.c_long(number), *args) >= 0 else ctypes.get_errno()
"""

X86_64_CALLS = {
    "unshare(NEWUSER)": (272, 0x10000000),
    "unshare(NEWNET)": (272, 0x40000000),
    "mount": (165, 0, 0, 0, 0, 0),
    "pivot_root": (155, 0, 0),
    "umount2": (166, 0, 0),
    "chroot": (161, 0),
    "setns": (308, 0, 0),
    "bpf": (321, 0, 0, 0),
    "keyctl": (250, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "request_key": (249, 0, 0, 0, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "ptrace(TRACEME)": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 8, 0),
    "io_uring_enter": (426, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, 0, 0, 0),
    "open_tree": (428, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "statmount": (457, 0, 0, 0, 0),
    "listmount": (458, 0, 0, 0, 0),
    "open_tree_attr": (467, 0, 0, 0, 0),
    "mount_setattr": (442, 0, 0, 0, 0, 0),
    "fsconfig": (431, 0, 0, 0, 0, 0),
    "fsmount": (432, 0, 0, 0),
    "fspick": (433, 0, 0, 0),
    "move_mount": (429, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "process_madvise": (440, 0, 0, 0, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "io_uring_register": (427, 0, 0, 0, 0),
    "cachestat": (451, 0, 0, 0, 0),
    "memfd_secret": (447, 0),
    "personality": (135, 0x0040000),
    "syslog": (103, 3, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "clone(NEWUSER)": (56, 0x10000011, 0, 0, 0, 0),
    "clone(NEWNET)": (56, 0x40000011, 0, 0, 0, 0),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of this list are those of x86_64")
def test_system_calls_that_lead_out(attempt: Attempt) -> None:
    """Every call of the list is EPERM, and clone3 is ENOSYS so that threads still start."""
    report = attempt(
        job(
            CALLS
            + f"""
import threading, subprocess
seen = {{name: call(*args) for name, args in {X86_64_CALLS!r}.items()}}
seen["clone3"] = call(435, 0, 0)
box = []
thread = threading.Thread(target=box.append, args=(1,)); thread.start(); thread.join()
seen["thread"] = len(box)
seen["subprocess"] = subprocess.run(["/bin/echo", "x"], capture_output=True).stdout.decode().strip()
report(seen)
"""
        )
    ).json
    assert report.pop("thread") == 1
    assert report.pop("subprocess") == "x"
    assert report.pop("clone3") == errno.ENOSYS
    assert report == dict.fromkeys(X86_64_CALLS, errno.EPERM)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of this list are those of x86_64")
def test_calls_newer_than_the_filter(attempt: Attempt) -> None:
    """A call that a later kernel adds does not exist in here."""
    report = attempt(job(CALLS + "\nreport([call(number, 0, 0, 0) for number in (470, 471, 480, 600, 5000)])")).json
    assert report == [errno.ENOSYS] * 5


def test_no_host_path_is_told(attempt: Attempt, tmp_path: Path) -> None:
    """Where a job's files lie on the host is in no list of mounts, its own or the first process's."""
    (tmp_path / "f").write_text("x")
    texts = attempt(
        job(
            """
            import os
            names = ("mountinfo", "mounts", "mountstats", "maps", "environ", "cgroup", "task/1/mountinfo", "net/unix")
            texts = {"/job/f": open("/job/f").read()}
            for pid in ("1", "self", str(os.getpid())):
                for name in names:
                    try:
                        texts[f"{pid}/{name}"] = open(f"/proc/{pid}/{name}").read()
                    except OSError:
                        pass
            texts["1/cmdline"] = open("/proc/1/cmdline").read()
            report(texts)
            """
        ),
        mounts=(Mount(tmp_path, "/job"),),
    ).json
    assert texts["/job/f"] == "x"
    assert (texts["self/mountinfo"], texts["1/mountinfo"], texts["self/mounts"]) == ("", "", "")
    assert [name for name, text in texts.items() if str(tmp_path) in text or tmp_path.name in text] == []


MASKED = [
    "keys", "key-users", "timer_list", "slabinfo", "vmallocinfo", "iomem", "ioports", "kallsyms", "kcore", "kmsg",
    "modules", "pagetypeinfo", "buddyinfo", "zoneinfo", "kpagecount", "kpageflags", "kpagecgroup", "sysrq-trigger",
    "interrupts", "softirqs", "sched_debug", "schedstat", "cmdline", "diskstats", "partitions", "swaps", "locks",
    "config.gz", "mtrr", "dma", "latency_stats", "cgroups",
]  # fmt: skip


def test_the_kernels_own_files_are_masked(attempt: Attempt) -> None:
    """What /proc and /sys say of the host's kernel, memory, devices and other work is not there to be read."""
    report = attempt(
        job(
            f"""
            import os
            def read(path):
                try:
                    return len(open(path, "rb").read(64))
                except OSError:
                    return 0
            folders = ["/proc/" + n for n in "acpi bus driver fs irq scsi tty sysvipc pressure".split()]
            folders += ["/sys/firmware", "/sys/kernel", "/sys/kernel/debug"]
            if os.listdir("/sys") != ["devices"]:
                folders.append("/sys")
            report([[n for n in {MASKED!r} if read("/proc/" + n)],
                    [p for p in folders if os.path.isdir(p) and os.listdir(p)],
                    sorted(n for n in os.listdir("/proc") if not n.isdigit() and read("/proc/" + n)),
                    read("/proc/self/stat") > 0])
            """
        )
    ).json
    assert report[:2] == [[], []]
    assert report[2] == ["cpuinfo", "loadavg", "meminfo", "stat", "uptime", "vmstat"]
    assert report[3]


def test_a_job_is_no_root_on_the_host(sandbox: Sandbox, processes_with: Callable[[str], list[int]]) -> None:
    """Every process of a job has a user id of its own on the host, and none of its groups, also under a root agent."""
    mark = f"stannary-uid-{os.getpid()}"
    text = f"print(1, flush=True); {PAUSE}"
    with sandbox.start(Command((sys.executable, "-I", "-S", "-c", text, mark), mounts=interpreter_mounts())) as running:
        assert running.stdout.readline() == b"1\n"
        (job_pid,) = processes_with(mark)
        status = Path(f"/proc/{job_pid}/status").read_text()
        first = Path(f"/proc/{job_pid}/status").read_text().partition("PPid:\t")[2].partition("\n")[0]
        for text in (status, Path(f"/proc/{first}/status").read_text()):
            fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            ids = {int(number) for name in ("Uid", "Gid") for number in fields[name].split()}
            assert 0 not in ids
            assert len(ids) == 1 or os.geteuid() != 0
            assert fields["Groups"].strip() in ("", str(os.getgid()) if os.geteuid() else "")
            assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


def test_where_only_root_makes_sandboxes(sandbox: Sandbox, hierarchy: Hierarchy) -> None:
    """The weaker way of a root agent keeps root's id and says so; capabilities and mounts are hidden all the same."""
    weaker = dataclasses.replace(sandbox, leaves_root=False)  # type: ignore[type-var]  # both back ends are dataclasses
    assert weaker.describe() == sandbox.describe() + "+root"
    text = "print(open('/proc/self/mountinfo').read(), [l for l in open('/proc/self/status') if 'CapEff' in l])"
    with weaker.start(Command((sys.executable, "-I", "-S", "-c", text))) as running:
        out, err = running.popen.communicate(timeout=60)
    assert out == b" ['CapEff:\\t0000000000000000\\n']\n", err


def test_closed_folders_are_shown(attempt: Attempt, tmp_path: Path) -> None:
    """A job sees its files although the node's folders, and the files in them, are closed to everybody else."""
    inner = tmp_path / "job"
    inner.mkdir(mode=0o700)
    (inner / "f").write_text("mine")
    (inner / "f").chmod(0o600)
    tmp_path.chmod(0o700)
    report = attempt(
        job("import os\nreport([open('/job/f').read(), os.stat('/job/f').st_uid == os.getuid()])"),
        mounts=(Mount(inner, "/job"),),
    ).json
    assert report == ["mine", True]


def test_pipes_of_the_job_are_its_own(attempt: Attempt) -> None:
    """`> /dev/stderr` and `> /dev/stdout` work, whoever the agent is."""
    report = attempt(job("open('/dev/stderr', 'w').write('said')\nopen('/dev/stdout', 'w').write('')\nreport(1)"))
    assert (report.json, report.err) == (1, "said")


def test_the_first_process_is_out_of_reach(attempt: Attempt) -> None:
    """The job can neither stop nor look into the process that guards it."""
    report = attempt(
        job(
            """
            import os, signal
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                try:
                    os.kill(1, number)
                except OSError:
                    pass
            def tried(what, path):
                try:
                    return bool(what(path))
                except OSError:
                    return False
            names = ("environ", "mem", "maps", "auxv", "stack")
            won = [n for n in names if tried(lambda p: open(p, "rb").read(1), f"/proc/1/{n}")]
            won += [n for n in ("fd", "ns", "root", "cwd", "map_files") if tried(os.listdir, f"/proc/1/{n}/")]
            report([won, os.path.exists("/proc/1")])
            """
        )
    ).json
    assert report == [[], True]


def test_inodes_end_within_the_jobs_memory(attempt: Attempt, residue: Callable[[], list[str]]) -> None:
    """Empty files without end are the job's own memory: it ends, the machine has as many files as before."""
    before = os.statvfs("/").f_favail
    report = attempt(
        job(
            """
            import os
            n = 0
            for place in ("/tmp", "/dev/shm"):
                try:
                    while n < 2_000_000:
                        os.close(os.open(f"{place}/{n}", os.O_CREAT | os.O_WRONLY))
                        n += 1
                except OSError:
                    pass
            report(n)
            """
        ),
        limits=Limits(64 * MIB),
    )
    assert report.usage.peak_memory_bytes <= 64 * MIB
    assert report.code != 0 or report.json < 2_000_000
    assert abs(os.statvfs("/").f_favail - before) < 10_000
    assert residue() == []


def test_socket_families(attempt: Attempt) -> None:
    """VSOCK reaches a hypervisor past any network namespace: it, ALG, NETLINK, PACKET and all unknown are EPERM."""
    report = attempt(
        job(
            """
            import socket
            def family(number, kind=socket.SOCK_STREAM):
                try:
                    socket.socket(number, kind).close()
                except OSError as err:
                    return err.errno
                return 0
            report({"unix": family(1), "inet": family(2), "inet6": family(10),
                    "vsock": family(40), "alg": family(38, 5), "netlink": family(16, 3), "packet": family(17, 3),
                    "bluetooth": family(31, 3), "can": family(29, 3), "tipc": family(30), "xdp": family(44, 3)})
            """
        )
    ).json
    assert [report.pop(name) for name in ("unix", "inet", "inet6")] == [0, 0, 0]
    assert set(report.values()) == {errno.EPERM}


def test_no_network(attempt: Attempt) -> None:
    """A listener on the host's loopback and one on an abstract socket cannot be reached; there is only `lo`."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"\0stannary-test-{os.getpid()}"
        unix.bind(name)
        unix.listen()
        report = attempt(
            job(
                f"""
                import os, socket
                def connect(family, address):
                    sock = socket.socket(family); sock.settimeout(3)
                    return sock.connect_ex(address)
                report([connect(socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})),
                        connect(socket.AF_UNIX, {name!r}), open("/proc/net/dev").read().count(":")])
                """
            )
        ).json
    refused = {errno.ECONNREFUSED, errno.EACCES, errno.EPERM}  # nobody there, or Landlock forbids asking
    assert report[0] in refused
    assert report[1] in refused
    assert report[2] == 1


def test_host_files(attempt: Attempt, tmp_path: Path) -> None:
    """The host's secrets, the agent's key and its other directories do not exist inside."""
    key = tmp_path / "key"
    key.write_text("secret")
    wanted = [
        "/etc/shadow",
        "/etc/passwd",
        "/root" + "/.ssh",
        str(key),
        "/home",
        "/var",
        "/sys/class",
        "/proc/1/root" + "/var",
    ]
    report = attempt(job(f"import os\nreport([p for p in {wanted!r} if os.path.exists(p)])")).json
    assert report == []


def test_writing_anywhere_but_tmp(attempt: Attempt, tmp_path: Path) -> None:
    """Root, /usr, /etc, /dev, the mounts and the kernel's switches are read-only, whoever the agent is."""
    (tmp_path / "f").write_text("mine")
    report = attempt(
        job(
            """
            import os
            def write(path):
                try:
                    # opened only: were it allowed, the test would not leave the machine changed
                    os.close(os.open(path, os.O_WRONLY | (0 if os.path.exists(path) else os.O_CREAT)))
                except OSError as err:
                    return err.errno
                return 0
            report({p: write(p) for p in ["/evil", "/usr/evil", "/etc/evil", "/dev/evil", "/job/f", "/job/evil",
                "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/tmp/ok",
                "/dev/shm/ok", "/dev/null"]})
            """
        ),
        mounts=(Mount(tmp_path, "/job"),),
    ).json
    assert [report.pop(path) for path in ("/tmp/ok", "/dev/shm/ok", "/dev/null")] == [0, 0, 0]
    report.pop("/proc/sysrq-trigger" if not Path("/proc/sysrq-trigger").exists() else "", None)
    assert set(report.values()) <= {errno.EROFS, errno.EACCES, errno.EPERM}, report
    assert (tmp_path / "f").read_text() == "mine"


def test_no_capabilities(attempt: Attempt) -> None:
    """No capability in any set, no way to gain one, and not the host's root."""
    report = attempt(
        job(
            """
            import os
            status = dict(l.split(":\\t", 1) for l in open("/proc/self/status").read().splitlines() if ":\\t" in l)
            report([os.getuid(), *(int(status[k], 16) for k in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")),
                    int(status["NoNewPrivs"]), int(status["Seccomp"])])
            """
        )
    ).json
    assert report == [65534, 0, 0, 0, 0, 0, 1, 2]


def test_agent_environment(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the agent's environment is in no /proc/*/environ the job can see."""
    monkeypatch.setenv("SECRET_TOKEN", "tell-nobody")
    report = attempt(
        job(
            """
            import glob, os
            def read(path):
                try:
                    return open(path, "rb").read().decode("latin-1")
                except OSError:
                    return ""
            everything = {p: read(p) for p in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline")}
            word = "tell-" + "nobody"
            report([sorted(k for k in os.environ if k not in ("PWD", "LC_CTYPE")),
                    [p for p, text in everything.items() if word in text],
                    "ro-" + "bind" in everything["/proc/1/cmdline"]])
            """
        ),
        environment={"GIVEN": "1"},
    ).json
    assert report == [["GIVEN"], [], False]


def test_nested_user_namespace(sandbox: Sandbox) -> None:
    """A tool inside that wants a namespace of its own gets none."""
    command = Command(("/usr/bin/unshare", "--user", "--map-root-user", "/usr/bin/true"), mounts=interpreter_mounts())
    with sandbox.start(command) as running:
        assert running.wait(20) not in (0, None)
        assert b"not permitted" in running.stderr.read()


def test_memory_bomb(attempt: Attempt, residue: Callable[[], list[str]]) -> None:
    """A job that takes more memory than it may is killed at the limit, and the machine does not notice."""
    report = attempt("x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1", limits=Limits(128 * MIB))
    assert report.code not in (0, None)
    assert report.usage.num_oom_kills >= 1
    assert report.usage.peak_memory_bytes <= 128 * MIB
    assert residue() == []


def test_tmp_quota(attempt: Attempt) -> None:
    """/tmp and /dev/shm end exactly at their size."""
    report = attempt(
        job(
            """
            def fill(path):
                n = 0
                try:
                    with open(path, "wb", buffering=0) as f:
                        while n < 1 << 28:
                            n += f.write(b"x" * (1 << 20))
                except OSError as err:
                    return [n, err.errno]
                return [n, 0]
            report([fill("/tmp/a"), fill("/dev/shm/a")])
            """
        ),
        limits=Limits(256 * MIB, tmp_bytes=32 * MIB, shm_bytes=16 * MIB),
    ).json
    assert report == [[32 * MIB, errno.ENOSPC], [16 * MIB, errno.ENOSPC]]


def test_fork_bomb(attempt: Attempt, residue: Callable[[], list[str]]) -> None:
    """The process count ends in EAGAIN below the limit, and every child is gone afterwards."""
    report = attempt(
        job(
            """
            import os, signal
            n = 0
            try:
                for _ in range(300):
                    if os.fork() == 0:
                        signal.pause()
                    n += 1
                error = 0
            except OSError as err:
                error = err.errno
            report([n, error])
            os._exit(0)
            """
        ),
        limits=Limits(pids=48),
    ).json
    assert report[1] == errno.EAGAIN
    assert 30 <= report[0] < 48
    assert residue() == []


def test_busy_forks_share_one_quota(attempt: Attempt) -> None:
    """Forking does not multiply the processor share."""
    report = attempt(
        job(
            """
            import os, time
            end = time.monotonic() + 1.5
            for _ in range(3):
                if os.fork() == 0:
                    break
            while time.monotonic() < end:
                pass
            """
        ),
        limits=Limits(cpu_millis=300),
    )
    assert report.usage.cpu_ms <= 0.3 * 1500 + 350  # the quota, plus starting and one period of slack


def test_daemon_in_a_session_of_its_own(
    attempt: Attempt, residue: Callable[[], list[str]], processes_with: Callable[[str], list[int]]
) -> None:
    """A double-forked daemon with its own session dies with the wall-clock limit like everything else."""
    mark = f"stannary-daemon-{os.getpid()}"
    text = job(
        f"""
        import os, signal, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.execv({sys.executable!r}, ["python", "-I", "-S", "-c", {PAUSE!r}, {mark!r}])
            os._exit(0)
        os.wait()
        report("running")
        signal.pause()
        """
    )
    with attempt.sandbox.start(Command((sys.executable, "-I", "-S", "-c", text), mounts=attempt.mounts)) as running:
        assert running.stdout.readline() == b'"running"\n'
        running.kill_after(0.1)
        assert running.wait(60) not in (0, None)
        running.close()
        assert processes_with(mark) == []
        assert residue() == []


def test_daemon_does_not_outlive_a_finished_job(attempt: Attempt, processes_with: Callable[[str], list[int]]) -> None:
    """When the job's first process ends, what it left in the background ends too."""
    mark = f"stannary-left-{os.getpid()}"
    attempt(
        job(
            f"""
            import os
            if os.fork() == 0:
                os.setsid(); os.close(1); os.close(2)
                os.execv({sys.executable!r}, ["python", "-I", "-S", "-c", {PAUSE!r}, {mark!r}])
            """
        )
    )
    assert processes_with(mark) == []


def test_dies_with_the_agent(
    processes_with: Callable[[str], list[int]], sandbox: Sandbox, hierarchy: Hierarchy
) -> None:
    """When the agent is killed with SIGKILL its jobs end, and the next agent sweeps their control groups."""
    mark = f"stannary-orphan-{os.getpid()}"
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                import sys
                from stannary.run.sandbox import bubblewrap, cgroup, system, unshare
                from stannary.run.sandbox.contract import Command
                job = {type(sandbox).__name__.lower()}.find(cgroup.find()).start(Command(
                    (sys.executable, "-I", "-S", "-c", "print(1, flush=True); {PAUSE}", {mark!r}),
                    mounts=system.interpreter_mounts()))
                job.stdout.readline()
                print("up", flush=True)
                job.wait()
                """
            ),
        ],
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"up\n"
    agent.kill()
    agent.wait()
    agent.stdout.close()
    deadline = time.monotonic() + 60
    while processes_with(mark) and time.monotonic() < deadline:
        pass  # each look is a process start, which is pause enough
    assert processes_with(mark) == []
    assert hierarchy.sweep() >= 1
    assert list(Path("/sys/fs/cgroup").glob(f"**/stannary-{agent.pid}-*")) == []


def test_output_flood(attempt: Attempt) -> None:
    """A job that prints without end is ended by its wall clock, never by the agent's memory."""
    with attempt.sandbox.start(
        Command((sys.executable, "-I", "-S", "-c", "while 1: print('x' * 1000)"), mounts=attempt.mounts)
    ) as running:
        num_bytes = len(running.stdout.read(1))  # it has begun; the clock starts now
        running.kill_after(1.0)
        while part := running.stdout.read1(65536):  # type: ignore[attr-defined]  # Popen gives a BufferedReader
            num_bytes += len(part)
        assert num_bytes > 1
        assert running.wait(60) not in (0, None)


def test_frame_flood(sandbox: Sandbox) -> None:
    """A worker that claims an endless body is refused by its length, and small frames without end by the clock."""
    read_fd, write_fd = os.pipe()
    text = (
        "import os, struct\nf = os.fdopen(3, 'wb')\n"
        "f.write(struct.pack('>I', 2) + b'{}' + struct.pack('>Q', 3) + b'abc')\n"
        "f.write(struct.pack('>I', 2) + b'{}' + struct.pack('>Q', 1 << 62)); f.flush()\n"
        "while 1: f.write(b'x' * 65536)"
    )
    command = Command((sys.executable, "-I", "-S", "-c", text), mounts=interpreter_mounts(), inherited_fds=(write_fd,))
    with sandbox.start(command) as running, os.fdopen(read_fd, "rb") as replies:
        os.close(write_fd)
        running.kill_after(20.0)
        assert frames.read(replies) == frames.Frame({}, b"abc")
        with pytest.raises(frames.LimitExceeded):
            frames.read(replies)


def test_terminal_injection(attempt: Attempt) -> None:
    """Keystrokes cannot be pushed into a terminal."""
    report = attempt(
        job(
            """
            import fcntl
            try:
                fcntl.ioctl(0, 0x5412, b"x")
                report(0)
            except OSError as err:
                report(err.errno)
            """
        )
    ).json
    assert report == errno.EPERM


def test_inherited_descriptors(attempt: Attempt, tmp_path: Path) -> None:
    """No descriptor of the agent leaks in, even one opened inheritable."""
    (tmp_path / "key").write_text("secret")
    fd = os.open(tmp_path / "key", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        report = attempt(
            job(
                """
                import os
                paths = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
                report(sorted(os.readlink(path) for path in paths if os.path.lexists(path)))
                """
            )
        ).json
    finally:
        os.close(fd)
    assert all(name.startswith(("pipe:", "/dev/null", "/proc/")) for name in report), report


def test_several_at_once(sandbox: Sandbox) -> None:
    """Many sandboxes start and end one after another and in several threads without residue."""

    def several() -> None:
        for _ in range(2):
            with sandbox.start(Command(("/usr/bin/true",), mounts=interpreter_mounts())) as running:
                codes.append(running.wait(30))

    codes: list[int | None] = []
    threads = [threading.Thread(target=several) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 4
