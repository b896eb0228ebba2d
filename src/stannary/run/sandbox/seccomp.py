"""A seccomp filter as classic BPF bytes, made here so that no C library is needed.

The filter answers five kinds of call and lets every other pass:
1. Calls a computing job never needs and kernel bugs are found in (io_uring, bpf, perf, keyrings,
   userfaultfd), that leave the sandbox (mounts, namespaces, handles) or look into other processes:
   EPERM. bubblewrap filters nothing by itself: without this they reached the kernel (measured).
2. `clone` with a namespace flag: EPERM. `clone3` hides its flags behind a pointer a filter cannot
   follow, so it is ENOSYS and the C library falls back to `clone`.
3. `socket` of any family but UNIX, INET and INET6: EPERM. A network namespace does *not* cover
   AF_VSOCK: on a cloud VM a job could speak to the hypervisor. AF_ALG, NETLINK and PACKET go too.
4. Keystrokes pushed into a terminal (TIOCSTI, TIOCLINUX): EPERM.
5. Calls newer than this list: ENOSYS, which programs know from older kernels.
A call of another architecture (32-bit entry on a 64-bit kernel, x32) kills the process: its numbers
mean other calls. seccomp(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass

from stannary.errors import EnvironmentProblem

_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter: code, jt, jf, k
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_NUMBER_OFFSET = 0  # struct seccomp_data: nr, arch, instruction_pointer, args[6]
_ARCH_OFFSET = 4
_ARG0_LOW_OFFSET = 16  # both machines are little-endian; the kernel reads these arguments as 32 bits
_ARG1_LOW_OFFSET = 24

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38

_X32_BIT = 0x40000000
_ALLOWED_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# CLONE_NEWTIME | NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET. The lowest byte of
# clone's flags is the exit signal, so NEWTIME (0x80) means nothing there and is left out.
_NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000


@dataclass(frozen=True, slots=True)
class Machine:
    """System call numbers of one architecture."""

    audit_arch: int
    has_x32: bool
    clone: int
    clone3: int
    socket: int
    ioctl: int
    refused: dict[str, int]


# Numbers from 424 on are the same on every architecture.
_REFUSED_EVERYWHERE = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "cachestat": 451,  # tells which pages of the node's files somebody else has read
    "statmount": 457,  # what /proc/self/mountinfo hides (inside.py)
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "open_tree_attr": 467,
}
# Calls were looked through up to this one (Linux 6.17); what a newer kernel adds is as if it were not there.
_NEWEST_KNOWN = 469

X86_64 = Machine(
    audit_arch=0xC000003E,
    has_x32=True,
    clone=56,
    clone3=435,
    socket=41,
    ioctl=16,
    refused={
        **_REFUSED_EVERYWHERE,
        "ptrace": 101,
        "syslog": 103,
        "uselib": 134,
        "personality": 135,
        "vhangup": 153,
        "modify_ldt": 154,
        "pivot_root": 155,
        "_sysctl": 156,
        "adjtimex": 159,
        "chroot": 161,
        "acct": 163,
        "settimeofday": 164,
        "mount": 165,
        "umount2": 166,
        "swapon": 167,
        "swapoff": 168,
        "reboot": 169,
        "sethostname": 170,
        "setdomainname": 171,
        "iopl": 172,
        "ioperm": 173,
        "create_module": 174,
        "init_module": 175,
        "delete_module": 176,
        "quotactl": 179,
        "nfsservctl": 180,
        "lookup_dcookie": 212,
        "clock_settime": 227,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "migrate_pages": 256,
        "unshare": 272,
        "vmsplice": 278,
        "move_pages": 279,
        "perf_event_open": 298,
        "fanotify_init": 300,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "clock_adjtime": 305,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "finit_module": 313,
        "kexec_file_load": 320,
        "bpf": 321,
        "userfaultfd": 323,
        "uretprobe": 335,
        "uprobe": 336,
    },
)

AARCH64 = Machine(
    audit_arch=0xC00000B7,
    has_x32=False,
    clone=220,
    clone3=435,
    socket=198,
    ioctl=29,
    refused={
        **_REFUSED_EVERYWHERE,
        "lookup_dcookie": 18,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "nfsservctl": 42,
        "chroot": 51,
        "vhangup": 58,
        "quotactl": 60,
        "vmsplice": 75,
        "acct": 89,
        "personality": 92,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "delete_module": 106,
        "clock_settime": 112,
        "syslog": 116,
        "ptrace": 117,
        "reboot": 142,
        "sethostname": 161,
        "setdomainname": 162,
        "settimeofday": 170,
        "adjtimex": 171,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "swapon": 224,
        "swapoff": 225,
        "migrate_pages": 238,
        "move_pages": 239,
        "perf_event_open": 241,
        "fanotify_init": 262,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "clock_adjtime": 266,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "finit_module": 273,
        "bpf": 280,
        "userfaultfd": 282,
        "kexec_file_load": 294,
    },
)

MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}


def this_machine() -> Machine:
    """Return the table of this machine.

    Raises:
        EnvironmentProblem: an architecture we have no numbers for; running unfiltered is no option.
    """
    name = platform.machine()
    if name not in MACHINES:
        raise EnvironmentProblem(
            "no system call filter for this machine", why=f"{name}; known: {', '.join(MACHINES)}", hint="use x86_64"
        )
    return MACHINES[name]


def program(machine: Machine) -> bytes:
    """Return the filter as an array of `struct sock_filter`, as `bwrap --seccomp` and prctl(2) take it."""
    lines = [_load(_ARCH_OFFSET), _line(_JUMP_EQUAL, machine.audit_arch, 1, 0), _return(_KILL_PROCESS)]
    lines.append(_load(_NUMBER_OFFSET))
    if machine.has_x32:
        lines += [_line(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _return(_KILL_PROCESS)]
    lines += [_line(_JUMP_AT_LEAST, _NEWEST_KNOWN + 1, 0, 1), _return(_ERRNO | _ENOSYS)]
    for number in sorted(machine.refused.values()):
        lines += [_line(_JUMP_EQUAL, number, 0, 1), _return(_ERRNO | _EPERM)]
    lines += [_line(_JUMP_EQUAL, machine.clone3, 0, 1), _return(_ERRNO | _ENOSYS)]
    lines += _only_for(machine.clone, _namespace_test())
    lines += _only_for(machine.socket, _family_test())
    lines += _only_for(machine.ioctl, _terminal_test())
    lines.append(_return(_ALLOW))
    return b"".join(lines)


def _only_for(number: int, test: list[bytes]) -> list[bytes]:
    """Run `test`, which ends in a return, for one call; the accumulator holds the number before and after."""
    return [_line(_JUMP_EQUAL, number, 0, len(test)), *test]


def _namespace_test() -> list[bytes]:
    test = _line(_JUMP_BITS, _NAMESPACE_FLAGS, 0, 1)
    return [_load(_ARG0_LOW_OFFSET), test, _return(_ERRNO | _EPERM), _return(_ALLOW)]


def _family_test() -> list[bytes]:
    lines = [_load(_ARG0_LOW_OFFSET)]
    for family in _ALLOWED_FAMILIES:
        lines += [_line(_JUMP_EQUAL, family, 0, 1), _return(_ALLOW)]
    return [*lines, _return(_ERRNO | _EPERM)]


def _terminal_test() -> list[bytes]:
    lines = [_load(_ARG1_LOW_OFFSET)]
    for request in _TERMINAL_INJECTION:
        lines += [_line(_JUMP_EQUAL, request, 0, 1), _return(_ERRNO | _EPERM)]
    return [*lines, _return(_ALLOW)]


def _load(offset: int) -> bytes:
    return _line(_LOAD_WORD, offset)


def _return(action: int) -> bytes:
    return _line(_RETURN, action)


def _line(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, jump_true, jump_false, k)
