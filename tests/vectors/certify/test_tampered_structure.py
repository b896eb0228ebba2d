"""A hundred bits of each kind's whole evidence, structure included, each refused with the code of its place.

`test_tampered.py` flips what signatures cover; here every octet of a file has a region, and every region its
codes. A region that no signature and no check holds to anything would show as `valid`.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import struct
from dataclasses import dataclass
from itertools import pairwise

import pytest
from tests.vectors.certify.evidence_vectors import case, flip, needs_vectors, outcome

from stannary.certify.evidence import quote

pytestmark = needs_vectors
NUM_VARIANTS = 100
MALFORMED, UNSUPPORTED, SIGNATURE = "refuse:malformed", "refuse:unsupported", "refuse:signature-invalid"
CHAIN, BINDING, REPLAY, REFERENCE = (
    "refuse:chain-invalid", "refuse:binding-mismatch", "refuse:replay-mismatch", "refuse:reference-mismatch",
)  # fmt: skip
PARSE = {MALFORMED, UNSUPPORTED}
CERTIFICATE = {*PARSE, CHAIN, SIGNATURE}  # a bit of a certificate may break its encoding, its name or its signature


@dataclass(frozen=True)
class Region:
    """A span of octets and the codes a changed bit in it may have."""

    size: int
    codes: set[str]


def _sweep(name: str, regions: list[Region], variant, num_octets: int) -> None:
    """Flip a hundred bits spread over all regions, at least two a region, and check each one's code."""
    starts = [0]
    for region in regions:
        starts.append(starts[-1] + region.size)
    assert starts[-1] == num_octets, (starts[-1], num_octets)
    generator = random.Random(name)
    each = max(2, NUM_VARIANTS // len(regions) + 1)
    tried = 0
    for region, (start, end) in zip(regions, pairwise(starts), strict=True):
        for _ in range(each if end > start else 0):
            bit = 8 * generator.randrange(start, end) + generator.randrange(8)
            observed = outcome(name, variant(bit))
            assert observed in region.codes, (bit // 8 - start, bit % 8, start, observed)
            tried += 1
    assert tried >= NUM_VARIANTS


@pytest.mark.parametrize("name", ["snp-genoa-v5-live", "snp-milan-ms", "snp-vlek-in-window"])
def test_every_octet_of_an_snp_report(name):
    """Version and algorithm are unsupported, signed octets a false signature, octets behind it malformed."""
    blob = case(name).evidence()
    regions = [
        Region(4, {UNSUPPORTED}), Region(0x30, {SIGNATURE}), Region(4, {UNSUPPORTED}), Region(0x268, {SIGNATURE}),
        Region(144, {SIGNATURE}), Region(1184 - 0x2A0 - 144, {MALFORMED}),
    ]  # fmt: skip
    _sweep(name, regions, lambda bit: flip(blob, bit), len(blob))


def _quote_regions(blob: bytes, version: int, num_body: int, behind: str) -> list[Region]:
    """The regions of a DCAP quote up to its PCK chain, the chain's first certificate, and what follows."""
    regions = [Region(2, {UNSUPPORTED, MALFORMED}), Region(2, {UNSUPPORTED}), Region(4, {UNSUPPORTED, MALFORMED})]
    regions.append(Region(40, {SIGNATURE}))
    if version == 5:
        regions += [Region(2, PARSE), Region(4, {MALFORMED})]
    regions += [Region(num_body, {SIGNATURE}), Region(4, {MALFORMED}), Region(128, {SIGNATURE})]
    if version > 3:
        regions += [Region(2, {UNSUPPORTED}), Region(4, {MALFORMED})]
    regions += [Region(384 + 64, {SIGNATURE})]
    position = sum(item.size for item in regions)
    auth = struct.unpack_from("<H", blob, position)[0]
    regions += [Region(2, PARSE), Region(auth, {SIGNATURE}), Region(2, {UNSUPPORTED}), Region(4, {MALFORMED})]
    position = sum(item.size for item in regions)
    pem_end = len(quote.parse_quote(blob).raw)
    # Text between certificates, and the unused bits before a padding, say nothing: the first lines of one do.
    leaf = blob.index(b"-----BEGIN CERTIFICATE-----", position) + len("-----BEGIN CERTIFICATE-----") + 1
    regions += [Region(leaf - position, set()), Region(600, CERTIFICATE), Region(pem_end - leaf - 600, set())]
    return [*regions, Region(len(blob) - pem_end, {behind})]


@pytest.mark.parametrize(
    ("name", "version", "num_body"),
    [("tdx-v4-uptodate", 4, 584), ("tdx-v5-uptodate", 5, 648), ("sgx-sw-hardening", 3, 384)],
)
def test_every_octet_of_a_dcap_quote(name, version, num_body):
    """Types are unsupported, sizes malformed, signed octets a false signature, octets behind it free."""
    blob = case(name).evidence()
    regions, start = _quote_regions(blob, version, num_body, case(name).text("expect")), 0
    generator = random.Random(name)
    tried = 0
    for region in regions:
        for _ in range(8 if region.codes and region.size else 0):
            bit = 8 * (start + generator.randrange(region.size)) + generator.randrange(8)
            observed = outcome(name, flip(blob, bit))
            assert observed in region.codes, (start, bit - 8 * start, observed)
            tried += 1
        start += region.size
    assert start == len(blob)
    assert tried >= NUM_VARIANTS


@pytest.mark.parametrize(
    "name",
    ["gpu-sdk_hopperAttestationReport", "gpu-sdk_unit_hopperAttestationReport", "gpu-sdk_switchAttestationReport"],
)
def test_every_octet_of_a_device_report(name):
    """Versions and codes do not parse, sizes are malformed, everything else is a false signature."""
    blob = bytes.fromhex(case(name).evidence().decode())
    record = int.from_bytes(blob[42:45], "little")
    opaque = struct.unpack_from("<H", blob, 45 + record + 32)[0]
    regions = [
        Region(1, PARSE), Region(1, {MALFORMED}), Region(2 + 32 + 1, {SIGNATURE}), Region(1, PARSE),
        Region(1, {MALFORMED}), Region(2, {SIGNATURE}), Region(1, {MALFORMED}), Region(3, {MALFORMED}),
        Region(record, {SIGNATURE, MALFORMED}), Region(32, {SIGNATURE}), Region(2, {MALFORMED}),
        Region(opaque, {SIGNATURE}), Region(96, {SIGNATURE}),
    ]  # fmt: skip
    _sweep(name, regions, lambda bit: flip(blob, bit), len(blob))


@pytest.mark.parametrize("name", ["gpu-sdk_multi_gpu_hopper", "gpu-sdk_switch_evidence_ls10", "gpu-cert-hold"])
def test_every_member_of_a_fleet(name):
    """A bit of a report, certificate or nonce of any device refuses the fleet, with the code of its place."""
    devices = json.loads(case(name).evidence())
    generator = random.Random(name)
    for turn in range(NUM_VARIANTS):
        changed = [dict(item) for item in devices]
        target = generator.choice(changed)
        member = ("evidence", "certificate", "nonce")[turn % 3]
        if member == "nonce":
            raw = bytes.fromhex(target[member])
            target[member] = flip(raw, generator.randrange(8 * len(raw))).hex()
            expected = {"refuse:nonce-mismatch"}
        else:
            raw = base64.b64decode(target[member])
            bit = generator.randrange(8 * len(raw))
            while raw[bit // 8 : bit // 8 + 1] in {b"\n", b"="} or raw[bit // 8 + 1 : bit // 8 + 2] == b"=":
                bit = generator.randrange(8 * len(raw))  # line ends, and bits before a padding, say nothing in base64
            target[member] = base64.b64encode(flip(raw, bit)).decode()
            expected = CERTIFICATE if member == "certificate" else {*PARSE, SIGNATURE}
        observed = outcome(name, json.dumps(changed).encode())
        assert observed in expected, (turn, member, observed)


@pytest.mark.parametrize(
    "name", ["rim-NV_GPU_DRIVER_GH100_550", "rim-switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001"]
)
def test_every_octet_of_a_manifest(name):
    """A bit anywhere in a manifest's text breaks its XML, its certificates or its signature."""
    blob = case(name).evidence()
    text = blob.rstrip()
    generator = random.Random(name)
    for _ in range(NUM_VARIANTS):
        bit = generator.randrange(8 * len(text))
        observed = outcome(name, flip(blob, bit))
        assert observed in CERTIFICATE, (bit, blob[bit // 8 - 40 : bit // 8 + 40], observed)


def test_every_active_measurement_of_a_match():
    """A bit of a measurement the manifest names is another value; a bit of the manifest's is a false signature."""
    name = "rim-match-hopper-vbios"
    from stannary.certify.evidence import rim

    blob = bytes.fromhex(case(name).evidence().decode())
    manifest = case(name).file(case(name).text("rim"))
    active = {item.index + 1 for item in rim.parse_manifest(manifest).golden}
    places = [45 + 55 * (index - 1) + 7 for index in sorted(active)]
    generator = random.Random(name)
    for _ in range(NUM_VARIANTS):
        place = generator.choice(places) + generator.randrange(48)
        assert outcome(name, flip(blob, 8 * place + generator.randrange(8))) == REFERENCE, place


def test_every_octet_of_a_nitro_document():
    """A bit anywhere in a document breaks its CBOR, its certificates or its signature."""
    blob = case("nitro-prod").evidence()
    generator = random.Random("nitro")
    for _ in range(NUM_VARIANTS):
        bit = generator.randrange(8 * len(blob))
        observed = outcome("nitro-prod", flip(blob, bit))
        assert observed in CERTIFICATE, (bit, observed)


def test_structure_of_an_event_log():
    """A bit of a register, digest count, algorithm or size does not parse, or replays to something else."""
    plain = gzip.decompress(case("tdx-ccel-replay").evidence())
    offset, places = 32 + struct.unpack_from("<I", plain, 28)[0], []
    while plain[offset : offset + 4] != b"\xff" * 4:
        if struct.unpack_from("<I", plain, offset + 4)[0] != 3:
            places += [*range(offset, offset + 4), *range(offset + 8, offset + 62), *range(offset + 62, offset + 66)]
        offset += 14 + 48 + 4 + struct.unpack_from("<I", plain, offset + 14 + 48)[0]
    generator = random.Random("ccel")
    for _ in range(NUM_VARIANTS):
        place = generator.choice(places)
        observed = outcome("tdx-ccel-replay", flip(plain, 8 * place + generator.randrange(8)))
        assert observed in {*PARSE, REPLAY}, (place, observed)


def _azure(name: str, member: str, bit: int) -> bytes:
    members = json.loads(case(name).evidence())
    inner = members.get("evidence", members)
    raw = base64.urlsafe_b64decode(inner[member] + "=" * (-len(inner[member]) % 4))
    inner[member] = base64.urlsafe_b64encode(flip(raw, bit)).decode().rstrip("=")
    return json.dumps(members).encode()


@pytest.mark.parametrize("name", ["az-snp-genuine", "az-tdx-genuine"])
def test_every_octet_of_a_paravisors_report(name):
    """Header and sizes do not parse, hardware is a false signature or another report, claims are not bound."""
    members = json.loads(case(name).evidence())
    inner = members.get("evidence", members)
    raw = base64.urlsafe_b64decode(inner["hcl_report"] + "=" * (-len(inner["hcl_report"]) % 4))
    size = struct.unpack_from("<I", raw, 32 + 1184 + 16)[0]
    if name == "az-snp-genuine":
        hardware = [
            Region(4, {UNSUPPORTED}), Region(0x30, {SIGNATURE}), Region(4, {UNSUPPORTED}),
            Region(0x2A0 + 144 - 0x38, {SIGNATURE}), Region(1184 - 0x2A0 - 144, {MALFORMED}),
        ]  # fmt: skip
    else:  # type, CPUSVN and MAC of a TDREPORT are checked by the platform alone: nothing outside it can
        hardware = [
            Region(4, set()), Region(12, {BINDING}), Region(16, set()), Region(96 + 64 + 32, {BINDING}),
            Region(32, set()), Region(239 + 17, {BINDING}), Region(512, {BINDING}), Region(160, {BINDING}),
        ]  # fmt: skip
    regions = [
        Region(4, {MALFORMED}), Region(4, PARSE), Region(4, {MALFORMED}), Region(20, {MALFORMED}), *hardware,
        Region(4, {MALFORMED}), Region(4, {UNSUPPORTED}), Region(4, PARSE), Region(4, {UNSUPPORTED, BINDING}),
        Region(4, {MALFORMED}), Region(size, {MALFORMED, BINDING, SIGNATURE, UNSUPPORTED}),
        Region(len(raw) - 32 - 1184 - 20 - size, {MALFORMED}),
    ]  # fmt: skip
    start, generator, tried = 0, random.Random(name), 0
    for region in regions:
        for _ in range(9 if region.codes else 0):
            bit = 8 * (start + generator.randrange(region.size)) + generator.randrange(8)
            observed = outcome(name, _azure(name, "hcl_report", bit))
            assert observed in region.codes, (start, bit - 8 * start, observed)
            tried += 1
        start += region.size
    assert start == len(raw)
    assert tried >= NUM_VARIANTS


def test_every_octet_of_a_tpm_quote():
    """Magic, type and sizes do not parse; values, the key and the signature are false; registers are not bound."""
    name = "tpm-swtpm-valid"
    members = json.loads(case(name).evidence())
    attest = bytes.fromhex(members["attest_hex"])
    extra = struct.unpack_from(">H", attest, 42)[0]
    regions = [
        Region(4, {MALFORMED}), Region(2, {UNSUPPORTED}), Region(2, PARSE), Region(34, {SIGNATURE}), Region(2, PARSE),
        Region(extra, {SIGNATURE}), Region(25, {SIGNATURE}), Region(4, PARSE), Region(2, {UNSUPPORTED, SIGNATURE}),
        Region(1, PARSE), Region(3, {SIGNATURE}), Region(2, {MALFORMED}), Region(32, {SIGNATURE}),
    ]  # fmt: skip
    _sweep(
        name, regions, lambda bit: json.dumps({**members, "attest_hex": flip(attest, bit).hex()}).encode(), len(attest)
    )
    generator = random.Random(name)
    key = bytes.fromhex(members["ak_pub_tpmt_hex"])
    expected = {*PARSE, SIGNATURE, BINDING, "refuse:ak-not-restricted"}
    for member, raw, codes in (
        ("ak_pub_tpmt_hex", key, expected),
        ("signature_tpmt_hex", bytes.fromhex(members["signature_tpmt_hex"]), {*PARSE, SIGNATURE}),
        ("ak_name_hex", bytes.fromhex(members["ak_name_hex"]), {BINDING}),
        ("nonce_hex", bytes.fromhex(members["nonce_hex"]), {"refuse:nonce-mismatch"}),
    ):
        for _ in range(NUM_VARIANTS // 2):
            changed = flip(raw, generator.randrange(8 * len(raw)))
            observed = outcome(name, json.dumps({**members, member: changed.hex()}).encode())
            assert observed in codes, (member, changed.hex(), observed)


def test_every_character_of_a_token():
    """A bit anywhere in a token breaks its alphabet, its header, its claims or its signature."""
    name = "ear-rust-sample"
    token = case(name).evidence().strip()
    generator = random.Random(name)
    for _ in range(NUM_VARIANTS):
        bit = generator.randrange(8 * len(token))
        observed = outcome(name, flip(token, bit))
        assert observed in {*PARSE, SIGNATURE}, (bit, observed)
