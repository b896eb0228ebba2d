"""The system call filter, judged by running its instructions."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import seccomp
from stannary.run.sandbox.seccomp import AARCH64, MACHINES, X86_64, Machine

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decide(machine: Machine, number: int, *args: int, arch: int | None = None) -> int:
    """Run the filter as the kernel does."""
    data = struct.pack("<IIQ6Q", number, arch or machine.audit_arch, 0, *(args + (0,) * (6 - len(args))))
    lines = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    at = accumulator = 0
    while True:
        code, jump_true, jump_false, k = lines[at]
        at += 1
        if code == 0x06:
            return k
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
            continue
        taken = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}[code]
        at += jump_true if taken else jump_false


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_refused_calls(machine: Machine) -> None:
    """Every listed call is EPERM, clone3 is ENOSYS, and a plain read passes."""
    assert {decide(machine, number) for number in machine.refused.values()} == {EPERM}
    assert decide(machine, machine.clone3) == ENOSYS
    assert decide(machine, 0 if machine is X86_64 else 63) == ALLOW


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_arguments(machine: Machine) -> None:
    """clone is judged by its flags, socket by its family, ioctl by its request, high bits notwithstanding."""
    assert decide(machine, machine.clone, 0x003D0F00) == ALLOW  # a thread
    assert decide(machine, machine.clone, 17) == ALLOW  # fork: SIGCHLD
    for flag in (0x10000000, 0x40000000, 0x20000000, 0x00020000):
        assert decide(machine, machine.clone, 17 | flag) == EPERM
    families = {family: decide(machine, machine.socket, family) for family in range(64)}
    assert {family for family, answer in families.items() if answer == ALLOW} == {1, 2, 10}
    assert decide(machine, machine.socket, 40 | 1 << 32) == EPERM
    assert decide(machine, machine.ioctl, 0, 0x5412) == EPERM
    assert decide(machine, machine.ioctl, 0, 0x5412 | 1 << 32) == EPERM
    assert decide(machine, machine.ioctl, 0, 0x5401) == ALLOW


def test_other_architectures_are_killed() -> None:
    """A 32-bit or x32 entry, whose numbers mean other calls, ends the process."""
    assert decide(X86_64, 0, arch=0x40000003) == KILL
    assert decide(X86_64, 0x40000000 + 101) == KILL
    assert decide(AARCH64, 0, arch=0x40000028) == KILL


@pytest.mark.parametrize("name", MACHINES)
def test_numbers_are_the_kernels(name: str) -> None:
    """The numbers agree with the kernel's own header, where it is installed."""
    if not HEADERS[name].exists():
        pytest.skip("kernel headers are not installed")
    text = HEADERS[name].read_text()
    listed = {call: int(number) for call, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    ours = {**MACHINES[name].refused, **{call: getattr(MACHINES[name], call) for call in ("clone", "clone3", "socket")}}
    assert {call: number for call, number in ours.items() if call in listed and listed[call] != number} == {}
    assert len(set(ours) & set(listed)) > 40


def test_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine we have no numbers for gets an error, never no filter."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EnvironmentProblem):
        seccomp.this_machine()
