"""Control groups of a job: memory, processor share, process count, metering, and killing all at once.

Rules:
1. A job's group lies *below the agent's own group*, so that whoever limits the agent limits the job.
2. Two back ends: version 1 controllers (with the version 2 tree beside them, where there is one,
   for `cgroup.kill`), and version 2 alone. What is there is read from /proc, never assumed.
3. Memory counts swap: a limit a job can page its way around is none.
4. A group is removed when its job ends; groups whose agent is gone are swept at the next start.

Where no controller can be written, `find` returns None and rlimits are the last resort (process.py).
cgroups(7); Documentation/admin-guide/cgroup-v1, cgroup-v2.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox.contract import Limits, Usage

CPU_PERIOD_US = 100_000  # the kernel's default
NAME_PREFIX = "stannary-"
REMOVAL_TIMEOUT_S = 5.0  # killed processes leave their group within milliseconds; a loaded machine needs more
REMOVAL_POLL_S = 0.005
V1_CONTROLLERS = ("memory", "cpu", "pids")
V1_METERING = "cpuacct"
V2_CONTROLLERS = frozenset({"memory", "cpu", "pids"})

_LEAF = "agent-"  # where an agent itself is, in version 2
_counter = itertools.count()


class Group(Protocol):
    """The control group of one job."""

    def entrances(self) -> tuple[Path, ...]:
        """Return the files a process writes 0 to in order to be inside."""
        ...

    def kill(self) -> None:
        """Kill every process inside, whatever session or parent it has made itself."""
        ...

    def threads(self) -> list[str]:
        """Return the ids of all threads inside."""
        ...

    def usage(self) -> Usage:
        """Return what the processes used so far."""
        ...

    def remove(self) -> None:
        """Kill what is left and remove the group."""
        ...


class Hierarchy(Protocol):
    """Where job groups can be made on this machine."""

    @property
    def name(self) -> str:
        """`cgroup1` or `cgroup2`."""
        ...

    def create(self, limits: Limits) -> Group:
        """Make a group with these limits."""
        ...

    def sweep(self) -> int:
        """Remove the groups of agents that are gone; return how many."""
        ...


def find(proc: Path = Path("/proc")) -> Hierarchy | None:
    """Return the hierarchy this process may make groups in, None where there is none."""
    own = _own_directories(proc)
    unified = own.get("")
    if all(controller in own and os.access(own[controller], os.W_OK) for controller in V1_CONTROLLERS):
        used = {controller: own[controller] for controller in (*V1_CONTROLLERS, V1_METERING) if controller in own}
        return HierarchyV1(used, unified if unified is not None and os.access(unified, os.W_OK) else None)
    if unified is not None and os.access(unified, os.W_OK):
        return HierarchyV2.prepare(unified)
    return None


def usable_cpus(proc: Path = Path("/proc")) -> int:
    """Return how many cores this process may use: its affinity, under the quota of its groups and those above."""
    own = _own_directories(proc)
    usable = float(len(os.sched_getaffinity(0)))
    for directory in _upwards(own.get("")):
        quota, _, period = _read_text(directory / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            usable = min(usable, int(quota) / int(period))
    for directory in _upwards(own.get("cpu")):
        quota_us, period_us = (_read_number(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota_us > 0 and period_us > 0:  # no quota reads as -1, hence as no number
            usable = min(usable, quota_us / period_us)
    return max(1, int(usable))


def usable_memory_bytes(proc: Path = Path("/proc")) -> int:
    """Return how much memory this process may use: the machine's, under the limits of its groups and those above."""
    own = _own_directories(proc)
    limits = [_read_number(directory / "memory.max") for directory in _upwards(own.get(""))]
    limits += [_read_number(directory / "memory.limit_in_bytes") for directory in _upwards(own.get("memory"))]
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for limit in limits if limit)])  # "max", no limit, reads as 0


@dataclass(frozen=True, slots=True)
class HierarchyV1:
    """Version 1 controllers, each with a tree of its own; `unified` is the version 2 tree beside them."""

    own: dict[str, Path]
    unified: Path | None
    name: str = "cgroup1"

    def create(self, limits: Limits) -> GroupV1:
        """Make one directory per controller and write the limits."""
        label = _label()
        group = GroupV1(
            memory=self.own["memory"] / label,
            cpu=self.own["cpu"] / label,
            pids=self.own["pids"] / label,
            accounting=self.own[V1_METERING] / label if V1_METERING in self.own else None,
            unified=self.unified / label if self.unified else None,
        )
        try:
            group.make(limits)
        except OSError as err:
            group.remove()
            raise EnvironmentProblem("cannot make a control group", why=str(err)) from err
        return group

    def sweep(self) -> int:
        """Remove the groups of agents that are gone."""
        return sum(_sweep(directory) for directory in {*self.own.values(), *([self.unified] if self.unified else [])})


@dataclass(frozen=True, slots=True)
class GroupV1:
    """One job in every version 1 tree."""

    memory: Path
    cpu: Path
    pids: Path
    accounting: Path | None
    unified: Path | None

    def directories(self) -> tuple[Path, ...]:
        """Return each directory once: cpu and cpuacct are often one tree."""
        listed = (self.memory, self.cpu, self.pids, self.accounting, self.unified)
        return tuple(dict.fromkeys(path for path in listed if path is not None))

    def make(self, limits: Limits) -> None:
        """Make the directories and write the limits."""
        for directory in self.directories():
            directory.mkdir(exist_ok=True)
        _write(self.memory / "memory.limit_in_bytes", limits.memory_bytes)
        with_swap = self.memory / "memory.memsw.limit_in_bytes"
        if with_swap.exists():  # absent where swap is not accounted; then keep the job out of it
            _write(with_swap, limits.memory_bytes)
        else:
            _write(self.memory / "memory.swappiness", 0)
        _write(self.cpu / "cpu.cfs_period_us", CPU_PERIOD_US)
        _write(self.cpu / "cpu.cfs_quota_us", _cpu_quota_us(limits))
        _write(self.pids / "pids.max", limits.pids)

    def entrances(self) -> tuple[Path, ...]:
        """Return the cgroup.procs of every tree."""
        return tuple(directory / "cgroup.procs" for directory in self.directories())

    def kill(self) -> None:
        """Kill through the version 2 tree at once; without one, by number until nobody is left."""
        if self.unified is not None and (self.unified / "cgroup.kill").exists():
            _write(self.unified / "cgroup.kill", 1)
            return
        _kill_by_number(self.pids / "cgroup.procs")

    def threads(self) -> list[str]:
        """Read the ids of all threads inside."""
        return _read_words(self.pids / "tasks")

    def usage(self) -> Usage:
        """Read processor time, peak memory and kills by the memory limit."""
        cpu_ns = _read_number(self.accounting / "cpuacct.usage") if self.accounting else 0
        return Usage(
            cpu_ms=cpu_ns // 1_000_000,
            peak_memory_bytes=_read_number(self.memory / "memory.max_usage_in_bytes"),
            num_oom_kills=_read_keyed(self.memory / "memory.oom_control", "oom_kill"),
        )

    def remove(self) -> None:
        """Kill what is left and remove every directory."""
        _remove(self.kill, self.directories())


@dataclass(frozen=True, slots=True)
class HierarchyV2:
    """The version 2 tree, in a directory whose children may have the controllers we need."""

    own: Path
    name: str = "cgroup2"

    @classmethod
    def prepare(cls, own: Path) -> HierarchyV2 | None:
        """Hand the controllers down to children of `own`; None where that is not allowed.

        A group with processes cannot hand controllers down (the "no internal processes" rule), so the
        agent first moves itself into a leaf. If strangers live in the group as well, the kernel still
        says EBUSY and we leave them alone.
        """
        available = set(_read_words(own / "cgroup.controllers"))
        if not available >= V2_CONTROLLERS:
            return None
        if set(_read_words(own / "cgroup.subtree_control")) >= V2_CONTROLLERS:
            return cls(own)
        leaf = own / f"{NAME_PREFIX}{_LEAF}{os.getpid()}"
        try:
            leaf.mkdir(exist_ok=True)
            _write(leaf / "cgroup.procs", os.getpid())
            _write(own / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(V2_CONTROLLERS)))
        except OSError:
            with contextlib.suppress(OSError):  # back to where we were; the leaf is empty then
                _write(own / "cgroup.procs", os.getpid())
                leaf.rmdir()
            return None
        return cls(own)

    def create(self, limits: Limits) -> GroupV2:
        """Make the group and write the limits."""
        group = GroupV2(self.own / _label())
        try:
            group.make(limits)
        except OSError as err:
            group.remove()
            raise EnvironmentProblem("cannot make a control group", why=str(err)) from err
        return group

    def entrance_for(self, name: str) -> Path:
        """Make a group in which another agent can make groups of its own, and return its cgroup.procs.

        Two agents of one group are strangers to each other: neither could hand controllers down.
        """
        place = self.own / f"{NAME_PREFIX}node-{name}"
        place.mkdir(exist_ok=True)
        return place / "cgroup.procs"

    def sweep(self) -> int:
        """Remove the groups of agents that are gone."""
        return _sweep(self.own)


@dataclass(frozen=True, slots=True)
class GroupV2:
    """One job in the version 2 tree."""

    directory: Path

    def make(self, limits: Limits) -> None:
        """Make the directory and write the limits."""
        self.directory.mkdir(exist_ok=True)
        _write(self.directory / "memory.max", limits.memory_bytes)
        swap = self.directory / "memory.swap.max"
        if swap.exists():  # absent where the kernel has no swap at all
            _write(swap, 0)
        _write(self.directory / "memory.oom.group", 0)  # the program goes first (worker/command.py), its worker reports
        _write(self.directory / "cpu.max", f"{_cpu_quota_us(limits)} {CPU_PERIOD_US}")
        _write(self.directory / "pids.max", limits.pids)

    def entrances(self) -> tuple[Path, ...]:
        """Return the group's cgroup.procs."""
        return (self.directory / "cgroup.procs",)

    def kill(self) -> None:
        """Kill at once (Linux 5.14 and later), else by number until nobody is left."""
        if (self.directory / "cgroup.kill").exists():
            _write(self.directory / "cgroup.kill", 1)
            return
        _kill_by_number(self.directory / "cgroup.procs")

    def threads(self) -> list[str]:
        """Read the ids of all threads inside."""
        return _read_words(self.directory / "cgroup.threads")

    def usage(self) -> Usage:
        """Read processor time, peak memory and kills by the memory limit."""
        return Usage(
            cpu_ms=_read_keyed(self.directory / "cpu.stat", "usage_usec") // 1000,
            peak_memory_bytes=_read_number(self.directory / "memory.peak"),
            num_oom_kills=_read_keyed(self.directory / "memory.events", "oom_kill"),
        )

    def remove(self) -> None:
        """Kill what is left and remove the directory."""
        _remove(self.kill, (self.directory,))


def _own_directories(proc: Path) -> dict[str, Path]:
    """Return the directory of this process's group per controller; "" is the version 2 tree."""
    mounts = dict(_mounts(proc / "self/mountinfo"))
    own: dict[str, Path] = {}
    for line in _read_text(proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if controller in mounts:
                root, mountpoint = mounts[controller]
                # Inside a container the mount may show a subtree: its root is a prefix of our path.
                inside = path[len(root) :] if root != "/" and path.startswith(root) else path
                own[controller] = mountpoint / inside.lstrip("/")
    return {controller: directory for controller, directory in own.items() if directory.is_dir()}


def _mounts(mountinfo: Path) -> Iterator[tuple[str, tuple[str, Path]]]:
    """Yield (controller, (root, mountpoint)) of every cgroup mount; proc(5), mountinfo."""
    for line in _read_text(mountinfo).splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        place = (fields[3], Path(fields[4]))
        if kind[0] == "cgroup2":
            yield "", place
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                yield option, place


def _upwards(directory: Path | None) -> tuple[Path, ...]:
    return () if directory is None else (directory, *directory.parents)


def _label() -> str:
    return f"{NAME_PREFIX}{os.getpid()}-{next(_counter)}"


def _cpu_quota_us(limits: Limits) -> int:
    return max(1000, limits.cpu_millis * CPU_PERIOD_US // 1000)  # the kernel refuses less than 1 ms


def _kill_by_number(procs: Path) -> None:
    deadline = time.monotonic() + REMOVAL_TIMEOUT_S
    while time.monotonic() < deadline:
        numbers = _read_words(procs)
        if not numbers:
            return
        for number in numbers:  # again and again: a fork bomb makes new ones between the read and the kill
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)


def _remove(kill: Callable[[], None], directories: tuple[Path, ...]) -> None:
    with contextlib.suppress(OSError):
        kill()
    deadline = time.monotonic() + REMOVAL_TIMEOUT_S
    for directory in directories:
        while directory.exists():
            try:
                directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    break  # left for the next start's sweep, which tries again
                time.sleep(REMOVAL_POLL_S)


def _sweep(directory: Path) -> int:
    num_removed = 0
    for child in directory.glob(f"{NAME_PREFIX}*-*"):
        agent = child.name.removeprefix(NAME_PREFIX).removeprefix(_LEAF).partition("-")[0]
        if not agent.isdigit() or Path(f"/proc/{agent}").exists():
            continue
        _remove(functools.partial(_kill_by_number, child / "cgroup.procs"), (child,))
        num_removed += not child.exists()
    return num_removed


def _write(path: Path, value: int | str) -> None:
    path.write_text(f"{value}\n")


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # not there on this kernel: the caller reports zero or nothing found


def _read_words(path: Path) -> list[str]:
    return _read_text(path).split()


def _read_number(path: Path) -> int:
    text = _read_text(path).strip()
    return int(text) if text.isdigit() else 0


def _read_keyed(path: Path, key: str) -> int:
    for line in _read_text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0
