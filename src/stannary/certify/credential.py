"""The credential: an appraisal's result as a signed EAR token (draft-ietf-rats-ear-04 shapes).

It carries the tier and the one fact that limits it, the table of what was checked, waived and not
applicable, the policy id, the digest of the evidence and the hash of the key it is for (`cnf`).
Refusals are signed too: a provider can show why, and a verifier cannot deny having looked.

EdDSA over JCS claims, lifetime 5 to 15 minutes. A credential decides placement and pay; who holds
keys appraises the raw evidence itself.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import __version__
from stannary.certify.evidence.ear import EarStatus, EarToken, parse_token
from stannary.certify.tiers import NAMES, RESIDUAL
from stannary.errors import FormatError, Refuted
from stannary.formats import canonical, dsse, ed25519
from stannary.formats.predicates import Tier

if TYPE_CHECKING:
    from stannary.certify.appraise import Result
    from stannary.certify.challenge import Challenge
    from stannary.certify.envelope import Evidence
    from stannary.certify.outcomes import Appraisal
    from stannary.certify.policy import Policy
    from stannary.formats.canonical import Json

PROFILE = "tag:stannary,2026:credential#1"
LIFETIME_S = 600
MIN_LIFETIME_S, MAX_LIFETIME_S = 300, 900
# AR4SI values: no claim, affirming, warning, contraindicated.
_VECTOR = {EarStatus.NONE: 0, EarStatus.AFFIRMING: 2, EarStatus.WARNING: 32, EarStatus.CONTRAINDICATED: 96}


def issue(  # the five things a credential joins, and its time
    result: Result,
    evidence: Evidence,
    challenge: Challenge,
    policy: Policy,
    key: Ed25519PrivateKey,
    *,
    now: datetime,
    lifetime_s: int = LIFETIME_S,
) -> str:
    """Sign the result as a compact JWT."""
    if not MIN_LIFETIME_S <= lifetime_s <= MAX_LIFETIME_S:
        raise FormatError("credential lifetime out of range", why=f"{lifetime_s} s")
    issuer = dsse.key_id(dsse.public_bytes(key))
    decision = result.decision
    tier = decision.tier if not decision.refused else Tier.T0
    claims: dict[str, Json] = {
        "eat_profile": PROFILE,
        "iss": issuer,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=lifetime_s)).timestamp()),
        "jti": os.urandom(16).hex(),
        "eat_nonce": base64.urlsafe_b64encode(challenge.nonce_bytes).rstrip(b"=").decode("ascii"),
        "ear_verifier_id": {"developer": "stannary", "build": f"stannary {__version__}"},
        "submods": {name: _submodule(name, item, policy) for name, item in result.parts.items()},
        "cnf": {"stannary_key_sha256": evidence.key_hash.hex()},
        "stannary_tier": tier.name,
        "stannary_tier_name": NAMES[tier],
        "stannary_residual": RESIDUAL[tier],
        "stannary_accepted": result.accepted,
        "stannary_limit": {
            "layer": decision.limiting.layer,
            "reason": decision.limiting.reason,
            "remedy": decision.limiting.remedy,
        },
        "stannary_evidence": evidence.digest(),
        "stannary_grade": {} if result.grade is None else result.grade.to_json(result.elapsed_s),
    }
    header = canonical.encode({"alg": "EdDSA", "kid": issuer, "typ": "eat+jwt"})
    signed = _segment(header) + b"." + _segment(canonical.encode(claims))
    return (signed + b"." + _segment(key.sign(signed))).decode("ascii")


def read(token: str, public_key: bytes, now: datetime) -> dict[str, Json]:
    """Verify a credential by a pinned key and return its claims."""
    from cryptography.exceptions import InvalidSignature

    parsed: EarToken = parse_token(token.encode("ascii", errors="replace"))
    if parsed.algorithm != "EdDSA" or parsed.claims.get("eat_profile") != PROFILE:
        raise FormatError("not a stannary credential", why=f"{parsed.claims.get('eat_profile')!r:.60}")
    try:
        ed25519.load(public_key).verify(parsed.signature, parsed.signed)
    except InvalidSignature as err:
        raise Refuted("credential is not signed by this verifier", why=dsse.key_id(public_key)) from err
    issued, expires = parsed.time("iat"), parsed.time("exp")
    if issued is None or expires is None or not issued <= now.astimezone(UTC) <= expires:
        raise Refuted("credential is not valid now", why=f"{issued} .. {expires}")
    return parsed.claims


def status_of(appraisal: Appraisal) -> EarStatus:
    """Return EAR's status of one layer: refused, limited, or neither."""
    if not appraisal.valid:
        return EarStatus.CONTRAINDICATED
    if any(item.cap is not None for item in appraisal.findings) or appraisal.qualifiers:
        return EarStatus.WARNING
    return EarStatus.AFFIRMING


def _submodule(name: str, appraisal: Appraisal, policy: Policy) -> dict[str, Json]:
    status = status_of(appraisal)
    vector: dict[str, Json] = {"configuration": _VECTOR[status]}
    if appraisal.identities:
        vector["instance-identity"] = _VECTOR[status]
    if appraisal.claims.get("software_tpm"):
        vector["hardware"] = _VECTOR[EarStatus.CONTRAINDICATED]
    elif name in {"cpu", "tpm", "vtpm"} or "/" in name:
        vector["hardware"] = _VECTOR[status]
    return {
        "ear_status": status.value,
        "ear_trustworthiness_vector": vector,
        "ear_appraisal_policy_ids": [PROFILE, policy.id],
        "stannary_outcome": appraisal.outcome,
        "stannary_claims": appraisal.claims,
        "stannary_checks": [row.to_json() for row in appraisal.checks],
        "stannary_findings": [item.to_json() for item in appraisal.findings],
    }


def _segment(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
