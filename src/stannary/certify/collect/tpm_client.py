"""A TPM 2.0 client on the standard library, for `/dev/tpmrm0` and a software TPM's socket.

Both speak the same raw command bytes (TPM 2.0 Library, part 3), so one client serves both. It does
what attestation needs: read the EK certificate, make EK and AK, activate a credential, quote.

The AK is a primary key of the endorsement hierarchy with a fixed template: the TPM derives the same
key each time, so a renewal needs no state on disk, and nobody can steal a key file.

Every object and session made here is flushed: a software TPM without resource manager has three slots.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import EnvironmentProblem, FormatError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = Path("/dev/tpmrm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
MAX_RESPONSE_BYTES = 4096
MAX_NV_CHUNK_BYTES = 768  # below every TPM's buffer; certificates take two or three reads
SOCKET_TIMEOUT_S = 60.0  # an RSA key can take tens of seconds on slow chips

ENDORSEMENT, PASSWORD, NULL = 0x4000000B, 0x40000009, 0x40000007
OWNER = 0x40000001
EK_RSA_HANDLE = 0x81010001
EK_RSA_CERTIFICATE = 0x01C00002
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _NV_READ, _ACTIVATE, _POLICY_SECRET = 0x131, 0x14E, 0x147, 0x151
_QUOTE, _FLUSH, _NV_READ_PUBLIC, _READ_PUBLIC = 0x158, 0x165, 0x169, 0x173
_START_SESSION, _PCR_READ = 0x176, 0x17E
_RC_RETRY = 0x922
_MAX_RETRIES = 20

# PolicySecret(TPM_RH_ENDORSEMENT): the policy of every default EK (TCG EK Credential Profile 2.5, B.6.2).
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
# Template L-1: RSA 2048, AES-128-CFB, restricted decryption key.
EK_RSA_TEMPLATE = (
    struct.pack(">HHIH", 0x0001, 0x000B, 0x000300B2, 32)
    + _EK_POLICY
    + struct.pack(">HHHHHIH", 0x0006, 128, 0x0043, 0x0010, 2048, 0, 256)
    + bytes(256)
)
_AK_ATTRIBUTES = 0x00050472  # fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted sign
_AK_UNIQUE = hashlib.sha256(b"stannary attestation key v1").digest()
AK_ECC_TEMPLATE = (
    struct.pack(">HHIHHHHHH", 0x0023, 0x000B, _AK_ATTRIBUTES, 0, 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
    + struct.pack(">H", 32)
    + _AK_UNIQUE
    + struct.pack(">H", 0)
)
AK_RSA_TEMPLATE = (
    struct.pack(">HHIHHHHHI", 0x0001, 0x000B, _AK_ATTRIBUTES, 0, 0x0010, 0x0014, 0x000B, 2048, 0)
    + struct.pack(">H", 256)
    + _AK_UNIQUE.ljust(256, b"\0")
)
QUOTED_PCRS = tuple(range(16))


class Transport(Protocol):
    """Sends one command, returns its whole response."""

    def exchange(self, command: bytes) -> bytes:
        """Send and receive."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


class DeviceTransport:
    """The kernel's resource-managed TPM device: one write, one read."""

    def __init__(self, path: Path = DEVICE) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as err:
            raise EnvironmentProblem(
                "cannot open the TPM",
                why=f"{path}: {err.strerror}",
                hint="switch the TPM on in the BIOS, or run as a member of group tss",
            ) from err

    def exchange(self, command: bytes) -> bytes:
        """Write the command, read the response."""
        try:
            os.write(self._fd, command)
            return os.read(self._fd, MAX_RESPONSE_BYTES)
        except OSError as err:
            raise ServiceError("the TPM did not answer", why=str(err)) from err

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)


class SocketTransport:
    """A software TPM's data port."""

    def __init__(self, host: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=SOCKET_TIMEOUT_S)
        except OSError as err:
            raise EnvironmentProblem("cannot reach the software TPM", why=f"{host}:{port}: {err}") from err

    def exchange(self, command: bytes) -> bytes:
        """Send the command, read header and body."""
        try:
            self._socket.sendall(command)
            header = self._read(10)
            size = int.from_bytes(header[2:6], "big")
            if not 10 <= size <= MAX_RESPONSE_BYTES:
                raise FormatError("TPM response has an impossible size", why=f"{size} bytes")
            return header + self._read(size - 10)
        except OSError as err:
            raise ServiceError("the TPM did not answer", why=str(err)) from err

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise ServiceError("the TPM closed the connection", why=f"{len(data)} of {count} bytes")
            data += chunk
        return data


@dataclass(frozen=True, slots=True)
class Loaded:
    """A key inside the TPM: its handle and TPMT_PUBLIC."""

    handle: int
    public: bytes


class TpmClient:
    """Attestation commands over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Release the transport."""
        self._transport.close()

    def ek_certificate(self) -> bytes:
        """Read the RSA EK certificate from NV memory; empty if the maker put none there."""
        try:
            public = Cursor(self._plain(_NV_READ_PUBLIC, struct.pack(">I", EK_RSA_CERTIFICATE)), "NV public area")
        except ServiceError:
            return b""  # index not defined: firmware TPMs fetch their certificate from the maker
        area = public.sized_big()
        size = int.from_bytes(area[-2:], "big")
        data = b""
        while len(data) < size:
            count = min(MAX_NV_CHUNK_BYTES, size - len(data))
            handles = struct.pack(">II", OWNER, EK_RSA_CERTIFICATE)
            answer = self._authorised(_NV_READ, handles, struct.pack(">HH", count, len(data)))
            data += Cursor(answer, "NV data").sized_big()
        return _trim_der(data)

    @contextlib.contextmanager
    def endorsement_key(self) -> Iterator[Loaded]:
        """Give the RSA EK: the persistent one where it is the default key, else made anew."""
        try:
            public = Cursor(self._plain(_READ_PUBLIC, struct.pack(">I", EK_RSA_HANDLE)), "public area").sized_big()
        except ServiceError:
            public = b""
        if public[: len(EK_RSA_TEMPLATE) - 258] == EK_RSA_TEMPLATE[:-258]:
            yield Loaded(EK_RSA_HANDLE, public)
            return
        with self._primary(EK_RSA_TEMPLATE) as key:
            yield key

    @contextlib.contextmanager
    def attestation_key(self, *, rsa: bool = False) -> Iterator[Loaded]:
        """Give the restricted signing key."""
        with self._primary(AK_RSA_TEMPLATE if rsa else AK_ECC_TEMPLATE) as key:
            yield key

    def read_pcrs(self, indices: tuple[int, ...] = QUOTED_PCRS) -> dict[int, bytes]:
        """Read SHA-256 registers, at most eight a command."""
        found: dict[int, bytes] = {}
        for start in range(0, len(indices), 8):
            chunk = indices[start : start + 8]
            cursor = Cursor(self._plain(_PCR_READ, _selection(chunk)), "PCR values")
            cursor.take(4)  # update counter
            for _ in range(cursor.big(4)):
                cursor.take(2)
                cursor.sized_big(1)
            count = cursor.big(4)
            if count != len(chunk):
                raise ServiceError("the TPM has no SHA-256 bank", why=f"{count} of {len(chunk)} registers")
            for index in chunk:
                found[index] = cursor.sized_big()
        return found

    def quote(self, key: Loaded, qualifying: bytes, indices: tuple[int, ...] = QUOTED_PCRS) -> tuple[bytes, bytes]:
        """Return (TPMS_ATTEST, TPMT_SIGNATURE) over the registers and `qualifying` data."""
        parameters = struct.pack(">H", len(qualifying)) + qualifying + struct.pack(">H", 0x0010) + _selection(indices)
        cursor = Cursor(self._authorised(_QUOTE, struct.pack(">I", key.handle), parameters), "quote")
        attest = cursor.sized_big()
        return attest, cursor.take(cursor.remaining)

    def activate(self, ak: Loaded, ek: Loaded, credential: bytes) -> bytes:
        """Return the secret inside a credential made for exactly these two keys."""
        with self._policy_session() as session:
            sessions = _session(PASSWORD) + _session(session)
            handles = struct.pack(">II", ak.handle, ek.handle)
            answer = self._exchange(_SESSIONS, _ACTIVATE, handles + _area(sessions) + credential)
            cursor = Cursor(answer, "activated credential")
            return Cursor(cursor.take(cursor.big(4)), "activated credential").sized_big()

    @contextlib.contextmanager
    def _primary(self, template: bytes) -> Iterator[Loaded]:
        sensitive = struct.pack(">HHH", 4, 0, 0)
        parameters = sensitive + struct.pack(">H", len(template)) + template + struct.pack(">HI", 0, 0)
        answer = self._exchange(
            _SESSIONS, _CREATE_PRIMARY, struct.pack(">I", ENDORSEMENT) + _area(_session(PASSWORD)) + parameters
        )
        cursor = Cursor(answer, "created key")
        handle, body = cursor.big(4), Cursor(cursor.take(cursor.big(4)), "created key")
        try:
            yield Loaded(handle, body.sized_big())
        finally:
            self._plain(_FLUSH, struct.pack(">I", handle))

    @contextlib.contextmanager
    def _policy_session(self) -> Iterator[int]:
        """Give a policy session that satisfies the EK's policy; the command that uses it ends it."""
        nonce = struct.pack(">H", 32) + os.urandom(32)
        start = struct.pack(">II", NULL, NULL) + nonce + struct.pack(">HBHH", 0, 0x01, 0x0010, 0x000B)
        session = Cursor(self._plain(_START_SESSION, start), "session").big(4)
        try:
            handles = struct.pack(">II", ENDORSEMENT, session)
            # nonceTPM, cpHash, policyRef empty; expiration 0: the password of the hierarchy is asked now.
            self._authorised(_POLICY_SECRET, handles, struct.pack(">HHHI", 0, 0, 0, 0), num_authorised=1)
            yield session
        finally:
            with contextlib.suppress(ServiceError):  # already ended by the command that used it
                self._plain(_FLUSH, struct.pack(">I", session))

    def _plain(self, code: int, body: bytes) -> bytes:
        return self._exchange(_NO_SESSIONS, code, body)

    def _authorised(self, code: int, handles: bytes, parameters: bytes, *, num_authorised: int = 1) -> bytes:
        """Send a command with empty-password sessions; return its parameters."""
        sessions = _session(PASSWORD) * num_authorised
        cursor = Cursor(self._exchange(_SESSIONS, code, handles + _area(sessions) + parameters), "TPM response")
        return cursor.take(cursor.big(4))

    def _exchange(self, tag: int, code: int, body: bytes) -> bytes:
        command = struct.pack(">HII", tag, 10 + len(body), code) + body
        for _ in range(_MAX_RETRIES):
            cursor = Cursor(self._transport.exchange(command), "TPM response")
            cursor.take(2)
            size, result = cursor.big(4), cursor.big(4)
            if result == _RC_RETRY:
                continue
            if result != 0:
                raise ServiceError("the TPM refused a command", why=f"command {code:#x}, code {result:#x}")
            return cursor.take(size - 10)
        raise ServiceError("the TPM stays busy", why=f"command {code:#x}, {_MAX_RETRIES} retries")


def connect(address: str = "") -> TpmClient:
    """Open a TPM: `host:port` is a software TPM's socket, anything else a device path."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        return TpmClient(SocketTransport(host, int(port)))
    return TpmClient(DeviceTransport(Path(address) if address else DEVICE))


def _session(handle: int) -> bytes:
    return struct.pack(">IHBH", handle, 0, 0, 0)


def _area(sessions: bytes) -> bytes:
    return struct.pack(">I", len(sessions)) + sessions


def _selection(indices: tuple[int, ...]) -> bytes:
    bits = sum(1 << index for index in indices)
    return struct.pack(">IHB", 1, 0x000B, 3) + bits.to_bytes(3, "little")


def _trim_der(data: bytes) -> bytes:
    """Cut what follows the certificate: makers pad their NV index."""
    if len(data) > 4 and data[0] == 0x30 and data[1] == 0x82:
        return data[: 4 + int.from_bytes(data[2:4], "big")]
    return data
