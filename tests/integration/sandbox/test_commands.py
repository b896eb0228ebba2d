"""Command jobs in their worker in a real sandbox: what they find, what they may hand in, what they cannot reach."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stannary import files as files_of_ours
from stannary import workdir
from stannary.border import landlock
from stannary.errors import JobFailed
from stannary.formats import digest, ids, jobspec
from stannary.formats.digest import PREFIX
from stannary.formats.jobspec import Input, JobKind, JobSpec, Privacy, Resources, Trust, Verification
from stannary.formats.predicates import Assurance, Tier
from stannary.formats.workdir import WorkFile
from stannary.run import logs
from stannary.run.holding import Holding, make_workplace
from stannary.run.sandbox.process import Sandbox
from stannary.run.worker_process import Reply, Worker, Workplace, outbox_path

MIB = 1024**2
WALL_S = 60.0
GROW = "python -c 'x = bytearray(1 << 29); x[::4096] = b\"1\" * (1 << 17)'"
SUBMITTED_S = 1_700_000_000
TRUST = Trust(Tier.T0, "local", Privacy.OPEN, Verification.RERUN_COMPARE, 1_000_000, 600_000, 990_000, (), (), 500_000)


class Node:
    """A node's way with one command job: its directory, its worker, its outbox and what it printed."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self.root = root
        self.sandbox = sandbox
        self.outbox = root / "outbox"
        self.lines: list[tuple[str, str]] = []
        self.packages: Path | None = None
        self.system: Path | None = None
        self.num_nodes = 1
        self.memory_bytes = 256 * MIB
        self.rules: int | None = None
        self.wall_s = 60
        self.stops_at = ""  # the line at which its buyer stops it

    def run(self, run: str, *outputs: str, files: dict[str, bytes] | None = None, **envs: str) -> Reply:
        """Do a command job and return its worker's reply."""
        return self.ask(run, outputs, files or {}, envs)

    def ask(self, run: str, outputs: tuple[str, ...], files: dict[str, bytes], envs: dict[str, str]) -> Reply:
        blobs = self.root / "job/blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for data in (*files.values(), b"input\n"):
            path = blobs / digest.digest(data).removeprefix(PREFIX)
            path.write_bytes(data)
            files_of_ours.show_alike(path, 0o444)
        entries = tuple(
            WorkFile(path, 0o755 if path.endswith(".sh") else 0o644, digest.digest(data), len(data))
            for path, data in sorted(files.items())
        )
        target = self.root / "job/workdir"
        if not target.exists():
            workdir.materialise(entries, target, lambda named: (blobs / named.removeprefix(PREFIX)).open("rb"))
        given = {"data": Input(digest.digest(b"input\n"), 6, "test")}
        trust = replace(TRUST, assurance=Assurance.FULL if self.rules else None)
        spec = JobSpec(
            name="test", kind=JobKind.COMMAND, workdir=entries, envs=dict(envs), num_nodes=self.num_nodes,
            resources=Resources(1, self.memory_bytes, 32 * MIB, self.wall_s), inputs=given,
            outputs=outputs, trust=trust, budget_usd_micros=10**6, run=run, rules=self.rules,
        )  # fmt: skip
        holding = Holding(
            ids.JobId("j-000000000000"), spec, self.root / "job", digest.digest(b""), self.packages, SUBMITTED_S
        )
        holding.root = self.system
        holding.make_directories()
        workplace: Workplace = make_workplace(holding, self.outbox, {})
        worker = Worker.start(self.sandbox, workplace, lambda stream, text: self.hear(worker, stream, text))
        try:
            request: dict[str, Any] = {
                "op": "command", "spec": jobspec.to_canonical(spec), "rank": self.num_nodes - 1,
                "states_ending": self.rules is not None,
                "inputs": {"data": given["data"].digest.removeprefix(PREFIX)},
            }  # fmt: skip
            if self.rules is not None:
                return worker.run_program(request, float(self.wall_s), lambda _: None)
            return worker.request(request, WALL_S, lambda _: None)
        finally:
            worker.close()

    def hear(self, worker: Worker, stream: str, text: str) -> None:
        """Take a line of the job's."""
        self.lines.append((stream, text))
        if self.stops_at and text == self.stops_at:
            worker.wind_down()

    def output(self, reply: Reply, name: str) -> bytes:
        """Return the bytes of one output."""
        (found,) = (item for item in reply.outputs if item.name == name)
        return outbox_path(self.outbox, found.digest).read_bytes()


@pytest.fixture
def node(sandbox: Sandbox, tmp_path: Path) -> Iterator[Node]:
    yield Node(tmp_path, sandbox)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An installed environment: a module, a package with `-m`, a console script."""
    root = tmp_path / "environment"
    (root / "bin").mkdir(parents=True)
    (root / "tin").mkdir()
    (root / "tin/__init__.py").write_text("ORE = 'cassiterite'\n")
    (root / "tin/__main__.py").write_text("import tin; print('main', tin.ORE)\n")
    (root / "bin/smelt").write_text("#!/python/bin/python\nimport tin; print('script', tin.ORE)\n")
    (root / "bin/smelt").chmod(0o755)
    return root


def test_requirements_reach_commands(node: Node, packages: Path) -> None:
    """`python`, `python -m`, console scripts and a script's own shebang find what `setup:` installed."""
    node.packages = packages
    reply = node.run(
        "{ python -c 'import tin; print(tin.ORE)'; python3 -m tin; smelt; ./own.sh; } > out.txt",
        "out.txt",
        files={"own.sh": b"#!/usr/bin/env python\nimport tin; print('own', tin.ORE)\n"},
    )
    assert node.output(reply, "out.txt").split(b"\n") == [
        b"cassiterite", b"main cassiterite", b"script cassiterite", b"own cassiterite", b"",
    ]  # fmt: skip
    reply = node.run("echo $PYTHONPATH > out.txt", "out.txt", PYTHONPATH="src")
    assert node.output(reply, "out.txt") == b"src:/environment\n"


def test_nothing_of_the_buyers_is_loaded_into_the_worker(node: Node, packages: Path) -> None:
    """Variables and packages that would run code in the worker, which signs, come to the command only."""
    node.packages = packages
    (packages / "sitecustomize.py").write_text("import sys; sys.stderr.write('LOADED\\n')")
    reply = node.run("true > out.txt", "out.txt", LD_PRELOAD="/job/workdir/none.so", PYTHONPATH="/job/workdir")
    assert [item.name for item in reply.outputs] == ["out.txt"]
    assert not any("LOADED" in text for _, text in node.lines)


def test_environment_is_the_same_on_every_node(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names, paths and values are fixed: neither the operator's PATH nor where he keeps his files is seen."""
    monkeypatch.setenv("PATH", "/operators/own/bin:" + os.environ["PATH"])
    monkeypatch.setenv("SECRET_TOKEN", "x")
    seen = []
    for root in (node.root, tmp_path_factory.mktemp("other")):
        other = Node(root, node.sandbox)
        reply = other.run("env | sort > out.txt; pwd >> out.txt; echo ~ >> out.txt", "out.txt", WORD="given")
        seen.append(other.output(reply, "out.txt").decode())
    assert seen[0] == seen[1]
    variables = dict(line.split("=", 1) for line in seen[0].splitlines() if "=" in line)
    assert variables["PATH"] == "/environment/bin:/python/bin:/usr/local/bin:/usr/bin:/bin"
    fixed = {name: variables[name] for name in ("USER", "LOGNAME", "LANG", "TZ", "WORD", "HOME", "PYTHONUNBUFFERED")}
    assert fixed == {
        "USER": "job", "LOGNAME": "job", "LANG": "C.UTF-8", "TZ": "UTC", "WORD": "given", "HOME": "/tmp/job/home",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    assert not {"SECRET_TOKEN", "RANK", "STANNARY_RANK"} & set(variables)


def test_rank_and_shard(node: Node) -> None:
    """A job on several nodes tells each of them which part is its own."""
    node.num_nodes = 3
    reply = node.run("echo $RANK/$WORLD_SIZE $STANNARY_RANK/$STANNARY_WORLD_SIZE $STANNARY_SHARD > out.txt", "out.txt")
    assert node.output(reply, "out.txt") == b"2/3 2/3 2/3\n"


def test_bash_where_the_lines_ask_for_it(node: Node) -> None:
    """Lines that begin with `#!` run by what they name; a program that is not there is said, with what to write."""
    lines = '#!/bin/bash\nset -o pipefail\nitems=(a "b c")\ncat <(printf "%s," "${items[@]}") > out.txt\n[[ a == a* ]]'
    assert node.output(node.run(lines, "out.txt"), "out.txt") == b"a,b c,"
    assert node.output(node.run("#!/usr/bin/env python\nprint(1, file=open('out.txt', 'w'))", "out.txt"), "out.txt")
    with pytest.raises(JobFailed) as caught:
        node.run("#!/bin/fish\ntrue")
    assert "#!/bin/fish" in str(caught.value)


def test_shared_memory_follows_what_was_asked_for(node: Node) -> None:
    """A job that asked for 256 MiB may put more than the 64 MiB of before into /dev/shm."""
    reply = node.run("head -c 100000000 /dev/zero > /dev/shm/x && stat -c %s /dev/shm/x > out.txt", "out.txt")
    assert node.output(reply, "out.txt") == b"100000000\n"


def test_outputs_of_every_kind(node: Node) -> None:
    """Directories, `**` and links inside come back; a name that cannot travel is left out, named and counted."""
    reply = node.run(
        "mkdir -p r/deep; echo 1 > r/a; echo 2 > r/deep/-b; ln -s deep r/latest; ln -s /etc/ld.so.cache r/out; "
        r"""printf x > "$(printf 'r/new\nline')"; mkdir r/empty; mkfifo r/pipe; printf '99 %%' >&2""",
        "./r/",
        "**/-b",
    )
    assert [item.name for item in reply.outputs] == ["r/a", "r/deep/-b", "r/latest/-b"]
    assert reply.header["metrics"] == {"outputs_left_out": "3"}
    assert "99 %" in [text for _, text in node.lines], "a line without an end stands alone"
    assert sorted(text.split(": ")[1] for _, text in node.lines if "left out" in text) == [
        "'r/new\\nline'", "'r/out'", "'r/pipe'",
    ]  # fmt: skip


def test_many_outputs(node: Node) -> None:
    """5,000 files come back as one archive, and the log says so."""
    reply = node.run("mkdir r; cd r; seq 5000 | xargs touch", "r")
    assert [item.name for item in reply.outputs] == ["outputs.tar"]
    assert any("5,000 outputs travel as one file" in text for _, text in node.lines)


def test_what_a_command_leaves_running_ends_before_its_outputs_are_read(
    node: Node, processes_with: Callable[[str], list[int]]
) -> None:
    """A daemon in a session of its own is gone when the outputs are read, and so cannot change them."""
    text = "import os,time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n" + textwrap.dedent(
        """
        open('up', 'w').close()
        while True:
            open('out.txt', 'a').write('x')
        """
    )
    name = f"daemon{os.getpid()}.py"  # a name of this test's own
    run = f"python {name}; while [ ! -e up ]; do :; done; echo done > out.txt"
    node.run(run, "out.txt", files={name: text.encode()})
    assert processes_with(name) == []


BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        open("full", "w").close()
"""
BOMB_FILE = f"bomb{os.getpid()}.py"  # a name of this test's own: another process of this machine is not taken for it
ROUGH = {
    "closes its streams": "exec <&- >&- 2>&-; echo kept > out.txt",
    "fills its disk": "echo kept > out.txt; ! cat /dev/zero > big",
    "fills shared memory with files": "echo kept > out.txt; cd /dev/shm; seq 100000 | xargs touch 2> /dev/null; true",
    "leaves a fork bomb": f"echo kept > out.txt; python {BOMB_FILE} & until [ -e full ]; do :; done",
}


@pytest.mark.parametrize("way", sorted(ROUGH))
def test_a_rough_command_hands_in_what_it_made(
    node: Node, way: str, processes_with: Callable[[str], list[int]]
) -> None:
    """Whatever a command does to its own world, its output comes whole and nothing of it stays."""
    reply = node.run(ROUGH[way], "out.txt", files={BOMB_FILE: BOMB.encode()})
    assert node.output(reply, "out.txt") == b"kept\n"
    assert processes_with(BOMB_FILE) == []


PRY = """
import ctypes, glob, json, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
parents, pid = [], os.getppid()
while pid > 0:
    parents.append(pid)
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
FRAME = struct.pack(">I", 27) + b'{"output":"evil","size":1}x' + struct.pack(">Q", 1) + b"x"
def attempt(what, *args):
    try:
        found = what(*args)
    except OSError as err:
        return err.errno
    return found
def write(path):
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(fd, FRAME)
    finally:
        os.close(fd)
def call(number, *args):
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)), ctypes.get_errno()
won = []
for pid in parents:
    for name in ("fd", "map_files", "task"):
        for path in glob.glob(f"/proc/{pid}/{name}/*") + [f"/proc/{pid}/fd/{n}" for n in range(3, 40)]:
            if name != "task" and attempt(write, path) == len(FRAME):
                won.append(path)
    for name in ("mem", "environ", "maps", "auxv", "stack", "syscall", "root/", "cwd/", "exe"):
        found = attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1)) if name[-1] != "/" else attempt(
            os.listdir, f"/proc/{pid}/{name}")
        if not isinstance(found, int):
            won.append(f"{pid}/{name}")
    for number, args in ((101, (16, pid, 0, 0)), (101, (0x4206, pid, 0, 0)), (310, (pid, 0, 0, 0, 0, 0)),
                         (311, (pid, 0, 0, 0, 0, 0)), (312, (pid, os.getpid(), 0, 3, 3)), (440, (0, 0, 0, 0, 0))):
        if call(number, *args)[0] >= 0:
            won.append([pid, number])
    pidfd = call(434, pid, 0)[0]
    for fd in range(3, 40):
        if pidfd >= 0 and call(438, pidfd, fd, 0)[0] >= 0:
            won.append(["pidfd_getfd", pid, fd])
for fd in range(3, 64):
    if attempt(os.write, fd, FRAME) == len(FRAME):
        won.append(["own fd", fd])
open("out.txt", "w").write(json.dumps([len(parents), won]))
"""


def test_a_command_reaches_nothing_of_its_worker(node: Node) -> None:
    """Neither /proc nor any call gives a command the pipes its worker signs by, whatever numbers they have."""
    reply = node.run("exec python pry.py", "out.txt", files={"pry.py": PRY.encode()})
    num_parents, won = json.loads(node.output(reply, "out.txt"))
    assert num_parents >= 2
    assert won == []
    assert [item.name for item in reply.outputs] == ["out.txt"]


@pytest.mark.skipif(landlock.abi() < 6, reason="this kernel scopes no signals (Linux 6.12)")
def test_a_command_cannot_end_its_worker(node: Node) -> None:
    """Signals reach what the command started and nobody else: a node is not blamed for a worker its buyer killed."""
    reply = node.run(
        "(sleep 600) & kill -9 $! && echo own > out.txt; for s in STOP KILL TERM; do kill -$s $PPID 2>/dev/null; done;"
        " kill -9 1 2>/dev/null; echo end >> out.txt",
        "out.txt",
    )
    assert node.output(reply, "out.txt") == b"own\nend\n"


@pytest.mark.parametrize(
    ("run", "ended"),
    [
        ("echo found > out.txt; exit 3", "exit-3"),
        ("echo found > out.txt", "exit-0"),
        ("echo found > out.txt; kill -SEGV $$", "signal-11"),
        ("echo found > out.txt; kill -KILL $$", "signal-9"),
        ("echo found > out.txt; sh -c 'kill -ABRT $$'", "exit-134"),  # a shell's word for its child's signal
        ("#!/bin/sh\necho found > out.txt\nexit 255", "exit-255"),
    ],
)
def test_however_a_program_ends_it_has_a_result(node: Node, run: str, ended: str) -> None:
    """Its exit code or signal is part of it, and its outputs are handed in."""
    node.rules = 3
    reply = node.run(run, "out.txt")
    assert reply.header["ended"] == ended
    assert node.output(reply, "out.txt") == b"found\n"


def test_what_a_program_did_not_leave_is_said_and_the_rest_handed_in(node: Node) -> None:
    """A pattern that names nothing fails no job: the log says which, and the result is what there is."""
    node.rules = 3
    reply = node.run("echo half > a.txt; exit 1", "a.txt", "b/*.txt", "c.txt")
    assert [item.name for item in reply.outputs] == ["a.txt"]
    assert reply.header["ended"] == "exit-1"
    assert ("stderr", "no such output: b/*.txt, c.txt") in node.lines
    nothing = node.run("exit 1", "a.txt", files={"unused": b""})
    assert (nothing.outputs, nothing.header["ended"]) == ((), "exit-1")


@pytest.mark.parametrize(
    ("run", "ended"),
    [("#!/no/such/program\n", "exit-127"), ("#!/tmp\n", "exit-126"), ("no-such-program", "exit-127")],
)
def test_a_program_that_does_not_start_has_ended_as_a_shell_says(node: Node, run: str, ended: str) -> None:
    """It is the buyer's own doing, the same on every node, and no failure of one."""
    node.rules = 3
    assert node.run(run).header["ended"] == ended


@pytest.mark.parametrize(
    "run",
    [
        "echo half > out.txt; sleep 600; echo whole > out.txt",
        "#!/bin/sh\ntrap 'echo half > out.txt; exit 7' TERM\nwhile :; do sleep 0.1; done",
    ],
)
def test_what_a_program_left_when_its_time_was_over_is_handed_in(node: Node, run: str) -> None:
    """It is asked to end, and may write down what there is; its exit code then says nothing."""
    node.rules, node.wall_s = 3, 1
    reply = node.run(run, "out.txt")
    assert reply.header["ended"] == "wall-limit"
    assert node.output(reply, "out.txt") == b"half\n"


@pytest.mark.parametrize(
    "run",
    [
        "echo half > out.txt; echo up; sleep 600; echo whole > out.txt",
        "#!/bin/sh\ntrap 'echo half > out.txt; exit 7' TERM\necho up\nwhile :; do sleep 0.1; done",
        "trap '' TERM; echo half > out.txt; echo up; while :; do sleep 0.1; done",
    ],
)
def test_what_a_program_left_when_its_buyer_stopped_it_is_handed_in(node: Node, run: str) -> None:
    """It gets SIGTERM, a moment, then SIGKILL; long before its time is over."""
    node.rules, node.stops_at = 3, "up"
    reply = node.run(run, "out.txt")
    assert reply.header["ended"] == "stopped"
    assert node.output(reply, "out.txt") == b"half\n"


def test_a_program_that_will_not_end_is_ended(node: Node) -> None:
    """It catches SIGTERM, starts others that do, and writes for ever: its time is over all the same."""
    node.rules, node.wall_s = 3, 1
    reply = node.run(
        "trap '' TERM; (while :; do echo more >> out.txt; done) & while :; do sleep 0.1; done", "out.txt", "no"
    )
    assert reply.header["ended"] == "wall-limit"
    assert node.output(reply, "out.txt").startswith(b"more\n")


def test_memory_that_ran_out_cuts_a_program_and_blames_no_node(node: Node) -> None:
    """The kernel's own count says so, whatever the program or its shell made of it; what it left is kept."""
    node.rules, node.memory_bytes = 3, 128 * MIB
    reply = node.run(f"echo half > out.txt; {GROW}; exit 0", "out.txt")
    assert reply.header["ended"] == "out-of-memory"
    assert node.output(reply, "out.txt") == b"half\n", "the kernel killed the program, and its worker handed in"


def test_who_kills_itself_was_not_out_of_memory(node: Node) -> None:
    """SIGKILL alone is the program's own doing: it is the kernel that counts who ran out."""
    node.rules = 3
    assert node.run("kill -KILL $$").header["ended"] == "signal-9"


def test_a_fork_bomb_has_a_result_of_its_own_making(node: Node) -> None:
    """It fills its limit of processes and gives up or stands still: no report of a failure that would blame a node."""
    node.rules, node.wall_s = 3, 2
    reply = node.run("echo half > out.txt; b() { b | b & }; b; wait; sleep 600", "out.txt")
    assert reply.header["ended"] in {"wall-limit", "out-of-memory", "exit-2"}  # 2: a shell that cannot fork


def test_signals_have_names(node: Node) -> None:
    """A crash is said by its signal's name, once, and not as a bare number."""
    with pytest.raises(JobFailed) as caught:
        node.run("python -c 'import ctypes; ctypes.string_at(0)'")
    assert str(caught.value).count("SIGSEGV (Segmentation fault)") == 1
    assert caught.value.detail == "command-failed"


def test_memory_that_ran_out_is_said_as_such(node: Node) -> None:
    """A command that the kernel killed for its memory says so, although its worker lives on and saw but a SIGKILL."""
    node.memory_bytes = 128 * MIB
    with pytest.raises(JobFailed) as caught:
        node.run("python -c 'x = bytearray(1 << 29)'")
    assert caught.value.detail == "out-of-memory"
    assert str(caught.value) == "killed: out of memory: more than 128 MiB, resources.memory"


def test_errors_keep_their_lines_and_say_nothing_twice(node: Node) -> None:
    """What failed, why and what to do come as three texts, each once, without a code in them."""
    with pytest.raises(JobFailed) as caught:
        node.run("true", "missing.txt")
    assert (caught.value.what, caught.value.why) == ("command left no such output", "missing.txt")
    assert "relative to the work directory" in caught.value.hint
    assert "E-" not in str(caught.value)


def test_what_a_command_prints(node: Node) -> None:
    """A bar is one line, both streams come line by line, an unfinished line is the task's own, escapes are harmless."""
    text = """
    import sys, time
    for number in range(10_000):
        sys.stderr.write(f"\\r{number}%|###")
    sys.stderr.write("\\n")
    print("\\x1b[31mred\\x1b[0m \\x1b[2J")
    print("Traceback:\\n  File\\nValueError: x")
    sys.stdout.write("no end")
    """
    node.run("python p.py", files={"p.py": textwrap.dedent(text.replace("\\\\", "\\")).encode()})
    shown = [(stream, logs.printable(text)) for stream, text in node.lines]
    by_stream = {name: [text for stream, text in shown if stream == name] for name in ("stdout", "stderr")}
    assert by_stream["stderr"] == ["9999%|###"]
    assert by_stream["stdout"] == ["red \N{SYMBOL FOR ESCAPE}[2J", "Traceback:", "  File", "ValueError: x", "no end"]


def test_a_log_bomb_is_bounded(node: Node) -> None:
    """A line of 50 MB and 200,000 lines end with the command, and no line is longer than the market takes."""
    node.run("head -c 50000000 /dev/zero | tr '\\0' x; yes | head -n 200000")
    assert max(len(text) for _, text in node.lines) <= 4097
    assert len(node.lines) >= 200_000


def test_a_command_writes_into_nothing_but_its_own(node: Node, packages: Path) -> None:
    """Environment, inputs, work directory, interpreter and the worker's own code are read-only to a command."""
    node.packages = packages
    reply = node.run(
        "for p in /environment /environment/tin/__init__.py /job /job/workdir /job/blobs /job/blobs/* /python/bin"
        " /usr /etc /proc/sys/kernel /; do"
        " if [ -d $p ]; then touch $p/evil 2>/dev/null && echo $p; else (echo x > $p) 2>/dev/null && echo $p; fi;"
        " mv $p $p.old 2>/dev/null && echo moved $p; done; ln /environment/tin/__init__.py x 2>/dev/null && echo linked"
        "; echo end > out.txt; true",
        "out.txt",
    )
    assert [item.name for item in reply.outputs] == ["out.txt"]
    assert [text for stream, text in node.lines if stream == "stdout"] == []
    assert (packages / "tin/__init__.py").read_text() == "ORE = 'cassiterite'\n"


def test_what_a_command_took_is_measured(node: Node) -> None:
    """One that sleeps holds its processor and uses none; of two that share one, each waits while the other runs."""
    asleep = node.run("sleep 1 && touch done", "done").used
    assert asleep.wall_ms >= 1000
    assert asleep.cpu_ms < asleep.wall_ms
    spin = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    shared = node.run('python3 -c "$SPIN" & python3 -c "$SPIN"; wait; touch done', "done", SPIN=spin).used
    assert shared.waited_ms > 0
    assert shared.cpu_ms > 0
