"""Facts a machine can read about itself: hints for people, and requirements of the tiers.

Nothing here is proof. It tells an operator what is missing before a verifier refuses it, and a
verifier believes only what a node says against itself.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stannary.certify.collect.tpm_client import EVENT_LOG
from stannary.certify.collect.tpm_transport import DEVICE

if TYPE_CHECKING:
    from stannary.formats.canonical import Json

MIN_KERNEL = (5, 15)
_SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
_MAX_SMALL_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row of `stannary node check`: measured beside required."""

    name: str
    measured: str
    required: str
    holds: bool
    serves: str  # the tier it is needed for

    def to_json(self) -> dict[str, Json]:
        """Return the row as JSON members."""
        return {
            "name": self.name,
            "measured": self.measured,
            "required": self.required,
            "holds": self.holds,
            "serves": self.serves,
        }


def facts(root: Path = Path("/")) -> dict[str, Json]:
    """Return what the evidence carries as hints."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(root),
        "cpus": os.cpu_count() or 0,
        "memory_mb": memory_mb(root),
    }


def requirements(root: Path = Path("/"), *, num_gpus: int = 0) -> list[Requirement]:
    """Return every requirement, measured."""
    kernel = platform.release()
    tsm, guest = root / "sys/kernel/config/tsm/report", _guest(root)
    log = root / str(EVENT_LOG).lstrip("/")
    boot = secure_boot(root)
    device = root / str(DEVICE).lstrip("/")
    return [
        Requirement("kernel", kernel, f">= {MIN_KERNEL[0]}.{MIN_KERNEL[1]}", _version(kernel) >= MIN_KERNEL, "T0"),
        Requirement("cpus", str(os.cpu_count() or 0), ">= 1", True, "T0"),
        Requirement("memory", f"{memory_mb(root):,} MB", ">= 1,024 MB", memory_mb(root) >= 1024, "T0"),
        Requirement("TPM 2.0", _presence(device), "present and readable", os.access(device, os.R_OK | os.W_OK), "T1"),
        Requirement("event log", _presence(log), "readable", os.access(log, os.R_OK), "T1"),
        Requirement("Secure Boot", boot, "on", boot == "on", "T1"),
        Requirement("confidential guest", guest, "SEV-SNP or TDX", guest in {"SEV-SNP", "TDX"}, "T2"),
        Requirement("report interface", _presence(tsm), "configfs-tsm", tsm.is_dir(), "T2"),
        Requirement("accelerators", str(num_gpus), "as claimed", True, "T0"),
    ]


def cpu_model(root: Path = Path("/")) -> str:
    """Return the CPU's name, empty if unknown."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()[:120]
    return ""


def memory_mb(root: Path = Path("/")) -> int:
    """Return total memory in MB, 0 if unknown."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024 // 1_000_000
    return 0


def secure_boot(root: Path = Path("/")) -> str:
    """Return `on`, `off` or `not UEFI` from the firmware's own variable."""
    try:
        data = (root / str(_SECURE_BOOT).lstrip("/")).read_bytes()
    except OSError:
        return "not UEFI"
    return "on" if data[-1:] == b"\1" else "off"


def _guest(root: Path) -> str:
    if (root / "dev/sev-guest").exists():
        return "SEV-SNP"
    if (root / "dev/tdx_guest").exists():
        return "TDX"
    if (root / "dev/nsm").exists():
        return "Nitro enclave"
    return "none"


def _presence(path: Path) -> str:
    if not path.exists():
        return "absent"
    return "present" if os.access(path, os.R_OK) else "not readable by this user"


def _version(release: str) -> tuple[int, int]:
    major, _, rest = release.partition(".")
    minor = "".join(char for char in rest.partition(".")[0] if char.isdigit())
    return (int(major), int(minor or "0")) if major.isdigit() else (0, 0)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_SMALL_FILE_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
