"""GPU evidence: nonce, chain, firmware id, OCSP, collisions, swapped reports."""

from __future__ import annotations

import base64
import json

from tests.unit.certify import world

from stannary.certify.evidence import spdm
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nvidia import DeviceVerifier, FleetVerifier
from stannary.certify.evidence.spdm import SpdmReport
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.verifier import examine
from stannary.certify.moments import format_moment
from stannary.certify.pki import revocation
from stannary.certify.rules import Rules
from stannary.certify.withdrawals import CrlReason, Withdrawal

NONCE = b"\x11" * 32


def _one(vendor, device, report, *, bound=NONCE, ocsp=(), rules=None, now=world.NOW):
    collateral = Collateral(certificates=vendor.chain(device), ocsp=tuple(revocation.parse_ocsp(item) for item in ocsp))
    rules = rules or Rules(roots=vendor.roots)
    return examine(DeviceVerifier(), report, Basis(bound=bound, collateral=collateral, now=now, rules=rules))


def _fleet(vendor, devices, reports):
    listed = [
        {
            "arch": "HOPPER",
            "certificate": base64.b64encode(pem(vendor.chain(device)).encode()).decode(),
            "evidence": base64.b64encode(report).decode(),
            "nonce": NONCE.hex(),
        }
        for device, report in zip(devices, reports, strict=True)
    ]
    rules = Rules(roots=vendor.roots)
    blob = json.dumps(listed).encode()
    basis = Basis(bound=None, collateral=Collateral(), now=world.NOW, rules=rules, believes_nonce=True)
    return examine(FleetVerifier(), blob, basis)


def test_device_report_is_valid_and_capped_without_ocsp():
    """A good report without OCSP is valid, and its tier is capped: could not check is not a pass."""
    vendor = world.Nvidia()
    device = vendor.device()
    appraisal = _one(vendor, device, vendor.report(device, NONCE))
    assert appraisal.outcome == "valid"
    assert {item.id: item.cap for item in appraisal.findings} == {"ocsp": 1}
    assert [row.state for row in appraisal.checks if row.id == "ocsp"] == ["waived"]


def test_good_ocsp_answers_lift_the_cap():
    """Fresh good answers for every certificate leave no cap; a responder may sign for its issuer."""
    vendor = world.Nvidia()
    device = vendor.device()
    responder = world.issue("Responder", vendor.issuer, usages=("1.3.6.1.5.5.7.3.9",))
    answers = [world.ocsp(device, vendor.issuer, responder=responder), world.ocsp(vendor.issuer, vendor.root)]
    appraisal = _one(vendor, device, vendor.report(device, NONCE), ocsp=answers)
    assert appraisal.outcome == "valid"
    assert appraisal.findings == ()


def test_revoked_device_is_refused_and_stale_or_foreign_answers_say_nothing():
    """certificateHold revokes; an answer outside its window or by a stranger is no answer."""
    vendor = world.Nvidia()
    device = vendor.device()
    report = vendor.report(device, NONCE)
    assert (
        _one(vendor, device, report, ocsp=[world.ocsp(device, vendor.issuer, revoked=True)]).outcome == "refuse:revoked"
    )
    stale = world.ocsp(device, vendor.issuer, at=world.NOW.replace(year=2025))
    assert any(item.id == "ocsp" for item in _one(vendor, device, report, ocsp=[stale]).findings)
    stranger = world.issue("Stranger", ca=True, usages=("1.3.6.1.5.5.7.3.9",))
    forged = world.ocsp(device, vendor.issuer, responder=stranger)
    assert any(item.id == "ocsp" for item in _one(vendor, device, report, ocsp=[forged]).findings)


def test_device_on_hold_is_valid_offline_only():
    """A device known to be on hold is never plainly valid without a fresh answer."""
    vendor = world.Nvidia()
    device = vendor.device()
    entry = Withdrawal(
        f"nvidia:{device.certificate.serial:x}", CrlReason.CERTIFICATE_HOLD, "test", format_moment(world.NOW)
    )
    rules = Rules(roots=vendor.roots, withdrawals=(entry,))
    assert _one(vendor, device, vendor.report(device, NONCE), rules=rules).outcome == "valid-offline-only"


def test_wrong_nonce_root_firmware_and_mode_have_their_codes():
    """Another nonce, an unpinned root, and firmware the certificate does not name are refused."""
    vendor = world.Nvidia()
    device = vendor.device()
    report = vendor.report(device, NONCE)
    assert _one(vendor, device, report, bound=b"\x22" * 32).outcome == "refuse:nonce-mismatch"
    assert _one(vendor, device, report, rules=Rules()).outcome == "refuse:chain-invalid"
    other = vendor.report(device, NONCE, firmware=b"\x78" * 48)
    assert _one(vendor, device, other).outcome == "refuse:binding-mismatch"
    silent = _one(vendor, device, vendor.report(device, NONCE, feature=None))
    assert any(item.id == "cc-mode" and item.cap == 1 for item in silent.findings)


def test_fleet_with_swapped_reports_is_refused():
    """Two GPUs that hand in each other's reports are refused."""
    vendor = world.Nvidia()
    devices = [vendor.device(), vendor.device()]
    reports = [vendor.report(item, NONCE) for item in devices]
    assert _fleet(vendor, devices, reports).outcome == "valid"
    assert _fleet(vendor, devices, reports[::-1]).outcome == "refuse:signature-invalid"


def test_one_gpu_presented_twice_is_a_collision():
    """One card cannot be two."""
    vendor = world.Nvidia()
    device = vendor.device()
    reports = [vendor.report(device, NONCE), vendor.report(device, NONCE)]
    assert _fleet(vendor, [device, device], reports).outcome == "refuse:identity-collision"


def test_vbios_version_reads_as_numbers_and_as_text():
    """GPUs write their version as two words, switches as text; both read as manifests spell them."""
    empty = SpdmReport.__new__(SpdmReport)
    for raw in (bytes.fromhex("005e009601000000"), b"96.00.5E.00.01\0"):
        object.__setattr__(empty, "opaque", {spdm.VBIOS_VERSION: raw})
        assert empty.vbios == "96.00.5E.00.01"
