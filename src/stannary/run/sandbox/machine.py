"""What a job is told of the machine: the same on every node, whatever the machine is.

Programs choose how many threads they start and how much they take at once by what the system says of processors and
memory. Here it says what the job asked for: so the same program does the same on every node. The files below lie over
those of /proc and /sys; all else there is masked. What a program asks the kernel itself, or the processor, cannot be
fixed so (docs/sandbox.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from stannary.run.sandbox.contract import Limits

MASKED_IN_PROC = "/proc/sys"  # a directory that is masked and then holds files of SETTINGS

_PROCESSOR = """\
processor\t: {index}
vendor_id\t: stannary
model name\t: processor of a job
physical id\t: 0
siblings\t: {cpus}
core id\t\t: {index}
cpu cores\t: {cpus}
apicid\t\t: {index}

"""
_MEMORY = ("MemTotal", "MemFree", "MemAvailable")
_NOTHING = ("Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree", "Shmem", "Slab")
_COUNTED = ("intr", "ctxt", "btime", "processes", "procs_blocked", "softirq")
# What common programs and libraries read when they start, as Linux has it by default; each file costs a mount.
SETTINGS = {
    "/proc/sys/kernel/cap_last_cap": "40",
    "/proc/sys/kernel/pid_max": "4194304",
    "/proc/sys/vm/overcommit_memory": "0",
}


def told_files(limits: Limits) -> Mapping[str, bytes]:
    """Return the files that tell of a machine of these limits, by their path inside."""
    cpus, kilobytes = num_cpus(limits), limits.memory_bytes // 1024
    listed = f"0-{cpus - 1}" if cpus > 1 else "0"
    each = "".join(f"cpu{index} 0 0 0 0 0 0 0 0 0 0\n" for index in range(cpus))
    told = {
        "/proc/cpuinfo": "".join(_PROCESSOR.format(index=index, cpus=cpus) for index in range(cpus)),
        "/proc/meminfo": "".join(f"{name}: {kilobytes} kB\n" for name in _MEMORY)
        + "".join(f"{name}: 0 kB\n" for name in _NOTHING),
        "/proc/stat": f"cpu  0 0 0 0 0 0 0 0 0 0\n{each}" + "".join(f"{name} 0\n" for name in _COUNTED),
        "/proc/loadavg": "0.00 0.00 0.00 1/1 1\n",
        "/proc/uptime": "0.00 0.00\n",
        "/proc/vmstat": "pswpin 0\npswpout 0\n",
        **{f"/sys/devices/system/cpu/{name}": f"{listed}\n" for name in ("online", "possible", "present")},
        **{path: f"{value}\n" for path, value in SETTINGS.items()},
    }
    return {path: text.encode() for path, text in told.items()}


def num_cpus(limits: Limits) -> int:
    """Return how many processors a job is told of."""
    return max(1, -(-limits.cpu_millis // 1000))
