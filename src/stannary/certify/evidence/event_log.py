"""TCG event logs: the crypto-agile format of TPMs and CCEL, and the older SHA-1 format.

Replaying a log reproduces the registers it was measured into; that is all a log proves, because it
is not signed itself (TCG PC Client Platform Firmware Profile 1.05, section 10). A parsed log is
only believed where its replay equals registers that a quote covers. Types, and data that a digest does
not cover, are the sender's words even then: no register measures them.

CCEL uses the same format with measurement registers 1..4 for RTMR0..3 and 0 for MRTD
(UEFI 2.10, section 38.4.1).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LOG_BYTES = 4 << 20
MAX_EVENTS = 20_000
EV_NO_ACTION = 0x03  # extends nothing, whatever register it names: Windows' trust point names 0xFFFFFFFF
EV_EFI_HCRTM_EVENT = 0x80000010
_FILLING = b"\x00\xff"
_EVENT_HEAD = struct.Struct("<III")  # register, type, number of digests
_SPEC_ID = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
HCRTM_LOCALITY = 4
NUM_PCRS = 24
EVENT_NAMES = {
    0x01: "EV_POST_CODE",
    0x04: "EV_SEPARATOR",
    0x05: "EV_ACTION",
    0x06: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x0D: "EV_IPL",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    EV_EFI_HCRTM_EVENT: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}

_ALGORITHMS = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
_DIGEST_BYTES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class Measured:
    """One event: the register, its type, digests by bank, and the data measured or described."""

    register: int
    type: int
    digests: dict[str, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log; `banks` are the digest algorithms it announces."""

    banks: tuple[str, ...]
    events: tuple[Measured, ...]

    def replay(self, bank: str) -> dict[int, bytes]:
        """Return the registers this log measures, by index, starting from the values at reset."""
        if bank not in self.banks:
            raise FormatError(f"event log has no {bank} bank", why=", ".join(self.banks))
        registers: dict[int, bytes] = {}
        start, digest = self.at_reset(bank), getattr(hashlib, bank)
        for event in self.events:
            if event.type == EV_NO_ACTION:
                continue
            value = registers.get(event.register) or start(event.register)
            registers[event.register] = digest(value + event.digests[bank]).digest()
        return registers

    def at_reset(self, bank: str) -> Callable[[int], bytes]:
        """Return the value of each register below 16 before anything extends it; only PCR 0 may not be zero."""
        size, locality = _DIGEST_BYTES[bank], startup_locality(self)
        return lambda register: (locality if register == 0 else 0).to_bytes(size, "big")


def startup_locality(log: EventLog) -> int:
    """Return the locality PCR 0 starts from (profile sections 3.3.2 and 10.4.5.3): 0, 3 or 4.

    The log says it in a StartupLocality event. A hardware CRTM is measured before the TPM is started: where its
    event is the first that extends PCR 0 and no other locality is named, the register starts from 4.
    """
    for event in log.events:
        if event.type == EV_NO_ACTION and event.data.startswith(_LOCALITY) and len(event.data) == len(_LOCALITY) + 1:
            return event.data[-1]
    first = next((event.type for event in log.events if event.register == 0 and event.type != EV_NO_ACTION), None)
    return HCRTM_LOCALITY if first == EV_EFI_HCRTM_EVENT else 0


def describe(event: Measured) -> str:
    """Return an event in words: its type and the readable part of its data."""
    text = event.data.decode("utf-16-le" if event.data[1:2] == b"\0" else "utf-8", errors="replace")
    readable = "".join(char for char in text if char.isprintable() and char != "\ufffd").strip()
    return f"{EVENT_NAMES.get(event.type, f'type {event.type:#x}')}: {readable[:80]}"


def parse_log(data: bytes) -> EventLog:
    """Read a log; what firmware fills the rest of the table with is left out."""
    if len(data) > MAX_LOG_BYTES:
        raise LimitExceeded("event log too large", why=f"{len(data):,} bytes, limit {MAX_LOG_BYTES:,}")
    cursor = Cursor(data, "event log")
    register, kind = cursor.little(4), cursor.little(4)
    digest, described = cursor.take(20), cursor.sized_little()
    if kind != EV_NO_ACTION or not described.startswith(_SPEC_ID):
        return _parse_sha1(data)
    # TPM logs write register 0 here, CCEL logs 1; nothing is measured by it either way.
    if any(digest) or register > 1:
        raise FormatError("event log header measures something", why=f"register {register}")
    sizes, end = _spec_id(described), _end(data)
    events: list[Measured] = []
    while cursor.remaining >= 8 and cursor.offset < end:
        if len(events) >= MAX_EVENTS:
            raise LimitExceeded("event log too long", why=f"more than {MAX_EVENTS:,} events")
        events.append(_event(cursor, sizes))
    if cursor.offset < end:
        raise FormatError("event log has trailing bytes", why=f"{cursor.remaining} bytes")
    return EventLog(tuple(_ALGORITHMS[item] for item in sizes if item in _ALGORITHMS), tuple(events))


def _spec_id(described: bytes) -> dict[int, int]:
    cursor = Cursor(described, "event log header")
    cursor.take(len(_SPEC_ID) + 4 + 4)  # platform class, versions, uintn size
    count = cursor.little(4)
    if not 1 <= count <= 16:
        raise FormatError("event log announces no banks or too many", why=str(count))
    sizes = {cursor.little(2): cursor.little(2) for _ in range(count)}
    for algorithm, size in sizes.items():
        name = _ALGORITHMS.get(algorithm)
        if name is not None and _DIGEST_BYTES[name] != size:
            raise FormatError("event log announces a wrong digest size", why=f"{name}: {size} bytes")
    cursor.sized_little(1)
    cursor.finish()
    return sizes


def _event(cursor: Cursor, sizes: dict[int, int]) -> Measured:
    register, kind, count = _EVENT_HEAD.unpack(cursor.take(_EVENT_HEAD.size))
    _require_register(register, kind)
    if count != len(sizes):
        raise FormatError("event does not carry every bank", why=f"{count} digests, expected {len(sizes)}")
    digests: dict[str, bytes] = {}
    seen: set[int] = set()
    for _ in range(count):
        algorithm = cursor.little(2)
        if algorithm not in sizes or algorithm in seen:
            raise UnsupportedFormat("event carries an unannounced or doubled digest", why=f"{algorithm:#06x}")
        seen.add(algorithm)
        value = cursor.take(sizes[algorithm])
        if algorithm in _ALGORITHMS:
            digests[_ALGORITHMS[algorithm]] = value
    return Measured(register, kind, digests, cursor.sized_little())


def _parse_sha1(data: bytes) -> EventLog:
    cursor, end = Cursor(data, "event log"), _end(data)
    events: list[Measured] = []
    while cursor.remaining >= 8 and cursor.offset < end:
        register, kind = cursor.little(4), cursor.little(4)
        digest, described = cursor.take(20), cursor.sized_little()
        _require_register(register, kind)
        if len(events) >= MAX_EVENTS:
            raise LimitExceeded("event log too long", why=f"more than {MAX_EVENTS:,} events")
        events.append(Measured(register, kind, {"sha1": digest}, described))
    if cursor.offset < end:
        raise FormatError("event log has trailing bytes", why=f"{cursor.remaining} bytes")
    return EventLog(("sha1",), tuple(events))


def _require_register(register: int, kind: int) -> None:
    if register >= NUM_PCRS and kind != EV_NO_ACTION:
        raise FormatError("event log names an unknown register", why=str(register))


def _end(data: bytes) -> int:
    """Return where only octets 0x00 and 0xFF follow: firmware fills its table with either, and rewrites parts of it.

    An event of register 0 and type 0 does not exist, and register 0xFFFFFFFF marks the end.
    """
    return len(data.rstrip(_FILLING))
