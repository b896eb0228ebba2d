"""A hundred tampered variants of each kind are refused with the right code."""

from __future__ import annotations

import base64
import gzip
import json
import random
import struct

import pytest
from tests.vectors.certify.evidence_vectors import case, flip, needs_vectors, outcome

pytestmark = needs_vectors
NUM_VARIANTS = 100
SIGNATURE = "refuse:signature-invalid"


def _bits(seed: str, spans: list[tuple[int, int]]) -> list[int]:
    """Return a hundred bits inside byte spans, the same every time."""
    generator = random.Random(seed)
    places = [offset for start, end in spans for offset in range(start, end)]
    return [8 * generator.choice(places) + generator.randrange(8) for _ in range(NUM_VARIANTS)]


@pytest.mark.parametrize("name", ["snp-genoa-v5-live", "snp-milan-trustee", "snp-vlek-in-window"])
def test_snp_report_with_any_bit_changed_is_refused(name):
    """A changed bit in an SNP report's signed span or signature is a false signature."""
    blob = case(name).evidence()
    spans = [(4, 0x34), (0x38, 0x2A0), (0x2A0, 0x2A0 + 48), (0x2A0 + 72, 0x2A0 + 72 + 48)]
    for bit in _bits(name, spans):
        assert outcome(name, flip(blob, bit)) == SIGNATURE, bit


def test_snp_version_and_algorithm_are_parsed_first():
    """A version or signature algorithm nobody knows is unsupported, before any signature."""
    blob = case("snp-genoa-v5-live").evidence()
    for offset in (0, 0x34):
        assert outcome("snp-genoa-v5-live", flip(blob, 8 * offset + 6)) == "refuse:unsupported"


@pytest.mark.parametrize(("name", "signed"), [("tdx-v4-uptodate", 632), ("tdx-v5-uptodate", 638 + 64)])
def test_tdx_quote_with_any_bit_changed_is_refused(name, signed):
    """A changed bit in a TD quote's header past its types, or its body, is a false signature."""
    blob = case(name).evidence()
    body = 48 if name == "tdx-v4-uptodate" else 54
    for bit in _bits(name, [(8, 48), (body, signed if body == 48 else body + 584)]):
        assert outcome(name, flip(blob, bit)) == SIGNATURE, bit


def test_sgx_quote_with_any_bit_changed_is_refused():
    """A changed bit in an enclave's quote is a false signature."""
    blob = case("sgx-sw-hardening").evidence()
    for bit in _bits("sgx", [(8, 48 + 384), (48 + 384 + 4, 48 + 384 + 4 + 128)]):
        assert outcome("sgx-sw-hardening", flip(blob, bit)) == SIGNATURE, bit


def test_event_log_with_any_digest_changed_does_not_replay():
    """A changed digest of a measured event makes the replay differ."""
    plain = gzip.decompress(case("tdx-ccel-replay").evidence())
    offset, spans = 32 + struct.unpack_from("<I", plain, 28)[0], []
    while plain[offset : offset + 4] != b"\xff" * 4:
        kind = struct.unpack_from("<I", plain, offset + 4)[0]
        if kind != 3:
            spans.append((offset + 14, offset + 14 + 48))
        offset += 14 + 48 + 4 + struct.unpack_from("<I", plain, offset + 14 + 48)[0]
    for bit in _bits("ccel", spans):
        assert outcome("tdx-ccel-replay", flip(plain, bit)) == "refuse:replay-mismatch", bit


@pytest.mark.parametrize(
    "name",
    ["gpu-sdk_hopperAttestationReport", "gpu-sdk_unit_hopperAttestationReport", "gpu-sdk_switchAttestationReport"],
)
def test_device_report_with_any_value_changed_is_refused(name):
    """A changed nonce, measurement, or signature bit of a GPU or switch report is a false signature."""
    blob = bytes.fromhex(case(name).evidence().decode())
    record = int.from_bytes(blob[42:45], "little")
    values = [(start + 7, start + 55) for start in range(45, 45 + record, 55)]
    spans = [(4, 37), *values, (45 + record, 45 + record + 32), (len(blob) - 96, len(blob))]
    for bit in _bits(name, spans):
        assert outcome(name, flip(blob, bit)) == SIGNATURE, bit


def test_fleet_with_any_report_changed_is_refused():
    """One changed bit in one device of four refuses the fleet."""
    devices = json.loads(case("gpu-sdk_multi_gpu_hopper").evidence())
    generator = random.Random("fleet")
    for bit in _bits("fleet", [(4, 37), (52, 100)]):
        changed = [dict(item) for item in devices]
        target = generator.choice(changed)
        target["evidence"] = base64.b64encode(flip(base64.b64decode(target["evidence"]), bit)).decode()
        assert outcome("gpu-sdk_multi_gpu_hopper", json.dumps(changed).encode()) == SIGNATURE, bit


def test_manifest_with_any_golden_value_changed_is_refused():
    """A changed hex digit of a golden value breaks the manifest's signature."""
    name = "rim-NV_GPU_DRIVER_GH100_550"
    text = case(name).evidence().decode()
    places = [
        index + 7 + shift for index in range(len(text)) if text.startswith('Hash0="', index) for shift in range(96)
    ]
    for place in random.Random("rim").sample(places, NUM_VARIANTS):
        digit = "0" if text[place] != "0" else "1"
        assert outcome(name, (text[:place] + digit + text[place + 1 :]).encode()) == SIGNATURE, place


def test_nitro_document_with_any_value_changed_is_refused():
    """A changed register, module name or signature bit of a Nitro document is a false signature."""
    blob = case("nitro-prod").evidence()
    end = len(blob)
    start = blob.index(b"\x64pcrs") + 6
    module = blob.index(b"module_id") + 11
    spans = [(start + 3 + 51 * index, start + 3 + 51 * index + 48) for index in range(4)]
    for bit in _bits("nitro", [*spans, (end - 96, end)]):
        assert outcome("nitro-prod", flip(blob, bit)) == SIGNATURE, bit
    assert outcome("nitro-prod", flip(blob, 8 * (module + 2))) == SIGNATURE


def _azure_variant(name: str, member: str, place: int) -> bytes:
    members = json.loads(case(name).evidence())
    inner = members.get("evidence", members)
    if member in ("hcl_report", "td_quote"):
        raw = base64.urlsafe_b64decode(inner[member] + "=" * (-len(inner[member]) % 4))
        inner[member] = base64.urlsafe_b64encode(flip(raw, place)).decode().rstrip("=")
    else:
        inner["tpm_quote"][member] = flip(bytes.fromhex(inner["tpm_quote"][member]), place).hex()
    return json.dumps(members).encode()


@pytest.mark.parametrize("name", ["az-snp-genuine", "az-tdx-genuine"])
def test_azure_composite_with_any_layer_changed_is_refused(name):
    """A changed hardware report, TD quote or vTPM quote of an Azure composite is a false signature."""
    hardware = ("hcl_report", [(32 + 4, 32 + 0x34), (32 + 0x38, 32 + 0x2A0)])
    layers = [hardware if name == "az-snp-genuine" else ("td_quote", [(8, 632)]), ("signature", [(0, 256)])]
    for member, spans in layers:
        for bit in _bits(name + member, spans)[: NUM_VARIANTS // 2]:
            assert outcome(name, _azure_variant(name, member, bit)) == SIGNATURE, (member, bit)


def test_azure_runtime_claims_of_another_machine_do_not_bind():
    """Changed runtime claims are no longer the ones the hardware vouches for."""
    members = json.loads(case("az-snp-genuine").evidence())
    inner = members["evidence"]
    raw = base64.urlsafe_b64decode(inner["hcl_report"] + "=" * (-len(inner["hcl_report"]) % 4))
    changed = raw.replace(b'"secure-boot":true', b'"secure-boot":tru\x65').replace(
        b'"vmUniqueId":"', b'"vmUniqueId":"0', 1
    )
    assert changed != raw
    inner["hcl_report"] = base64.urlsafe_b64encode(changed[: len(raw)]).decode().rstrip("=")
    assert outcome("az-snp-genuine", json.dumps(members).encode()) in {"refuse:binding-mismatch", "refuse:malformed"}


def test_tpm_quote_with_any_bit_changed_is_refused():
    """A changed bit in a quote's values or signature is a false signature."""
    members = json.loads(case("tpm-swtpm-valid").evidence())
    for bit in _bits("attest", [(8, 42), (44, 76), (76, 101), (113, 145)])[: NUM_VARIANTS // 2]:
        changed = {**members, "attest_hex": flip(bytes.fromhex(members["attest_hex"]), bit).hex()}
        assert outcome("tpm-swtpm-valid", json.dumps(changed).encode()) == SIGNATURE, bit
    for bit in _bits("signature", [(6, 38), (40, 72)])[: NUM_VARIANTS // 2]:
        changed = {**members, "signature_tpmt_hex": flip(bytes.fromhex(members["signature_tpmt_hex"]), bit).hex()}
        assert outcome("tpm-swtpm-valid", json.dumps(changed).encode()) == SIGNATURE, bit


def test_tpm_registers_beside_the_quote_must_be_the_quoted_ones():
    """A changed register value is not what the quote covers."""
    members = json.loads(case("tpm-swtpm-valid").evidence())
    for index in range(8):
        changed = {**members, "pcrs_sha256": {**members["pcrs_sha256"], str(index): "11" * 32}}
        assert outcome("tpm-swtpm-valid", json.dumps(changed).encode()) == "refuse:binding-mismatch"


def test_tpm_key_without_restriction_is_refused():
    """A key whose public area does not say restricted is refused by its own code."""
    members = json.loads(case("tpm-swtpm-valid").evidence())
    unrestricted = members["ak_pub_tpmt_hex"].replace("00050472", "00040472", 1)
    changed = {**members, "ak_pub_tpmt_hex": unrestricted}
    assert outcome("tpm-swtpm-valid", json.dumps(changed).encode()) == "refuse:ak-not-restricted"


def test_ear_with_any_claim_changed_is_refused():
    """A changed character of an EAR's claims or signature is refused, whatever it still parses as."""
    name = "ear-rust-sample"
    token = case(name).evidence().strip()
    head, body, _tail = token.split(b".")
    generator = random.Random("ear")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    start = len(head) + 1
    for _ in range(NUM_VARIANTS):
        place = generator.randrange(start, len(token) - 1)
        if token[place] == ord("."):
            continue
        letter = bytes([generator.choice([item for item in alphabet if item != token[place]])])
        changed = token[:place] + letter + token[place + 1 :]
        expected = {SIGNATURE} if place > start + len(body) else {SIGNATURE, "refuse:malformed"}
        assert outcome(name, changed) in expected, place
