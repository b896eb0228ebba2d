"""Control groups, judged by the files they write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stannary.run.sandbox import cgroup
from stannary.run.sandbox.contract import Limits

LIMITS = Limits(memory_bytes=1 << 28, cpu_millis=1500, pids=77)


def fake_proc(root: Path, groups: str, mounts: list[str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("\n".join(mounts) + "\n")
    return root / "proc"


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    own = tmp_path / "fs/agent.service"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (own / "cgroup.subtree_control").write_text("\n")
    (own / "cgroup.procs").write_text("")
    return own


def proc_v2(tmp_path: Path) -> Path:
    return fake_proc(tmp_path, "0::/agent.service\n", [f"1 0 0:1 / {tmp_path}/fs rw shared:1 - cgroup2 cgroup2 rw"])


def test_version_2_hands_controllers_down(tmp_path: Path, v2: Path) -> None:
    """The agent moves itself into a leaf, hands the controllers down, and names the back end."""
    found = cgroup.find(proc_v2(tmp_path))
    assert isinstance(found, cgroup.HierarchyV2)
    assert found.name == "cgroup2"
    assert (v2 / f"stannary-agent-{os.getpid()}/cgroup.procs").read_text() == f"{os.getpid()}\n"
    assert (v2 / "cgroup.subtree_control").read_text() == "+cpu +memory +pids\n"


def test_usable_memory_is_under_every_limit_above(tmp_path: Path, v2: Path) -> None:
    """The smallest limit of this group and those above it counts; none at all leaves the machine's memory."""
    proc, physical = proc_v2(tmp_path), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (v2 / "memory.max").write_text("max\n")
    assert cgroup.usable_memory_bytes(proc) == physical
    (v2.parent / "memory.max").write_text(f"{1 << 28}\n")
    assert cgroup.usable_memory_bytes(proc) == 1 << 28
    (v2 / "memory.max").write_text(f"{1 << 27}\n")
    assert cgroup.usable_memory_bytes(proc) == 1 << 27


def test_version_2_limits(tmp_path: Path, v2: Path) -> None:
    """Memory without swap, quota over period, process count; no worker is killed with what its program took."""
    group = cgroup.HierarchyV2(v2).create(LIMITS)
    written = {path.name: path.read_text().strip() for path in group.directory.iterdir()}
    assert written == {
        "memory.max": str(1 << 28),
        "memory.oom.group": "0",
        "cpu.max": "150000 100000",
        "pids.max": "77",
    }
    assert group.entrances() == (group.directory / "cgroup.procs",)
    (group.directory / "cgroup.kill").write_text("")
    group.kill()
    assert (group.directory / "cgroup.kill").read_text() == "1\n"


def test_version_2_metering(tmp_path: Path, v2: Path) -> None:
    """Usage comes from the kernel's counters."""
    group = cgroup.HierarchyV2(v2).create(LIMITS)
    (group.directory / "cpu.stat").write_text("usage_usec 1234567\nuser_usec 1\n")
    (group.directory / "memory.peak").write_text("4096\n")
    (group.directory / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert group.usage() == cgroup.Usage(1234, 4096, 1)


def test_version_2_without_controllers(tmp_path: Path, v2: Path) -> None:
    """A tree that has no memory controller is no use, and nothing is moved."""
    (v2 / "cgroup.controllers").write_text("cpuset\n")
    assert cgroup.find(proc_v2(tmp_path)) is None
    assert not list(v2.glob("stannary-*"))


def test_hybrid(tmp_path: Path) -> None:
    """Version 1 controllers are used where they are mounted, below the agent's own groups, with v2 to kill."""
    mounts = []
    for name in ("memory", "cpu,cpuacct", "pids", "unified"):
        (tmp_path / "fs" / name / "mine").mkdir(parents=True)
        kind = "cgroup2 cgroup2 rw" if name == "unified" else f"cgroup cgroup rw,{name}"
        mounts.append(f"1 0 0:1 / {tmp_path}/fs/{name} rw - {kind}")
    proc = fake_proc(tmp_path, "3:memory:/mine\n2:cpu,cpuacct:/mine\n1:pids:/mine\n0::/mine\n", mounts)
    found = cgroup.find(proc)
    assert isinstance(found, cgroup.HierarchyV1)
    group = found.create(LIMITS)
    assert group.memory.parent == tmp_path / "fs/memory/mine"
    assert (group.memory / "memory.limit_in_bytes").read_text() == f"{1 << 28}\n"
    assert (group.memory / "memory.swappiness").read_text() == "0\n"
    assert (group.cpu / "cpu.cfs_quota_us").read_text() == "150000\n"
    assert (group.pids / "pids.max").read_text() == "77\n"
    assert len(group.entrances()) == 4  # cpu and cpuacct are one tree


def test_nothing_to_be_had(tmp_path: Path) -> None:
    """Without any writable tree there is no hierarchy, and the caller falls to rlimits."""
    assert cgroup.find(fake_proc(tmp_path, "", [])) is None


def test_what_a_dead_agent_left_is_swept(v2: Path) -> None:
    """The groups of its jobs and the leaf it was in itself; those of one that lives stay."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = [v2 / f"stannary-{gone.pid}-0", v2 / f"stannary-agent-{gone.pid}"]
    alive = [v2 / f"stannary-{os.getpid()}-0", v2 / f"stannary-agent-{os.getpid()}", v2 / "stannary-node-big"]
    for path in (*dead, *alive):
        path.mkdir()
    assert cgroup.HierarchyV2(v2).sweep() == 2
    assert [path.exists() for path in (*dead, *alive)] == [False, False, True, True, True]
