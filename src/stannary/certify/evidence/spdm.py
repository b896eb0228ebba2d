"""NVIDIA device reports: an SPDM 1.1 GET_MEASUREMENTS exchange (DMTF DSP0274, sections 10.11).

A report is the 37-byte request (our nonce at 4..36) and the response: measurement record, the
device's nonce, opaque data, and an ECDSA P-384 signature over everything before it. Hopper,
Blackwell and LS10 switches use the same frame; what is inside the opaque data differs. The response delimits
itself; only zero may follow it, the rest of a buffer that drivers fill and some collectors hand out whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import FormatError, UnsupportedFormat

MAX_REPORT_BYTES = 64 * 1024
MAX_FILL_BYTES = 8192  # NVML_CC_GPU_ATTESTATION_REPORT_SIZE, the driver's buffer
SPDM_VERSION, GET_MEASUREMENTS, MEASUREMENTS = 0x11, 0xE0, 0x60
REQUEST_BYTES, NONCE_BYTES, SIGNATURE_BYTES = 37, 32, 96
DMTF_SPECIFICATION = 0x01

DRIVER_VERSION, VBIOS_VERSION, NVDEC0_STATUS, MSRSCNT, BOARD_ID = 3, 6, 11, 12, 14
CHIP_SKU, PROJECT, PROJECT_SKU, FWID = 15, 17, 18, 20
SWITCH_PDI, SWITCH_LOCK, OPAQUE_VERSION, FEATURE_FLAG = 22, 25, 34, 36
FEATURES = {0: "single-gpu", 1: "multi-gpu", 2: "protected-pcie"}
NVDEC0_DISABLED = 0x55


@dataclass(frozen=True, slots=True)
class SpdmReport:
    """One device's signed measurements."""

    signed: bytes
    signature: bytes
    nonce: bytes
    device_nonce: bytes
    measurements: dict[int, bytes]  # by SPDM index, from 1
    opaque: dict[int, bytes]

    def text(self, field: int) -> str:
        """Return an opaque field as text, empty if absent."""
        return self.opaque.get(field, b"").rstrip(b"\0").decode("ascii", errors="replace")

    @property
    def vbios(self) -> str:
        """VBIOS version as NVIDIA prints it, e.g. 96.00.5E.00.01."""
        raw = self.opaque.get(VBIOS_VERSION, b"")
        if len(raw) > 8 and b"." in raw and raw.rstrip(b"\0").isascii():
            return raw.rstrip(b"\0").decode("ascii")  # switches write it as text
        if len(raw) < 8:
            return ""
        low, high = raw[:4][::-1], raw[4:8][::-1]
        return ".".join(f"{octet:02X}" for octet in (*low, high[3]))

    @property
    def feature(self) -> str | None:
        """Confidential computing mode in the report; None where the driver does not say."""
        raw = self.opaque.get(FEATURE_FLAG)
        if not raw or not any(self.opaque.get(OPAQUE_VERSION, b"")):  # no octets would read as the number zero
            return None
        return FEATURES.get(int.from_bytes(raw, "little"), "unknown")


def parse_report(data: bytes) -> SpdmReport:
    """Read request and response."""
    if len(data) > MAX_REPORT_BYTES:
        raise FormatError("SPDM report too large", why=f"{len(data):,} bytes, limit {MAX_REPORT_BYTES:,}")
    cursor = Cursor(data, "SPDM report")
    _version(cursor, GET_MEASUREMENTS, "request")
    cursor.take(2)
    nonce = cursor.take(NONCE_BYTES)
    cursor.take(REQUEST_BYTES - cursor.offset)
    _version(cursor, MEASUREMENTS, "response")
    cursor.take(2)
    num_blocks, record = cursor.little(1), cursor.sized_little(3)
    device_nonce, opaque = cursor.take(NONCE_BYTES), cursor.sized_little(2)
    signed = data[: cursor.offset]
    signature = cursor.take(SIGNATURE_BYTES)
    fill = cursor.take(cursor.remaining)
    if any(fill) or len(fill) > MAX_FILL_BYTES:
        raise FormatError("SPDM report has trailing bytes", why=f"{len(fill):,} bytes, not zero or too many")
    return SpdmReport(
        signed=signed,
        signature=signature,
        nonce=nonce,
        device_nonce=device_nonce,
        measurements=_measurements(record, num_blocks),
        opaque=_opaque(opaque),
    )


def _version(cursor: Cursor, code: int, what: str) -> None:
    version, observed = cursor.little(1), cursor.little(1)
    if version >> 4 != SPDM_VERSION >> 4:
        raise FormatError(f"not an SPDM measurements {what}", why=f"starts with {version:#04x}")
    if version != SPDM_VERSION:
        raise UnsupportedFormat(f"SPDM {what} version is not known", why=f"{version:#04x}")
    if observed != code:
        raise FormatError(f"not an SPDM measurements {what}", why=f"code {observed:#04x}, expected {code:#04x}")


def _measurements(record: bytes, num_blocks: int) -> dict[int, bytes]:
    cursor = Cursor(record, "SPDM measurement record")
    found: dict[int, bytes] = {}
    for _ in range(num_blocks):
        index, specification = cursor.little(1), cursor.little(1)
        block = Cursor(cursor.sized_little(2), "SPDM measurement")
        if specification & DMTF_SPECIFICATION:
            block.take(1)  # DMTFSpecMeasurementValueType: immutable ROM, firmware, ... all are compared alike
            value = block.sized_little(2)
            block.finish()
        else:
            value = block.take(block.remaining)  # another specification: compared whole, never by its inside
        if index in found:
            raise FormatError("SPDM measurement index appears twice", why=str(index))
        found[index] = value
    cursor.finish()
    return found


def _opaque(data: bytes) -> dict[int, bytes]:
    """Read the device's fields; what follows something that is no field is left unread.

    The data is signed and only ever lifts a cap (firmware id, feature flag): a generation that writes
    it in another way keeps its caps instead of being called malformed. The first of two fields counts.
    """
    cursor = Cursor(data, "SPDM opaque data")
    found: dict[int, bytes] = {}
    while cursor.remaining >= 4:
        kind, size = cursor.little(2), cursor.little(2)
        if size > cursor.remaining:
            break
        found.setdefault(kind, cursor.take(size))
    return found
