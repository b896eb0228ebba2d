"""Real evidence beside what its vendors signed about it, fetched from loopback in their services' own form."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from tests.integration.collateral.vendor_services import Reply, Services
from tests.vectors.certify.evidence_vectors import case, needs_vectors

from stannary.certify import layers
from stannary.certify.collateral import client
from stannary.certify.collateral.client import Fetch, Options
from stannary.certify.collateral.join import joined
from stannary.certify.collateral.plan import layer_needs
from stannary.certify.collateral.store import CollateralStore
from stannary.certify.envelope import Evidence, Part
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Rules

pytestmark = needs_vectors


class Recorded:
    """Intel's service, answering with what it answered when the quote was recorded."""

    def __init__(self, collateral: dict[str, str], *, hex_root: bool = False) -> None:
        self._recorded = collateral
        root = collateral["root_ca_crl"]
        self.bodies = {
            "tcb?fmspc=": ("TCB-Info-Issuer-Chain", "tcb_info", self._document("tcbInfo", "tcb_info")),
            "qe/identity": (
                "SGX-Enclave-Identity-Issuer-Chain",
                "qe_identity",
                self._document("enclaveIdentity", "qe_identity"),
            ),
            "pckcrl": ("SGX-PCK-CRL-Issuer-Chain", "pck_crl", bytes.fromhex(collateral["pck_crl"])),
            "rootcacrl": ("", "", root.encode() if hex_root else bytes.fromhex(root)),
        }

    def _document(self, member: str, name: str) -> bytes:
        """Signed text as it stands, beside its signature."""
        return f'{{"{member}":{self._recorded[name]},"signature":"{self._recorded[name + "_signature"]}"}}'.encode()

    def reply(self, path: str) -> Reply:
        """Answer by a part of the path."""
        for part, (header, name, body) in self.bodies.items():
            if part in path:
                chain = self._recorded.get(f"{name}_issuer_chain", "")
                return Reply(body, headers={header: quote(chain)} if header else {})
        return Reply(status=404)


@pytest.mark.parametrize("name", ["tdx-v4-uptodate", "sgx-sw-hardening"])
@pytest.mark.parametrize("hex_root", [False, True], ids=["der", "hex"])
def test_a_quote_is_judged_by_what_was_fetched(name, hex_root, tmp_path, monkeypatch):
    """The quote alone lacks collateral; with the fetched one it has the outcome of the manifest, then and later."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    recorded = case(name)
    kind, now = recorded.text("kind"), recorded.now(None)
    part = Part(kind, recorded.evidence())
    evidence = Evidence("c", bytes(32), bytes(32), {"cpu": part})

    def outcome(items, at=now):
        carried = joined(layers.read("cpu", part), items)
        verifier = IntelVerifier(kind)
        return examine(verifier, part.evidence, Basis(bound=None, collateral=carried, now=at, rules=Rules())).outcome

    assert outcome({}) == "refuse:collateral-missing"
    store = CollateralStore(tmp_path / "c.json")
    with Services(Recorded(json.loads(recorded.file(recorded.text("collateral"))), hex_root=hex_root)) as services:
        options = Options(bases=services.bases, sleep=lambda _: None)
        found = list(client.fetch(evidence, store, now, options))
        assert [item.state for item in found] == [Fetch.FETCHED] * 4, found
        assert any(f"/{kind}/certification/v4/tcb?fmspc=" in path for path in services.asked)
    assert outcome(store.load()) == recorded.text("expect")
    assert outcome(store.load(), datetime(2040, 1, 1, tzinfo=UTC)).startswith("refuse:")
    incomplete = {key: item for key, item in store.load().items() if item.kind != "intel-pck-crl"}
    assert outcome(incomplete) == "refuse:collateral-missing"


def test_real_evidence_names_what_its_vendors_published():
    """Ids read from real reports are those of the manifests and certificates recorded beside them."""
    report = case("gpu-sdk_hopperAttestationReport")
    chain = tuple(report.file(path) for path in report.members["chain"])
    device = layers.read("gpu/1", Part("nvgpu", report.evidence(), certificates=chain))
    gpu = {need.kind: need.name for need in layer_needs(device, {})}
    assert gpu["nvidia-vbios-rim"] == "NV_GPU_VBIOS_1010_0200_882_96005E0001"
    switch = case("gpu-sdk_switchAttestationReport")
    chain = tuple(switch.file(path) for path in switch.members["chain"])
    device = layers.read("nvswitch/1", Part("nvgpu", switch.evidence(), certificates=chain))
    needs = layer_needs(device, {})
    assert {need.name for need in needs if need.kind.endswith("-rim")} == {"NV_SWITCH_BIOS_5612_0002_890_9610550001"}
    asked = [need for need in needs if need.kind == "nvidia-ocsp"]
    assert [need.certificates[0].common_name() for need in asked] == [
        "LS_10 A01 FSP BROM",
        "NVIDIA LS_10 Provisioner ICA 1",
        "NVIDIA GH100 Identity",
    ]
    snp = case("snp-genoa-v5-live")
    vcek = next(
        need for need in layer_needs(layers.read("cpu", Part("snp", snp.evidence())), {}) if need.kind == "amd-vcek"
    )
    assert vcek.requests[0].path.startswith("vcek/v1/Genoa/b5f9a4c8280e63c9")
    assert vcek.requests[0].path.endswith("?blSPL=10&teeSPL=00&snpSPL=27&ucodeSPL=27")
