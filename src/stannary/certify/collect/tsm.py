"""Reports of confidential guests through configfs-tsm (Linux 6.7 and later: SEV-SNP and TDX).

One directory a request: write `inblob` (64 bytes), read `outblob` (the report or quote) and `auxblob`
(the VCEK table on SEV-SNP hosts that provide it), then remove the directory. `generation` tells
whether somebody wrote in between.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from stannary.certify.evidence.cursor import Cursor
from stannary.errors import ConflictError, EnvironmentProblem, FormatError

CONFIGFS = Path("/sys/kernel/config/tsm/report")
MAX_BLOB_BYTES = 1 << 20
KINDS = {"sev_guest": "snp", "tdx_guest": "tdx"}
# GHCB specification, "SNP extended guest request": certificate table GUIDs.
_CERTIFICATES = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
}


@dataclass(frozen=True, slots=True)
class TsmReport:
    """One report and the certificates the host put beside it."""

    kind: str
    blob: bytes
    certificates: tuple[bytes, ...]


def available(root: Path = CONFIGFS) -> bool:
    """Whether this guest can make reports."""
    return root.is_dir() and os.access(root, os.W_OK)


def request(report_data: bytes, root: Path = CONFIGFS) -> TsmReport:
    """Ask the guest's firmware for a report over 64 bytes."""
    place = root / f"stannary-{uuid.uuid4().hex[:12]}"
    try:
        place.mkdir()
        try:
            provider = (place / "provider").read_text().strip()
            (place / "inblob").write_bytes(report_data)
            before = (place / "generation").read_text()
            blob = _bounded(place / "outblob")
            extra = _bounded(place / "auxblob") if (place / "auxblob").exists() else b""
            if (place / "generation").read_text() != before:
                raise ConflictError("somebody else wrote to this report", why=str(place))
        finally:
            place.rmdir()
    except OSError as err:
        raise EnvironmentProblem(
            "cannot get a confidential report", why=str(err), hint="run as root in the guest, kernel 6.7 or later"
        ) from err
    if provider not in KINDS:
        raise EnvironmentProblem("report provider is not known", why=provider[:60])
    return TsmReport(KINDS[provider], blob, read_table(extra) if extra else ())


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
        if str(guid) in _CERTIFICATES:
            found.append(data[offset : offset + length])


def _bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_BLOB_BYTES)
