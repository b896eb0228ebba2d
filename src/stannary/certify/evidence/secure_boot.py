"""What PCR 7 shows of UEFI Secure Boot.

Root extends PCR 7 himself once the system runs and writes the log, so only digests count, and data they cover;
an event's type is measured by nothing (TCG PC Client Platform Firmware Profile 1.05, sections 3.3.4.8 and 10.4).

Rules:
1. Firmware's own word ends at the first event whose digest is a separator's, whatever type the log gives it.
2. Before it, every event is of a type whose digest covers its data, and covers it: or the real variable could
   be there under another name. A log without it shows nothing.
3. A separator of an error, "UEFI Debug Mode" and two SecureBoot variables, or one of another vendor's, show nothing
   either.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stannary.certify.evidence import event_log

if TYPE_CHECKING:
    from stannary.certify.evidence.event_log import EventLog, Measured

NOT_MEASURED = "not measured"
_POLICY_PCR = 7
_SEPARATOR = bytes(4)
# 1 says that firmware met an error, in either byte order; all ones ends a pre-boot phase of TPM 1.2, not this one.
_OTHER_SEPARATORS = (b"\x01\0\0\0", b"\0\0\0\x01", b"\xff\xff\xff\xff")
_DEBUGGER = b"UEFI Debug Mode"
_VARIABLE = "SecureBoot".encode("utf-16-le")
_GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE, the vendor of the real one
_VARIABLE_HEAD_BYTES = 32  # UEFI_VARIABLE_DATA: vendor GUID, name length in characters, data length
# EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_ACTION, EV_EFI_VARIABLE_AUTHORITY, EV_EFI_SPDM_DEVICE_POLICY, .._AUTHORITY
_COVERED_TYPES = frozenset({0x80000001, 0x80000007, 0x800000E0, 0x800000E3, 0x800000E4})


def secure_boot(log: EventLog, bank: str = "sha256") -> str:
    """Return `on`, `off` or `not measured` of a log whose replay gave the quoted PCR 7."""
    if doubt(log, bank):
        return NOT_MEASURED
    return "on" if _variables(_firmware_events(log, bank)[0]) == [(_GLOBAL, b"\x01")] else "off"


def doubt(log: EventLog, bank: str) -> str:
    """Say why PCR 7 does not show the state of Secure Boot, empty if it does."""
    events, separator = _firmware_events(log, bank)
    if separator is None:
        return "PCR 7 has no separator behind firmware's own events"
    if separator.digests[bank] != _digest(bank, _SEPARATOR):
        return "firmware ended PCR 7 with the separator of an error"
    for event in events:
        if event.type not in _COVERED_TYPES or event.digests[bank] != _digest(bank, event.data):
            return f"an event of PCR 7 does not show what was measured ({event_log.describe(event)})"
        if event.data.rstrip(b"\0") == _DEBUGGER:
            return "a firmware debugger may have run: UEFI Debug Mode"
    vendors = [vendor for vendor, _ in _variables(events)]
    if vendors == [_GLOBAL]:
        return ""
    return f"{len(vendors)} SecureBoot variables in PCR 7, not one" if len(vendors) != 1 else "SecureBoot is not UEFI's"


def _firmware_events(log: EventLog, bank: str) -> tuple[list[Measured], Measured | None]:
    """Return what extended PCR 7 before its first separator, and the separator, found by digest (rule 1)."""
    ends = {_digest(bank, data) for data in (_SEPARATOR, *_OTHER_SEPARATORS)}
    before: list[Measured] = []
    for event in log.events:
        if event.register != _POLICY_PCR or event.type == event_log.EV_NO_ACTION:
            continue
        if event.digests[bank] in ends:
            return before, event
        before.append(event)
    return before, None


def _variables(events: list[Measured]) -> list[tuple[bytes, bytes]]:
    """Return vendor and value of every variable that is called SecureBoot, under whatever type it stands."""
    found = []
    for event in events:
        head, body = event.data[:_VARIABLE_HEAD_BYTES], event.data[_VARIABLE_HEAD_BYTES:]
        name_bytes, value_bytes = 2 * int.from_bytes(head[16:24], "little"), int.from_bytes(head[24:32], "little")
        if body[:name_bytes] == _VARIABLE and len(body) == name_bytes + value_bytes:
            found.append((head[:16], body[name_bytes:]))
    return found


def _digest(bank: str, data: bytes) -> bytes:
    return hashlib.new(bank, data).digest()
