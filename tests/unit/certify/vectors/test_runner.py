"""The vectors runner: what a case reads, and what it says of evidence, collateral and manifests that do not read."""

from __future__ import annotations

import json

import pytest
from tests.unit.certify import rim_world, world

from stannary.certify.evidence.tcb import pem
from stannary.certify.rules import Generation, SnpTcb
from stannary.certify.vectors import cases, runner
from stannary.errors import FormatError, NotFound, UnsupportedFormat

NOW = "2026-11-22T00:00:00Z"
LEVEL, CHIP = SnpTcb(3, 2, 10, 200), bytes(range(64))


@pytest.fixture
def folder(tmp_path):
    """A folder of vectors: an SNP report, its endorsement, a device, a manifest of golden values."""
    amd, nvidia, signer = world.Amd(Generation.GENOA), world.Nvidia(), rim_world.Signer()
    vek, device = amd.vcek(LEVEL, CHIP), nvidia.device()
    report = nvidia.report(device, b"\x21" * 32)
    golden = rim_world.body(rim_world.resource(0, "01" * 48), rim_world.resource(1, "02" * 48))
    other = rim_world.body(rim_world.resource(0, "ff" * 48))
    files = {
        "report.bin": amd.report(vek, tcb=LEVEL, chip=CHIP, report_data=b"n".ljust(64, b"\0")),
        "vek.der": vek.certificate.raw,
        "chain.pem": pem([amd.ask.certificate, amd.ark.certificate]).encode(),
        "ark.der": amd.ark.certificate.raw,
        "crl.der": world.crl(amd.ark),
        "gpu.hex": report.hex().encode(),
        "gpu.pem": pem(nvidia.chain(device)).encode(),
        "gpu-root.der": nvidia.root.certificate.raw,
        "ocsp.der": world.ocsp(device, nvidia.issuer, revoked=True),
        "golden.xml": signer.sign(golden),
        "other.xml": signer.sign(other),
        "rim-root.der": signer.root.certificate.raw,
        "junk": b"junk",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


SNP = {
    "id": "snp", "kind": "snp", "evidence": "report.bin", "now": NOW, "expect": "valid", "vek": "vek.der",
    "chain": ["chain.pem"], "root": "ark.der",
}  # fmt: skip
GPU = {
    "id": "gpu", "kind": "nvgpu", "evidence": "gpu.hex", "now": NOW, "expect": "valid", "chain": "gpu.pem",
    "root": "gpu-root.der", "nonce": "21" * 32,
}  # fmt: skip
RIM = {
    "id": "rim", "kind": "nvrim-match", "evidence": "gpu.hex", "now": "-", "expect": "valid", "rim": "golden.xml",
    "root": "rim-root.der",
}  # fmt: skip


def _run(folder, members: dict[str, object], **changes: object) -> str:
    merged = {name: value for name, value in {**members, **changes}.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "cases": [merged]}))
    (case,) = cases.load(folder)
    return runner.run_case(case, withdrawals=()).observed


@pytest.mark.parametrize("members", [SNP, GPU, RIM], ids=["snp", "nvgpu", "nvrim-match"])
def test_case_under_its_own_root(folder, members):
    """A case is appraised under the root it names, and under the pinned one where it names none."""
    assert _run(folder, members) == "valid"
    assert _run(folder, members, root=None) == "refuse:chain-invalid"


@pytest.mark.parametrize(
    ("members", "changes", "outcome"),
    [
        (SNP, {"evidence": "junk"}, "refuse:malformed"),
        (SNP, {"vek": "junk"}, "refuse:malformed"),
        (SNP, {"chain": "junk"}, "refuse:malformed"),
        (SNP, {"chain": ["chain.pem", "gpu.pem"]}, "valid"),
        (SNP, {"vek": None}, "refuse:collateral-missing"),
        (SNP, {"chain": None}, "refuse:chain-invalid"),
        (SNP, {"crl": "crl.der"}, "valid"),
        (SNP, {"crl": "junk"}, "refuse:collateral-invalid"),
        (SNP, {"nonce": b"n".hex()}, "valid"),
        (SNP, {"nonce": b"m".hex()}, "refuse:nonce-mismatch"),
        (GPU, {"chain": "junk"}, "refuse:malformed"),
        (GPU, {"chain": None}, "refuse:collateral-missing"),
        (GPU, {"ocsp": "junk"}, "refuse:collateral-invalid"),
        (GPU, {"ocsp": ["ocsp.der"]}, "refuse:revoked"),
        (GPU, {"nonce": None}, "valid"),
        (RIM, {"rim": "junk"}, "refuse:malformed"),
        (RIM, {"rim": ["golden.xml", "other.xml"]}, "refuse:reference-mismatch"),
        (RIM, {"rim": None}, "refuse:evidence-missing"),
        (RIM, {"evidence": "junk"}, "refuse:malformed"),
        ({**SNP, "kind": "tdx"}, {}, "refuse:unsupported"),
        ({**SNP, "kind": "ear"}, {}, "refuse:malformed"),
    ],
)
def test_files_that_do_not_read_have_their_codes(folder, members, changes, outcome):
    """Damaged evidence and certificates are malformed, damaged collateral is invalid, absent one is missing."""
    assert _run(folder, members, **changes) == outcome


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "new"}, {"kind": None}, {"kind": 7}, {"evidence": None}, {"evidence": "absent"},
        {"evidence": ["report.bin"]}, {"evidence": "../report.bin"}, {"evidence": "/etc/hostname"}, {"vek": 7},
        {"evidence": "a/../../report.bin"}, {"evidence": "report.bin\0"}, {"evidence": "."}, {"evidence": "x" * 5000},
        {"chain": [7]}, {"vek": "absent"}, {"root": "junk"}, {"root": "absent"}, {"now": "yesterday"}, {"now": 7},
        {"nonce": "zz"}, {"nonce": 7},
    ],
)  # fmt: skip
def test_faults_of_the_manifest_are_not_outcomes(folder, changes):
    """What the manifest itself has wrong could not be checked: a mismatch, and no verdict on the evidence."""
    observed = _run(folder, SNP, **changes)
    assert observed.startswith("could not check: "), observed


def test_links_inside_the_folder_are_followed(folder, tmp_path_factory):
    """A folder may be put together by links to evidence kept elsewhere: its owner made them."""
    linked = tmp_path_factory.mktemp("linked")
    (linked / "kept").symlink_to(folder)
    moved = {name: f"kept/{SNP[name]}" for name in ("evidence", "vek", "root")}
    assert _run(linked, SNP, **moved, chain=["kept/chain.pem"]) == "valid"


def test_case_without_its_names_still_has_a_line(folder):
    """A case that names neither itself nor its expectation is run, and matches nothing."""
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "cases": [{"kind": "snp"}]}))
    (result,) = runner.run(cases.load(folder))
    assert not result.matches
    assert result.observed.startswith("could not check: ")


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"version": 2, "cases": [SNP]}, UnsupportedFormat),
        ({"cases": [SNP]}, UnsupportedFormat),
        ({"version": 1, "cases": []}, FormatError),
        ({"version": 1, "cases": {}}, FormatError),
        ({"version": 1, "cases": ["snp"]}, FormatError),
        ([], FormatError),
    ],
)
def test_manifest_that_does_not_read(folder, manifest, error):
    """Another version, no cases, or cases that are no objects end the run before it starts."""
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(error):
        cases.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(NotFound):
        cases.load(folder)
