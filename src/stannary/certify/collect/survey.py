"""What this machine could show: every collector's interface, looked at without asking it for evidence.

`stannary node check` prints it measured beside required, with the next command where something is missing.
A collector that would not run says whether its device is absent, or there and not open to this user.
Nothing is changed on the machine, and nothing here is proof.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from stannary.certify.collect import azure, certified, host, ioctl, nscq, nvml, tpm_client
from stannary.certify.collect.deadline import within
from stannary.certify.collect.host import HostCheck
from stannary.errors import StannaryError

if TYPE_CHECKING:
    from pathlib import Path

    from stannary.certify.collect.sources import Sources

SURVEY_LIMIT_S = 60.0  # for one driver; a broken one may not keep the other rows from being printed
ANY_INTERFACE = "one of four"
_CC_ON = "confidential computing on, where there is a GPU"
_CC_NEXT = "sudo nvidia_gpu_tools.py --devices gpus --set-cc-mode=on --reset-after-cc-mode-switch"
_DEVTOOLS_NEXT = "sudo nvidia_gpu_tools.py --devices gpus --set-cc-mode=on --reset-after-cc-mode-switch (not devtools)"
_GUEST_NEXT = "start a confidential guest with Linux 6.7 or later; modprobe sev-guest or tdx-guest in it"
_EK_NEXT = "fetch it from the TPM maker's site: stannary node check --ek-certificate FILE"


def requirements(sources: Sources) -> list[HostCheck]:
    """Return every requirement, measured."""
    endorsement, vtpm = _tpm(sources)
    return [*host.requirements(), endorsement, *_interfaces(sources, vtpm), *_gpus(), *_switches()]


def _interfaces(sources: Sources, vtpm: HostCheck) -> list[HostCheck]:
    """Any one interface will do: with one ready, the others are shown and missed by nobody."""
    found = [
        _place("configfs-tsm", sources.tsm, os.W_OK | os.X_OK, _GUEST_NEXT),
        _place("sev-guest device", sources.sev_guest, os.R_OK | os.W_OK, _GUEST_NEXT),
        _place("Nitro Secure Module", sources.nsm, os.R_OK | os.W_OK, "run inside a Nitro enclave"),
        vtpm,
    ]
    if any(item.holds for item in found):
        return [replace(item, holds=True, next="") for item in found]
    return found


def _place(name: str, path: Path, rights: int, missing: str) -> HostCheck:
    if not path.exists():
        return HostCheck(name, f"{path} is absent", ANY_INTERFACE, False, "T2", missing)
    if not os.access(path, rights):
        return HostCheck(name, f"{path} is not open to this user", ANY_INTERFACE, False, "T2", ioctl.AS_ROOT)
    return HostCheck(name, "ready", ANY_INTERFACE, True, "T2")


def _tpm(sources: Sources) -> tuple[HostCheck, HostCheck]:
    """Return the rows of the TPM's certified keys and of Azure's report in its NV memory."""
    maker = HostCheck("EK certificate", "", "of the TPM's maker", False, "T1", _EK_NEXT)
    report = HostCheck("Azure vTPM", "", ANY_INTERFACE, False, "T2", "start a confidential VM of Azure")

    def look() -> tuple[list[str], bool]:
        client = tpm_client.connect(sources.tpm)
        try:
            names = [item.profile.name for item in certified.stored(client)[0]]
            return names, bool(client.nv_read(azure.REPORT_INDEX))
        finally:
            client.close()

    try:
        names, has_report = within(look, "the TPM", SURVEY_LIMIT_S)
    except StannaryError as err:
        return replace(maker, measured=str(err), next=err.hint), replace(report, measured="no TPM to look in")
    return (
        replace(maker, measured=", ".join(names) or "none in NV memory", holds=bool(names)),
        replace(report, measured="ready" if has_report else "no report in the TPM", holds=has_report),
    )


def _gpus() -> list[HostCheck]:
    def look() -> tuple[int, bool, bool]:
        session = nvml.Nvml()
        try:
            return (len(session.gpus()), *session.confidential_state())
        finally:
            session.close()

    try:
        count, cc, devtools = look()
    except StannaryError as err:
        return _no_driver("GPU evidence", _CC_ON, err)
    mode = "on" if cc else "off"
    row = HostCheck("GPU evidence", f"{count} GPUs, confidential computing {mode}", _CC_ON, cc, "T2", _CC_NEXT)
    rows = [HostCheck("accelerators", str(count), "as claimed", True, "T0"), row]
    if devtools:
        rows.append(HostCheck("GPU DevTools mode", "on", "off", False, "T0", _DEVTOOLS_NEXT))
    return rows


def _switches() -> list[HostCheck]:
    wanted = "the switches' library, where there are switches"

    def look() -> int:
        session = nscq.Nscq()
        try:
            return len(session.switches())
        finally:
            session.close()

    try:
        count = look()
    except StannaryError as err:
        return _no_driver("NVSwitch evidence", wanted, err)
    return [HostCheck("NVSwitch evidence", f"{count} switches", wanted, True, "T2")]


def _no_driver(name: str, wanted: str, err: StannaryError) -> list[HostCheck]:
    """A machine without the library has perhaps no such device; one whose driver fails has."""
    is_absent = err.detail == nvml.ABSENT
    return [HostCheck(name, err.what if is_absent else str(err), wanted, is_absent, "T2", err.hint)]
