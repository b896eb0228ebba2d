"""What evidence needs: names read from it, requests to allowed places only, items joined by the newer copy."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509 import ocsp as ocsp_format
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.collateral.vendor_services import BOARD, LEVEL, Machine
from tests.unit.certify import world
from tests.unit.certify.intel_world import Intel

from stannary.certify import challenge as challenges
from stannary.certify import layers
from stannary.certify.collateral import items as collateral_items
from stannary.certify.collateral import join as collateral_join
from stannary.certify.collateral import names as collateral_names
from stannary.certify.collateral import plan as collateral_plan
from stannary.certify.collateral.items import Item
from stannary.certify.collateral.plan import BASES, Service, layer_needs
from stannary.certify.envelope import Part
from stannary.certify.evidence import spdm
from stannary.certify.evidence.collateral import Collateral, IntelCollateral, SignedJson, newest_of
from stannary.certify.evidence.kinds import VERIFIERS
from stannary.certify.evidence.tcb import pem
from stannary.certify.rules import Generation
from stannary.errors import FormatError

CHALLENGE = challenges.issue(world.NOW, nonce=b"\x01" * 32)[0]


def _read(part):
    return layers.read(min(VERIFIERS[part.kind].places), part)


def part_needs(part, items):
    """What a part needs, where a node has it."""
    return layer_needs(_read(part), items)


def _snp(generation, **changes):
    amd = world.Amd(generation)
    hwid = bytes(range(8)) if generation is Generation.TURIN else bytes(range(64))
    vek = amd.vcek(LEVEL, hwid)
    report = amd.report(vek, chip=hwid, **changes)
    return {need.kind: need for need in part_needs(Part("snp", report), {})}, amd, vek


@pytest.mark.parametrize(
    ("generation", "path"),
    [
        (Generation.MILAN, f"vcek/v1/Milan/{bytes(range(64)).hex()}?blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=04"),
        (Generation.GENOA, f"vcek/v1/Genoa/{bytes(range(64)).hex()}?blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=04"),
        (Generation.TURIN, "vcek/v1/Turin/0001020304050607?fmcSPL=05&blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=04"),
    ],
)
def test_each_generation_is_asked_for_in_its_own_spelling(generation, path):
    """Chip id length, levels and product follow the generation the report names."""
    needs, _, _ = _snp(generation)
    (request,) = needs["amd-vcek"].requests
    assert request.url({}) == f"{BASES[Service.AMD]}/{path}"
    assert request.url({Service.AMD: "http://mirror/kds/"}) == f"http://mirror/kds/{path}"
    product = generation.value.capitalize()
    assert needs["amd-crl"].requests[0].path == f"vcek/v1/{product}/crl"
    assert needs["amd-chain"].requests[0].path == f"vcek/v1/{product}/cert_chain"


def test_a_report_without_cpuid_asks_for_both_and_settles_by_the_endorsement():
    """A version 2 report may be of two generations; what the vendor answers decides for chain and list."""
    needs, amd, vek = _snp(Generation.GENOA, version=2)
    assert [item.path.split("/")[2] for item in needs["amd-vcek"].requests] == ["Milan", "Genoa"]
    assert "amd-crl" not in needs
    key = needs["amd-vcek"].key
    ask = world.issue("SEV-Genoa", amd.ark, ca=True)
    leaf = world.issue("SEV-VCEK", ask)
    part = Part("snp", amd.report(vek, chip=bytes(range(64)), version=2))
    settled = {need.kind: need for need in part_needs(part, {key: Item(*key, leaf.certificate.raw)})}
    assert settled["amd-crl"].requests[0].path == "vcek/v1/Genoa/crl"


def test_what_cannot_be_asked_for_says_why_and_what_to_do():
    """A masked chip and a cloud's key have no address; the need says so."""
    hidden, _, _ = _snp(Generation.TURIN)
    assert hidden["amd-vcek"].requests
    amd = world.Amd()
    masked = amd.report(amd.vcek(LEVEL), chip=bytes(64))
    cloud = amd.report(amd.vcek(LEVEL), flags=1 << 2)
    for report, kind in ((masked, "amd-vcek"), (cloud, "amd-vlek")):
        (need,) = [item for item in part_needs(Part("snp", report), {}) if item.kind == kind]
        assert need.requests == ()
        assert need.reason
        assert need.hint
    assert {need.requests[0].path.split("/")[0] for need in part_needs(Part("snp", cloud), {}) if need.requests} == {
        "vlek"
    }
    (unread,) = part_needs(Part("snp", b"short"), {})
    assert "does not read" in unread.reason


def test_carried_certificates_are_not_asked_for_again():
    """An endorsement and a chain in the evidence are enough; the list is asked for all the same."""
    amd = world.Amd()
    vek = amd.vcek(LEVEL)
    chain = pem((vek.certificate, amd.ask.certificate, amd.ark.certificate)).encode()
    needs = {need.kind: need for need in part_needs(Part("snp", amd.report(vek), certificates=(chain,)), {})}
    assert needs["amd-vcek"].is_carried
    assert needs["amd-chain"].is_carried
    assert needs["amd-crl"].requests


def _access(url: str) -> dict[str, bytes]:
    described = x509.AuthorityInformationAccess(
        [x509.AccessDescription(x509.AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))]
    )
    return {"1.3.6.1.5.5.7.1.1": described.public_bytes()}


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://ocsp.ndis.nvidia.com", "http://ocsp.ndis.nvidia.com"),
        ("http://169.254.169.254/latest/meta-data", ""),
        ("http://ocsp.ndis.nvidia.com@127.0.0.1/", ""),
        ("http://ocsp.ndis.nvidia.com.evil.example/", ""),
        ("http://ocsp.ndis.nvidia.com:8080/", ""),
        ("file:///etc/passwd", ""),
    ],
)
def test_evidence_cannot_choose_who_is_asked(url, asked):
    """A responder is taken from a certificate at its vendor's host only; otherwise the vendor's own is asked."""
    issuer = world.issue("CA", ca=True)
    subject = world.issue("device", issuer, extensions=_access(url))
    assert collateral_names.responder(subject.certificate) == asked
    chain = pem((subject.certificate, issuer.certificate)).encode()
    report = world.Nvidia().report(subject, b"\x11" * 32)
    (need,) = [
        item for item in part_needs(Part("nvgpu", report, certificates=(chain,)), {}) if item.kind == "nvidia-ocsp"
    ]
    assert need.requests[0].url({}) == (asked or f"{BASES[Service.OCSP]}/")
    assert need.requests[0].url({Service.OCSP: "http://mirror"}) == "http://mirror/"
    read = ocsp_format.load_der_ocsp_request(need.requests[0].body)
    assert read.serial_number == subject.certificate.serial
    assert read.hash_algorithm.name == "sha384"


def test_manifests_are_named_by_the_signed_report():
    """Driver and VBIOS manifests are named as NVIDIA's verifiers name them; words that fit no id are not asked for."""
    machine = Machine()
    evidence = machine.evidence(CHALLENGE)
    part = next(item for name, item in evidence.parts.items() if name.startswith("gpu/"))
    named = {need.kind: need.name for need in part_needs(part, {})}
    assert named["nvidia-driver-rim"] == "NV_GPU_DRIVER_GH100_580.95.05"
    assert named["nvidia-vbios-rim"] == "NV_GPU_VBIOS_G520_0280_895_9600740020"
    report = spdm.parse_report(part.evidence)
    opaque = {**report.opaque, collateral_names.CHIP_INFO: b"GB100\0"}
    assert collateral_names.driver_rim_id(replace(report, opaque=opaque), ()) == "NV_GPU_CC_DRIVER_GB100_580.95.05"
    for text in (b"../../x", b"a b", b"", b"x" * 65, b"a?b=c", b"\xff"):
        bent = replace(report, opaque={**report.opaque, spdm.PROJECT: text, spdm.DRIVER_VERSION: text})
        assert collateral_names.vbios_rim_id(bent, is_switch=False) == ""
        assert collateral_names.driver_rim_id(bent, ()) == ""
    assert collateral_names.board_of(report) == "_".join(BOARD)


def test_a_chain_in_any_order_names_the_same_needs():
    """Some collectors write the root first; the needs are those of the chain, not of its order."""
    machine = Machine()
    part = next(item for name, item in machine.evidence(CHALLENGE).parts.items() if name.startswith("gpu/"))
    issued = (machine.alias, machine.card, machine.nvidia.issuer, machine.nvidia.root)
    backwards = replace(part, certificates=tuple(item.certificate.raw for item in reversed(issued)))
    assert {need.key for need in part_needs(backwards, {})} == {need.key for need in part_needs(part, {})}
    asked = [need.certificates[0] for need in part_needs(part, {}) if need.kind == "nvidia-ocsp"]
    assert asked == [machine.card.certificate, machine.nvidia.issuer.certificate]


def test_signers_of_a_manifest_are_asked_about_once_it_is_there():
    """OCSP answers for a manifest's signers show as needs when the manifest is at hand, fetched or carried."""
    machine = Machine()
    part = next(item for name, item in machine.evidence(CHALLENGE).parts.items() if name.startswith("gpu/"))
    name = "NV_GPU_DRIVER_GH100_580.95.05"
    manifest = machine.manifests[name]
    signer = machine.signer.leaf.certificate.fingerprint
    before = {need.name for need in part_needs(part, {})}
    item = Item("nvidia-driver-rim", name, manifest)
    fetched = {need.name for need in part_needs(part, {item.key: item})}
    carried = {need.name: need for need in part_needs(replace(part, rims=(manifest,)), {})}
    assert signer not in before
    assert signer in fetched
    assert signer in carried
    assert carried[name].is_carried


def _intel(issued, crl_at, mark):
    text = f'{{"issueDate":"{issued}"}}'
    root = world.issue("Root", ca=True)
    return IntelCollateral(
        SignedJson(text, mark, ()),
        SignedJson(text, mark, ()),
        world.crl(root, at=crl_at),
        world.crl(root, at=crl_at),
        (),
    )


def test_the_newer_copy_of_each_artifact_counts():
    """A node cannot bring an old list in beside newer TCB info, nor old TCB info over a newer one we hold."""
    ours = _intel("2026-11-01T00:00:00Z", world.NOW - timedelta(days=1), b"ours")
    theirs = _intel("2026-11-20T00:00:00Z", world.NOW - timedelta(days=20), b"theirs")
    joined = newest_of(ours, theirs)
    assert joined.tcb_info.signature == b"theirs"
    assert joined.pck_crl == ours.pck_crl
    assert joined.root_crl == ours.root_crl
    assert newest_of(theirs, ours) == joined
    broken = replace(theirs, tcb_info=SignedJson("not json", b"bad", ()), pck_crl=b"junk")
    assert newest_of(ours, broken).tcb_info.signature == b"ours"
    assert newest_of(ours, broken).pck_crl == ours.pck_crl
    assert newest_of(None, theirs) is theirs
    assert newest_of(ours, None) is ours


@pytest.mark.parametrize("what", ["tcb_info", "qe_identity"])
def test_an_earlier_evaluation_signed_anew_does_not_count_as_newer(what):
    """Intel signs earlier TCB evaluations anew, dated today: a node bringing one in does not undo the later one."""

    def dated(date: str, number: object, mark: bytes) -> SignedJson:
        return SignedJson(json.dumps({"issueDate": date, "tcbEvaluationDataNumber": number}), mark, ())

    base = _intel("2026-11-01T00:00:00Z", world.NOW, b"base")

    def winner(mine: SignedJson, theirs: SignedJson) -> bytes:
        joined = newest_of(replace(base, **{what: mine}), replace(base, **{what: theirs}))
        return getattr(joined, what).signature

    ours = dated("2026-11-01T00:00:00Z", 20, b"ours")
    assert winner(ours, dated("2026-11-20T00:00:00Z", 17, b"theirs")) == b"ours"
    assert winner(ours, dated("2026-10-01T00:00:00Z", 21, b"theirs")) == b"theirs"
    assert winner(ours, dated("2026-11-02T00:00:00Z", 20, b"theirs")) == b"theirs"
    assert winner(ours, dated("2026-10-31T00:00:00Z", 20, b"theirs")) == b"ours"
    for nothing in (None, "99", True, 99.5, -1):
        assert winner(ours, dated("2026-11-20T00:00:00Z", nothing, b"theirs")) == b"ours"


def test_items_of_another_machine_do_not_ride_in():
    """Only what a part's evidence names joins it: another chip's endorsement in the same folder stays out."""
    amd, other = world.Amd(), world.Amd()
    vek = amd.vcek(LEVEL)
    part = Part("snp", amd.report(vek))
    stray = Item("amd-vcek", "00/11", other.vcek(LEVEL).certificate.raw)
    assert collateral_join.joined(_read(part), {stray.key: stray}).certificates == ()
    key = next(need.key for need in part_needs(part, {}) if need.kind == "amd-vcek")
    mine = Item(*key, vek.certificate.raw)
    both = {stray.key: stray, mine.key: mine}
    assert collateral_join.joined(_read(part), both).certificates == (vek.certificate,)


@pytest.mark.parametrize("kept", ["tcb-info", "qe-identity", "pck-crl", "root-crl"])
def test_one_item_we_hold_stands_against_a_carried_copy(kept):
    """A fetch that brought only some of Intel's artifacts still keeps a node from bringing in older ones."""
    now, before = Intel(), Intel(now=world.NOW - timedelta(days=20))
    before.root, before.platform, before.signer, before.pck = now.root, now.platform, now.signer, now.pck
    held, old = now.collateral(), before.collateral(tcbEvaluationDataNumber=17)
    chain = pem(held.tcb_info.chain).encode()

    def document(member: str, signed: SignedJson) -> bytes:
        return f'{{"{member}":{signed.text},"signature":"{signed.signature.hex()}"}}'.encode()

    data = {
        "tcb-info": document("tcbInfo", held.tcb_info),
        "qe-identity": document("enclaveIdentity", held.qe_identity),
        "pck-crl": held.pck_crl,
        "root-crl": held.root_crl,
    }
    part = Part("tdx", now.quote())
    needs = {need.kind.rpartition("intel-")[2].removeprefix("tdx-"): need.key for need in part_needs(part, {})}
    item = Item(*needs[kept], data[kept], chain if "-crl" not in kept else b"")
    joined = collateral_join.joined(replace(_read(part), carried=Collateral(intel=old)), {item.key: item}).intel
    for name in ("tcb-info", "qe-identity", "pck-crl", "root-crl"):
        member = name.replace("-", "_")
        assert getattr(joined, member) == getattr(held if name == kept else old, member)
    assert collateral_join.joined(_read(part), {item.key: item}).intel is None


def test_items_are_written_and_read_back():
    """A file of items reads back as it was; unknown members, profiles and times are refused."""
    item = Item(
        "amd-crl", "vcek/Turin", b"\x00\x01", b"pem", "https://x", "2026-11-22T00:00:00Z", "2026-12-22T00:00:00Z"
    )
    data = collateral_items.to_bytes([item])
    assert collateral_items.parse(data) == {item.key: item}
    assert item.is_fresh(world.NOW)
    assert not item.is_fresh(world.NOW + timedelta(days=31))
    for bad in (
        b"{}",
        data.replace(b"#1", b"#2"),
        data.replace(b'"kind"', b'"kimd"'),
        data.replace(b"2026-12-22", b"2026-19-22"),
    ):
        with pytest.raises(FormatError):
            collateral_items.parse(bad)


@given(st.binary(max_size=200))
def test_any_bytes_as_items_are_ours_to_refuse(data):
    """What is no file of items raises our error."""
    try:
        collateral_items.parse(data)
    except FormatError:
        return
    raise AssertionError("random bytes are no file of items")


def test_every_kind_a_verifier_names_has_a_way():
    """No verifier can ask for collateral that nothing here knows how to get or to explain."""
    machine = Machine()
    parts = {**machine.evidence(CHALLENGE).parts}
    for part in parts.values():
        verifier = VERIFIERS[part.kind]
        for key in verifier.collateral_keys(verifier.parse(part.evidence)):
            assert key.kind in collateral_plan._NEEDS
