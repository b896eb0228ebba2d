"""SEV-SNP reports of every generation, endorsed by chips made here."""

from __future__ import annotations

import pytest
from tests.unit.certify import world

from stannary.certify import anchor
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.pki import revocation
from stannary.certify.rules import Generation, Rules, SnpTcb

LEVEL = SnpTcb(1, 2, 3, 4, 5)


def _outcome(amd, report, vek, *, bound=None, rules=None, now=world.NOW, crls=()):
    collateral = Collateral(
        certificates=(vek.certificate, amd.ask.certificate, amd.ark.certificate),
        crls=tuple(revocation.parse_crl(item) for item in crls),
    )
    rules = rules or Rules(roots=amd.roots)
    return examine(SnpVerifier(), report, Basis(bound=bound, collateral=collateral, now=now, rules=rules))


def test_turin_report_with_its_own_layout_is_valid():
    """Turin's TCB word starts with FMC and its chip id has eight bytes."""
    amd = world.Amd(Generation.TURIN)
    vek = amd.vcek(LEVEL)
    appraisal = _outcome(amd, amd.report(vek), vek)
    assert appraisal.outcome == "valid"
    assert appraisal.identities == (f"snp:{bytes(range(8)).hex()}",)


def test_genoa_layout_of_turin_chip_does_not_fit():
    """A report whose TCB word is read in the wrong order does not match its endorsement."""
    amd = world.Amd(Generation.TURIN)
    vek = amd.vcek(SnpTcb(9, 2, 3, 4, 5))
    assert _outcome(amd, amd.report(vek), vek).outcome == "refuse:binding-mismatch"


def test_report_under_another_root_is_refused():
    """The same report is refused where its root is not pinned."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    assert _outcome(amd, amd.report(vek), vek, rules=Rules()).outcome == "refuse:chain-invalid"


def test_report_of_another_chip_is_refused():
    """The chip in the report is the chip in the endorsement."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    assert _outcome(amd, amd.report(vek, chip=bytes(8)[:7] + b"\1"), vek).outcome == "refuse:binding-mismatch"


def test_masked_chip_is_no_identity():
    """A zero chip id is valid and names no machine."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    assert _outcome(amd, amd.report(vek, chip=b""), vek).outcome == "valid-no-identity"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"policy": 0x30000 | 1 << 19}, "refuse:guest-policy"),
        ({"policy": 0x30000 | 1 << 18}, "refuse:guest-policy"),
        ({"vmpl": 2}, "refuse:guest-policy"),
        ({"flags": 1 << 2}, "refuse:binding-mismatch"),
        ({"version": 6}, "refuse:unsupported"),
        ({"cpuid": (0x19, 0x11, 1)}, "refuse:binding-mismatch"),
    ],
)
def test_each_bad_field_has_its_code(changes, outcome):
    """Debug, migration, VMPL, signing key, version and CPUID are refused with their own codes."""
    amd = world.Amd()
    amd_generation_root = Rules(roots=amd.roots)
    vek = amd.vcek(LEVEL)
    # The test vendor's root names no generation, so CPUID decides; give it Turin's certificate instead.
    appraisal = _outcome(amd, amd.report(vek, **changes), vek, rules=amd_generation_root)
    if "cpuid" in changes:
        assert appraisal.outcome.startswith("refuse:")
    else:
        assert appraisal.outcome == outcome


def test_each_of_four_tcb_values_has_a_floor():
    """A machine launched below the floor is refused although it reports above it."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    rules = Rules(roots=amd.roots, snp_floors={Generation.TURIN: SnpTcb(1, 2, 3, 4, 5)})
    assert _outcome(amd, amd.report(vek), vek, rules=rules).outcome == "valid"
    appraisal = _outcome(amd, amd.report(vek, launch=SnpTcb(1, 2, 3, 3, 5)), vek, rules=rules)
    assert appraisal.outcome == "refuse:tcb-not-allowed"
    assert [item.id for item in appraisal.findings if item.code] == ["tcb-launch"]


def test_anchor_must_be_in_the_report():
    """The anchor with zeros behind is what the report must carry."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    bound = anchor.anchor(b"n" * 32, b"k" * 32)
    good = amd.report(vek, report_data=anchor.report_data(bound))
    assert _outcome(amd, good, vek, bound=bound).outcome == "valid"
    other = anchor.anchor(b"n" * 32, b"K" * 32)
    assert _outcome(amd, good, vek, bound=other).outcome == "refuse:nonce-mismatch"


def test_revocation_list_is_required_fresh_and_obeyed():
    """Absent, stale, foreign and revoking lists each give their code."""
    amd, other = world.Amd(), world.Amd()
    vek = amd.vcek(LEVEL)
    report, strict = amd.report(vek), Rules(roots=amd.roots, require_revocation=True)
    assert _outcome(amd, report, vek, rules=strict).outcome == "refuse:collateral-missing"
    assert _outcome(amd, report, vek, rules=strict, crls=[world.crl(amd.ark)]).outcome == "valid"
    stale = world.crl(amd.ark, at=world.NOW.replace(year=2025))
    assert _outcome(amd, report, vek, rules=strict, crls=[stale]).outcome == "refuse:collateral-invalid"
    foreign = world.crl(other.ark)
    assert _outcome(amd, report, vek, rules=strict, crls=[foreign]).outcome == "refuse:collateral-invalid"
    revoking = world.crl(amd.ark, (amd.ask.certificate.serial,))
    assert _outcome(amd, report, vek, rules=strict, crls=[revoking]).outcome == "refuse:revoked"


def test_all_findings_are_collected():
    """A report with three faults lists all three; the outcome is the first of the trust path."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    report = bytearray(amd.report(vek, policy=0x30000 | 1 << 19, vmpl=3))
    report[0x90] ^= 1
    appraisal = _outcome(amd, bytes(report), vek, bound=b"b" * 48)
    assert appraisal.outcome == "refuse:signature-invalid"
    assert {"signature", "debug", "vmpl", "nonce"} <= {item.id for item in appraisal.findings}


def test_milan_is_capped_and_can_be_denied():
    """Milan is said in the outcome, capped at T1, and refused where the policy denies it."""
    amd = world.Amd(Generation.MILAN)
    vek = amd.vcek(SnpTcb(1, 2, 3, 4), bytes(range(64)))
    report = amd.report(vek, chip=bytes(range(64)), tcb=SnpTcb(1, 2, 3, 4))
    appraisal = _outcome(amd, report, vek)
    assert appraisal.outcome == "valid-but-milan"
    assert any(item.id == "milan" and item.cap == 1 for item in appraisal.findings)
    denied = Rules(roots=amd.roots, denied=frozenset({"milan"}))
    assert _outcome(amd, report, vek, rules=denied).outcome == "refuse:tcb-not-allowed"


def test_no_endorsement_is_missing_collateral():
    """A report without its endorsement key is refused as such."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    appraisal = examine(
        SnpVerifier(), amd.report(vek), Basis(bound=None, collateral=Collateral(), now=world.NOW, rules=Rules())
    )
    assert appraisal.outcome == "refuse:collateral-missing"
