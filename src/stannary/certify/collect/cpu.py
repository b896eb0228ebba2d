"""Evidence of the processor's confidential mode: every interface that may be there, in one order.

The first interface that gives evidence is the machine's; each of the others is listed with the reason why
it gave none, so that an operator sees a missing right where he expected a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify import anchor as anchors
from stannary.certify.collect import azure, nitro, sev_guest, tpm, tsm
from stannary.certify.envelope import Part
from stannary.errors import EnvironmentProblem, StannaryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.certify.collect.node import Sources


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to a report."""

    name: str
    gather: Callable[[bytes, Sources], Part]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one interface did for one challenge."""

    name: str
    part: Part | None
    reason: str
    hint: str


def gather(bound: bytes, sources: Sources) -> tuple[Part, tuple[Attempt, ...]]:
    """Return the evidence of the first interface that gives any, and what each did."""
    attempts: list[Attempt] = []
    for interface in INTERFACES:
        attempts.append(_attempt(interface, bound, sources))
        part = attempts[-1].part
        if part is not None:
            return part, tuple(attempts)
    raise EnvironmentProblem(
        "no confidential guest evidence",
        why="; ".join(f"{item.name}: {item.reason}" for item in attempts),
        hint=next((item.hint for item in attempts if item.hint), ""),
    )


def _attempt(interface: Interface, bound: bytes, sources: Sources) -> Attempt:
    try:
        return Attempt(interface.name, interface.gather(bound, sources), "collected", "")
    except StannaryError as err:
        return Attempt(interface.name, None, str(err), err.hint)


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
