"""NVIDIA NVSwitches through the switch query library (libnvidia-nscq), with ctypes.

Interface: NVIDIA's header for attestation through NSCQ 2.0 (nvtrust, `nscq_attestation.h`). A session
mounts every switch; what is asked is a path, and the library answers with one callback a device, structures
by value. The nonce is the session's input, set before the report's path is observed. The library must be
of the driver's own version; another one opens a session with a warning and no switch in it.

A callback may not raise into C: it only copies, and what it copied is judged after the call.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from stannary.certify.collect.deadline import DEVICE_LIMIT_S, Lane
from stannary.certify.collect.nvml import ABSENT
from stannary.errors import EnvironmentProblem, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.formats.canonical import Json

LIBRARIES = ("libnvidia-nscq.so.2", "libnvidia-nscq.so.2.0", "libnvidia-nscq.so")
NONCE_BYTES, REPORT_BYTES, CHAIN_BYTES, LABEL_BYTES = 0x20, 0x2000, 0x1400, 64
MAX_SWITCHES = 32
_MOUNT_DEVICES = 1
_UUID_PATH = b"/drv/nvswitch/{device}/uuid"
_REPORT, _CERTIFICATE, _MODE = b"/config/attestation_report", b"/config/certificate", b"/config/pcie_mode"
_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,64}")
# nscq_rc_t: 0 success, above it warnings, below it errors.
_CODES = {
    1: "the library is not of the driver's version",
    -3: "the switch cannot be mounted",
    -6: "the driver is not supported",
    -7: "the driver failed",
    -8: "the switch did not answer in time",
}
_HINT = "install libnvidia-nscq of the driver's exact version, and run as root"


class Uuid(ctypes.Structure):
    """nscq_uuid_t."""

    _fields_ = (("bytes", ctypes.c_uint8 * 16),)


class Label(ctypes.Structure):
    """nscq_label_t."""

    _fields_ = (("data", ctypes.c_char * LABEL_BYTES),)


class AttestationReport(ctypes.Structure):
    """nscq_attestation_report_t."""

    _fields_ = (("size", ctypes.c_uint32), ("report", ctypes.c_uint8 * REPORT_BYTES))


class AttestationCertificate(ctypes.Structure):
    """nscq_attestation_certificate_t."""

    _fields_ = (("chain", ctypes.c_uint8 * CHAIN_BYTES), ("size", ctypes.c_uint32))


class SessionResult(ctypes.Structure):
    """nscq_session_result_t."""

    _fields_ = (("code", ctypes.c_int8), ("session", ctypes.c_void_p))


_ON_UUID = ctypes.CFUNCTYPE(None, ctypes.POINTER(Uuid), ctypes.c_int8, ctypes.POINTER(Uuid), ctypes.c_void_p)
_ON_MODE = ctypes.CFUNCTYPE(None, ctypes.POINTER(Uuid), ctypes.c_int8, ctypes.c_int8, ctypes.c_void_p)
_ON_REPORT = ctypes.CFUNCTYPE(None, ctypes.POINTER(Uuid), ctypes.c_int8, AttestationReport, ctypes.c_void_p)
_ON_CERTIFICATE = ctypes.CFUNCTYPE(None, ctypes.POINTER(Uuid), ctypes.c_int8, AttestationCertificate, ctypes.c_void_p)


class Callback(NamedTuple):
    """What one callback brought: its code, the size it claims, the bytes of its field."""

    code: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch as the library names it; `mode` is its trusted-link mode, -1 unknown, 3 locked."""

    label: str
    mode: int

    def to_json(self) -> dict[str, Json]:
        """Return the hint that evidence carries."""
        return {"uuid": self.label, "trusted_link_mode": self.mode}


class Nscq:
    """A session with the switches."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES, *, limit_s: float = DEVICE_LIMIT_S) -> None:
        self._library = _load(libraries)
        self._lane = Lane("the NVSwitch library", limit_s)
        try:
            result = self._lane.call(lambda: self._library.nscq_session_create(ctypes.c_uint32(_MOUNT_DEVICES)))
            self._warning = "" if result.code == 0 else _CODES.get(result.code, f"code {result.code}")
            if result.code < 0 or not result.session:
                raise _refusal("nscq_session_create", result.code)
        except (EnvironmentProblem, ServiceError):
            self._lane.close()
            raise
        self._session = ctypes.c_void_p(result.session)

    def close(self) -> None:
        """End the session."""
        try:
            self._lane.call(lambda: self._library.nscq_session_destroy(self._session))
        finally:
            self._lane.close()

    def switches(self) -> list[Switch]:
        """Return every switch."""
        labels: list[bytes] = []

        def on_uuid(_device: Any, code: int, uuid: Any, _data: int | None) -> None:
            if code >= 0 and uuid and len(labels) <= MAX_SWITCHES:
                labels.append(self._label(uuid))

        self._observe(_UUID_PATH, _ON_UUID(on_uuid))
        if len(labels) > MAX_SWITCHES or not all(_LABEL.fullmatch(label) for label in labels):
            raise ServiceError("the NVSwitch library lists impossible switches", why=f"{len(labels)} listed")
        if not labels and self._warning:
            raise EnvironmentProblem("no NVSwitch is mounted", why=self._warning, hint=_HINT)
        return [Switch(label.decode("ascii"), self._mode(label)) for label in labels]

    def report(self, switch: Switch, nonce: bytes) -> bytes:
        """Return a switch's signed SPDM report over our nonce."""
        if len(nonce) != NONCE_BYTES:
            raise ServiceError("not a device nonce", why=f"{len(nonce)} bytes, expected {NONCE_BYTES}")
        buffer = (ctypes.c_uint8 * NONCE_BYTES).from_buffer_copy(nonce)
        code = self._lane.call(
            lambda: self._library.nscq_session_set_input(
                self._session, ctypes.c_uint32(0), ctypes.byref(buffer), ctypes.c_uint32(NONCE_BYTES)
            )
        )
        if code < 0:
            raise _refusal("nscq_session_set_input", code)
        answers: list[Callback] = []

        def on_report(_device: Any, code: int, report: Any, _data: int | None) -> None:
            answers.append(Callback(code, report.size, bytes(report.report)))

        self._observe(_path(switch, _REPORT), _ON_REPORT(on_report))
        return _only(answers, "report")

    def chain(self, switch: Switch) -> bytes:
        """Return a switch's attestation certificate chain, PEM."""
        answers: list[Callback] = []

        def on_certificate(_device: Any, code: int, found: Any, _data: int | None) -> None:
            answers.append(Callback(code, found.size, bytes(found.chain)))

        self._observe(_path(switch, _CERTIFICATE), _ON_CERTIFICATE(on_certificate))
        return _only(answers, "certificate chain")

    def _mode(self, label: bytes) -> int:
        modes = [-1]

        def on_mode(_device: Any, code: int, mode: int, _data: int | None) -> None:
            modes.append(mode if code >= 0 else -1)

        self._observe(b"/" + label + _MODE, _ON_MODE(on_mode))
        return modes[-1]

    def _label(self, uuid: Any) -> bytes:
        """Name a device; runs inside a callback, so nothing is raised."""
        label = Label()
        code = self._library.nscq_uuid_to_label(uuid, ctypes.byref(label), ctypes.c_uint32(0))
        return bytes(label.data) if code >= 0 else b""

    def _observe(self, path: bytes, callback: Callable[..., None]) -> None:
        code = self._lane.call(
            lambda: self._library.nscq_session_path_observe(
                self._session, ctypes.c_char_p(path), callback, None, ctypes.c_uint32(0)
            )
        )
        if code < 0:
            raise _refusal(path.decode("ascii"), code)


def _load(libraries: tuple[str, ...]) -> ctypes.CDLL:
    problem = ""
    for name in libraries:
        try:
            library = ctypes.CDLL(name)
            library.nscq_session_create.restype = SessionResult
            library.nscq_session_destroy.restype = None
            for function in ("nscq_session_path_observe", "nscq_session_set_input", "nscq_uuid_to_label"):
                getattr(library, function).restype = ctypes.c_int8
        except (OSError, AttributeError) as err:
            problem = problem or str(err)
        else:
            return library
    raise EnvironmentProblem("no NVSwitch library on this machine", why=problem, hint=_HINT, detail=ABSENT)


def _path(switch: Switch, leaf: bytes) -> bytes:
    return b"/" + switch.label.encode("ascii") + leaf


def _only(answers: list[Callback], what: str) -> bytes:
    """Return the one answer's bytes; a size beyond its field is refused, never clipped."""
    if len(answers) != 1:
        raise ServiceError(f"the NVSwitch library gave {len(answers)} answers for one {what}")
    code, size, data = answers[0]
    if code < 0:
        raise _refusal(what, code)
    if not 0 < size <= len(data):
        raise ServiceError(f"the NVSwitch library gave a {what} of an impossible size", why=f"{size:,} bytes")
    return data[:size]


def _refusal(what: str, code: int) -> EnvironmentProblem:
    return EnvironmentProblem(
        "the NVSwitch library refused a request",
        why=f"{what}: {_CODES.get(code, 'no reason')} (code {code})",
        hint=_HINT,
    )
