"""Landlock (Linux 5.13 and later): a process gives up file and network rights for good, by ctypes.

Rules:
1. Only what is listed stays possible: read and execute below some paths, everything below others. Every
   right the kernel's ABI knows is handled, so a newer kernel only makes the fence tighter.
2. From ABI 4 no TCP port may be bound or connected, from ABI 6 no abstract UNIX socket or signal may
   leave the domain.
3. No new privileges may be gained; without that the kernel refuses the fence.

landlock(7), linux/landlock.h. It stands behind the namespaces of unshare.py: two fences of different make.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from stannary.errors import EnvironmentProblem

_CREATE_RULESET = 444  # the same numbers on every architecture
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # what a rule on a file may name
_NUM_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # 5 and later: 16
_NET_BIND_CONNECT_TCP = 0b11
_SCOPE_SIGNAL = 0b10
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 0b11


def abi() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none."""
    found = int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))
    return max(found, 0)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Fence this process and all its children in, for good.

    Raises:
        EnvironmentProblem: the kernel refused.
    """
    version = abi()
    if version == 0:
        raise EnvironmentProblem("no Landlock", why="the kernel does not have it or it is switched off")
    all_rights = (1 << _NUM_RIGHTS_BY_ABI.get(version, 16)) - 1
    ruleset = _create(version, all_rights)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & all_rights)
        for path in writable:
            _allow(ruleset, path, all_rights)  # programs a job makes run as they do under bubblewrap
        libc = _libc()
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _refused("restrict")
    finally:
        os.close(ruleset)


def scope_signals() -> None:
    """Let this process and its children signal nobody but one another, for good, where the kernel can (ABI 6)."""
    libc = _libc()
    attribute = struct.pack("<3Q", 0, 0, _SCOPE_SIGNAL)
    ruleset = int(libc.syscall(_CREATE_RULESET, attribute, len(attribute), 0)) if abi() >= 6 else -1
    if ruleset >= 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def _create(version: int, all_rights: int) -> int:
    members = [all_rights]
    if version >= 4:
        members.append(_NET_BIND_CONNECT_TCP)
    if version >= 6:
        members.append(_SCOPE_ABSTRACT_UNIX_AND_SIGNAL)
    attribute = struct.pack(f"<{len(members)}Q", *members)
    fd = int(_libc().syscall(_CREATE_RULESET, attribute, len(attribute), 0))
    if fd < 0:
        raise _refused("create")
    return fd


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not Path(path).exists():
        return  # nothing there: nothing to allow
    if not Path(path).is_dir():
        rights &= _FILE_RIGHTS
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("<Qi", rights, fd)  # struct landlock_path_beneath_attr, packed
        if _libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise _refused(f"allow {path}")
    finally:
        os.close(fd)


def _refused(what: str) -> EnvironmentProblem:
    return EnvironmentProblem("Landlock refused", why=f"{what}: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
