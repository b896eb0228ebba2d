"""Evidence of the processor's confidential mode: every interface that may be there, in one order.

The first interface that gives evidence is the machine's; each of the others is listed with the reason why
it gave none, so that an operator sees a missing right where he expected a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify import anchor as anchors
from stannary.certify.collect import azure, nitro, sev_guest, tpm, tsm
from stannary.certify.collect.deadline import within
from stannary.certify.envelope import Part
from stannary.errors import StannaryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.certify.collect.sources import Sources

INTERFACE_LIMIT_S = 90.0  # over the limits of single calls: many slow answers may not add up to a hang


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to a report."""

    name: str
    gather: Callable[[bytes, Sources], Part]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one interface did for one challenge: gave a part, or had a problem."""

    name: str
    part: Part | None = None
    problem: StannaryError | None = None


def attempts(bound: bytes, sources: Sources) -> tuple[Attempt, ...]:
    """Try the interfaces in their order until one gives evidence; return what each did."""
    found: list[Attempt] = []
    for interface in INTERFACES:
        found.append(_attempt(interface, bound, sources))
        if found[-1].part is not None:
            break
    return tuple(found)


def _attempt(interface: Interface, bound: bytes, sources: Sources) -> Attempt:
    try:
        part = within(lambda: interface.gather(bound, sources), interface.name, INTERFACE_LIMIT_S)
    except StannaryError as err:
        return Attempt(interface.name, problem=err)
    return Attempt(interface.name, part)


def _tsm(bound: bytes, sources: Sources) -> Part:
    report = tsm.request(anchors.report_data(bound), sources.tsm)
    log = tpm.read_log(sources.ccel) if report.kind == "tdx" else b""
    return Part(report.kind, report.blob, certificates=report.certificates, log=log)


def _sev_guest(bound: bytes, sources: Sources) -> Part:
    report = sev_guest.request(anchors.report_data(bound), sources.sev_guest)
    return Part(report.kind, report.blob, certificates=report.certificates)


INTERFACES = (
    Interface("configfs-tsm", _tsm),
    Interface("sev-guest device", _sev_guest),
    Interface("Nitro Secure Module", lambda bound, sources: nitro.gather(bound, sources.nsm)),
    Interface("Azure vTPM", azure.gather),
)
