"""NVIDIA devices through the driver's management library, with ctypes.

Reads how many devices there are, whether confidential computing is on, and each one's SPDM report and
certificate chain. With confidential computing off the driver gives no report: the device is then
listed with `cc: false`, which a verifier believes. NVSwitch evidence needs the fabric's own library
and is not collected here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.errors import EnvironmentProblem

if TYPE_CHECKING:
    from stannary.formats.canonical import Json

NONCE_BYTES = 32
_REPORT_BYTES, _CHAIN_BYTES = 0x2000, 0x1000
_OK = 0
_NAME_BYTES = 96


class _Report(ctypes.Structure):
    """nvmlConfComputeGpuAttestationReport_t."""

    _fields_ = (
        ("is_cec_present", ctypes.c_uint),
        ("report_size", ctypes.c_uint),
        ("cec_report_size", ctypes.c_uint),
        ("nonce", ctypes.c_ubyte * NONCE_BYTES),
        ("report", ctypes.c_ubyte * _REPORT_BYTES),
        ("cec_report", ctypes.c_ubyte * _CHAIN_BYTES),
    )


class _Certificate(ctypes.Structure):
    """nvmlConfComputeGpuCertificate_t."""

    _fields_ = (
        ("chain_size", ctypes.c_uint),
        ("attestation_size", ctypes.c_uint),
        ("chain", ctypes.c_ubyte * _CHAIN_BYTES),
        ("attestation_chain", ctypes.c_ubyte * 0x1400),
    )


class _State(ctypes.Structure):
    """nvmlConfComputeSystemState_t."""

    _fields_ = (("environment", ctypes.c_uint), ("feature", ctypes.c_uint), ("devtools", ctypes.c_uint))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device as the driver lists it."""

    index: int
    name: str
    uuid: str
    memory_mb: int

    def to_json(self, *, cc: bool, devtools: bool) -> dict[str, Json]:
        """Return the hint that evidence carries."""
        return {"name": self.name, "uuid": self.uuid, "memory_mb": self.memory_mb, "cc": cc, "devtools": devtools}


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Nvml:
    """A session with the driver's library."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as err:
            raise EnvironmentProblem("no NVIDIA driver on this machine", why=str(err)) from err
        self._call("nvmlInit_v2")

    def close(self) -> None:
        """End the session."""
        self._library.nvmlShutdown()

    def gpus(self) -> list[Gpu]:
        """Return every device."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self._describe(index) for index in range(count.value)]

    def confidential_state(self) -> tuple[bool, bool]:
        """Return (confidential computing on, DevTools mode on)."""
        state = _State()
        try:
            self._call("nvmlSystemGetConfComputeState", ctypes.byref(state))
        except EnvironmentProblem:
            return False, False  # drivers without the call know no confidential computing
        return state.feature == 1, state.devtools == 1

    def report(self, gpu: Gpu, nonce: bytes) -> bytes:
        """Return a device's signed SPDM report over our nonce."""
        request = _Report()
        ctypes.memmove(request.nonce, nonce, NONCE_BYTES)
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport", self._handle(gpu.index), ctypes.byref(request))
        return bytes(request.report[: min(request.report_size, _REPORT_BYTES)])

    def chain(self, gpu: Gpu) -> bytes:
        """Return a device's attestation certificate chain, PEM."""
        found = _Certificate()
        self._call("nvmlDeviceGetConfComputeGpuCertificate", self._handle(gpu.index), ctypes.byref(found))
        return bytes(found.attestation_chain[: min(found.attestation_size, 0x1400)])

    def _describe(self, index: int) -> Gpu:
        handle, memory = self._handle(index), _Memory()
        name, uuid = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_NAME_BYTES)
        self._call("nvmlDeviceGetName", handle, name, _NAME_BYTES)
        self._call("nvmlDeviceGetUUID", handle, uuid, _NAME_BYTES)
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return Gpu(index, name.value.decode("ascii", "replace"), uuid.value.decode("ascii", "replace"),
                   memory.total // 1_000_000)  # fmt: skip

    def _handle(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _call(self, name: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError as err:
            raise EnvironmentProblem("NVIDIA driver too old", why=f"no {name}", hint="update the driver") from err
        result = function(*arguments)
        if result != _OK:
            raise EnvironmentProblem("NVIDIA driver refused a call", why=f"{name} returned {result}")
