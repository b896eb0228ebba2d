"""Tiers T0 to T4: computed from facts, the minimum over submodules, never self-declared.

Rules:
1. Every layer has a ceiling: what its kind can show at most, lowered by each capping finding. A
   refused or missing layer has ceiling T0.
2. A machine is confidential (T2) only with a confidential CPU layer whose launch measurement was
   compared; a TPM alone reaches T1, and only under a hardware root with replayed log and reference.
3. T3 needs T2 and a hardware identity vouched for by enough independent inspectors; T4 needs T3 and
   the data owner to have named this machine.
4. The result names the one fact that limits it, and what to change to rise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.outcomes import Severity, State
from stannary.formats.predicates import Tier

if TYPE_CHECKING:
    from stannary.certify.outcomes import Appraisal


NAMES: dict[Tier, str] = {
    Tier.T0: "open",
    Tier.T1: "machine-bound",
    Tier.T2: "confidential",
    Tier.T3: "confidential in a vouched place",
    Tier.T4: "named by the customer",
}
# What each tier does not protect from; printed wherever a tier is (docs/tiers.md).
RESIDUAL: dict[Tier, str] = {
    Tier.T0: "anyone may run this: it can read and copy everything it is given",
    Tier.T1: "the root operator can read all",
    Tier.T2: "a patient owner with a memory interposer can read",
    Tier.T3: "an interposer needs the guarded site's help",
    Tier.T4: "what you chose to trust when you named this machine",
}

_CONFIDENTIAL = frozenset({"snp", "tdx", "azure-snp", "azure-tdx", "nitro"})
_CEILINGS: dict[str, Tier] = {"tpm": Tier.T1, "sgx": Tier.T1, "nitro": Tier.T2}


def verdict(*, accepted: bool, refused: bool) -> str:
    """Return the one word for what became of an appraisal, the same on every screen and page."""
    return "refused" if refused else "accepted" if accepted else "below policy"


@dataclass(frozen=True, slots=True)
class Limit:
    """Why a machine is not higher: the layer, the fact, and what to change."""

    tier: Tier
    layer: str
    reason: str
    remedy: str
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class TierDecision:
    """The tier of a machine, the limit that decides it, and every other one, lowest first."""

    tier: Tier
    limiting: Limit
    limits: tuple[Limit, ...]
    refused: bool


def decide(
    parts: dict[str, Appraisal], *, num_vouchers: int = 0, min_vouchers: int = 2, named: bool = False
) -> TierDecision:
    """Return the tier of a machine from its layers' appraisals."""
    limits = [limit for name, appraisal in parts.items() for limit in layer_limits(name, appraisal)]
    if not any(appraisal.kind in _CONFIDENTIAL and appraisal.valid for appraisal in parts.values()):
        tier = Tier.T1 if "tpm" in {item.kind for item in parts.values()} else Tier.T0
        reason = "no confidential CPU evidence" if tier > Tier.T0 else "no hardware evidence at all"
        limits.append(Limit(tier, "cpu", reason, "run in an SEV-SNP (EPYC 9004 or later) or TDX guest"))
    if not any(appraisal.identities for appraisal in parts.values()):
        limits.append(Limit(Tier.T0, "machine", "no hardware identity shown", "send TPM, SNP or TDX evidence"))
    if num_vouchers < min_vouchers:
        reason = f"{num_vouchers} of {min_vouchers} inspectors vouch for where it stands"
        limits.append(Limit(Tier.T2, "place", reason, "have independent inspectors sign vouchers for this hardware"))
    if not named:
        limits.append(
            Limit(Tier.T3, "owner", "not named by the data owner", "name its hardware identity in the policy")
        )
    limits.sort(key=lambda item: (item.tier, not item.refuses))  # a refusal is the fact that limits most
    refused = any(not appraisal.valid for appraisal in parts.values())
    limiting = limits[0] if limits else Limit(Tier.T4, "machine", "nothing limits it", "")
    return TierDecision(limiting.tier, limiting, tuple(limits), refused)


def layer_limits(name: str, appraisal: Appraisal) -> list[Limit]:
    """Return every limit of one layer (rule 1)."""
    limits: list[Limit] = []
    for finding in appraisal.findings:
        if finding.severity is Severity.REFUSE:
            reason = f"{finding.code}: {finding.observed}" if finding.observed else str(finding.code)
            limits.append(Limit(Tier.T0, name, reason, finding.remedy, refuses=True))
        elif finding.severity is Severity.CAP and finding.cap is not None:
            limits.append(Limit(Tier(f"T{finding.cap}"), name, finding.observed, finding.remedy))
    ceiling = _CEILINGS.get(appraisal.kind)
    if ceiling is not None:
        limits.append(Limit(ceiling, name, f"{appraisal.kind} evidence shows no more", "run in a confidential guest"))
    limits.extend(_waived(name, appraisal))
    return limits


def _waived(name: str, appraisal: Appraisal) -> list[Limit]:
    """Checks a tier stands on and that did not run cap it: could not check is not a pass."""
    needed = {
        "nonce": (Tier.T0, "answer a challenge: `stannary node check --challenge`"),
        "measurement": (Tier.T1, "boot a published image and give its launch digest to the policy"),
        "reference": (Tier.T0, "boot a published image and give its reference values to the policy"),
        "event-log": (Tier.T0, "send the firmware's event log"),
        "golden": (Tier.T1, "carry the driver and VBIOS reference manifests"),
        "chain-time": (Tier.T0, "give an evaluation time"),
    }
    found = []
    for row in appraisal.checks:
        tail = row.id.rpartition(".")[2]
        if row.state is State.WAIVED and tail in needed and not _is_outer(appraisal, row.id):
            tier, remedy = needed[tail]
            found.append(Limit(tier, name, f"{tail}: {row.detail}", remedy))
    return found


def _is_outer(appraisal: Appraisal, check: str) -> bool:
    """In a composite the hardware report's own nonce is no freshness: the vTPM's is (azure.py)."""
    return appraisal.kind.startswith("azure-") and check in {"snp.nonce", "tdx.nonce"}
