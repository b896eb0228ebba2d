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
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One row of `stannary node check`: measured beside required."""

    name: str
    measured: str
    required: str
    holds: bool
    serves: str  # the tier it is needed for
    next: str = ""  # what to do where it does not hold

    def to_json(self) -> dict[str, Json]:
        """Return the row as JSON members."""
        return {
            "name": self.name,
            "measured": self.measured,
            "required": self.required,
            "holds": self.holds,
            "serves": self.serves,
            "next": "" if self.holds else self.next,
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


def requirements(root: Path = Path("/")) -> list[HostCheck]:
    """Return what is required of the host itself, measured; `survey.py` adds what collectors need."""
    kernel, memory = platform.release(), memory_mb(root)
    wanted = f">= {MIN_KERNEL[0]}.{MIN_KERNEL[1]}"
    log, device = root / str(EVENT_LOG).lstrip("/"), root / str(DEVICE).lstrip("/")
    boot, guest = secure_boot(root), _guest(root)
    has_tpm, has_log = os.access(device, os.R_OK | os.W_OK), os.access(log, os.R_OK)
    tpm_next = "sudo usermod -aG tss $USER, then log in again" if device.exists() else "switch the TPM on in the BIOS"
    log_next = "sudo stannary node check" if log.exists() else "boot by UEFI with the TPM switched on"
    return [
        HostCheck("kernel", kernel, wanted, _version(kernel) >= MIN_KERNEL, "T0", "update the kernel"),
        HostCheck("cpus", str(os.cpu_count() or 0), ">= 1", True, "T0"),
        HostCheck("memory", f"{memory:,} MB", ">= 1,024 MB", memory >= 1024, "T0", "give the machine more memory"),
        HostCheck("TPM 2.0", _presence(device), "present and readable", has_tpm, "T1", tpm_next),
        HostCheck("event log", _presence(log), "readable", has_log, "T1", log_next),
        HostCheck("Secure Boot", boot, "on", boot == "on", "T1", "switch Secure Boot on in the BIOS"),
        HostCheck(
            "confidential guest", guest, "SEV-SNP, TDX, Nitro or Azure", guest != "none", "T2", "rent a confidential VM"
        ),
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
    # Azure's paravisor keeps the devices to itself; its machines tell by their asset tag (DMI type 3).
    if _read(root / "sys/class/dmi/id/chassis_asset_tag").strip() == _AZURE_TAG:
        return "Azure, perhaps confidential"
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
