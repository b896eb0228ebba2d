"""Reports of confidential guests through configfs-tsm (Linux 6.7 and later: SEV-SNP and TDX).

Source: Documentation/ABI/testing/configfs-tsm-report. One directory a request: write `inblob` (64 bytes),
read `outblob` (the report or quote) and `auxblob` (the host's certificate table on SEV-SNP), remove it.

Rules:
1. `generation` counts writes. It is read before ours and after the report: more writes than ours mean that
   somebody else's bytes may be in the report, and the request is made anew in a directory of its own.
2. A report that does not carry our bytes is an error here, whatever the counter says.
3. Where the guest may not ask for privilege level 0 (`privlevel_floor`), the report is of the floor, and a
   verifier will refuse it: reports that an SVSM gives for its services are not collected.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stannary.certify.collect.deadline import within
from stannary.certify.collect.ioctl import AS_ROOT
from stannary.certify.evidence import quote, snp_report
from stannary.certify.evidence.cursor import Cursor
from stannary.certify.evidence.quote import TdBody
from stannary.errors import ConflictError, EnvironmentProblem, FormatError, LimitExceeded, ServiceError

CONFIGFS = Path("/sys/kernel/config/tsm/report")
MAX_BLOB_BYTES = 1 << 20  # the kernel allows 16 MiB; quotes and tables have tens of kilobytes
MAX_TRIES = 3
KINDS = {"sev_guest": "snp", "tdx_guest": "tdx"}
# GHCB specification, "SNP extended guest request": certificate table GUIDs.
_CERTIFICATES = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
}
# A host that is busy quoting for others; a report is asked for again.
_TRANSIENT = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
_HINTS = {
    errno.ENOENT: "mount configfs (mount -t configfs none /sys/kernel/config); Linux 6.7 or later has it in guests",
    errno.ENXIO: "load the guest driver (modprobe sev-guest or tdx-guest); Azure has a vTPM instead",
    errno.ENODEV: "load the guest driver (modprobe sev-guest or tdx-guest); Azure has a vTPM instead",
    errno.EACCES: AS_ROOT,
    errno.EPERM: AS_ROOT,
    errno.ETIMEDOUT: "the host's quoting service does not answer: tell the operator of the host",
}


@dataclass(frozen=True, slots=True)
class TsmReport:
    """One report and the certificates the host put beside it."""

    kind: str
    blob: bytes
    certificates: tuple[bytes, ...]


class Tree(Protocol):
    """The directory of report requests; raises OSError as the kernel would."""

    def make(self, name: str) -> None:
        """Make a request."""
        ...

    def has(self, name: str, attribute: str) -> bool:
        """Whether the provider shows an attribute."""
        ...

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute whole."""
        ...

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one piece."""
        ...

    def remove(self, name: str) -> None:
        """Remove a request."""
        ...


class ConfigFs:
    """The kernel's own tree."""

    def __init__(self, root: Path = CONFIGFS) -> None:
        self._root = root

    def make(self, name: str) -> None:
        """Make a request's directory; the kernel fills it."""
        (self._root / name).mkdir()

    def has(self, name: str, attribute: str) -> bool:
        """Whether the attribute is visible."""
        return (self._root / name / attribute).exists()

    def read(self, name: str, attribute: str) -> bytes:
        """Read up to the limit; more is an error, never cut."""
        with (self._root / name / attribute).open("rb") as stream:
            data = stream.read(MAX_BLOB_BYTES + 1)
        if len(data) > MAX_BLOB_BYTES:
            raise LimitExceeded(f"{attribute} is too large", why=f"over {MAX_BLOB_BYTES:,} bytes")
        return data

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write in one call, without creating or truncating: attributes are no files."""
        descriptor = os.open(self._root / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove the directory; its attributes go with it."""
        (self._root / name).rmdir()


def request(report_data: bytes, root: Path = CONFIGFS) -> TsmReport:
    """Ask the guest's firmware for a report over 64 bytes, within the limit of devices."""
    return within(lambda: ask(ConfigFs(root), report_data), "configfs-tsm")


def ask(tree: Tree, report_data: bytes) -> TsmReport:
    """Make requests until one is not disturbed."""
    problem: OSError | None = None
    for _ in range(MAX_TRIES):
        try:
            found = _once(tree, report_data)
        except OSError as err:
            if err.errno not in _TRANSIENT:
                raise EnvironmentProblem(
                    "cannot get a confidential report", why=str(err), hint=_HINTS.get(err.errno or 0, "see dmesg")
                ) from err
            problem = err
            continue
        if found is not None:
            return found
    if problem is not None:
        raise ServiceError("the host stays busy", why=f"{MAX_TRIES} tries: {problem}") from problem
    raise ConflictError("somebody else writes to our report requests", why=f"{MAX_TRIES} tries")


def _once(tree: Tree, report_data: bytes) -> TsmReport | None:
    """Make one request; None where others wrote to it."""
    name = f"stannary-{uuid.uuid4().hex[:12]}"
    tree.make(name)
    try:
        provider = tree.read(name, "provider").strip().decode("ascii", errors="replace")
        if provider not in KINDS:
            raise EnvironmentProblem("report provider is not known", why=provider[:60])
        before = _number(tree, name, "generation")
        num_writes = 1
        floor = _number(tree, name, "privlevel_floor") if tree.has(name, "privlevel_floor") else 0
        if floor:
            tree.write(name, "privlevel", b"%d" % floor)
            num_writes += 1
        tree.write(name, "inblob", report_data)
        blob = tree.read(name, "outblob")
        extra = tree.read(name, "auxblob") if tree.has(name, "auxblob") else b""
        if _number(tree, name, "generation") != before + num_writes:
            return None
    finally:
        with contextlib.suppress(OSError):  # a request left behind costs a directory; the report is what counts
            tree.remove(name)
    check_bound(KINDS[provider], blob, report_data)
    return TsmReport(KINDS[provider], blob, read_table(extra) if extra else ())


def check_bound(kind: str, blob: bytes, report_data: bytes) -> None:
    """Refuse a report that does not parse or carries other bytes than ours."""
    if kind == "snp":
        carried = snp_report.parse_report(blob).report_data
    else:
        body = quote.parse_quote(blob).body
        carried = body.report_data if isinstance(body, TdBody) else b""
    if carried != report_data:
        raise ServiceError("the guest's firmware reported other bytes than ours", why=carried.hex()[:128])


def read_table(data: bytes) -> tuple[bytes, ...]:
    """Read the host's certificate table: entries of GUID, offset, length, ended by zeros."""
    found: list[bytes] = []
    cursor = Cursor(data, "certificate table")
    while True:
        guid, offset, length = uuid.UUID(bytes_le=cursor.take(16)), cursor.little(4), cursor.little(4)
        if guid.int == 0:
            return tuple(found)
        if offset + length > len(data) or len(found) > len(_CERTIFICATES):
            raise FormatError("certificate table points outside itself", why=f"{offset} + {length}")
        if str(guid) in _CERTIFICATES and length:
            found.append(data[offset : offset + length])


def _number(tree: Tree, name: str, attribute: str) -> int:
    text = tree.read(name, attribute).strip()
    if not text.isdigit() or len(text) > 20:
        raise FormatError(f"{attribute} is not a number", why=repr(text)[:60])
    return int(text)
