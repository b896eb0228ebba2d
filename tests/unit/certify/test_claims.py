"""Claims beside signed reports: counts, models by chip and board, switches, and what cannot be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify.claims import Likeness, check_claims, compare, read_claims
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nvidia import DeviceVerifier, certified_chip, check_collisions
from stannary.certify.evidence.verifier import examine
from stannary.certify.moments import format_moment
from stannary.certify.outcomes import Examination, Step
from stannary.certify.remedies import Code
from stannary.certify.rules import Rules
from stannary.certify.withdrawals import CrlReason, Withdrawal
from stannary.errors import UsageError

H100, H200 = ("G520", "0202", "885"), ("G520", "0280", "895")
NONCE = b"\x11" * 32


def devices(*made, place="gpu"):
    """Appraisals of devices given as (certificate name, board)."""
    vendor, parts = world.Nvidia(), {}
    for subject, board in made:
        device = vendor.device(subject)
        report = vendor.report(device, NONCE, board=board)
        carried = Collateral(certificates=vendor.chain(device))
        rules = Rules(roots=vendor.roots)
        part = examine(DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=world.NOW, rules=rules))
        parts[f"{place}/{part.claims['ueid']}"] = part
    return parts


def codes(claims, parts):
    """The checks of an appraised claim that fail, with their codes; the power test aside."""
    found = check_claims(read_claims(claims), parts, None)
    return {item.id: item.code for item in found.findings if item.id != "tested"}


def test_the_claimed_board_is_accepted_and_the_power_test_still_asked_for():
    """Eight boards that are sold as H200 fit the claim; without a power test it is refused all the same."""
    parts = devices(*[("GH100 A01 GSP FMC LF", H200)] * 8)
    assert codes("8xH200", parts) == {}
    judged = check_claims(read_claims("8xH200"), parts, None)
    assert judged.outcome == "refuse:evidence-missing"
    assert [item.id for item in judged.findings] == ["tested"]
    assert {row.id: row.state for row in judged.checks}["gpu-model"] == "checked"


@pytest.mark.parametrize(
    ("certificate", "board"),
    [
        ("GB100 A01 GSP FMC LF", ("G525", "0220", "886")),
        ("AD102 A01 GSP FMC LF", ()),
        ("GH100 A01 GSP FMC LF", H100),
        ("GH100 A01 GSP FMC LF", ("G520", "0205", "865")),
    ],
    ids=["blackwell", "ada", "h100", "h800"],
)
def test_another_chip_or_a_known_other_board_is_not_an_h200(certificate, board):
    """The certified chip convicts, and so does a board that is known to be sold as something else."""
    parts = devices((certificate, board))
    assert codes("1xH200", parts) == {"gpu-model": Code.REFERENCE_MISMATCH, "gpu-attested": Code.EVIDENCE_MISSING}


def test_an_h100_cannot_be_made_up_to_eight():
    """Seven H200 and one H100 are not eight H200."""
    parts = devices(*[("GH100 A01 GSP FMC LF", H200)] * 7, ("GH100 A01 GSP FMC LF", H100))
    assert codes("8xH200", parts) == {"gpu-model": Code.REFERENCE_MISMATCH, "gpu-attested": Code.EVIDENCE_MISSING}
    assert codes("7xH200+1xH100", parts) == {}
    assert codes("8xH200+1xH100", parts) != {}


def test_a_board_nobody_names_is_could_not_check():
    """GH100 alone does not tell H100 from H200: the row is waived with the board, not passed and not refused."""
    for board in (("G520", "0299", "899"), ()):
        parts = devices(("GH100 A01 GSP FMC LF", board))
        assert codes("1xH200", parts) == {}
        (row,) = [item for item in check_claims(read_claims("1xH200"), parts, None).checks if item.id == "gpu-model"]
        assert row.state == "waived"
        assert "could not check" in row.detail


def test_one_device_does_not_stand_for_two_claims():
    """Boards that fit either model are counted once: two cannot be two H100 and two H200."""
    parts = devices(*[("GH100 A01 GSP FMC LF", ())] * 2)
    assert codes("2xH100", parts) == codes("2xH200", parts) == codes("1xH100+1xH200", parts) == {}
    assert codes("2xH100+2xH200", parts) == {"gpu-total": Code.EVIDENCE_MISSING}


def test_a_model_without_a_known_chip_is_could_not_check():
    """A model this release does not know is not judged by its name."""
    assert compare("B300", "GB100", "x")[0] is Likeness.UNKNOWN
    assert compare("H200", "", "x")[0] is Likeness.UNKNOWN
    assert compare("NVIDIA H200 SXM", "GH100", "G520_0280_895")[0] is Likeness.IS
    assert compare("h200-141GB", "GH100", "G520_0202_885")[0] is Likeness.IS_NOT


def test_switches_are_counted_by_their_own_reports():
    """Four switches need four valid switch reports; a GPU shown as a switch is none, and no power test is asked."""
    four = devices(*[("LS_10 A01 FSP FMC LF", ())] * 4, place="nvswitch")
    assert codes("4xNVSwitch", four) == {}
    assert check_claims(read_claims("4xLS10"), four, None).outcome == "valid"
    three = dict(list(four.items())[:3])
    assert codes("4xNVSwitch", three) == {"nvswitch-attested": Code.EVIDENCE_MISSING}
    card = devices(("GH100 A01 GSP FMC LF", H200), place="nvswitch")
    assert codes("1xNVSwitch", card) == {
        "nvswitch-model": Code.REFERENCE_MISMATCH,
        "nvswitch-attested": Code.EVIDENCE_MISSING,
    }
    switch = devices(("LS_10 A01 FSP FMC LF", ()))
    assert codes("1xH200", switch) == {"gpu-model": Code.REFERENCE_MISMATCH, "gpu-attested": Code.EVIDENCE_MISSING}


def test_refused_evidence_counts_for_nothing():
    """A device whose report is refused is no accelerator, and its words convict nobody."""
    (name, part), *_ = devices(("GB100 A01 GSP FMC LF", ())).items()
    exam = Examination.reopen(part)
    exam.refuse("signature", Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="x")
    assert codes("1xH200", {name: exam.close()}) == {"gpu-attested": Code.EVIDENCE_MISSING}


def test_the_chip_is_the_one_certified_above_the_alias():
    """An alias that firmware named anew does not change the chip its device is certified as."""
    vendor = world.Nvidia()
    own = world.issue("GB100 A01 GSP BROM", vendor.issuer, ca=True)
    alias = world.issue("GH100 A01 GSP FMC LF", own, extensions={"2.23.133.5.4.1": b"\x30\x00"})
    path = (alias.certificate, own.certificate, vendor.issuer.certificate, vendor.root.certificate)
    assert certified_chip(path) == "GB100"
    assert certified_chip((alias.certificate, vendor.issuer.certificate)) == "GH100"
    assert certified_chip((vendor.issuer.certificate,)) == ""


@pytest.mark.parametrize("text", ["", "   "])
def test_no_claim_is_no_claim(text):
    """Nothing claimed, nothing compared."""
    assert read_claims(text) == ()


@given(st.text(max_size=40))
def test_a_claim_reads_or_is_an_error(text):
    """Whatever is typed, it is claims or a usage error: nothing is passed over."""
    try:
        found = read_claims(text)
    except UsageError as err:
        assert err.hint
        return
    assert bool(found) == bool(text.strip())
    assert all(item.count > 0 for item in found)


def test_new_firmware_does_not_make_a_new_device():
    """One card under two aliases is one identity twice, counts once, and stays on a notice's list."""
    vendor = world.Nvidia()
    own = world.issue("GH100 A01 GSP BROM", vendor.issuer, ca=True)
    aliases = [
        world.issue("GH100 A01 GSP FMC LF", own, extensions={"2.23.133.5.4.1": b"\x30\x32\x04\x30" + b"\x77" * 48})
        for _ in range(2)
    ]
    held = Withdrawal(
        f"nvidia:{own.certificate.serial:x}", CrlReason.CERTIFICATE_HOLD, "test", format_moment(world.NOW)
    )
    parts = {}
    for alias in aliases:
        chain = tuple(item.certificate for item in (alias, own, vendor.issuer, vendor.root))
        carried, rules = Collateral(certificates=chain), Rules(roots=vendor.roots, withdrawals=(held,))
        report = vendor.report(alias, NONCE, board=H200)
        part = examine(DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=world.NOW, rules=rules))
        assert part.outcome == "valid-offline-only"
        parts[f"gpu/{part.claims['ueid']}"] = part
    names = [item for part in parts.values() for item in part.identities]
    assert len(names) == 4
    assert len(set(names)) == 3
    exam = Examination("fleet", identities=names)
    check_collisions(exam)
    assert exam.close().outcome == "refuse:identity-collision"
