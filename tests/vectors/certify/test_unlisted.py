"""Evidence of real machines that the shared manifest does not list: the outcome its specification gives.

`unlisted.json` holds the cases and no evidence; its paths are inside the vectors' folder.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.vectors.certify.evidence_vectors import FOLDER, flip, needs_vectors, outcome

from stannary.certify.vectors import cases, runner
from stannary.certify.vectors.cases import Case

pytestmark = needs_vectors
CASES = json.loads((Path(__file__).parent / "unlisted.json").read_text())["cases"]


@pytest.mark.parametrize("members", CASES, ids=lambda members: members["id"])
def test_unlisted_evidence_has_the_outcome_of_its_specification(members):
    """Every file beside the manifest gives the outcome that its format's specification and source say."""
    result = runner.run_case(Case(FOLDER, members))
    assert result.observed == members["expect"], result.detail


def test_every_evidence_file_is_in_some_case():
    """No file of the vectors is left out of both manifests, but what cannot be evidence by itself."""
    listed = [*json.loads((FOLDER / "manifest.json").read_text())["cases"], *CASES]
    named = {path for members in listed for path in _paths(members)}
    present = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix != ".md" and path.name != "manifest.json"
    }
    assert present - named <= _BESIDE, sorted(present - named - _BESIDE)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00", "1969-12-31T23:59:59", "9999-12-31T23:59:59"])
def test_ends_of_time_are_times_like_others(moment):
    """Before 1970 and at the last second of 9999 every case still has an outcome, and no certificate is valid then."""
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    for case in (*cases.load(FOLDER), *(Case(FOLDER, members) for members in CASES)):
        result = runner.run_case(case, now)
        assert result.appraisal is not None, (result.id, result.observed)
        if result.kind in {"snp", "tdx", "sgx", "nvrim", "nitro", "azure-snp", "azure-tdx"}:
            assert result.observed.startswith("refuse:"), (result.id, result.observed)


def _paths(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [path for item in items for path in _paths(item)]


# Parts of other files here, certificates for no evidence here, and forms that are not evidence.
_BESIDE = {
    "azure/azsnp_tpm-quote.sig", "azure/azsnp_vcek-genoa.pem", "azure/azsnp_vcek.pem", "azure/aztdx_hcl-report.bin",
    "azure/aztdx_td-quote.bin", "nvidia/sdk_switchCertChain.txt", "tdx/gotdx_cos113_nonce.dat", "tdx/gotdx_pckcrl",
    "tdx/gotdx_rootcrl.der", "tdx/gotdx_sample_tcbinfo_response_v5",
    "tpm/goatt_platformcert_IntelSigningKey_20April2017.cer", "tpm/goatt_platformcert_Intel_nuc1.cer",
    "tpm/goatt_platformcert_lenovo.cer", "tpm/goatt_platformcert_plat_cert1.cer",
    "tpm/gotpm_gcp_gcp_ek_ak_ca_intermediate_v3.crt",
    "tpm/gotpm_gcp_pca_tpm_ecc_enc_cert.pem", "tpm/gotpm_gcp_pca_tpm_ecc_sign_cert.pem",
    "tpm/gotpm_gcp_pca_tpm_rsa_enc_cert.pem", "tpm/gotpm_gcp_pca_tpm_rsa_sign_cert.pem",
    "tpm/swtpm/ek_rsa2048_cert.der", "tpm/swtpm/ek_secp384r1_cert.der",
    "tpm/swtpm/issuer_ca.pem", "tpm/swtpm/platform_cert.der", "tpm/vm/ec/ek.pub", "tpm/vm/ec/q.pcrs",
    "tpm/vm/en1/ek.pub", "tpm/vm/en1/q.pcrs",
}  # fmt: skip


def _composite(**changes: object) -> bytes:
    """An Azure composite put together from the parts that its collector left beside it."""
    folder = FOLDER / "azure"
    members: dict[str, object] = {
        "version": 1, "hcl_report": (folder / "azsnp_hcl-report.bin").read_bytes().hex(),
        "vcek": (folder / "azsnp_vcek.pem").read_text(),
        "tpm_quote": {
            "message": (folder / "azsnp_tpm-quote.msg").read_bytes().hex(),
            "signature": (folder / "azsnp_tpm-quote.sig").read_bytes().hex(), "pcrs": ["00" * 32] * 24,
        },
    }  # fmt: skip
    return json.dumps({**members, **changes}).encode()


def test_parts_of_two_machines_do_not_make_a_composite():
    """The quote beside the HCL report is another AK's: a false signature, and one bit of the report makes it two."""
    assert outcome("az-snp-genuine", _composite()) == "refuse:signature-invalid"
    report = (FOLDER / "azure" / "azsnp_hcl-report.bin").read_bytes()
    assert outcome("az-snp-genuine", _composite(hcl_report=flip(report, 8 * 200).hex())) == "refuse:signature-invalid"


def test_endorsement_keys_of_a_cloud_reach_its_root():
    """Google's endorsement and attestation certificates chain through its intermediate to its root, and no other."""
    from stannary.certify.moments import parse_moment
    from stannary.certify.pki import certificates
    from stannary.certify.pki.certificates import Anchors, find_path

    def load(name: str):
        return certificates.load_bundle((FOLDER / "tpm" / f"gotpm_gcp_{name}").read_bytes())

    pool, root = load("gcp_ek_ak_ca_intermediate_v3.crt"), load("gcp_ek_ak_ca_root.crt")
    now = parse_moment("2026-11-22T00:00:00Z")
    foreign = certificates.load_bundle((FOLDER / "tpm" / "swtpm" / "root_ca.pem").read_bytes())
    for kind in ("ecc_enc", "ecc_sign", "rsa_enc", "rsa_sign"):
        (leaf,) = load(f"pca_tpm_{kind}_cert.pem")
        assert find_path(leaf, pool, Anchors(certificates=root), now).root == root[0]
        assert find_path(leaf, pool, Anchors(certificates=foreign), now).root is None
