"""Attacks by somebody who holds real keys and real evidence, but not of the machine he sells.

Each test is one lie. Evidence is made in tests; the two Intel attacks need recorded quotes and are beside the
vectors (tests/vectors/certify).
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.certify import world
from tests.unit.certify.test_appraise import KEY_HASH, LEVEL, Machine, _challenge, _context

from stannary.certify import anchor as anchors
from stannary.certify import policy
from stannary.certify.appraise import appraise
from stannary.certify.envelope import Part
from stannary.certify.evidence import cbor, event_log, nitro
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.ear import EarVerifier
from stannary.certify.evidence.nvidia import FleetVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.grade import draw, matrix, prover, transcript
from stannary.certify.rules import GoldenBoot, Roots, Rules
from stannary.errors import FormatError, SpecError
from stannary.formats.predicates import Tier

BOUND = b"\x51" * 48
ANCHOR, OTHER_ANCHOR, N = b"\x61" * 48, b"\x62" * 48, 512
SEPARATOR, VARIABLE = 0x04, 0x80000001


@pytest.fixture
def machine(monkeypatch):
    """A machine whose vendors are pinned in place of the real ones."""
    made = Machine()
    roots = Roots(amd=made.amd.roots.amd, nvidia_device=made.nvidia.roots.nvidia_device)
    original = policy.Policy.rules
    monkeypatch.setattr(policy.Policy, "rules", lambda self, *rest: replace(original(self, *rest), roots=roots))
    return made


def _variable(value: bytes, name: str = "SecureBoot") -> bytes:
    vendor = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE
    return vendor + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def _tpm(key, log, *, quoted, listed=None, **members):
    """A TPM part: `quoted` registers are in the quote, `listed` beside it."""
    attest, signature = key.quote(BOUND, quoted)
    shown = {**quoted, **(listed or {})}
    return json.dumps(
        {"attest": attest.hex(), "signature": signature.hex(), "ak_public": key.public.hex(), "event_log": log.hex(),
         "pcrs": {str(index): value.hex() for index, value in shown.items()}, **members}
    ).encode()  # fmt: skip


def _appraise_tpm(blob, rules=None, *, bound=BOUND):
    return examine(
        TpmVerifier(), blob, Basis(bound=bound, collateral=Collateral(), now=world.NOW, rules=rules or Rules())
    )  # fmt: skip


def _replayed(log):
    return event_log.parse_log(log).replay("sha256")


def test_vcek_of_another_chip_of_the_model_vouches_for_nothing():
    """A genuine VCEK of the same model and TCB, swapped in, does not verify the report."""
    amd = world.Amd()
    mine, swapped = amd.vcek(LEVEL), amd.vcek(LEVEL, hwid=b"\x77" * 8)
    carried = Collateral(certificates=(swapped.certificate, amd.ask.certificate, amd.ark.certificate))
    found = examine(SnpVerifier(), amd.report(mine), Basis(bound=None, collateral=carried, now=world.NOW, rules=Rules(roots=amd.roots)))  # fmt: skip  # noqa: E501
    assert found.outcome == "refuse:signature-invalid"
    assert {"signature", "chip-id"} <= {item.id for item in found.findings}


def test_report_signed_by_a_chip_but_naming_another_is_refused():
    """A chip whose firmware writes another chip's id into its report is caught by its own certificate."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    carried = Collateral(certificates=(vek.certificate, amd.ask.certificate, amd.ark.certificate))
    lying = amd.report(vek, chip=b"\x77" * 8)
    found = examine(
        SnpVerifier(), lying, Basis(bound=None, collateral=carried, now=world.NOW, rules=Rules(roots=amd.roots))
    )
    assert found.outcome == "refuse:binding-mismatch"


def test_registers_beside_the_quote_that_it_does_not_cover_match_nothing():
    """Quoting PCR 23 alone and listing golden values beside it is no measured boot."""
    log = world.event_log([(4, 8, b"published loader")])
    golden = GoldenBoot("published image", {4: _replayed(log)[4]})
    blob = _tpm(world.TpmKey(), log, quoted={23: bytes(32)}, listed=_replayed(log))
    assert _appraise_tpm(blob, Rules(golden_boots=(golden,))).outcome == "refuse:reference-mismatch"


def test_secure_boot_is_not_believed_from_a_register_nobody_quoted():
    """A log that says Secure Boot, over a PCR 7 outside the quote, says nothing."""
    log = world.event_log([(7, VARIABLE, _variable(b"\1")), (7, SEPARATOR, bytes(4)), (4, 8, b"loader")])
    quoted = {4: _replayed(log)[4]}
    found = _appraise_tpm(_tpm(world.TpmKey(), log, quoted=quoted, listed=_replayed(log)))
    assert found.claims["secure_boot"] == "not measured"
    good = _appraise_tpm(_tpm(world.TpmKey(), log, quoted=_replayed(log)))
    assert good.claims["secure_boot"] == "on"


def test_secure_boot_added_after_the_separator_is_not_firmwares_word():
    """Root extends PCR 7 once the system runs: an event behind the separator is his."""
    log = world.event_log([(7, SEPARATOR, bytes(4)), (7, VARIABLE, _variable(b"\1"))])
    found = _appraise_tpm(_tpm(world.TpmKey(), log, quoted=_replayed(log)))
    assert found.claims["secure_boot"] == "not measured"
    assert any(item.id == "secure-boot" and item.cap == 0 for item in found.findings)


def test_renaming_the_real_secure_boot_event_hides_nothing():
    """The log's text is not what is measured: an event whose data was changed makes the state unknown."""
    real = _variable(b"\0")
    log = world.event_log([(7, VARIABLE, real), (7, VARIABLE, _variable(b"\1"))])
    renamed = log.replace(real, _variable(b"\0", "SecureBooT"), 1)
    assert renamed != log
    found = _appraise_tpm(_tpm(world.TpmKey(), renamed, quoted=_replayed(log)))
    assert found.valid
    assert found.claims["secure_boot"] == "not measured"


def test_extra_event_after_the_separator_does_not_replay():
    """An event slipped into the log, with the quote of the boot without it, is refused."""
    events = [(4, 8, b"loader"), (4, SEPARATOR, bytes(4))]
    log, longer = world.event_log(events), world.event_log([*events, (4, 8, b"blessed loader")])
    assert _appraise_tpm(_tpm(world.TpmKey(), longer, quoted=_replayed(log))).outcome == "refuse:replay-mismatch"


def test_attestation_key_that_can_leave_its_tpm_is_refused():
    """A restricted key without fixedTPM can be duplicated into a program that signs anything."""
    log = world.event_log([(4, 8, b"loader")])
    blob = _tpm(world.TpmKey(0x00050472 & ~0x12), log, quoted=_replayed(log))
    assert _appraise_tpm(blob).outcome == "refuse:ak-not-restricted"


def test_nonce_beside_the_evidence_makes_nothing_fresh():
    """An old quote that says which nonce it answers is judged by ours, and without ours is not fresh."""
    log = world.event_log([(4, 8, b"loader")])
    blob = _tpm(world.TpmKey(), log, quoted=_replayed(log), nonce_hex=BOUND.hex())
    assert _appraise_tpm(blob, bound=b"\x52" * 48).outcome == "refuse:nonce-mismatch"
    vendor = world.Nvidia()
    device = vendor.device()
    listed = [{"certificate": base64.b64encode(pem(vendor.chain(device)).encode()).decode(), "nonce": "11" * 32,
               "evidence": base64.b64encode(vendor.report(device, b"\x11" * 32)).decode()}]  # fmt: skip
    arguments = {"collateral": Collateral(), "now": world.NOW, "rules": Rules(roots=vendor.roots)}
    unasked = examine(FleetVerifier(), json.dumps(listed).encode(), Basis(bound=None, **arguments))
    assert [row.state for row in unasked.checks if row.id.endswith(".nonce")] == ["waived"]
    other = examine(FleetVerifier(), json.dumps(listed).encode(), Basis(bound=b"\x12" * 32, **arguments))
    assert other.outcome == "refuse:nonce-mismatch"


def test_envelope_nonce_of_another_challenge_is_not_used(machine):
    """Old evidence relabelled with the new challenge's id and nonce still binds the old nonce."""
    challenge = _challenge()
    stale = machine.answer(challenge, nonce=b"\x09" * 32)
    assert stale.nonce == challenge.nonce_bytes
    result = appraise(stale, challenge, _context())
    assert result.parts["cpu"].outcome == "refuse:nonce-mismatch"


def test_challenge_is_over_after_its_minute_and_after_its_answer(machine):
    """The second answer is refused, and so is the first one 61 seconds late."""
    machine.gpus = []
    challenge = _challenge()
    evidence = machine.answer(challenge)
    assert appraise(evidence, challenge, _context(now=world.NOW + timedelta(seconds=60))).accepted
    assert appraise(evidence, challenge, _context(now=world.NOW + timedelta(seconds=61))).decision.refused
    assert appraise(evidence, challenge, _context(spent=True)).decision.refused


def test_switch_in_a_gpus_place_is_refused(machine):
    """A switch signs no mode flag; presented as a GPU it must not skip that check."""
    challenge = _challenge()
    machine.gpus = [machine.nvidia.device("LS10 A01 FSP BROM")]
    result = appraise(machine.answer(challenge), challenge, _context())
    (name,) = [item for item in result.parts if item.startswith("gpu/")]
    assert result.parts[name].outcome == "refuse:binding-mismatch"


def test_one_attested_gpu_is_not_eight(machine):
    """One signed report does not carry a claim of eight, whatever devices the power test names."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    bound = anchors.anchor(challenge.nonce_bytes, KEY_HASH)
    bench = _prove(bound, [f"cuda:{index}" for index in range(8)])
    result = appraise(replace(evidence, bench=bench), challenge, _context(claims="8xH200"))
    assert result.parts["bench"].valid
    assert result.parts["claims"].outcome == "refuse:evidence-missing"
    assert "1 accelerators with valid evidence" in result.parts["claims"].findings[0].observed


def test_gpu_withheld_but_used_in_the_power_test_caps_the_machine(machine):
    """A confidential CPU beside a plain GPU is not a confidential machine with that GPU's power."""
    machine.gpus = []
    challenge = _challenge()
    evidence = machine.answer(challenge)
    bench = _prove(anchors.anchor(challenge.nonce_bytes, KEY_HASH), ["cuda:0"])
    assert appraise(evidence, challenge, _context()).decision.tier is Tier.T2
    assert appraise(replace(evidence, bench=bench), challenge, _context()).decision.tier is Tier.T0
    asking = replace(_context().policy, minimum_tier="T2")
    assert appraise(replace(evidence, bench=bench), challenge, _context(policy=asking)).decision.refused


def test_report_handed_in_under_two_names_is_one_device(machine):
    """A GPU's report copied under a second name shows no second GPU."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    (name,) = [item for item in evidence.parts if item.startswith("gpu/")]
    parts = {**evidence.parts, f"gpu/0{name.removeprefix('gpu/')}": evidence.parts[name]}
    result = appraise(replace(evidence, parts=parts), challenge, _context())
    assert result.parts["identity"].outcome == "refuse:identity-collision"
    assert not result.parts[f"gpu/0{name.removeprefix('gpu/')}"].valid


def test_evidence_of_one_kind_under_another_layer_is_refused(machine):
    """An SNP report in a GPU's place, or a GPU's in the CPU's, is not read as what it is not."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    wrong = {"gpu/aa": evidence.parts["cpu"], "cpu": Part("nvgpu", b"\x11\xe0")}
    result = appraise(replace(evidence, parts=wrong), challenge, _context())
    assert {result.parts[name].outcome for name in wrong} == {"refuse:unsupported"}


def _prove(anchor, names, *, rounds=2):
    ticks = iter(range(10_000))
    return prover.prove(
        anchor, names, n=N, duration_s=rounds, num_opened=draw.FILE_OPENED, clock=lambda: float(next(ticks)),
        make=lambda seed, shared, n, _device: prover.NumpyMultiplier(
            matrix.matrix(seed, "A", n), matrix.matrix(shared, "B", n)),
    )  # fmt: skip


def test_roots_of_another_nonce_spliced_into_a_transcript_are_refused():
    """A chain computed earlier under another nonce does not stand in for one device's work."""
    fresh, old = _prove(ANCHOR, ["cuda:0", "cuda:1"]), _prove(OTHER_ANCHOR, ["cuda:0", "cuda:1"])
    assert transcript.verify_bench(fresh, ANCHOR).problem == ""
    assert transcript.verify_bench({**fresh, "chains": [fresh["chains"][0], old["chains"][1]]}, ANCHOR).problem
    replayed = {**fresh["chains"][1], "roots": old["chains"][1]["roots"]}
    assert transcript.verify_bench({**fresh, "chains": [fresh["chains"][0], replayed]}, ANCHOR).problem


def test_devices_measured_one_after_the_other_sell_no_more_than_one():
    """One card that plays eight in turn takes eight windows, and the verifier's clock divides by all of them."""
    alone, turns = _prove(ANCHOR, ["cuda:0"]), _prove(ANCHOR, [f"cuda:{index}" for index in range(8)])
    for chain in (*alone["chains"], *turns["chains"]):
        chain["times_ms"] = [1] * len(chain["times_ms"])
    one, eight = transcript.verify_bench(alone, ANCHOR), transcript.verify_bench(turns, ANCHOR)
    assert not one.problem
    assert not eight.problem
    work = sum(2 * N**3 * len(chain["roots"]) for chain in turns["chains"])
    window_s = 10.0
    assert eight.int8_tops(8 * window_s) <= work / (8 * window_s) / 1e12
    assert eight.int8_tops(8 * window_s) <= 1.5 * max(one.int8_tops(window_s), work / 8 / window_s / 1e12)


def test_device_names_that_say_more_than_a_device_are_refused():
    """A chain is named for a device and nothing else; one name twice is one device."""
    answer = _prove(ANCHOR, ["cuda:0"])
    for name in ("0/8 x cuda", "0/cuda:0\n", "cuda:0", "0/npu:0"):
        with pytest.raises(FormatError):
            transcript.parse({**answer, "chains": [{**answer["chains"][0], "device": name}]})
    assert "one device" in transcript.verify_bench(_prove(ANCHOR, ["cuda:0", "cuda:0"]), ANCHOR).problem


def _document(pairs: list[tuple[bytes, bytes]]) -> bytes:
    payload = bytes([0xA0 | len(pairs)]) + b"".join(key + value for key, value in pairs)
    head = cbor.encode_bytes(b"\xa1\x01\x38\x22")  # {1: -35}
    return b"\x84" + head + b"\xa0" + cbor.encode_bytes(payload) + cbor.encode_bytes(bytes(96))


def test_nitro_document_with_a_doubled_key_is_malformed():
    """Two nonces in one map would be read as one by us and as the other by somebody else."""
    nonce = cbor.encode_text("nonce")
    doubled = _document([(nonce, cbor.encode_bytes(b"mine")), (nonce, cbor.encode_bytes(b"yours"))])
    with pytest.raises(FormatError, match="twice"):
        nitro.parse_document(doubled)
    overlong = _document([(b"\x01", b"\x01"), (b"\x18\x01", b"\x02")])  # 1, and 1 written in two bytes
    with pytest.raises(FormatError):
        nitro.parse_document(overlong)


def _token(header: dict, claims: dict, sign) -> bytes:
    def segment(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = segment(json.dumps(header).encode()) + b"." + segment(json.dumps(claims).encode())
    return signed + b"." + segment(sign(signed))


def test_ear_without_signature_or_by_another_key_affirms_nothing():
    """`alg: none`, HMAC with the public key as secret, a key carried in the header, another key: all refused."""
    import hashlib
    import hmac

    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    carried = base64.urlsafe_b64encode(stranger.public_key().public_bytes_raw()).rstrip(b"=").decode()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
    claims = {"eat_profile": "p", "submods": {"cpu": {"ear_status": "affirming"}}}
    basis = Basis(bound=None, collateral=Collateral(jwk=jwk), now=world.NOW, rules=Rules())
    tokens = {
        "none": _token({"alg": "none"}, claims, lambda _: b"x"),
        "hmac": _token({"alg": "HS256"}, claims, lambda data: hmac.new(raw, data, hashlib.sha256).digest()),
        "carried": _token({"alg": "EdDSA", "jwk": {**jwk, "x": carried}}, claims, stranger.sign),
        "other": _token({"alg": "EdDSA"}, claims, stranger.sign),
        "confused": _token({"alg": "ES256"}, claims, key.sign),
    }
    outcomes = {name: examine(EarVerifier(), token, basis).outcome for name, token in tokens.items()}
    assert outcomes == {
        "none": "refuse:unsupported", "hmac": "refuse:unsupported", "carried": "refuse:signature-invalid",
        "other": "refuse:signature-invalid", "confused": "refuse:signature-invalid",
    }  # fmt: skip
    assert examine(EarVerifier(), _token({"alg": "EdDSA"}, claims, key.sign), basis).outcome == "valid"


def test_policy_with_an_unknown_or_doubled_member_is_refused():
    """A member this release does not know, in any table, must not become no rule."""
    from importlib import resources

    text = resources.files("stannary.certify").joinpath("policies/confidential.toml").read_text()
    for table in ("[snp]", "[tdx]", "[tpm]", "[gpu]", "[vouch]", "[grade]"):
        with pytest.raises(SpecError):
            policy.parse(text.replace(table, f"{table}\nallow_debug = true").encode())
    with pytest.raises(SpecError):
        policy.parse(text.replace("[gpu]", '[gpu]\nrequired = "no"', 1).encode())


def test_no_power_is_believed_where_no_time_passed(machine):
    """Evaluated at the challenge's own moment the node's times bound nothing: not measured, and said so."""
    challenge = _challenge()
    evidence = machine.answer(challenge)
    bench = _prove(anchors.anchor(challenge.nonce_bytes, KEY_HASH), ["cuda:0"])
    answered = replace(evidence, bench=bench)
    at_once = appraise(answered, challenge, _context(now=world.NOW))
    assert at_once.elapsed_s == 0.0
    assert at_once.grade.vector(at_once.elapsed_s).get("int8_tops") is None
    assert at_once.grade.int8_tops(-1.0) == 0.0
    assert [row.state for row in at_once.parts["bench"].checks if row.id == "power"] == ["waived"]
    assert [item.cap for item in at_once.parts["bench"].findings if item.id == "power"] == [0]
    later = appraise(answered, challenge, _context(now=world.NOW + timedelta(seconds=2)))
    work = sum(item.operations for item in later.grade.powers)
    assert 0 < later.grade.int8_tops(later.elapsed_s) <= work / 2 / 1e12
