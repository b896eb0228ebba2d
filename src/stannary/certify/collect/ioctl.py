"""Device files that answer ioctls, as the Linux kernel numbers them.

A request is a C structure; what it points to lives as long as the call, even one that was given up on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

from stannary.certify.collect.deadline import DEVICE_LIMIT_S, within
from stannary.errors import EnvironmentProblem, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AS_ROOT = "run as root: sudo stannary node check"
_READ_WRITE = 3


class Ioctl(Protocol):
    """Sends one request to a device; raises OSError as the kernel would."""

    def __call__(self, code: int, request: ctypes.Structure) -> None:
        """Send; the device writes into `request` and what it points to."""
        ...


def iowr(kind: int, number: int, structure: type[ctypes.Structure]) -> int:
    """Return the number of a read-write ioctl (include/uapi/asm-generic/ioctl.h)."""
    return _READ_WRITE << 30 | ctypes.sizeof(structure) << 16 | kind << 8 | number


@contextlib.contextmanager
def opened(path: Path, *, limit_s: float = DEVICE_LIMIT_S) -> Iterator[Ioctl]:
    """Open a device file; say what is missing where it cannot be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as err:
        raise EnvironmentProblem(
            f"cannot open {path}", why=str(err.strerror), hint=hint_for(err) or "the kernel has no such device"
        ) from err

    def send(code: int, request: ctypes.Structure) -> None:
        within(lambda: fcntl.ioctl(descriptor, code, request), str(path), limit_s)

    try:
        yield send
    finally:
        os.close(descriptor)


def refused(what: str, err: OSError) -> EnvironmentProblem | ServiceError:
    """Return our error for a refused ioctl: missing rights are the machine's, the rest the device's."""
    if err.errno in {errno.EPERM, errno.EACCES}:
        return EnvironmentProblem(f"{what} refused the request", why=str(err.strerror), hint=hint_for(err))
    return ServiceError(f"{what} refused the request", why=f"{err.strerror} (errno {err.errno})")


def hint_for(err: OSError) -> str:
    """Return what to do about missing rights, empty for other errors."""
    return AS_ROOT if err.errno in {errno.EPERM, errno.EACCES} else ""
