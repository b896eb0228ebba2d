"""Revocation notices: they narrow, from their observation on, by signers the policy names."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify import policy as policies
from stannary.certify import revocation_notice
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nvidia import DeviceVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.folder import Indexed
from stannary.certify.moments import format_moment
from stannary.certify.outcomes import Examination
from stannary.certify.pki import revocation
from stannary.certify.revocation_notice import RevocationNotice, believe, judge_identities
from stannary.certify.rules import Rules
from stannary.certify.withdrawals import CrlReason, Withdrawal
from stannary.cli import main as edge
from stannary.errors import FormatError
from stannary.formats import canonical, dsse, record

NONCE = b"\x11" * 32
DAY = timedelta(days=1)
CHIP = f"snp:{bytes(range(8)).hex()}"
WATCHER = Ed25519PrivateKey.generate()


def entry(identity=CHIP, status=CrlReason.CERTIFICATE_HOLD, at=world.NOW):
    """An entry of a notice."""
    return Withdrawal(identity, status, "https://ocsp.example", format_moment(at))


def notice(*entries, watcher="ann", at=world.NOW):
    """A notice."""
    return RevocationNotice(watcher, format_moment(at), entries)


def trusting(**keys):
    """A policy that believes these watchers and not the packaged notice."""
    named = {name: dsse.public_bytes(key).hex() for name, key in keys.items()}
    return replace(policies.built_in("local"), revocation_keys=named, packaged_revocations=False)


def chip(entries, *, now=world.NOW):
    """The outcome of a good chip under notices."""
    amd = world.Amd()
    vek = amd.vcek(world.SnpTcb(1, 2, 3, 4, 5))
    carried = Collateral(certificates=(vek.certificate, amd.ask.certificate, amd.ark.certificate))
    rules = Rules(roots=amd.roots, withdrawals=tuple(entries))
    return examine(SnpVerifier(), amd.report(vek), Basis(bound=None, collateral=carried, now=now, rules=rules))


def card(entries, *, good_at=None, status_now=world.NOW):
    """The appraisal of a good card under notices, with the vendor's answers of a moment if one is given."""
    vendor = world.Nvidia()
    device = vendor.device()
    made = [replace(item, identity=f"nvidia:{device.certificate.serial:x}") for item in entries]
    answers = []
    if good_at is not None:
        answers = [world.ocsp(device, vendor.issuer, at=good_at), world.ocsp(vendor.issuer, vendor.root, at=good_at)]
    carried = Collateral(certificates=vendor.chain(device), ocsp=tuple(revocation.parse_ocsp(item) for item in answers))
    rules = Rules(roots=vendor.roots, withdrawals=tuple(made))
    report = vendor.report(device, NONCE)
    return examine(DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=status_now, rules=rules))


def test_every_status_but_a_hold_refuses():
    """certificateHold leaves the evidence true but offline-only and capped; every other status revokes."""
    for status in CrlReason:
        judged = chip([entry(status=status)])
        if status is CrlReason.CERTIFICATE_HOLD:
            assert judged.outcome == "valid-offline-only"
            assert [item.cap for item in judged.findings if item.id == "hold"] == [1]
        else:
            assert judged.outcome == "refuse:revoked"
            assert status.value in judged.refusal.observed


def test_an_entry_counts_from_its_observation_on():
    """The same notice at an earlier evaluation time says nothing."""
    late = [entry(status=CrlReason.KEY_COMPROMISE, at=world.NOW)]
    assert chip(late, now=world.NOW - timedelta(seconds=1)).outcome == "valid"
    assert chip(late, now=world.NOW).outcome == "refuse:revoked"


def test_other_hardware_is_not_touched():
    """A notice about another chip changes nothing."""
    assert chip([entry(identity="snp:00ff", status=CrlReason.KEY_COMPROMISE)]) == chip([])


def test_a_vendors_later_good_answer_lifts_a_hold_only():
    """A good answer issued after the observation lifts a hold; an older one does not, and nothing lifts the rest."""
    held = [entry(at=world.NOW - 3 * DAY)]
    lifted = card(held, good_at=world.NOW - DAY)
    assert lifted.outcome == "valid"
    assert [item.severity for item in lifted.findings] == ["note"]
    assert card(held, good_at=world.NOW - 4 * DAY).outcome == "valid-offline-only"
    assert card(held, good_at=world.NOW - 3 * DAY).outcome == "valid-offline-only"
    assert card(held).outcome == "valid-offline-only"
    stale = card(held, good_at=world.NOW - DAY, status_now=world.NOW + 20 * DAY)
    assert stale.outcome == "valid-offline-only"
    gone = [entry(status=CrlReason.KEY_COMPROMISE, at=world.NOW - 3 * DAY)]
    assert card(gone, good_at=world.NOW - DAY).outcome == "refuse:revoked"


def test_the_devices_own_answer_lifts_its_hold():
    """An older answer about a certificate authority does not keep the device's newer good one from counting."""
    vendor = world.Nvidia()
    own = world.issue("GH100 A01 GSP BROM", vendor.issuer, ca=True)
    alias = world.issue("GH100 A01 GSP FMC LF", own, extensions={"2.23.133.5.4.1": b"\x30\x32\x04\x30" + b"\x77" * 48})
    held = (entry(f"nvidia:{own.certificate.serial:x}", at=world.NOW - 2 * DAY),)

    def judged(own_at, issuer_at):
        answers = (world.ocsp(own, vendor.issuer, at=own_at), world.ocsp(vendor.issuer, vendor.root, at=issuer_at))
        chain = tuple(item.certificate for item in (alias, own, vendor.issuer, vendor.root))
        carried = Collateral(certificates=chain, ocsp=tuple(revocation.parse_ocsp(item) for item in answers))
        rules = Rules(roots=vendor.roots, withdrawals=held)
        report = vendor.report(alias, NONCE)
        return examine(
            DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=world.NOW, rules=rules)
        ).outcome

    assert judged(world.NOW - DAY, world.NOW - 4 * DAY) == "valid"
    assert judged(world.NOW - 4 * DAY, world.NOW - DAY) == "valid-offline-only"


def test_a_notice_never_makes_anything_better():
    """Evidence that is refused stays refused with the same code, whatever a notice says."""
    exam = Examination("snp", identities=[CHIP])
    exam.refuse("chain", revocation_notice.Step.CHAIN, revocation_notice.Code.CHAIN_INVALID, observed="x")
    bad = exam.close()
    for status in CrlReason:
        assert judge_identities(bad, (entry(status=status),), world.NOW).outcome == "refuse:chain-invalid"


def test_only_named_watchers_are_believed():
    """A stranger's notice, one in another's name, a broken signature and another kind of statement are refused."""
    policy = trusting(ann=WATCHER)
    good = revocation_notice.sign(notice(entry()), WATCHER)
    assert believe([good], policy).withdrawals == (entry(),)
    stranger = revocation_notice.sign(notice(entry()), Ed25519PrivateKey.generate())
    borrowed = revocation_notice.sign(notice(entry(), watcher="bob"), WATCHER)
    broken = replace(good, payload=good.payload.replace(b"certificateHold", b"unspecified"))
    other = dsse.sign(good.payload.replace(b"revocation-notice", b"voucher"), WATCHER)
    for envelope, words in (
        (stranger, "no key of"),
        (borrowed, "in the name of"),
        (broken, "no key of"),
        (other, "kind"),
    ):
        judged = believe([envelope], policy)
        assert judged.withdrawals == ()
        assert judged.appraisal.outcome == "refuse:collateral-invalid"
        assert words in judged.appraisal.refusal.observed


def test_the_newest_notice_of_a_signer_counts_whole():
    """A newer notice replaces the older one of its signer, in any order, and never another signer's."""
    bob = Ed25519PrivateKey.generate()
    policy = trusting(ann=WATCHER, bob=bob)
    old = revocation_notice.sign(notice(entry("snp:01", at=world.NOW - DAY), at=world.NOW - DAY), WATCHER)
    new = revocation_notice.sign(notice(entry("snp:02")), WATCHER)
    also = revocation_notice.sign(notice(entry("snp:03"), watcher="bob", at=world.NOW), bob)
    for order in ((old, new, also), (also, new, old)):
        assert {item.identity for item in believe(order, policy).withdrawals} == {"snp:02", "snp:03"}
    twin = revocation_notice.sign(notice(entry("snp:04")), WATCHER)
    assert {item.identity for item in believe((new, twin), policy).withdrawals} == {"snp:02", "snp:04"}


def test_a_notice_cannot_mean_what_nobody_saw():
    """An identity of no known kind, and an observation after the notice's own time, do not read."""
    for bad in (notice(entry("gpu:1")), notice(entry("snp:XY")), notice(entry(at=world.NOW + DAY))):
        with pytest.raises(FormatError):
            revocation_notice.sign(bad, WATCHER)


def test_packaged_notice_reads_and_can_be_left_out():
    """The release's notice is well formed, dated, and counts unless the policy leaves it out."""
    packaged = revocation_notice.packaged()
    assert packaged.entries
    local = policies.built_in("local")
    assert set(believe((), local).withdrawals) == set(packaged.entries)
    without = believe((), replace(local, packaged_revocations=False))
    assert without.withdrawals == ()
    assert [row.state for row in without.appraisal.checks] == ["waived"]
    assert replace(local, packaged_revocations=False).id != local.id


def test_newest_ocsp_answer_counts_and_a_revocation_is_for_good():
    """An old good answer beside a newer revoked one does not help; a final revocation outlives its window."""
    vendor = world.Nvidia()
    device = vendor.device()

    def status(*answers, now=world.NOW):
        parsed = tuple(revocation.parse_ocsp(item) for item in answers)
        return revocation.ocsp_status(device.certificate, vendor.issuer.certificate, parsed, now)

    good = world.ocsp(device, vendor.issuer, at=world.NOW - 2 * DAY)
    hold = world.ocsp(device, vendor.issuer, revoked=True, at=world.NOW - DAY)
    newer = world.ocsp(device, vendor.issuer, at=world.NOW - timedelta(hours=1))
    assert status(good, hold).status == "revoked"
    assert status(hold, good).status == "revoked"
    assert "certificateHold" in status(hold).detail
    assert status(good, hold, newer).since == world.NOW - timedelta(hours=1)
    assert status(hold, now=world.NOW + 30 * DAY).status == "unknown"
    final = world.ocsp(device, vendor.issuer, revoked=True, reason="key_compromise", at=world.NOW - 20 * DAY)
    assert status(final).status == "revoked"
    assert status(final, newer).status == "revoked"
    assert status(final, now=world.NOW - 21 * DAY).status == "unknown"


def test_ocsp_names_its_issuer_by_any_accepted_hash():
    """SHA-1 as RFC 6960 requires and SHA-384 as NVIDIA asks name the same issuer; another issuer's do not."""
    vendor = world.Nvidia()
    device = vendor.device()
    for algorithm in ("sha1", "sha256", "sha384", "sha512"):
        answer = revocation.parse_ocsp(world.ocsp(device, vendor.issuer, names=algorithm)).answers[0]
        assert revocation.is_about(answer, vendor.issuer.certificate)
        assert not revocation.is_about(answer, vendor.root.certificate)


def test_alias_of_a_device_needs_no_answer_of_its_own():
    """Responders know the chain above the alias; an answer that withdraws the alias still refuses."""
    vendor = world.Nvidia()
    device = vendor.device()
    report = vendor.report(device, NONCE)

    def judged(*answers):
        carried = Collateral(
            certificates=vendor.chain(device), ocsp=tuple(revocation.parse_ocsp(item) for item in answers)
        )
        rules = Rules(roots=vendor.roots)
        return examine(DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=world.NOW, rules=rules))

    above = world.ocsp(vendor.issuer, vendor.root)
    assert judged(above).findings == ()
    assert [item.id for item in judged().findings] == ["ocsp"]
    assert judged(above, world.ocsp(device, vendor.issuer, revoked=True)).outcome == "refuse:revoked"


def test_commands_sign_show_and_continue_a_notice(tmp_path, monkeypatch, capsys):
    """A signed notice is shown with whether the policy believes it; a continued one keeps the other entries."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    first, second, policy = tmp_path / "n1.json", tmp_path / "n2.json", tmp_path / "p.toml"
    made = ["certify", "revocations", "sign", "--watcher", "ann", "--source", "https://ocsp.example"]
    times = ["--now", "2026-11-22T00:00:00Z", "--json"]
    assert edge.run([*made, CHIP, "nvidia:0a", "-o", str(first), *times]) == 0
    key = json.loads(capsys.readouterr().out)["public_key"]
    again = [*made, "nvidia:0b", "--status", "keyCompromise", "--continue", str(first), "--drop", CHIP]
    assert edge.run([*again, "-o", str(second), "--now", "2026-11-23T00:00:00Z"]) == 0
    text = Path(policies.__file__).with_name("policies").joinpath("local.toml").read_text()
    policy.write_text(text.replace("revocation_keys = {}", f'revocation_keys = {{ ann = "{key}" }}'))
    capsys.readouterr()
    assert edge.run(["certify", "revocations", "show", str(second), "--policy", str(policy), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["notices"]
    assert {(item["identity"], item["status"]) for item in shown["entries"]} == {
        ("nvidia:0a", "certificateHold"),
        ("nvidia:0b", "keyCompromise"),
    }
    assert edge.run(["certify", "revocations", "show", str(second)]) == 3
    assert "no key of the policy" in capsys.readouterr().out
    assert edge.run(["certify", "revocations", "show"]) == 0
    assert "certificateHold" in capsys.readouterr().out
    assert edge.run([*made, CHIP, "-o", str(first), "--status", "sold"]) == 2
    assert edge.run(["certify", "revocations", "sign", "--watcher", "ann", CHIP, "-o", str(first)]) == 2


_MOMENTS = st.integers(-5, 5).map(lambda days: world.NOW + days * DAY)
_ENTRIES = st.lists(
    st.builds(entry, st.sampled_from([CHIP, "snp:00ff", "ek:01"]), st.sampled_from(CrlReason), _MOMENTS)
)


@given(_ENTRIES, st.booleans(), _MOMENTS)
def test_notices_only_ever_add_findings(entries, is_bad, good_at):
    """Whatever notices say, nothing that was found goes away and nothing refused becomes valid."""
    exam = Examination("snp", identities=[CHIP], confirmed={CHIP: good_at})
    if is_bad:
        exam.refuse("chain", revocation_notice.Step.CHAIN, revocation_notice.Code.CHAIN_INVALID, observed="x")
    before = exam.close()
    after = judge_identities(before, tuple(entries), world.NOW)
    assert set(before.findings) <= set(after.findings)
    assert set(before.checks) <= set(after.checks)
    assert before.qualifiers <= after.qualifiers
    assert before.valid or not after.valid
    judged = judge_identities(before, tuple(reversed(entries)), world.NOW)
    assert judged.outcome == after.outcome


@given(st.permutations(range(4)))
def test_the_order_of_answers_decides_nothing(order):
    """However a node sorts the answers it carries, the same one counts."""
    vendor, device = _VENDOR
    told = revocation.ocsp_status(
        device.certificate, vendor.issuer.certificate, [_ANSWERS[index] for index in order], world.NOW
    )
    assert told.status == "revoked"
    assert "certificateHold" in told.detail


def _shared():
    vendor = world.Nvidia()
    return vendor, vendor.device()


_VENDOR = _shared()
_ANSWERS = [
    revocation.parse_ocsp(world.ocsp(_VENDOR[1], _VENDOR[0].issuer, revoked=revoked, at=at))
    for revoked, at in (
        (False, world.NOW - 3 * DAY),
        (False, world.NOW - 2 * DAY),
        (True, world.NOW - DAY),
        (False, world.NOW + DAY),
    )
]


def test_reappraise_lists_what_a_believed_notice_exposes(tmp_path, monkeypatch, capsys):
    """Kept appraisals of listed hardware are printed with exit 3; a notice nobody named ends the command."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    kept, signed, policy = tmp_path / "kept", tmp_path / "n.json", tmp_path / "p.toml"
    kept.mkdir()
    lines = [
        Indexed(f"sha256:{index:064x}", "{}", "2026-11-22T00:00:00Z", "ni:///x", "T2", True, "00" * 32, (name,))
        for index, name in enumerate((CHIP, "snp:00ff"))
    ]
    (kept / "index.jsonl").write_bytes(b"".join(canonical.encode(record.to_json(item)) + b"\n" for item in lines))
    sign = ["certify", "revocations", "sign", CHIP, "--watcher", "ann", "--source", "x", "-o", str(signed), "--json"]
    assert edge.run(sign) == 0
    key = json.loads(capsys.readouterr().out)["public_key"]
    text = Path(policies.__file__).with_name("policies").joinpath("local.toml").read_text()
    policy.write_text(text.replace("revocation_keys = {}", f'revocation_keys = {{ ann = "{key}" }}'))
    listing = ["certify", "reappraise", str(kept), "--revocations", str(signed), "--json"]
    assert edge.run([*listing, "--policy", str(policy)]) == 3
    exposed = json.loads(capsys.readouterr().out)["exposed"]
    assert [item["matched"] for item in exposed] == [[CHIP]]
    assert edge.run(listing) == 3
    assert "revocation notice is not believed" in capsys.readouterr().err
