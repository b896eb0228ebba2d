"""A TPM 2.0 client on the standard library, for `/dev/tpmrm0` and a software TPM's socket.

Both speak the same raw command bytes (TPM 2.0 Library, part 3), so one client serves both. It does
what attestation needs: read and write NV memory, make EK and AK, activate a credential, quote.

The AK is a primary key of the endorsement hierarchy with a fixed template: the TPM derives the same
key each time, so a renewal needs no state on disk, and nobody can steal a key file.

Every object and session made here is flushed: a software TPM without resource manager has three slots.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stannary.certify.collect.endorsement import RSA_2048, USER_WITH_AUTH
from stannary.certify.collect.tpm_transport import DEVICE, HEADER_BYTES, DeviceTransport, SocketTransport
from stannary.certify.evidence.cursor import Cursor
from stannary.errors import EnvironmentProblem, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stannary.certify.collect.endorsement import EkProfile
    from stannary.certify.collect.tpm_transport import Transport

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
MAX_NV_CHUNK_BYTES = 768  # below every TPM's buffer; certificates take two or three reads

ENDORSEMENT, PASSWORD, NULL = 0x4000000B, 0x40000009, 0x40000007
OWNER = 0x40000001
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _NV_READ, _ACTIVATE, _POLICY_SECRET = 0x131, 0x14E, 0x147, 0x151
_QUOTE, _FLUSH, _NV_READ_PUBLIC, _READ_PUBLIC = 0x158, 0x165, 0x169, 0x173
_START_SESSION, _PCR_READ, _NV_DEFINE, _NV_WRITE = 0x176, 0x17E, 0x12A, 0x137
_GET_CAPABILITY, _CAP_PCRS = 0x17A, 5
_NV_OF_OWNER = 0x00060006  # TPMA_NV: read and written with the owner's or the index's password
_RC_RETRY, _RC_NV_UNINITIALIZED = 0x922, 0x14A
_MAX_RETRIES = 20
# Answers that say what to change (part 2, section 6.6): mask, value, words, next step. Codes with bit 7 number the
# parameter or session at fault in the bits that the mask leaves out.
_FORMAT_ONE = 0x0BF
_REFUSALS = (
    (_FORMAT_ONE, 0x08E, "authorization failed", "clear the endorsement hierarchy's password (tpm2_changeauth -c e)"),
    (_FORMAT_ONE, 0x0A2, "authorization failed", "clear the endorsement hierarchy's password (tpm2_changeauth -c e)"),
    (_FORMAT_ONE, 0x085, "the hierarchy is disabled", "enable the endorsement hierarchy in the BIOS"),
    (_FORMAT_ONE, 0x09F, "integrity check failed: the credential is for other keys", "ask for a new challenge"),
    (0xFFF, 0x100, "the TPM was not started", "restart the machine"),
    (0xFFF, 0x902, "no slot left for a key", "use /dev/tpmrm0, not /dev/tpm0, or end other programs that use the TPM"),
    (0xFFF, 0x903, "no slot left for a session", "use /dev/tpmrm0, or end other programs that use the TPM"),
    (0xFFF, 0x921, "locked after failed passwords", "wait for the lockout to end (tpm2_dictionarylockout)"),
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
SHA256, SHA384, SHA512 = 0x000B, 0x000C, 0x000D
REFUSED = "tpm-refused"  # detail of the error where the TPM answered, and said no


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

    def nv_read(self, index: int) -> bytes:
        """Read an NV index whole; empty where it is not defined or was never written."""
        code, answer = self._attempt(_NO_SESSIONS, _NV_READ_PUBLIC, struct.pack(">I", index))
        if code:
            return b""
        area = Cursor(answer, "NV public area").sized_big()
        size, data = int.from_bytes(area[-2:], "big"), b""
        while len(data) < size:
            count = min(MAX_NV_CHUNK_BYTES, size - len(data))
            code, answer = self._nv_chunk(index, count, len(data))
            if code == _RC_NV_UNINITIALIZED:
                return b""
            if code:
                raise _refusal(_NV_READ, code)
            cursor = Cursor(answer, "NV data")
            chunk = Cursor(cursor.take(cursor.big(4)), "NV data").sized_big()
            if len(chunk) != count:
                raise ServiceError("the TPM gave another length", why=f"{len(chunk)} of {count} bytes of {index:#x}")
            data += chunk
        return data

    def nv_write(self, index: int, data: bytes) -> bool:
        """Write an NV index of the owner whole, defined here if it is not; False where the TPM refuses."""
        if self._attempt(_NO_SESSIONS, _NV_READ_PUBLIC, struct.pack(">I", index))[0]:
            public = struct.pack(">IHIHH", index, 0x000B, _NV_OF_OWNER, 0, len(data))
            definition = struct.pack(">HH", 0, len(public)) + public
            body = struct.pack(">I", OWNER) + _area(_session(PASSWORD)) + definition
            if self._attempt(_SESSIONS, _NV_DEFINE, body)[0]:
                return False
        head = struct.pack(">II", OWNER, index) + _area(_session(PASSWORD))
        for offset in range(0, len(data), MAX_NV_CHUNK_BYTES):
            chunk = data[offset : offset + MAX_NV_CHUNK_BYTES]
            parameters = struct.pack(">H", len(chunk)) + chunk + struct.pack(">H", offset)
            if self._attempt(_SESSIONS, _NV_WRITE, head + parameters)[0]:
                return False
        return True

    def ek_certificate(self, profile: EkProfile = RSA_2048) -> bytes:
        """Read an EK certificate from NV memory; empty if the maker put none there."""
        return _trim_der(self.nv_read(profile.certificate_index))

    @contextlib.contextmanager
    def endorsement_key(
        self, profile: EkProfile = RSA_2048, is_certified: Callable[[bytes], bool] | None = None
    ) -> Iterator[Loaded]:
        """Give an EK: the persistent one, else made anew from the maker's template or the profile's.

        `is_certified` says of a public area whether it is the one that the EK certificate names; without
        a certificate the key of the profile's own template is given.
        """
        wanted = is_certified or profile.is_default
        public = self.read_public(profile.handle)
        if public and wanted(public):
            yield Loaded(profile.handle, public)
            return
        for template in dict.fromkeys(
            item for item in (self.nv_read(profile.template_index), profile.template) if item
        ):
            with self._primary(template) as key:
                if wanted(key.public):
                    yield key
                    return
        raise EnvironmentProblem(
            "the TPM does not hold the key of its EK certificate",
            why=f"{profile.name}: neither the persistent key nor its templates give it",
            hint="clear the TPM in the BIOS, or choose another key with --ek",
        )

    def read_public(self, handle: int) -> bytes:
        """Return the TPMT_PUBLIC of a loaded or persistent object, empty where there is none."""
        code, answer = self._attempt(_NO_SESSIONS, _READ_PUBLIC, struct.pack(">I", handle))
        return b"" if code else Cursor(answer, "public area").sized_big()

    @contextlib.contextmanager
    def attestation_key(self, *, rsa: bool = False) -> Iterator[Loaded]:
        """Give the restricted signing key."""
        with self._primary(AK_RSA_TEMPLATE if rsa else AK_ECC_TEMPLATE) as key:
            yield key

    def banks(self) -> tuple[int, ...]:
        """Return the hashes of the register banks that hold registers."""
        cursor = Cursor(self._plain(_GET_CAPABILITY, struct.pack(">III", _CAP_PCRS, 0, 1)), "TPM banks")
        cursor.take(5)  # more data, capability
        listed = ((cursor.big(2), cursor.sized_big(1)) for _ in range(cursor.big(4)))
        return tuple(code for code, bitmap in listed if any(bitmap))

    def read_pcrs(self, indices: tuple[int, ...] = QUOTED_PCRS, bank: int = SHA256) -> dict[int, bytes]:
        """Read registers of one bank, at most eight a command."""
        found: dict[int, bytes] = {}
        for start in range(0, len(indices), 8):
            chunk = indices[start : start + 8]
            cursor = Cursor(self._plain(_PCR_READ, _selection(chunk, bank)), "PCR values")
            cursor.take(4)  # update counter
            for _ in range(cursor.big(4)):
                cursor.take(2)
                cursor.sized_big(1)
            count = cursor.big(4)
            if count != len(chunk):
                raise ServiceError("the TPM lacks registers of a bank", why=f"{count} of {len(chunk)} of {bank:#06x}")
            for index in chunk:
                found[index] = cursor.sized_big()
        return found

    def quote(
        self, key: Loaded, qualifying: bytes, indices: tuple[int, ...] = QUOTED_PCRS, bank: int = SHA256
    ) -> tuple[bytes, bytes]:
        """Return (TPMS_ATTEST, TPMT_SIGNATURE) over registers of one bank and `qualifying` data."""
        scheme = struct.pack(">H", 0x0010)  # TPM_ALG_NULL: the key's own
        parameters = struct.pack(">H", len(qualifying)) + qualifying + scheme + _selection(indices, bank)
        cursor = Cursor(self._authorised(_QUOTE, struct.pack(">I", key.handle), parameters), "quote")
        attest = cursor.sized_big()
        return attest, cursor.take(cursor.remaining)

    def activate(self, ak: Loaded, ek: Loaded, credential: bytes) -> bytes:
        """Return the secret inside a credential made for exactly these two keys.

        Low-range EKs are used under their policy, high-range ones (userWithAuth) with their empty password.
        """
        with contextlib.ExitStack() as stack:
            attributes = int.from_bytes(ek.public[4:8], "big")
            session = PASSWORD if attributes & USER_WITH_AUTH else stack.enter_context(self._policy_session())
            sessions = _session(PASSWORD) + _session(session)
            handles = struct.pack(">II", ak.handle, ek.handle)
            answer = self._exchange(_SESSIONS, _ACTIVATE, handles + _area(sessions) + credential)
            cursor = Cursor(answer, "activated credential")
            return Cursor(cursor.take(cursor.big(4)), "activated credential").sized_big()

    def _nv_chunk(self, index: int, count: int, offset: int) -> tuple[int, bytes]:
        """Read by the owner's right; where an administrator set a password, by the index's own."""
        parameters = _area(_session(PASSWORD)) + struct.pack(">HH", count, offset)
        code, answer = self._attempt(_SESSIONS, _NV_READ, struct.pack(">II", OWNER, index) + parameters)
        if code in {0, _RC_NV_UNINITIALIZED}:
            return code, answer
        return self._attempt(_SESSIONS, _NV_READ, struct.pack(">II", index, index) + parameters)

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
            self._attempt(_NO_SESSIONS, _FLUSH, struct.pack(">I", session))  # ended already by the command that used it

    def _plain(self, code: int, body: bytes) -> bytes:
        return self._exchange(_NO_SESSIONS, code, body)

    def _authorised(self, code: int, handles: bytes, parameters: bytes, *, num_authorised: int = 1) -> bytes:
        """Send a command with empty-password sessions; return its parameters."""
        sessions = _session(PASSWORD) * num_authorised
        cursor = Cursor(self._exchange(_SESSIONS, code, handles + _area(sessions) + parameters), "TPM response")
        return cursor.take(cursor.big(4))

    def _exchange(self, tag: int, code: int, body: bytes) -> bytes:
        result, answer = self._attempt(tag, code, body)
        if result:
            raise _refusal(code, result)
        return answer

    def _attempt(self, tag: int, code: int, body: bytes) -> tuple[int, bytes]:
        """Send a command; return its response code and what follows the header."""
        command = struct.pack(">HII", tag, HEADER_BYTES + len(body), code) + body
        for _ in range(_MAX_RETRIES):
            cursor = Cursor(self._transport.exchange(command), "TPM response")
            cursor.take(2)
            size, result = cursor.big(4), cursor.big(4)
            if result != _RC_RETRY:
                answer = cursor.take(size - HEADER_BYTES)
                cursor.finish()
                return result, answer
        raise ServiceError("the TPM stays busy", why=f"command {code:#x}, {_MAX_RETRIES} retries")


def connect(address: str = "") -> TpmClient:
    """Open a TPM: `host:port` is a software TPM's socket, anything else a device path."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        return TpmClient(SocketTransport(host, int(port)))
    return TpmClient(DeviceTransport(Path(address) if address else DEVICE))


def _refusal(command: int, code: int) -> ServiceError:
    found = ((words, hint) for mask, value, words, hint in _REFUSALS if code & mask == value)
    words, hint = next(found, ("", ""))
    reason = f"command {command:#x}, code {code:#x}" + (f": {words}" if words else "")
    return ServiceError("the TPM refused a command", why=reason, hint=hint, detail=REFUSED)


def _session(handle: int) -> bytes:
    return struct.pack(">IHBH", handle, 0, 0, 0)


def _area(sessions: bytes) -> bytes:
    return struct.pack(">I", len(sessions)) + sessions


def _selection(indices: tuple[int, ...], bank: int) -> bytes:
    bits = sum(1 << index for index in indices)
    return struct.pack(">IHB", 1, bank, 3) + bits.to_bytes(3, "little")


def _trim_der(data: bytes) -> bytes:
    """Cut what follows the certificate: makers pad their NV index."""
    if len(data) > 4 and data[0] == 0x30 and data[1] == 0x82:
        return data[: 4 + int.from_bytes(data[2:4], "big")]
    return data
