"""Refusal codes and what to change about each: the same words on screen and in docs/refusals.md."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable refusal codes (CVM Attestation v1 shapes)."""

    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    NONCE_MISMATCH = "nonce-mismatch"
    BINDING_MISMATCH = "binding-mismatch"
    SIGNATURE_INVALID = "signature-invalid"
    CHAIN_INVALID = "chain-invalid"
    COLLATERAL_INVALID = "collateral-invalid"
    COLLATERAL_MISSING = "collateral-missing"
    REVOKED = "revoked"
    TCB_NOT_ALLOWED = "tcb-not-allowed"
    GUEST_POLICY = "guest-policy"
    REFERENCE_MISMATCH = "reference-mismatch"
    REPLAY_MISMATCH = "replay-mismatch"
    AK_NOT_RESTRICTED = "ak-not-restricted"
    IDENTITY_COLLISION = "identity-collision"
    DEBUG_DEVICE = "debug-device"
    CC_OFF = "cc-off"
    EVIDENCE_MISSING = "evidence-missing"


REMEDIES: dict[Code, str] = {
    Code.MALFORMED: "collect the evidence again with `stannary node check`; the file is damaged or of another kind",
    Code.UNSUPPORTED: "update stannary, or use firmware whose report version this release knows",
    Code.NONCE_MISMATCH: "run `stannary node check` with the challenge you appraise against, within its 60 seconds",
    Code.BINDING_MISMATCH: "collect all parts on one machine in one run, so that each layer names the next one's key",
    Code.SIGNATURE_INVALID: "send the certificate of the key that signed; if it is, treat the machine as hostile",
    Code.CHAIN_INVALID: "send every intermediate up to the vendor's root, and check the evaluation time",
    Code.COLLATERAL_INVALID: "fetch fresh collateral (`stannary certify collateral fetch`) and appraise with it",
    Code.COLLATERAL_MISSING: "fetch it (`stannary certify collateral fetch`) and appraise with --collateral",
    Code.REVOKED: "replace the part: its vendor has withdrawn the key",
    Code.TCB_NOT_ALLOWED: "update BIOS, microcode and firmware to the level the policy names",
    Code.GUEST_POLICY: "start the guest without debug or migration, at VMPL 0, with SEPT_VE disabled",
    Code.REFERENCE_MISMATCH: "boot the published image, flash firmware with signed golden values, claim what is there",
    Code.REPLAY_MISMATCH: "send the whole event log of this boot, unmodified",
    Code.AK_NOT_RESTRICTED: "quote with a restricted, fixedTPM, signing-only key made by `stannary node check`",
    Code.IDENTITY_COLLISION: "present every device once; two entries cannot share one hardware identity",
    Code.DEBUG_DEVICE: "switch the device's developer tools mode off and reset it",
    Code.CC_OFF: "switch confidential computing on (GPU reset needed) and attest again",
    Code.EVIDENCE_MISSING: "collect the part the policy asks for; a missing part counts as a failed one",
}


def remedy(code: Code) -> str:
    """Return what to change about a refusal."""
    return REMEDIES[code]
