"""Every kind of evidence and its verifier. A kind is added here, and nowhere else."""

from __future__ import annotations

from typing import Any

from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.ear import EarVerifier
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.nvidia import DeviceVerifier, FleetVerifier
from stannary.certify.evidence.rim import RimVerifier
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import EvidenceVerifier

_ALL: tuple[EvidenceVerifier[Any], ...] = (
    SnpVerifier(),
    IntelVerifier("tdx"),
    IntelVerifier("sgx"),
    AzureVerifier("azure-snp"),
    AzureVerifier("azure-tdx"),
    NitroVerifier(),
    TpmVerifier(),
    DeviceVerifier(),
    FleetVerifier(),
    RimVerifier(),
    EarVerifier(),
)
VERIFIERS = {item.kind: item for item in _ALL}
