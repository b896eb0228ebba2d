"""Composite evidence of an Azure confidential VM: the paravisor's report and its vTPM's quote.

Layout and handles: "Guest attestation for confidential VMs, design" (Azure): the report is in NV index
0x01400001, 64 bytes of the caller's in 0x01400002, the attestation key that the report names at
0x81000003. Writing the caller's bytes makes the paravisor ask the hardware for a new report, within some
seconds; the report that is there is taken where it does not. The quote carries the anchor in any case, and
a verifier takes freshness from the quote. The certificate of the AMD chip, or Intel's quote over the
hardware report, come from the instance metadata service.
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING

from stannary.certify import anchor as anchors
from stannary.certify.collect import tpm, tpm_client
from stannary.certify.collect.metadata import MetadataService
from stannary.certify.collect.tpm_client import Loaded, TpmClient
from stannary.certify.envelope import Part
from stannary.certify.evidence import azure, tpm_structures
from stannary.certify.evidence import quote as dcap
from stannary.errors import EnvironmentProblem, FormatError, ServiceError
from stannary.formats import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from stannary.certify.collect.metadata import Metadata
    from stannary.certify.collect.sources import Sources
    from stannary.certify.evidence.azure import HclReport
    from stannary.formats.canonical import Json

REPORT_INDEX, USER_DATA_INDEX, AK_HANDLE = 0x01400001, 0x01400002, 0x81000003
VCEK_PATH, TD_QUOTE_PATH = "/metadata/THIM/amd/certification", "/acc/tdquote"
TD_REPORT_BYTES = 1024  # TDREPORT_STRUCT, at the start of the hardware report's field
ALL_PCRS = tuple(range(tpm_structures.NUM_PCRS))
FRESH_REPORT_TRIES, FRESH_REPORT_WAIT_S = 24, 0.25  # the paravisor takes about three seconds


def gather(bound: bytes, sources: Sources) -> Part:
    """Return the composite of this virtual machine."""
    client = tpm_client.connect(sources.tpm)
    try:
        return collect(client, bound, MetadataService(sources.metadata))
    finally:
        client.close()


def collect(client: TpmClient, bound: bytes, metadata: Metadata, wait: Callable[[float], None] = time.sleep) -> Part:
    """Read report, quote and endorsement; what does not fit together is an error here."""
    raw, hcl = _fresh_report(client, anchors.report_data(bound), wait)
    key = Loaded(AK_HANDLE, client.read_public(AK_HANDLE))
    if not key.public or tpm_structures.parse_public(key.public).key != hcl.attestation_key:
        raise ServiceError("the vTPM's attestation key is not the one its report names", why=f"handle {AK_HANDLE:#x}")
    attest, signature, pcrs = tpm.quote(client, key, bound, ALL_PCRS)
    signed = tpm_structures.parse_signature(signature)
    if signed.scheme != tpm_structures.ALG_RSASSA or signed.digest != "sha256":
        raise ServiceError("the vTPM signs by another scheme", why=f"{signed.scheme:#06x} with {signed.digest}")
    members: dict[str, Json] = {
        "hcl_report": raw.hex(),
        "tpm_quote": {
            "message": attest.hex(),
            "signature": signed.parts[0].hex(),
            "pcrs": [pcrs[index].hex() for index in ALL_PCRS],
        },
    }
    if hcl.is_tdx:
        members["td_quote"] = td_quote(hcl, metadata).hex()
        return Part("azure-tdx", canonical.encode(members))
    vcek, chain = vcek_of(metadata)
    members["vcek"] = vcek
    return Part("azure-snp", canonical.encode(members), certificates=(chain.encode("ascii"),))


def vcek_of(metadata: Metadata) -> tuple[str, str]:
    """Return the chip's certificate and its issuers, both PEM."""
    found = canonical.decode_object(metadata(VCEK_PATH))
    vcek, chain = found.get("vcekCert"), found.get("certificateChain")
    if not isinstance(vcek, str) or not isinstance(chain, str) or not (vcek + chain).isascii():
        raise FormatError("the metadata service gave no chip certificate", why=", ".join(sorted(found))[:120])
    return vcek, chain


def td_quote(hcl: HclReport, metadata: Metadata) -> bytes:
    """Have Intel's quoting enclave on the host sign the TD report; refuse a quote of another report."""
    report = base64.urlsafe_b64encode(hcl.hardware[:TD_REPORT_BYTES]).rstrip(b"=").decode("ascii")
    answer = canonical.decode_object(metadata(TD_QUOTE_PATH, canonical.encode({"report": report})))
    text = answer.get("quote")
    if not isinstance(text, str) or not text.isascii():
        raise FormatError("the metadata service gave no TD quote", why=", ".join(sorted(answer))[:120])
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError("TD quote is not base64url", why=str(err)) from err
    if dcap.parse_quote(raw).body.report_data != hcl.report_data:
        raise ServiceError("the host quoted another TD report", why="its report data differs from the paravisor's")
    return raw


def _fresh_report(client: TpmClient, user_data: bytes, wait: Callable[[float], None]) -> tuple[bytes, HclReport]:
    raw = client.nv_read(REPORT_INDEX)
    if not raw:
        raise EnvironmentProblem("not an Azure confidential VM", why=f"the TPM has no report at {REPORT_INDEX:#010x}")
    if not client.nv_write(USER_DATA_INDEX, user_data):
        return raw, azure.parse_hcl(raw)
    for _ in range(FRESH_REPORT_TRIES):
        raw = client.nv_read(REPORT_INDEX)
        hcl = azure.parse_hcl(raw)
        if hcl.user_data == user_data:
            break
        wait(FRESH_REPORT_WAIT_S)
    return raw, hcl
