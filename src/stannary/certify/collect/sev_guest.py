"""SEV-SNP reports through /dev/sev-guest, for kernels before configfs-tsm (Linux 5.19 to 6.6).

Structures and numbers of include/uapi/linux/sev-guest.h; the answer is MSG_REPORT_RSP of the SEV-SNP
firmware ABI (table 25): status, size, the report from byte 32. The extended request also brings the host's
certificate table; where the host wants more room it says how much, and gets it once. A host that gives no
table at all is asked for the plain report.
"""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from typing import TYPE_CHECKING

from stannary.certify.collect import ioctl, tsm
from stannary.certify.collect.tsm import TsmReport
from stannary.certify.evidence.cursor import Cursor
from stannary.certify.evidence.snp_report import REPORT_BYTES
from stannary.errors import ServiceError

if TYPE_CHECKING:
    from stannary.certify.collect.ioctl import Ioctl

DEVICE = Path("/dev/sev-guest")
REPORT_DATA_BYTES, RESPONSE_BYTES = 64, 4000
TABLE_BYTES, MAX_TABLE_BYTES, PAGE_BYTES = 0x4000, 1 << 20, 0x1000
_MESSAGE_VERSION = 1
_VMM_INVALID_LENGTH = 1
_REPORT_OFFSET_BYTES = 24  # reserved, between size and report


class ReportRequest(ctypes.Structure):
    """struct snp_report_req."""

    _fields_ = (
        ("user_data", ctypes.c_uint8 * REPORT_DATA_BYTES),
        ("vmpl", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 28),
    )


class ExtendedRequest(ctypes.Structure):
    """struct snp_ext_report_req."""

    _fields_ = (("data", ReportRequest), ("table_address", ctypes.c_uint64), ("table_bytes", ctypes.c_uint32))


class GuestRequest(ctypes.Structure):
    """struct snp_guest_request_ioctl; `firmware_error` and `host_error` are its two halves of exitinfo2."""

    _fields_ = (
        ("version", ctypes.c_uint8),
        ("request", ctypes.c_uint64),
        ("response", ctypes.c_uint64),
        ("firmware_error", ctypes.c_uint32),
        ("host_error", ctypes.c_uint32),
    )


SNP_GET_REPORT = ioctl.iowr(ord("S"), 0, GuestRequest)
SNP_GET_EXT_REPORT = ioctl.iowr(ord("S"), 2, GuestRequest)


def request(report_data: bytes, device: Path = DEVICE) -> TsmReport:
    """Ask the guest's firmware for a report over 64 bytes."""
    with ioctl.opened(device) as send:
        return ask(send, report_data)


def ask(send: Ioctl, report_data: bytes) -> TsmReport:
    """Get report and certificate table; refuse a report over other bytes."""
    report, table = _extended(send, report_data, TABLE_BYTES)
    tsm.check_bound("snp", report, report_data)
    return TsmReport("snp", report, tsm.read_table(table) if any(table) else ())


def _extended(send: Ioctl, report_data: bytes, room: int) -> tuple[bytes, bytes]:
    table = ctypes.create_string_buffer(room)
    question = ExtendedRequest(_question(report_data), ctypes.addressof(table), room)
    question.keep = table  # a call given up on may still write: its buffers live as long as its message
    answer, message = _message(question)
    try:
        send(SNP_GET_EXT_REPORT, message)
    except OSError as err:
        wanted = question.table_bytes
        if message.host_error == _VMM_INVALID_LENGTH and room < wanted <= MAX_TABLE_BYTES:
            return _extended(send, report_data, -(-wanted // PAGE_BYTES) * PAGE_BYTES)
        if err.errno in {errno.EPERM, errno.EACCES}:
            raise ioctl.refused("/dev/sev-guest", err) from err
        return _plain(send, report_data), b""
    return read_answer(answer.raw), table.raw


def _plain(send: Ioctl, report_data: bytes) -> bytes:
    answer, message = _message(_question(report_data))
    try:
        send(SNP_GET_REPORT, message)
    except OSError as err:
        codes = f"firmware {message.firmware_error:#x}, host {message.host_error:#x}"
        raise ServiceError("/dev/sev-guest refused the request", why=f"{err.strerror}; {codes}") from err
    return read_answer(answer.raw)


def _question(report_data: bytes) -> ReportRequest:
    if len(report_data) != REPORT_DATA_BYTES:
        raise ServiceError("not report data", why=f"{len(report_data)} bytes, expected {REPORT_DATA_BYTES}")
    return ReportRequest((ctypes.c_uint8 * REPORT_DATA_BYTES).from_buffer_copy(report_data))


def _message(question: ctypes.Structure) -> tuple[ctypes.Array[ctypes.c_char], GuestRequest]:
    answer = ctypes.create_string_buffer(RESPONSE_BYTES)
    message = GuestRequest(_MESSAGE_VERSION, ctypes.addressof(question), ctypes.addressof(answer))
    message.keep = (question, answer)
    return answer, message


def read_answer(answer: bytes) -> bytes:
    """Return the report inside MSG_REPORT_RSP."""
    cursor = Cursor(answer, "SNP report answer")
    status, size = cursor.little(4), cursor.little(4)
    cursor.take(_REPORT_OFFSET_BYTES)
    if status or size != REPORT_BYTES:
        raise ServiceError("the SNP firmware gave no report", why=f"status {status:#x}, {size:,} bytes")
    return cursor.take(size)
