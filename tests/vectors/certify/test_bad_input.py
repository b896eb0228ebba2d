"""The same evidence at another time, under another root, damaged, or with its collateral taken away."""

from __future__ import annotations

import base64
import json

import pytest
from tests.vectors.certify.evidence_vectors import case, needs_vectors, outcome

pytestmark = needs_vectors
BINARY = ["snp-genoa-v5-live", "tdx-v4-uptodate", "tdx-v5-uptodate", "sgx-sw-hardening", "nitro-prod"]
JSON = ["gpu-sdk_hopper_evidence", "az-snp-genuine", "az-tdx-genuine", "tpm-swtpm-valid"]
PARSE = {"refuse:malformed", "refuse:unsupported"}


@pytest.mark.parametrize("name", [*BINARY, *JSON, "ear-rust-sample", "rim-NV_GPU_DRIVER_GH100_550"])
def test_truncated_doubled_and_huge_evidence_does_not_parse(name):
    """Cut, doubled and 10 MiB of evidence are malformed, whatever the kind; behind an Intel quote is not in it."""
    blob = case(name).evidence()
    for damaged in (blob[: len(blob) // 2], blob.rstrip(b"\0\n ")[:-3], b"", b"\0" * 100):
        assert outcome(name, damaged) in PARSE, damaged[:20]
    doubled = outcome(name, blob + blob)
    assert doubled == case(name).text("expect") if case(name).text("kind") in {"tdx", "sgx"} else doubled in PARSE
    assert outcome(name, blob + b"\x01" * (10 << 20)) in PARSE


@pytest.mark.parametrize("name", JSON)
def test_json_with_doubled_members_or_depth_33_does_not_parse(name):
    """Duplicate members and nesting below 32 levels are malformed."""
    blob = case(name).evidence().strip()
    if blob.startswith(b"{"):
        first = json.dumps(next(iter(json.loads(blob))))
        assert outcome(name, b"{" + first.encode() + b":1," + blob[1:]) == "refuse:malformed"
    assert outcome(name, b"[" * 33 + blob + b"]" * 33) == "refuse:malformed"


def test_wrong_endianness_does_not_parse():
    """A report written big-endian has a version nobody knows."""
    blob = case("snp-genoa-v5-live").evidence()
    assert outcome("snp-genoa-v5-live", blob[3::-1] + blob[4:]) == "refuse:unsupported"


@pytest.mark.parametrize(
    ("name", "now", "expected"),
    [
        ("snp-genoa-v5-live", "2034-01-01T00:00:00Z", "refuse:chain-invalid"),
        ("tdx-v4-uptodate", "2025-07-20T00:00:00Z", "refuse:collateral-invalid"),
        ("tdx-v4-uptodate", "2025-06-01T00:00:00Z", "refuse:collateral-invalid"),
        ("rim-NV_GPU_DRIVER_GH100_550", "2031-01-01T00:00:00Z", "refuse:chain-invalid"),
        ("nitro-prod", "2022-10-13T12:30:00Z", "refuse:chain-invalid"),
    ],
)
def test_evaluation_time_decides(name, now, expected):
    """The same file at another time gives the right other outcome."""
    assert outcome(name, now=now) == expected


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("gpu-sdk_hopperAttestationReport", "nvidia/rim_root.pem"),
        ("rim-NV_GPU_DRIVER_GH100_550", "nvidia/nvtrust_verifier_device_root.pem"),
        ("nitro-prod", "nvidia/rim_root.pem"),
        ("snp-genoa-v5-live", "snp/ms_milan_ark.pem"),
        ("tdx-v4-uptodate", "nvidia/rim_root.pem"),
    ],
)
def test_root_decides(name, root):
    """The same file under another root is refused for its chain."""
    assert outcome(name, root=root) == "refuse:chain-invalid"


def test_missing_collateral_is_said_so():
    """Intel evidence without collateral, and SNP without endorsement, are not judged."""
    assert outcome("tdx-v4-uptodate", collateral=None) == "refuse:collateral-missing"
    parts = dict(case("tdx-v5-uptodate").members["collateral_parts"])
    del parts["pck_crl"]
    assert outcome("tdx-v5-uptodate", collateral_parts=parts) == "refuse:collateral-missing"
    assert outcome("snp-genoa-v5-live", vek=[]) == "refuse:collateral-missing"
    assert outcome("ear-rust-sample", jwk=None) == "refuse:collateral-missing"


def test_collateral_of_another_platform_is_refused():
    """TCB info of another FMSPC, and an enclave's collateral for a TD, do not judge this platform."""
    parts = dict(case("tdx-v5-uptodate").members["collateral_parts"])
    parts["tcb_info"] = "tdx/attrs_col_tcb_info_50806f000000.json"
    assert outcome("tdx-v5-uptodate", collateral_parts=parts) == "refuse:collateral-invalid"
    foreign = case("sgx-sw-hardening").members["collateral"]
    assert outcome("tdx-v4-uptodate", collateral=foreign) == "refuse:collateral-invalid"


def test_report_of_another_device_is_refused():
    """A GPU's report with another GPU's chain is a false signature."""
    swapped = outcome("gpu-sdk_hopperAttestationReport", chain=["nvidia/sdk_unit_hopperCertChain.txt"])
    assert swapped == "refuse:signature-invalid"
    devices = json.loads(case("gpu-sdk_multi_gpu_hopper").evidence())
    devices[0]["evidence"], devices[1]["evidence"] = devices[1]["evidence"], devices[0]["evidence"]
    assert outcome("gpu-sdk_multi_gpu_hopper", json.dumps(devices).encode()) == "refuse:signature-invalid"
    twice = [devices[2], devices[2]]
    assert outcome("gpu-sdk_multi_gpu_hopper", json.dumps(twice).encode()) == "refuse:identity-collision"


def test_quote_of_another_machine_does_not_fit_its_report():
    """Azure evidence joined from two machines is refused."""
    mine, other = (json.loads(case(name).evidence()) for name in ("az-snp-genuine", "az-tdx-genuine"))
    mine["evidence"]["tpm_quote"] = other["tpm_quote"]
    assert outcome("az-snp-genuine", json.dumps(mine).encode()) == "refuse:signature-invalid"


def test_empty_challenge_in_a_quote_binds_nothing():
    """A vTPM quote without extraData is refused for its binding once its signature is out of the way."""
    members = json.loads(case("az-snp-genuine").evidence())
    message = bytes.fromhex(members["evidence"]["tpm_quote"]["message"])
    size = int.from_bytes(message[42:44], "big")
    members["evidence"]["tpm_quote"]["message"] = (message[:42] + b"\0\0" + message[44 + size :]).hex()
    assert outcome("az-snp-genuine", json.dumps(members).encode()) == "refuse:signature-invalid"


def test_stranger_cannot_sign_a_manifest():
    """A manifest whose signer certificate is exchanged for another vendor's is refused."""
    name = "rim-NV_GPU_DRIVER_GH100_550"
    text = case(name).evidence().decode()
    from stannary.certify.pki import certificates

    stranger = certificates.load_bundle(case(name).file("nitro/aws_nitro_root_g1.pem"))[0]
    start = text.index("X509Certificate>") + len("X509Certificate>")
    end = text.index("</", start)
    changed = text[:start] + base64.b64encode(stranger.raw).decode() + text[end:]
    assert outcome(name, changed.encode()) in {"refuse:chain-invalid", "refuse:signature-invalid"}


def test_manifest_with_entities_or_two_signatures_is_malformed():
    """Document types and signature wrapping are refused before anything is read."""
    name = "rim-NV_GPU_DRIVER_GH100_550"
    text = case(name).evidence().decode()
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]>' + text[text.index("<SoftwareIdentity") :]
    assert outcome(name, bomb.encode()) == "refuse:malformed"
    signature = text[text.index("<ds:Signature") : text.index("</ds:Signature>") + len("</ds:Signature>")]
    assert outcome(name, text.replace(signature, signature * 2).encode()) == "refuse:malformed"
