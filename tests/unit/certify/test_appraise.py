"""A whole machine: one anchor over all layers, tiers as minimum, policies, credentials."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.certify import world

from stannary.certify import anchor as anchors
from stannary.certify import challenge as challenges
from stannary.certify import credential, envelope, policy, references
from stannary.certify.appraise import Context, appraise
from stannary.certify.envelope import Evidence, Part
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.ear import EarVerifier, read_submods
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.verifier import examine
from stannary.certify.folder import Folder
from stannary.certify.moments import format_moment
from stannary.certify.reappraise import again, exposed
from stannary.certify.revocation_notice import RevocationNotice
from stannary.certify.revocation_notice import sign as sign_notice
from stannary.certify.rules import Roots, Rules, SnpTcb
from stannary.certify.withdrawals import CrlReason, Withdrawal
from stannary.errors import FormatError, LimitExceeded, Refuted, SpecError
from stannary.formats import dsse
from stannary.formats.predicates import Tier

LEVEL = SnpTcb(1, 2, 3, 4, 5)
KEY_HASH = b"\x09" * 32


class Machine:
    """A confidential guest with GPUs."""

    def __init__(self, *, num_gpus: int = 1) -> None:
        self.amd, self.nvidia = world.Amd(), world.Nvidia()
        self.vek = self.amd.vcek(LEVEL)
        self.gpus = [self.nvidia.device() for _ in range(num_gpus)]
        self.host: dict = {}

    def answer(self, challenge, *, nonce=None, key_hash=KEY_HASH, **report) -> Evidence:
        """Evidence for a challenge, over another nonce if told to lie."""
        bound = anchors.anchor(nonce or challenge.nonce_bytes, key_hash)
        blob = self.amd.report(self.vek, report_data=anchors.report_data(bound), **report)
        chain = pem((self.vek.certificate, self.amd.ask.certificate, self.amd.ark.certificate)).encode()
        parts = {"cpu": Part("snp", blob, certificates=(chain,), crls=(world.crl(self.amd.ark),))}
        for device in self.gpus:
            ueid = f"{device.certificate.serial:x}"
            signed = self.nvidia.report(device, anchors.device_nonce(bound, ueid))
            answers = (world.ocsp(device, self.nvidia.issuer), world.ocsp(self.nvidia.issuer, self.nvidia.root))
            parts[f"gpu/{ueid}"] = Part(
                "nvgpu", signed, certificates=(pem(self.nvidia.chain(device)).encode(),), ocsp=answers
            )
        return Evidence(challenge.id, challenge.nonce_bytes, KEY_HASH, parts, host=self.host)


@pytest.fixture
def machine(monkeypatch):
    """A machine whose vendors are pinned in place of the real ones."""
    made = Machine()
    roots = Roots(amd=made.amd.roots.amd, nvidia_device=made.nvidia.roots.nvidia_device)
    original = policy.Policy.rules
    monkeypatch.setattr(policy.Policy, "rules", lambda self, *rest: replace(original(self, *rest), roots=roots))
    return made


def _challenge():
    return challenges.issue(world.NOW, nonce=b"\x01" * 32)[0]


def _context(**changes):
    measured = replace(policy.built_in("local"), measurements=("11" * 48,))
    return Context(**{"now": world.NOW + timedelta(seconds=5), "policy": measured, **changes})


def test_confidential_guest_is_limited_by_its_gpu_manifests(machine):
    """A good guest with a good GPU is T1 until golden values are compared, and the result says so."""
    challenge = _challenge()
    result = appraise(machine.answer(challenge), challenge, _context())
    assert not result.decision.refused
    assert result.decision.tier is Tier.T1
    assert "golden" in result.decision.limiting.reason
    assert "reference manifests" in result.decision.limiting.remedy


def test_confidential_guest_alone_reaches_t2_and_vouchers_raise_it(machine):
    """Without GPUs the guest is T2; two inspectors make T3; the owner's naming makes T4."""
    machine.gpus = []
    challenge = _challenge()
    evidence = machine.answer(challenge)
    assert appraise(evidence, challenge, _context()).decision.tier is Tier.T2
    inspectors = {name: Ed25519PrivateKey.generate() for name in ("ann", "bob")}
    identity = f"snp:{bytes(range(8)).hex()}"
    vouchers = tuple(
        references.sign_voucher(references.Voucher(identity, name, "hall 7", format_moment(world.NOW)), key)
        for name, key in inspectors.items()
    )
    named = {name: dsse.public_bytes(key).hex() for name, key in inspectors.items()}
    base = _context().policy
    trusting = replace(base, vouch=replace(base.vouch, inspectors=named))
    assert appraise(evidence, challenge, _context(policy=trusting, vouchers=vouchers)).decision.tier is Tier.T3
    twice = (vouchers[0], vouchers[0])
    assert appraise(evidence, challenge, _context(policy=trusting, vouchers=twice)).decision.tier is Tier.T2
    owned = replace(trusting, designated=(identity,))
    assert appraise(evidence, challenge, _context(policy=owned, vouchers=vouchers)).decision.tier is Tier.T4


def test_unmeasured_guest_is_t1(machine):
    """Without a launch digest to compare, a guest shows which machine it is, not what runs."""
    machine.gpus = []
    challenge = _challenge()
    plain = _context(policy=policy.built_in("local"))
    assert appraise(machine.answer(challenge), challenge, plain).decision.tier is Tier.T1


def test_every_layer_must_bind_this_nonce_and_key(machine):
    """Evidence over another nonce, or for another key, is refused in every layer."""
    challenge = _challenge()
    for lie in ({"nonce": b"\x02" * 32}, {"key_hash": b"\x08" * 32}):
        result = appraise(machine.answer(challenge, **lie), challenge, _context())
        assert result.parts["cpu"].outcome == "refuse:nonce-mismatch"
        assert all(
            item.outcome == "refuse:nonce-mismatch" for name, item in result.parts.items() if name.startswith("gpu/")
        )
        assert not result.accepted


def test_withheld_evidence_is_refused_evidence(machine):
    """A machine that claims GPUs and shows none does no better than one that shows bad ones."""
    machine.gpus = []
    challenge = _challenge()
    result = appraise(machine.answer(challenge), challenge, _context(claims="8xH200"))
    assert result.parts["gpu"].outcome == "refuse:evidence-missing"
    assert result.decision.tier is Tier.T0


def test_machine_that_speaks_against_itself_is_believed(machine):
    """DevTools mode and confidential computing off, said by the host, are refused by their codes."""
    challenge = _challenge()
    machine.host = {"gpus": [{"devtools": True, "cc": True}]}
    assert appraise(machine.answer(challenge), challenge, _context()).parts["host"].outcome == "refuse:debug-device"
    machine.host = {"gpus": [{"devtools": False, "cc": False}]}
    asking = replace(_context().policy, minimum_tier="T2")
    refused = appraise(machine.answer(challenge), challenge, _context(policy=asking))
    assert refused.parts["host"].outcome == "refuse:cc-off"
    open_to_all = appraise(machine.answer(challenge), challenge, _context())
    assert open_to_all.decision.tier is Tier.T0
    assert not open_to_all.decision.refused
    assert any("computing is off" in limit.reason for limit in open_to_all.decision.limits)


def test_one_hardware_identity_is_one_node(machine):
    """A chip that is registered to another node is refused here."""
    challenge = _challenge()
    registry = frozenset({f"snp:{bytes(range(8)).hex()}"})
    result = appraise(machine.answer(challenge), challenge, _context(registry=registry))
    assert result.parts["identity"].outcome == "refuse:identity-collision"


def test_gpu_of_another_machine_is_refused(machine):
    """A GPU report under another device's name is refused."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    name = next(item for item in evidence.parts if item.startswith("gpu/"))
    parts = {("gpu/abcdef" if key == name else key): part for key, part in evidence.parts.items()}
    result = appraise(replace(evidence, parts=parts), challenge, _context())
    assert not result.parts["gpu/abcdef"].valid


def test_spent_or_late_challenges_are_refused(machine):
    """A challenge is answered once and within its window."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    assert appraise(evidence, challenge, _context(spent=True)).parts["challenge"].outcome == "refuse:nonce-mismatch"
    late = _context(now=world.NOW + timedelta(seconds=61))
    assert appraise(evidence, challenge, late).parts["challenge"].outcome == "refuse:nonce-mismatch"


def test_credential_says_tier_limit_checks_and_key(machine):
    """The signed result holds tier, limit, policy, key and the whole table of checks."""
    challenge, key = _challenge(), Ed25519PrivateKey.generate()
    evidence = machine.answer(challenge)
    context = _context()
    result = appraise(evidence, challenge, context)
    token = credential.issue(result, evidence, challenge, context.policy, key, now=context.now)
    claims = credential.read(token, dsse.public_bytes(key), context.now)
    assert claims["stannary_tier"] == "T1"
    assert claims["stannary_limit"]["reason"]
    assert claims["cnf"] == {"stannary_key_sha256": KEY_HASH.hex()}
    assert claims["submods"]["cpu"]["ear_status"] in {"affirming", "warning"}
    assert claims["submods"]["cpu"]["ear_appraisal_policy_ids"][1] == context.policy.id
    states = {row["state"] for part in claims["submods"].values() for row in part["stannary_checks"]}
    assert states <= {"checked", "waived", "not-applicable"}
    with pytest.raises(Refuted):
        credential.read(token, dsse.public_bytes(Ed25519PrivateKey.generate()), context.now)
    with pytest.raises(Refuted):
        credential.read(token, dsse.public_bytes(key), context.now + timedelta(hours=1))
    with pytest.raises(FormatError):
        credential.issue(result, evidence, challenge, context.policy, key, now=context.now, lifetime_s=3600)


def test_credential_is_an_ear_that_others_can_read(machine):
    """The credential verifies as a plain EAR under the verifier's key as JWK, and under no other."""
    challenge, key = _challenge(), Ed25519PrivateKey.generate()
    evidence, context = machine.answer(challenge), _context()
    result = appraise(evidence, challenge, context)
    token = credential.issue(result, evidence, challenge, context.policy, key, now=context.now).encode()
    x = base64.urlsafe_b64encode(dsse.public_bytes(key)).rstrip(b"=").decode()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
    basis = Basis(bound=challenge.nonce_bytes, collateral=Collateral(jwk=jwk), now=context.now, rules=Rules())
    good = examine(EarVerifier(), token, basis)
    assert good.outcome == "valid", good.findings
    other = replace(basis, collateral=Collateral(jwk={**jwk, "x": x[::-1]}))
    assert examine(EarVerifier(), token, other).outcome in {"refuse:signature-invalid", "refuse:collateral-invalid"}
    late = replace(basis, now=context.now + timedelta(hours=1))
    assert examine(EarVerifier(), token, late).outcome == "refuse:chain-invalid"


@pytest.mark.parametrize(
    ("member", "status"), [("ear_status", "affirming"), ("ear.status", "warning"), ("ear.status", 96)]
)
def test_ear_is_read_in_both_spellings(member, status):
    """Tokens of the current draft and of older ones name their status differently; both are read."""
    found = read_submods({"eat_profile": "p", "submods": {"cpu": {member: status}}})
    assert found["cpu"].value == {96: "contraindicated"}.get(status, status)
    for bad in (
        {"cpu": {}},
        {"cpu": {"ear_status": "none", "ear.status": "none"}},
        {"cpu": {"ear_status": "fine"}},
        {},
    ):
        with pytest.raises(FormatError):
            read_submods({"eat_profile": "p", "submods": bad})


def test_refusals_are_signed_too(machine):
    """A refused machine gets a signed refusal with codes and remedies, at tier T0."""
    challenge, key = _challenge(), Ed25519PrivateKey.generate()
    evidence = machine.answer(challenge, policy=0x30000 | 1 << 19)
    context = _context()
    result = appraise(evidence, challenge, context)
    claims = credential.read(
        credential.issue(result, evidence, challenge, context.policy, key, now=context.now),
        dsse.public_bytes(key),
        context.now,
    )
    assert claims["stannary_accepted"] is False
    assert claims["stannary_tier"] == "T0"
    assert claims["submods"]["cpu"]["ear_status"] == "contraindicated"
    refused = [item for item in claims["submods"]["cpu"]["stannary_findings"] if item["severity"] == "refuse"]
    assert refused[0]["code"] == "guest-policy"
    assert refused[0]["remedy"]


def test_kept_evidence_is_exposed_by_a_new_denial(machine, tmp_path):
    """A new denial lists what rests on it, and the raw evidence can be appraised again."""
    challenge, folder = _challenge(), Folder(tmp_path)
    evidence, context = machine.answer(challenge), _context()
    result = appraise(evidence, challenge, context)
    folder.keep(evidence, challenge, result, context, format_moment(context.now))
    entries = list(folder.entries())
    assert [item.matched for item in exposed(entries, frozenset({"turin"}))] == [("turin",)]
    assert not list(exposed(entries, frozenset({"milan"})))
    chip = f"snp:{bytes(range(8)).hex()}"
    assert len(list(exposed(entries, frozenset({chip})))) == 1
    denied = again(folder, entries[0], context.policy, frozenset({"turin"}))
    assert denied.parts["cpu"].outcome == "refuse:tcb-not-allowed"
    assert folder.spend("abc") is False
    assert folder.spend("abc") is True


def test_changed_stored_evidence_is_noticed(machine, tmp_path):
    """Evidence on disk that was changed is not what the index names."""
    challenge, folder = _challenge(), Folder(tmp_path)
    evidence, context = machine.answer(challenge), _context()
    entry = folder.keep(evidence, challenge, appraise(evidence, challenge, context), context, "2026-11-22T00:00:05Z")
    (place,) = (tmp_path / "evidence").glob("*/*")
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(FormatError, match="changed"):
        folder.evidence(entry)


def test_envelope_reads_what_it_writes_and_nothing_more(machine):
    """An envelope survives a round trip; unknown members, kinds and names are refused."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    assert envelope.parse(evidence.to_bytes()) == evidence
    members = json.loads(evidence.to_bytes())
    for changed in ({**members, "extra": 1}, {**members, "submods": {"disk": members["submods"]["cpu"]}}):
        with pytest.raises(FormatError):
            envelope.parse(json.dumps(changed).encode())
    with pytest.raises(LimitExceeded):
        envelope.parse(b" " * (11 << 20))


@pytest.mark.parametrize("name", policy.BUILT_IN)
def test_built_in_policies_are_named_by_content(name):
    """Each policy of the release parses, explains itself, and has its own id."""
    loaded = policy.built_in(name)
    assert loaded.id.startswith("ni:///sha-384;")
    assert loaded.id not in {policy.built_in(other).id for other in policy.BUILT_IN if other != name}
    assert dict(policy.explain(loaded))["tier"] == f"at least {loaded.minimum_tier}"


def test_misspelt_policy_member_is_refused(tmp_path):
    """A floor nobody reads must not look like a floor."""
    from importlib import resources

    text = resources.files("stannary.certify").joinpath("policies/standard.toml").read_text()
    for changed in (
        text.replace("max_vmpl", "max_vmlp"),
        text.replace('"T0"', '"T9"'),
        text + "\n[extra]\nx = 1\n",
        "[",
    ):
        with pytest.raises(SpecError):
            policy.parse(changed.encode())


def test_anchor_separates_nonce_and_key():
    """No two (nonce, key) pairs share an anchor, and devices get nonces of their own."""
    first = anchors.anchor(b"a" * 32, b"b" * 32)
    assert len(first) == 48
    assert first != anchors.anchor(b"b" * 32, b"a" * 32)
    assert anchors.device_nonce(first, "1") != anchors.device_nonce(first, "2")
    for bad in ((b"a" * 31, b"b" * 32), (b"a" * 32, b"")):
        with pytest.raises(FormatError):
            anchors.anchor(*bad)


def test_notice_of_a_stranger_refuses_and_a_watchers_narrows(machine):
    """A notice the policy does not believe refuses the appraisal; a believed one names what it withdraws."""
    machine.gpus = []
    challenge, watcher = _challenge(), Ed25519PrivateKey.generate()
    evidence = machine.answer(challenge)
    entry = Withdrawal(f"snp:{bytes(range(8)).hex()}", CrlReason.CERTIFICATE_HOLD, "test", format_moment(world.NOW))
    signed = sign_notice(RevocationNotice("ann", format_moment(world.NOW), (entry,)), watcher)
    strange = appraise(evidence, challenge, _context(notices=(signed,)))
    assert strange.parts["revocations"].outcome == "refuse:collateral-invalid"
    assert not strange.accepted
    base = _context().policy
    trusting = replace(base, revocation_keys={"ann": dsse.public_bytes(watcher).hex()})
    held = appraise(evidence, challenge, _context(policy=trusting, notices=(signed,)))
    assert held.parts["cpu"].outcome == "valid-offline-only"
    assert held.decision.tier is Tier.T1
    before = _context(policy=trusting, notices=(signed,), now=world.NOW - timedelta(seconds=1))
    assert appraise(evidence, challenge, before).parts["cpu"].outcome == "valid"


def test_reappraisal_lists_and_judges_what_a_notice_withdraws(machine, tmp_path):
    """Kept appraisals of withdrawn hardware are found, and judged as if it had been known then."""
    machine.gpus = []
    challenge, store = _challenge(), Folder(tmp_path)
    evidence, context = machine.answer(challenge), _context()
    entry = store.keep(evidence, challenge, appraise(evidence, challenge, context), context, format_moment(context.now))
    identity = f"snp:{bytes(range(8)).hex()}"
    later = format_moment(world.NOW + timedelta(days=9))
    assert [item.matched for item in exposed(store.entries(), frozenset({identity}))] == [(identity,)]
    assert again(store, entry, context.policy, frozenset()).parts["cpu"].outcome == "valid"
    for status, outcome in (
        (CrlReason.CERTIFICATE_HOLD, "valid-offline-only"),
        (CrlReason.KEY_COMPROMISE, "refuse:revoked"),
    ):
        withdrawn = (Withdrawal(identity, status, "test", later),)
        assert again(store, entry, context.policy, frozenset(), withdrawn).parts["cpu"].outcome == outcome
