"""Recorded boots of a virtual machine: log, registers, quote and reference values fit together."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tests.vectors.certify.evidence_vectors import FOLDER, needs_vectors

from stannary.certify.evidence import event_log
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.tpm_structures import parse_public
from stannary.certify.evidence.verifier import examine
from stannary.certify.moments import parse_moment
from stannary.certify.pki import certificates
from stannary.certify.references import reference_of
from stannary.certify.rules import Roots, Rules

pytestmark = needs_vectors
NOW = parse_moment("2026-11-22T13:00:00Z")
BOOTS = FOLDER / "tpm" / "vm"


def _pcrs(boot: str) -> dict[int, bytes]:
    text = (BOOTS / boot / "pcrs.txt").read_text()
    return {int(index): bytes.fromhex(value) for index, value in re.findall(r"(\d+)\s*:\s*0x([0-9A-Fa-f]{64})", text)}


def _ak_public(folder: Path) -> bytes:
    """Rebuild the public area that tpm2-tools wrote as PEM; the recorded name says that it is the one."""
    key = load_pem_public_key((folder / "ak.pub").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    numbers = key.public_numbers()
    head = struct.pack(">HHIHHHHHH", 0x0023, 0x000B, 0x00050072, 0, 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
    point = b"".join(struct.pack(">H", 32) + value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
    assert parse_public(head + point).name == (folder / "ak.name").read_bytes()
    return head + point


def _evidence(boot: str) -> bytes:
    folder = BOOTS / boot
    members = {
        "attest": (folder / "q.msg").read_bytes().hex(),
        "signature": (folder / "q.sig").read_bytes().hex(),
        "ak_public": _ak_public(folder).hex(),
        "pcrs": {str(index): value.hex() for index, value in _pcrs(boot).items()},
        "event_log": (folder / "log.bin").read_bytes().hex(),
    }
    if (folder / "ek_rsa.der").exists():
        members["ek_certificate"] = (folder / "ek_rsa.der").read_bytes().hex()
        members["ek_chain"] = [
            item.raw.hex() for item in certificates.load_bundle((BOOTS / "issuercert.pem").read_bytes())
        ]
    return json.dumps(members).encode()


def _rules(*golden) -> Rules:
    root = certificates.anchors((BOOTS / "swtpm-localca-rootca-cert.pem").read_bytes())
    return Rules(roots=Roots(tpm_test=root), golden_boots=golden)


def _golden(boot: str):
    log = event_log.parse_log((BOOTS / boot / "log.bin").read_bytes())
    firmware = {index: value for index, value in _pcrs(boot).items() if index <= 9 and index != 8}
    return reference_of(boot, log, firmware).golden()


@pytest.mark.parametrize("boot", ["ec", "en1"])
def test_log_replays_every_register_it_covers(boot):
    """The firmware's log reproduces PCR 0-7 and 9 of its boot."""
    replayed = event_log.parse_log((BOOTS / boot / "log.bin").read_bytes()).replay("sha256")
    pcrs = _pcrs(boot)
    assert {index for index in replayed if index < 10} == {0, 1, 2, 3, 4, 5, 6, 7, 9}
    assert all(replayed[index] == pcrs[index] for index in replayed if index < 10)


def test_recorded_quote_matches_its_own_reference():
    """The recorded boot is valid under its own golden values; its TPM is a test's, and said to be."""
    appraisal = examine(
        TpmVerifier(), _evidence("ec"), Basis(bound=None, collateral=Collateral(), now=NOW, rules=_rules(_golden("ec")))
    )
    assert appraisal.outcome == "valid", appraisal.findings
    assert appraisal.claims["reference"] == "ec"
    assert appraisal.claims["software_tpm"] is True


def test_other_machine_type_differs_in_its_firmware_register_only():
    """Another QEMU CPU model changes PCR 0 by one firmware blob, and the finding names it."""
    appraisal = examine(
        TpmVerifier(),
        _evidence("en1"),
        Basis(bound=None, collateral=Collateral(), now=NOW, rules=_rules(_golden("ec"))),
    )
    assert appraisal.outcome == "refuse:reference-mismatch"
    (found,) = [item for item in appraisal.findings if item.id == "reference"]
    assert found.observed.startswith("PCR 0 event")
    assert "PCR 1" not in found.observed
