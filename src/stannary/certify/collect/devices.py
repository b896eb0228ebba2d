"""Evidence of GPUs and switches: one part a device, named by its certificate's serial number.

The device's identity is certified, so its nonce follows from the anchor and its name: the report of one
device is no answer for another. Each report is read back before it is sent; a driver that answers with
another nonce is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from stannary.certify import anchor as anchors
from stannary.certify.envelope import Part
from stannary.certify.evidence import spdm
from stannary.certify.pki import certificates
from stannary.errors import EnvironmentProblem, ServiceError, StannaryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.certify.collect.nscq import Nscq
    from stannary.certify.collect.nvml import Nvml
    from stannary.formats.canonical import Json

D_contra = TypeVar("D_contra", contravariant=True)


class Reporter(Protocol[D_contra]):
    """A session that gives a device's certificate chain and its report over a nonce."""

    def chain(self, device: D_contra, /) -> bytes:
        """Return the chain, leaf first."""
        ...

    def report(self, device: D_contra, nonce: bytes, /) -> bytes:
        """Return the signed SPDM report."""
        ...


@dataclass(slots=True)
class Devices:
    """What devices of one kind gave, and why some gave nothing."""

    parts: dict[str, Part] = field(default_factory=dict)
    hints: list[Json] = field(default_factory=list)
    absent: dict[str, StannaryError] = field(default_factory=dict)


def gpus(bound: bytes, open_session: Callable[[], Nvml]) -> Devices:
    """Return the evidence of every GPU."""
    found = Devices()
    try:
        session = open_session()
    except StannaryError as err:
        found.absent["gpu"] = err
        return found
    try:
        cc, devtools = session.confidential_state()
        listed = session.gpus()
        found.hints += [gpu.to_json(cc=cc, devtools=devtools) for gpu in listed]
        if not cc:
            found.absent["gpu"] = EnvironmentProblem(
                "confidential computing is off",
                why="the driver gives no signed report",
                hint="stannary node check names the command",
            )
        for gpu in listed if cc else []:
            _add(found, ("gpu", gpu.index), gpu, session, bound)
    except StannaryError as err:
        found.absent["gpu"] = err
    finally:
        _end(session, found, "gpu")
    return found


def switches(bound: bytes, open_session: Callable[[], Nscq]) -> Devices:
    """Return the evidence of every NVSwitch."""
    found = Devices()
    try:
        session = open_session()
    except StannaryError as err:
        found.absent["nvswitch"] = err
        return found
    try:
        listed = session.switches()
        found.hints += [switch.to_json() for switch in listed]
        for index, switch in enumerate(listed):
            _add(found, ("nvswitch", index), switch, session, bound)
        if not listed:
            found.absent["nvswitch"] = EnvironmentProblem("the library lists no switch")
    except StannaryError as err:
        found.absent["nvswitch"] = err
    finally:
        _end(session, found, "nvswitch")
    return found


def _add(found: Devices, place: tuple[str, int], device: D_contra, session: Reporter[D_contra], bound: bytes) -> None:
    layer, index = place
    try:
        chain = session.chain(device)
        ueid = f"{certificates.order(certificates.load_bundle(chain))[0].serial:x}"
        nonce = anchors.device_nonce(bound, ueid)
        report = session.report(device, nonce)
        if spdm.parse_report(report).nonce != nonce:
            raise ServiceError("the device signed another nonce")
        if f"{layer}/{ueid}" in found.parts:
            raise ServiceError("two devices show one identity", why=ueid)
        found.parts[f"{layer}/{ueid}"] = Part("nvgpu", report, certificates=(chain,))
    except StannaryError as err:
        found.absent[f"{layer} {index}"] = err


def _end(session: Nvml | Nscq, found: Devices, layer: str) -> None:
    try:
        session.close()
    except StannaryError as err:
        found.absent.setdefault(layer, err)
