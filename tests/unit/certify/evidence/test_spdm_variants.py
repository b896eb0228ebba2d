"""Device reports as SPDM and NVIDIA's opaque data vary them, singly and in fleets: the outcome and its code."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from tests.unit.certify import world

from stannary.certify.evidence import spdm
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nvidia import DeviceVerifier, FleetVerifier
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Rules

NONCE = b"\x21" * 32
VENDOR = world.Nvidia()
DEVICE = VENDOR.device()
RULES = Rules(roots=VENDOR.roots)


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


def _report(
    device,
    nonce: bytes,
    *,
    values: dict[int, bytes] | None = None,
    feature: int = 0,
    opaque: bytes | None = None,
    record: bytes | None = None,
    num_blocks: int | None = None,
    versions: tuple[int, int] = (0x11, 0x11),
) -> bytes:
    """A signed SPDM exchange; `opaque`, `record` and `num_blocks` replace what is made of the rest."""
    measured = values or {index: bytes([index]) * 48 for index in range(1, 5)}
    if record is None:
        record = b"".join(_block(index, value) for index, value in measured.items())
    if opaque is None:
        opaque = _tlv(3, b"580.95.05\0") + _tlv(20, b"\x77" * 48) + _tlv(6, bytes.fromhex("0074009620000000"))
        opaque += _tlv(34, b"\1\0\0\0") + _tlv(36, struct.pack("<I", feature))
    blob = bytes([versions[0]]) + b"\xe0\x01\xff" + nonce + b"\0" + bytes([versions[1]]) + b"\x60\0\0"
    blob += bytes([len(measured) if num_blocks is None else num_blocks])
    blob += len(record).to_bytes(3, "little") + record + b"\x42" * 32 + struct.pack("<H", len(opaque)) + opaque
    return blob + world.raw_signature(device.key, blob, hashes.SHA384())


def _appraise(report: bytes, *, device=DEVICE, chain=None):
    carried = Collateral(certificates=VENDOR.chain(device) if chain is None else chain)
    return examine(DeviceVerifier(), report, Basis(bound=NONCE, collateral=carried, now=world.NOW, rules=RULES))


@pytest.mark.parametrize("count", [1, 2, 12, 63, 64, 255])
def test_any_number_of_measurements_is_read(count):
    """One to 255 measurements, of any size, are read as they are written."""
    values = {index: bytes([index]) * (index % 60) for index in range(1, count + 1)}
    report = _report(DEVICE, NONCE, values=values)
    assert _appraise(report).outcome == "valid"
    assert spdm.parse_report(report).measurements == values


@pytest.mark.parametrize(("feature", "mode"), [(0, "single-gpu"), (1, "multi-gpu"), (2, "protected-pcie")])
def test_signed_feature_flag_says_the_mode(feature, mode):
    """Single, multi-GPU and protected PCIe modes are read from the signed flag."""
    found = _appraise(_report(DEVICE, NONCE, feature=feature))
    assert found.outcome == "valid"
    assert found.claims["cc_mode"] == mode


@pytest.mark.parametrize(
    "opaque",
    [
        b"",
        _tlv(36, b"\0\0\0\0"),  # a flag without the opaque data's version means nothing
        _tlv(34, b"\0\0\0\0") + _tlv(36, b"\0\0\0\0"),
        _tlv(34, b"\1\0\0\0") + _tlv(36, b"\7\0\0\0"),
        _tlv(34, b"\1\0\0\0") + _tlv(36, b""),
        _tlv(34, b"\1\0\0\0") + _tlv(36, b"\0" * 7 + b"\1"),
        _tlv(999, b"new") + _tlv(65535, b"") + _tlv(3, b"600.1\0"),
        _tlv(34, b"\1\0\0\0") + b"\x24\0\xff\xff\0",  # a field that runs over the end is no field
        b"\x24\0",
    ],
)
def test_opaque_data_nobody_knows_leaves_the_cap(opaque):
    """Unknown, absent, cut or contradictory fields are signed all the same: valid, with the mode not shown."""
    found = _appraise(_report(DEVICE, NONCE, opaque=opaque))
    assert found.outcome == "valid", found.findings
    assert any(item.id == "cc-mode" and item.cap == 1 for item in found.findings)


def test_first_of_two_fields_counts():
    """A second feature flag behind the first does not change what the first says."""
    opaque = _tlv(34, b"\1\0\0\0") + _tlv(36, b"\1\0\0\0") + _tlv(36, b"\2\0\0\0")
    assert _appraise(_report(DEVICE, NONCE, opaque=opaque)).claims["cc_mode"] == "multi-gpu"


@pytest.mark.parametrize(
    ("versions", "outcome"),
    [
        ((0x10, 0x10), "refuse:unsupported"),
        ((0x12, 0x12), "refuse:unsupported"),
        ((0x13, 0x11), "refuse:unsupported"),
        ((0x11, 0x12), "refuse:unsupported"),
        ((0x21, 0x11), "refuse:malformed"),
    ],
)
def test_protocol_versions(versions, outcome):
    """Only SPDM 1.1 signs in this way (1.2 puts a prefix before it): others are unsupported, in binary and in hex."""
    report = _report(DEVICE, NONCE, versions=versions)
    assert _appraise(report).outcome == outcome
    if versions[0] >> 4 == 1:
        assert _appraise(report.hex().encode()).outcome == outcome
        assert _appraise(b"\n0x" + report.hex().upper().encode() + b"\n").outcome == outcome
        assert _appraise(report.hex("\n", 30).encode()).outcome == outcome


def _block(
    index: int, value: bytes, *, specification: int = 1, size: int | None = None, inner: int | None = None
) -> bytes:
    data = struct.pack("<BH", 1, len(value) if inner is None else inner) + value
    return struct.pack("<BBH", index, specification, len(data) if size is None else size) + data


@pytest.mark.parametrize(
    ("record", "count"),
    [
        (_block(1, b"a" * 48), 2),  # fewer blocks than announced
        (_block(1, b"a" * 48) + _block(2, b"b" * 48), 1),  # more
        (_block(1, b"a" * 48) + _block(1, b"b" * 48), 2),  # one index twice
        (_block(1, b"a" * 48, size=400), 1),
        (_block(1, b"a" * 48, size=3), 1),
        (_block(1, b"a" * 48, inner=47), 1),
        (_block(1, b"a" * 48, inner=49), 1),
        (b"", 1),
        (b"\1", 1),
    ],
)
def test_measurement_records_that_lie_are_malformed(record, count):
    """Counts, sizes and indices that do not fit are malformed, signed or not."""
    assert _appraise(_report(DEVICE, NONCE, record=record, num_blocks=count)).outcome == "refuse:malformed"


def test_block_of_another_specification_is_compared_whole():
    """A measurement that is not DMTF's has no inside: its octets are its value."""
    report = _report(DEVICE, NONCE, record=_block(1, b"a" * 48, specification=0), num_blocks=1)
    assert spdm.parse_report(report).measurements[1] == b"\1\x30\0" + b"a" * 48
    assert _appraise(report).outcome == "valid"


def test_sizes_and_ends_are_exact():
    """Trailing bytes, cut signatures and lengths beyond the end are malformed."""
    report = _report(DEVICE, NONCE)
    for damaged in (
        report + b"\1",
        report + bytes(100) + b"\1" + bytes(100),
        report + bytes(8193),
        report[:-1],
        report[:36],
        report * 2,
        b"\x11\xe0",
        report[:42] + b"\xff" * 3 + report[45:],
    ):
        assert _appraise(damaged).outcome == "refuse:malformed"


@pytest.mark.parametrize("num_bytes", [1, 100, 8192])
def test_zero_fill_of_the_drivers_buffer_is_no_part_of_the_report(num_bytes):
    """Collectors that hand out the driver's whole buffer show the same device, as octets and as hex."""
    signed = iter(lambda: _report(DEVICE, NONCE), b"")
    report = next(made for made in signed if made[-1])  # a signature that itself ends in zero loses nothing below
    assert _appraise(report + bytes(num_bytes)).outcome == "valid"
    assert _appraise((report + bytes(num_bytes)).hex().encode()).outcome == "valid"
    assert _appraise(report[:-1] + bytes(num_bytes)).outcome == "refuse:signature-invalid"


def test_chain_may_come_in_any_order_and_must_be_whole():
    """Root first or leaf first is one chain; a missing link, a stranger's link or another device's leaf is not."""
    leaf, issuer, root = VENDOR.chain(DEVICE)
    report = _report(DEVICE, NONCE)
    for chain in ((root, issuer, leaf), (leaf, root, issuer), (leaf, issuer)):
        assert _appraise(report, chain=chain).outcome == "valid"
    assert _appraise(report, chain=(leaf, root)).outcome == "refuse:chain-invalid"
    stranger = world.Nvidia()
    assert _appraise(report, chain=(leaf, stranger.issuer.certificate)).outcome == "refuse:signature-invalid"
    other = VENDOR.device()
    assert _appraise(report, chain=VENDOR.chain(other)).outcome == "refuse:signature-invalid"
    assert _appraise(report, chain=()).outcome == "refuse:collateral-missing"


def _member(report: bytes, device=DEVICE, **changes: object) -> dict[str, object]:
    certificate = base64.b64encode(pem(VENDOR.chain(device)).encode()).decode()
    return {
        "arch": "BLACKWELL", "certificate": certificate, "nonce": NONCE.hex(),
        "evidence": base64.b64encode(report).decode(), **changes,
    }  # fmt: skip


def _fleet(listed: object) -> str:
    blob = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    basis = Basis(bound=None, collateral=Collateral(), now=world.NOW, rules=RULES, believes_nonce=True)
    return examine(FleetVerifier(), blob, basis).outcome


def test_fleets_of_gpus_and_switches():
    """Eight GPUs and four switches are one fleet; each one's nonce is its own."""
    made = []
    for number in range(12):
        device = VENDOR.device("LS10 A01 FSP FMC LF" if number >= 8 else "GB100 A01 GSP FMC LF")
        nonce = bytes([number]) * 32
        made.append(_member(_report(device, nonce), device, nonce=nonce.hex()))
    assert _fleet(made) == "valid"
    assert _fleet([*made[:-1], {**made[-1], "nonce": NONCE.hex()}]) == "refuse:nonce-mismatch"
    assert _fleet([*made, made[3]]) == "refuse:identity-collision"
    assert _fleet([*made[:-1], {**made[-1], "evidence": made[0]["evidence"]}]) == "refuse:signature-invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": None}, {"certificate": None}, {"certificate": ""}, {"evidence": ""}, {"evidence": "*"},
        {"nonce": "zz"}, {"nonce": 7}, {"arch": 7}, {"certificate": base64.b64encode(b"-----BEGIN X-----").decode()},
    ],
)  # fmt: skip
def test_members_that_do_not_read_are_malformed(changes):
    """Evidence, certificate, nonce and architecture of other types or encodings are malformed."""
    assert _fleet([_member(_report(DEVICE, NONCE), **changes)]) == "refuse:malformed"


def _request(members, **changes):
    devices = [{name: item[name] for name in ("evidence", "certificate")} for item in members]
    return {"nonce": NONCE.hex(), "arch": "HOPPER", "evidence_list": devices, **changes}


def test_requests_to_nvidias_service_and_trustees_lists_are_fleets():
    """The forms in which relays and Trustee's agent hand evidence on are read, with base64 and hex inside."""
    report, other = _report(DEVICE, NONCE), VENDOR.device()
    members = [_member(report), _member(_report(other, NONCE), other)]
    assert _fleet(_request(members)) == "valid"
    assert _fleet(_request(members, claims_version="3.0")) == "valid"
    assert _fleet(_request(members, nonce="22" * 32)) == "refuse:nonce-mismatch"
    assert _fleet(_request([members[0], members[0]])) == "refuse:identity-collision"
    listed = [{**item, "uuid": f"GPU-{number}", "arch": "Hopper"} for number, item in enumerate(members)]
    assert _fleet({"device_evidence_list": listed}) == "valid"
    for text in (report.hex(), report.hex().upper(), base64.b64encode(report.hex().encode()).decode()):
        assert _fleet({"device_evidence_list": [{**listed[0], "evidence": text}]}) == "valid"
        assert _fleet(_request([{**members[0], "evidence": text}])) == "valid"
        assert _fleet({**members[0], "evidence": text}) == "valid"  # one device, as the service's first versions ask
    assert _fleet({**members[0], "nonce": "22" * 32}) == "refuse:nonce-mismatch"
    filled = base64.b64encode(report + bytes(4000)).decode()
    assert _fleet({"device_evidence_list": [{**listed[0], "evidence": filled}]}) == "valid"
    changed = base64.b64encode(report[:60] + bytes([report[60] ^ 1]) + report[61:]).decode()
    assert _fleet(_request([{**members[0], "evidence": changed}])) == "refuse:signature-invalid"


def test_requests_that_contradict_themselves_are_malformed():
    """Two lists, no list, an empty one, another nonce inside and members of other types do not read."""
    members = [_member(_report(DEVICE, NONCE))]
    request = _request(members)
    other = [{**request["evidence_list"][0], "nonce": "22" * 32}]
    for damaged in (
        {**request, "device_evidence_list": request["evidence_list"]}, {**request, "evidence_list": []},
        {**request, "evidence_list": {}}, {**request, "evidence_list": None}, {**request, "evidence_list": other},
        {**request, "nonce": 7}, {**request, "nonce": "zz"}, {**request, "evidence_list": members * 33},
        {**request, "evidence": other[0]["evidence"]}, {**other[0], "certificate": 7}, {"evidence": members},
        {"nonce": NONCE.hex()}, {"device_evidence_list": "x"}, {"device_evidence_list": [[]]},
    ):  # fmt: skip
        assert _fleet(damaged) == "refuse:malformed", str(damaged)[:80]


def test_lists_that_are_no_fleet_are_malformed():
    """Empty lists, objects, 33 devices, doubled members and depth 33 are malformed; unknown members are not."""
    member = _member(_report(DEVICE, NONCE))
    for damaged in (
        [],
        {},
        [[member]],
        [member] * 33,
        b'[{"evidence":"", "evidence":""}]',
        b"[" * 33 + b"]" * 33,
    ):
        assert _fleet(damaged) == "refuse:malformed"
    assert _fleet([{**member, "later": 1}]) == "valid"
    del member["nonce"]
    assert _fleet([member]) == "valid"
