"""How command bytes reach a TPM: the kernel's device, or a software TPM's data port.

One command is one write and one whole answer, within TPM_LIMIT_S from the first byte sent: a device that
stays silent, or sends a byte a minute, ends in our error. The kernel's device is asked from a lane of its
own: its driver holds a lock while a command runs (tpm-dev-common.c), so that poll waits as long as the command.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Protocol

from stannary.certify.collect.deadline import Lane
from stannary.errors import EnvironmentProblem, FormatError, ServiceError

DEVICE = Path("/dev/tpmrm0")
MAX_RESPONSE_BYTES = 4096
HEADER_BYTES = 10  # tag, size, response code
TPM_LIMIT_S = 60.0  # an RSA key can take tens of seconds on slow chips


class Transport(Protocol):
    """Sends one command, returns its whole response."""

    def exchange(self, command: bytes) -> bytes:
        """Send and receive."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


class DeviceTransport:
    """The kernel's resource-managed TPM device."""

    def __init__(self, path: Path = DEVICE, *, limit_s: float = TPM_LIMIT_S) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as err:
            raise EnvironmentProblem(
                "cannot open the TPM",
                why=f"{path}: {err.strerror}",
                hint="switch the TPM on in the BIOS, or run as a member of group tss",
            ) from err
        self._lane = Lane("the TPM", limit_s)

    def exchange(self, command: bytes) -> bytes:
        """Write the command, read the response, both in one piece."""
        try:
            return self._lane.call(lambda: self._exchange(command))
        except OSError as err:
            raise ServiceError("the TPM did not answer", why=str(err)) from err

    def close(self) -> None:
        """Close the device."""
        self._lane.close()
        os.close(self._fd)

    def _exchange(self, command: bytes) -> bytes:
        written = os.write(self._fd, command)
        if written != len(command):
            raise ServiceError("the TPM took part of a command", why=f"{written} of {len(command)} bytes")
        return os.read(self._fd, MAX_RESPONSE_BYTES)


class SocketTransport:
    """A software TPM's data port."""

    def __init__(self, host: str, port: int, *, limit_s: float = TPM_LIMIT_S) -> None:
        self._limit_s = limit_s
        try:
            self._socket = socket.create_connection((host, port), timeout=limit_s)
        except OSError as err:
            raise EnvironmentProblem("cannot reach the software TPM", why=f"{host}:{port}: {err}") from err

    def exchange(self, command: bytes) -> bytes:
        """Send the command, read header and body."""
        deadline = time.monotonic() + self._limit_s
        try:
            self._socket.settimeout(self._limit_s)
            self._socket.sendall(command)
            header = self._read(HEADER_BYTES, deadline)
            size = int.from_bytes(header[2:6], "big")
            if not HEADER_BYTES <= size <= MAX_RESPONSE_BYTES:
                raise FormatError("TPM response has an impossible size", why=f"{size} bytes")
            return header + self._read(size - HEADER_BYTES, deadline)
        except OSError as err:
            raise ServiceError("the TPM did not answer", why=str(err)) from err

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ServiceError("the TPM did not answer", why=f"{len(data)} of {count} bytes at the deadline")
            self._socket.settimeout(left_s)
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise ServiceError("the TPM closed the connection", why=f"{len(data)} of {count} bytes")
            data += chunk
        return data
