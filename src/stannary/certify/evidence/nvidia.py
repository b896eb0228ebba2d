"""NVIDIA GPU and NVSwitch evidence: signed SPDM reports of one or several devices.

Rules:
1. Every device: certificate chain to NVIDIA's pinned device root, report signature by that chain's
   leaf, our nonce in the signed request, firmware id of the report equal to the one certified.
2. Devices are told apart by their certified identities; one identity twice is a collision. A new firmware makes
   a new alias (`ueid`, as NVIDIA counts), so the serial number of the device's own certificate is one too.
3. Device certificates never expire (9999): only OCSP shows a withdrawn one. Without carried OCSP answers
   the tier is capped. The leaf is an alias that the device issues to its own firmware (DICE): NVIDIA's
   responders know the chain from the device's own certificate upwards, and their verifiers ask from there.
4. Golden values come from reference manifests (`rim.py`); a match does not show that confidential
   computing is on. The signed feature flag does, from driver 580 on; without it the tier is capped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from stannary.certify.evidence import spdm
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.octets import unhex
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, keys, revocation
from stannary.certify.pki.revocation import Status
from stannary.certify.remedies import Code
from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, dsse

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.spdm import SpdmReport
    from stannary.certify.pki.certificates import Certificate

MAX_DEVICES = 32  # 8 GPUs and 4 switches a node; NVL72 trays report 4 GPUs each
_DICE_TCB_INFO = "2.23.133.5.4.1"
_CHIP = re.compile(r"[A-Z]{2}[0-9]{2,3}[A-Z]?")
_REPORT_START = "11e0"  # SPDM 1.1 and the code of its request, in hex; no base64 of it starts so


@dataclass(frozen=True, slots=True)
class Device:
    """One device's report and certificates, leaf first; `nonce` is what its sender says it signed."""

    report: SpdmReport
    chain: tuple[Certificate, ...]
    arch: str
    claimed_nonce: bytes | None

    @property
    def ueid(self) -> str:
        """The device's identity: the serial number NVIDIA certified for it."""
        return f"{self.chain[0].serial:x}"


class DeviceVerifier:
    """Verifier of `nvgpu` evidence: one hex or binary report, its chain as collateral."""

    kind = "nvgpu"
    places = frozenset({"gpu", "nvswitch"})

    def parse(self, blob: bytes) -> SpdmReport:
        """Read one report, binary or hex text."""
        return spdm.parse_report(_binary(blob))

    def collateral_keys(self, parsed: SpdmReport) -> tuple[CollateralKey, ...]:
        """Name the certificate chain and the reference manifests."""
        return (
            CollateralKey("nvidia-device-chain", ""),
            CollateralKey("nvidia-driver-rim", parsed.text(spdm.DRIVER_VERSION)),
            CollateralKey("nvidia-vbios-rim", parsed.vbios),
            CollateralKey("nvidia-ocsp", ""),
        )

    def appraise(self, parsed: SpdmReport, basis: Basis) -> Appraisal:
        """Check one device."""
        exam = Examination(self.kind)
        if not basis.collateral.certificates:
            exam.refuse("chain", Step.CHAIN, Code.COLLATERAL_MISSING, observed="no device certificates carried")
            return exam.close()
        device = Device(parsed, certificates.order(basis.collateral.certificates), "", None)
        check_device(exam, device, basis)
        return exam.close()


class FleetVerifier:
    """Verifier of `nvgpu-json` evidence: JSON of devices with report, chain and nonce, in any form of `_listed`."""

    kind = "nvgpu-json"
    places = frozenset[str]()

    def parse(self, blob: bytes) -> tuple[Device, ...]:
        """Read the devices."""
        listed, asked = _listed(canonical.decode(blob))
        if len(listed) > MAX_DEVICES:
            raise LimitExceeded("too many devices", why=f"{len(listed)}, limit {MAX_DEVICES}")
        return tuple(_device(item, asked) for item in listed)

    def collateral_keys(self, parsed: tuple[Device, ...]) -> tuple[CollateralKey, ...]:
        """Name reference manifests and OCSP answers of every device."""
        keys_: list[CollateralKey] = []
        for device in parsed:
            keys_.append(CollateralKey("nvidia-driver-rim", device.report.text(spdm.DRIVER_VERSION)))
            keys_.append(CollateralKey("nvidia-vbios-rim", device.report.vbios))
            keys_.append(CollateralKey("nvidia-ocsp", device.ueid))
        return tuple(dict.fromkeys(keys_))

    def appraise(self, parsed: tuple[Device, ...], basis: Basis) -> Appraisal:
        """Check every device, and that no two are one."""
        exam = Examination(self.kind)
        reports: list[canonical.Json] = []
        for index, device in enumerate(parsed):
            part = Examination("nvgpu")
            believed = basis.bound is None and basis.believes_nonce
            check_device(part, device, replace(basis, bound=device.claimed_nonce) if believed else basis)
            closed = part.close()
            exam.absorb(closed, f"device{index}")
            exam.qualifiers |= part.qualifiers
            reports.append({**closed.claims, "outcome": closed.outcome})
        exam.claims["devices"] = reports
        check_collisions(exam)
        return exam.close()


def check_collisions(exam: Examination) -> None:
    """Refuse an identity that was presented twice."""
    doubled = sorted({item for item in exam.identities if exam.identities.count(item) > 1})
    exam.require(
        "distinct", not doubled, Step.BINDING, Code.IDENTITY_COLLISION, observed=", ".join(doubled)[:200] or "none"
    )


def check_device(exam: Examination, device: Device, basis: Basis) -> None:
    """Check one device's chain, signature, nonce, firmware id, revocation and mode."""
    report, leaf = device.report, device.chain[0]
    path = certificates.find_chain(device.chain, basis.rules.roots.nvidia_device, basis.now)
    shown = path.certificates if path.root is not None else (leaf,)
    chip = certified_chip(shown)
    names = dict.fromkeys((f"nvidia:{device.ueid}", f"nvidia:{certified_device(shown).serial:x}"))  # rule 2
    is_switch = chip.startswith("LS")
    exam.claims.update(
        {
            "ueid": device.ueid,
            "device": leaf.common_name(),
            "driver": report.text(spdm.DRIVER_VERSION),
            "vbios": report.vbios,
            "chip": chip,
            "switch": is_switch,
            "project": f"{report.text(spdm.PROJECT)}_{report.text(spdm.PROJECT_SKU)}_{report.text(spdm.CHIP_SKU)}",
        }
    )
    exam.require_path("chain", path)
    exam.require(
        "signature",
        keys.is_signed_raw(leaf.spki, report.signature, report.signed, hashes.SHA384(), "secp384r1"),
        Step.SIGNATURE,
        Code.SIGNATURE_INVALID,
        observed="report is not signed by this device",
    )
    _check_firmware_id(exam, report, leaf)
    exam.require_nonce(report.nonce, basis.bound)
    if path.root is not None:
        _check_ocsp(exam, device, path.certificates, basis)
    _check_mode(exam, report, is_switch=is_switch)
    if {device.ueid, *names} & basis.rules.denied:
        exam.refuse("denied", Step.TCB, Code.REVOKED, observed=f"device {device.ueid} is on the deny list")
    exam.identities.extend(names)


def certified_device(path: tuple[Certificate, ...]) -> Certificate:
    """Return the device's own certificate: the one above an alias, or the leaf where there is none."""
    above = path[1:2] if is_alias(path[0]) else ()
    return next((item for item in above if _chip_named(item)), path[0])


def certified_chip(path: tuple[Certificate, ...]) -> str:
    """Return the chip NVIDIA certified, such as GH100, empty if no name says one; an alias only names itself."""
    return _chip_named(certified_device(path))


def _chip_named(certificate: Certificate) -> str:
    name = certificate.common_name().split(" ")[0].replace("_", "")
    return name if _CHIP.fullmatch(name) else ""


def _check_firmware_id(exam: Examination, report: SpdmReport, leaf: Certificate) -> None:
    """The leaf is an alias certificate: it certifies the hash of the firmware that signs (DICE)."""
    dice, measured = leaf.extensions.get(_DICE_TCB_INFO), report.opaque.get(spdm.FWID)
    if dice is None or measured is None:
        exam.not_applicable("firmware-id", "certificate or report carries no firmware id")
        return
    exam.require(
        "firmware-id",
        len(measured) >= 32 and measured in dice.value,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=measured.hex(),
        expected="the firmware id in the device certificate",
    )


def _check_ocsp(exam: Examination, device: Device, path: tuple[Certificate, ...], basis: Basis) -> None:
    """Rule 3; an answer that withdraws the alias counts all the same."""
    unknown: list[str] = []
    since: dict[str, datetime] = {}
    for subject, issuer in pairwise(path):
        told = revocation.ocsp_status(subject, issuer, basis.collateral.ocsp, basis.now)
        name = subject.common_name()
        if told.status is Status.REVOKED:
            exam.require("ocsp", False, Step.COLLATERAL, Code.REVOKED, observed=f"{name}: {told.detail}")
        elif told.since is not None:
            since[subject.fingerprint] = told.since
        elif subject is device.chain[0] and is_alias(subject):
            exam.not_applicable("ocsp-alias", f"{name} is issued by the device itself")
        else:
            unknown.append(f"{name}: {told.detail}")
    if since and not unknown:
        exam.require("ocsp", True, Step.COLLATERAL, Code.REVOKED)
        own = certified_device(path)
        for identity in (f"nvidia:{device.ueid}", f"nvidia:{own.serial:x}"):
            exam.confirmed[identity] = since.get(own.fingerprint, min(since.values()))
        return
    exam.waive("ocsp", "could not check: " + ("; ".join(unknown)[:300] or "no certificate has an answer"))
    exam.cap(
        "ocsp",
        Step.COLLATERAL,
        1,
        observed=f"no good OCSP answer for {len(unknown)} of {len(path) - 1} certificates",
        expected="a fresh OCSP answer for each",
        remedy="fetch NVIDIA's OCSP answers: `stannary certify collateral fetch`",
    )


def is_alias(leaf: Certificate) -> bool:
    """Whether a certificate is one that a device issues to its own firmware (DICE TcbInfo inside)."""
    return _DICE_TCB_INFO in leaf.extensions


def _check_mode(exam: Examination, report: SpdmReport, *, is_switch: bool) -> None:
    """Confidential mode as the device signs it (rule 4)."""
    if is_switch:
        exam.not_applicable("cc-mode", "switches carry no feature flag")
        return
    feature = report.feature
    if feature in spdm.FEATURES.values():
        exam.claims["cc_mode"] = feature
        exam.require("cc-mode", True, Step.GUEST_POLICY, Code.CC_OFF)
        return
    exam.waive("cc-mode", "could not check: the report does not say whether confidential computing is on")
    exam.cap(
        "cc-mode",
        Step.GUEST_POLICY,
        1,
        observed=feature or "no feature flag in the report",
        expected="a signed feature flag (driver 580 or later)",
        remedy="update the GPU driver to 580 or later",
    )


def _listed(evidence: canonical.Json) -> tuple[list[canonical.Json], bytes | None]:
    """Return the devices of any form in which they are exchanged, and the nonce of all of them, if one is named.

    NVIDIA's SDKs write a list, each device with its nonce; a request to NVIDIA's service, which relays publish, is
    `{nonce, arch, evidence_list}`, for one device of its first versions `{nonce, arch, evidence, certificate}`;
    Trustee's agent writes `{device_evidence_list}`.
    """
    asked = None
    if isinstance(evidence, dict):
        lists = [evidence[name] for name in ("evidence_list", "device_evidence_list") if name in evidence]
        lists += [[evidence]] if "evidence" in evidence else []
        asked, evidence = _nonce(evidence.get("nonce")), lists[0] if len(lists) == 1 else None
    if not isinstance(evidence, list) or not evidence:
        raise FormatError("device evidence is not a list of devices")
    return evidence, asked


def _device(item: canonical.Json, asked: bytes | None) -> Device:
    if not isinstance(item, dict) or not {"certificate", "evidence"} <= set(item):
        raise FormatError("device lacks its certificate or evidence")
    nonce, arch = _nonce(item.get("nonce")) or asked, item.get("arch", "")
    if not isinstance(arch, str):
        raise FormatError("device architecture is not text")
    if asked is not None and nonce != asked:
        raise FormatError("device names another nonce than its request", why=f"{item['nonce']!r:.80}")
    return Device(
        report=spdm.parse_report(_report(item["evidence"])),
        chain=certificates.order(
            certificates.load_bundle(dsse.decode_base64(item["certificate"], "device certificate"))
        ),
        arch=arch,
        claimed_nonce=nonce,
    )


def _nonce(value: canonical.Json) -> bytes | None:
    return None if value is None else unhex(value, "device nonce")


def _report(text: canonical.Json) -> bytes:
    """Read a report in base64, of octets or of hex, or in hex as it stands."""
    if isinstance(text, str) and text[:4].lower() == _REPORT_START:
        return unhex(text, "device evidence")
    return _binary(dsse.decode_base64(text, "device evidence"))


def _binary(blob: bytes) -> bytes:
    text = b"".join(blob.split()).removeprefix(b"0x")
    if text[:1] == b"1" and text[2:4].lower() == b"e0":  # an SPDM version and the request's code, in hex
        return unhex(text.decode("ascii", errors="replace"), "device report")
    return blob
