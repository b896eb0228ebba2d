"""NVIDIA GPUs through the driver's management library (libnvidia-ml), with ctypes.

Reads how many devices there are, the confidential mode of the system, and each device's SPDM report and
certificate chain. Structures and calls as in the NVML API reference, "Confidential Computing definitions";
a size that the driver gives beyond its own field is refused, never clipped. With confidential computing
off the driver gives no report: the device is then listed with `cc: false`, which a verifier believes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.collect.deadline import DEVICE_LIMIT_S, Lane
from stannary.certify.collect.ioctl import AS_ROOT
from stannary.errors import EnvironmentProblem, ServiceError

if TYPE_CHECKING:
    from stannary.formats.canonical import Json

LIBRARY = "libnvidia-ml.so.1"
ABSENT = "no-library"  # detail of the error where a driver's library is not installed
NONCE_BYTES = 32
REPORT_BYTES, CEC_REPORT_BYTES = 0x2000, 0x1000
CHAIN_BYTES, ATTESTATION_CHAIN_BYTES = 0x1000, 0x1400
_OK, _NOT_SUPPORTED, _NO_PERMISSION, _DRIVER_NOT_LOADED, _FUNCTION_NOT_FOUND = 0, 3, 4, 9, 13
_UNKNOWN_HERE = frozenset({_NOT_SUPPORTED, _FUNCTION_NOT_FOUND})  # the driver has no such thing
_UNKNOWN_DETAIL = "nvml-not-supported"
_HINTS = {
    _NO_PERMISSION: AS_ROOT,
    _DRIVER_NOT_LOADED: "load the driver: sudo modprobe nvidia",
    _FUNCTION_NOT_FOUND: "update the NVIDIA driver",
}
_NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE
_MAX_DEVICES = 64
PROTECTED_PCIE = 1  # NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE: eight GPUs and their switches, Hopper HGX


class AttestationReport(ctypes.Structure):
    """nvmlConfComputeGpuAttestationReport_t."""

    _fields_ = (
        ("is_cec_present", ctypes.c_uint),
        ("report_size", ctypes.c_uint),
        ("cec_report_size", ctypes.c_uint),
        ("nonce", ctypes.c_ubyte * NONCE_BYTES),
        ("report", ctypes.c_ubyte * REPORT_BYTES),
        ("cec_report", ctypes.c_ubyte * CEC_REPORT_BYTES),
    )


class GpuCertificate(ctypes.Structure):
    """nvmlConfComputeGpuCertificate_t."""

    _fields_ = (
        ("chain_size", ctypes.c_uint),
        ("attestation_size", ctypes.c_uint),
        ("chain", ctypes.c_ubyte * CHAIN_BYTES),
        ("attestation_chain", ctypes.c_ubyte * ATTESTATION_CHAIN_BYTES),
    )


class SystemState(ctypes.Structure):
    """nvmlConfComputeSystemState_t."""

    _fields_ = (("environment", ctypes.c_uint), ("feature", ctypes.c_uint), ("devtools", ctypes.c_uint))


class SystemSettings(ctypes.Structure):
    """nvmlSystemConfComputeSettings_v1_t."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("environment", ctypes.c_uint),
        ("feature", ctypes.c_uint),
        ("devtools", ctypes.c_uint),
        ("multi_gpu", ctypes.c_uint),
    )


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


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


class Nvml:
    """A session with the driver's library."""

    def __init__(self, library: str = LIBRARY, *, limit_s: float = DEVICE_LIMIT_S) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as err:
            raise EnvironmentProblem(
                "no NVIDIA driver on this machine",
                why=str(err),
                hint="install NVIDIA's driver, if there is a GPU",
                detail=ABSENT,
            ) from err
        self._lane = Lane("the NVIDIA driver", limit_s)
        try:
            self._call("nvmlInit_v2")
        except (EnvironmentProblem, ServiceError):
            self._lane.close()
            raise

    def close(self) -> None:
        """End the session."""
        try:
            self._call("nvmlShutdown")
        finally:
            self._lane.close()

    def gpus(self) -> list[Gpu]:
        """Return every device."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if count.value > _MAX_DEVICES:
            raise ServiceError("the NVIDIA driver lists too many devices", why=f"{count.value:,}")
        return [self._describe(index) for index in range(count.value)]

    def confidential_state(self) -> tuple[bool, bool]:
        """Return (confidential computing on, DevTools mode on).

        Protected PCIe, in which Hopper boards of eight attest, is a multi-GPU setting beside the feature bit.
        """
        settings = SystemSettings(version=ctypes.sizeof(SystemSettings) | 1 << 24)
        if self._knows("nvmlSystemGetConfComputeSettings", ctypes.byref(settings)):
            return settings.feature == 1 or settings.multi_gpu == PROTECTED_PCIE, settings.devtools == 1
        state = SystemState()
        if self._knows("nvmlSystemGetConfComputeState", ctypes.byref(state)):
            return state.feature == 1, state.devtools == 1
        return False, False  # drivers without either call know no confidential computing

    def report(self, gpu: Gpu, nonce: bytes) -> bytes:
        """Return a device's signed SPDM report over our nonce."""
        request = AttestationReport()
        ctypes.memmove(request.nonce, nonce, NONCE_BYTES)
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport", self._handle(gpu.index), ctypes.byref(request))
        return _field(request.report, request.report_size, "report")

    def chain(self, gpu: Gpu) -> bytes:
        """Return a device's attestation certificate chain, PEM."""
        found = GpuCertificate()
        self._call("nvmlDeviceGetConfComputeGpuCertificate", self._handle(gpu.index), ctypes.byref(found))
        return _field(found.attestation_chain, found.attestation_size, "certificate chain")

    def _describe(self, index: int) -> Gpu:
        handle, memory = self._handle(index), Memory()
        name, uuid = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_NAME_BYTES)
        self._call("nvmlDeviceGetName", handle, name, ctypes.c_uint(_NAME_BYTES))
        self._call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(_NAME_BYTES))
        self._knows("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))  # chips that share the host's have none
        return Gpu(index, name.value.decode("ascii", "replace"), uuid.value.decode("ascii", "replace"),
                   memory.total // 1_000_000)  # fmt: skip

    def _handle(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _knows(self, name: str, *arguments: object) -> bool:
        """Call what a driver or device may not have; whether it has it."""
        try:
            self._call(name, *arguments)
        except EnvironmentProblem as err:
            if err.detail != _UNKNOWN_DETAIL:
                raise
            return False
        return True

    def _call(self, name: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError as err:
            raise EnvironmentProblem(
                "NVIDIA driver too old", why=f"no {name}", hint="update the driver", detail=_UNKNOWN_DETAIL
            ) from err
        result = self._lane.call(lambda: function(*arguments))
        if result != _OK:
            raise EnvironmentProblem(
                "NVIDIA driver refused a call",
                why=f"{name} returned {result}",
                hint=_HINTS.get(result, ""),
                detail=_UNKNOWN_DETAIL if result in _UNKNOWN_HERE else "",
            )


def _field(array: ctypes.Array[ctypes.c_ubyte], size: int, what: str) -> bytes:
    if not 0 < size <= len(array):
        raise ServiceError(f"the NVIDIA driver gave a {what} of an impossible size", why=f"{size:,} bytes")
    return bytes(array[:size])
