"""Policies for receipts: what a reader asks beyond truth, as strict TOML or by the name of a built-in one.

    name = "enterprise"
    version = 2
    min_assurance = "verified"     # the word of the receipt, and that its own figures bear it
    minimum_tier = "T2"            # of every node that worked or audited; software evidence satisfies T0 only
    min_audit_ppm = 50_000         # least probability that a unit was audited
    cheating_share_ppm = 10_000    # if this share of the units was cheated ...
    max_escape = "0.01"            # ... all of it escapes with at most this probability
    independence = "certified"     # how auditors' independence must be known: declared < certified < buyer
    independent_witnesses = 1      # pinned witnesses the market does not run
    allow_unverified = false       # whether work nobody checked may do

Rules:
1. Every member must be there and none besides: a policy says all it asks, and a misspelt floor is not no floor. Only
   policies of version 1, which knew no `min_assurance`, ask for no word.
2. Nothing is believed of the receipt but what verification recomputed: tiers are those of market-signed credentials,
   and a tier above T0 without hardware evidence counts for nothing.
3. Escape is that of units audited with the smaller of the signed rate and the share that was really recomputed: a job
   whose auditors stayed silent does not get the probability it paid for.
4. What falls short is a finding with the observed and the required value; the exit code is 4.

Which evidence makes a tier is certify/policy.py's business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING, cast

from stannary.errors import FormatError, SpecError
from stannary.formats import record
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Assurance, Attestation, Credential, Receipt, Tier, Verdict
from stannary.formats.quantity import PPM
from stannary.rules import assurance
from stannary.verify import soundness
from stannary.verify.case import Case
from stannary.verify.report import Findings

if TYPE_CHECKING:
    from stannary.formats.canonical import Json

MAX_POLICY_BYTES = 64 * 1024
VERSION = 2
WITHOUT_WORD = 1  # the version before
BUILT_IN = ("local", "standard", "confidential", "enterprise")
EXPLAINED = "docs/verify.md"


class Independence(StrEnum):
    """How it is known that an auditor is not the prover's; weakest first."""

    DECLARED = "declared"
    CERTIFIED = "certified"
    BUYER = "buyer"


STRENGTH = tuple(Independence)


class LeastWord(StrEnum):
    """The least word of a receipt (rules/assurance.py), weakest first."""

    NONE = "none"
    SAMPLED = "sampled"
    VERIFIED = "verified"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Requirements:
    """The members of a policy."""

    name: str
    version: int
    minimum_tier: Tier
    min_audit_ppm: int
    cheating_share_ppm: int
    max_escape: str
    independence: Independence
    independent_witnesses: int
    allow_unverified: bool
    min_assurance: LeastWord | None = None


def parse(data: bytes) -> Requirements:
    """Read a policy from TOML.

    Raises:
        SpecError: not TOML, a missing or unknown member, a value out of range.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise SpecError("policy too large", why=f"{len(data):,} bytes, limit {MAX_POLICY_BYTES:,}")
    try:
        members = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise SpecError("policy is not TOML", why=str(err)[:200], hint=f"every member: {EXPLAINED}") from err
    try:
        read = record.from_json(Requirements, cast("Json", members), what="policy")
    except FormatError as err:
        hint = f"every member: {EXPLAINED} (a policy for evidence is for: stannary policy test)"
        raise SpecError(err.what, why=err.why, hint=hint) from err
    _check_ranges(read)
    return read


def built_in(name: str) -> Requirements:
    """Return a policy of the release."""
    return parse(resources.files("stannary.verify").joinpath(f"policies/{name}.toml").read_bytes())


def apply(wanted: Requirements, case: Case, stated: Receipt, witnesses: Sequence[str], findings: Findings) -> None:
    """Add a finding for everything the receipt falls short of; `witnesses` are the independent ones that cosigned."""
    _check_tiers(wanted, case, findings)
    _check_audits(wanted, stated, findings)
    _check_word(wanted, case, stated, findings)
    independence = stated.soundness.independence
    if STRENGTH.index(Independence(independence)) < STRENGTH.index(wanted.independence):
        asked = f"at least {wanted.independence}"
        findings.below_policy("policy.independence", "auditors", f"independence {independence}", asked)
    if len(witnesses) < wanted.independent_witnesses:
        observed = f"{len(witnesses)} independent witnesses ({', '.join(witnesses) or stated.witness})"
        asked = f"at least {wanted.independent_witnesses}"
        remedy = "pin a witness the market does not run: stannary trust add KEY --witness KEY --independent NAME"
        findings.below_policy("policy.witness", "final checkpoint", observed, asked, remedy)


def _check_tiers(wanted: Requirements, case: Case, findings: Findings) -> None:
    if wanted.minimum_tier is Tier.T0:
        return
    short: dict[str, list[NodeId]] = {}
    for node in sorted(_nodes_at_work(case)):
        held = case.credential(node)
        if _is_software(held):
            short.setdefault("software evidence, NOT hardware-attested", []).append(node)
        elif held.tier < wanted.minimum_tier:  # T0 < T1 < ... as text
            short.setdefault(f"tier {held.tier}", []).append(node)
    for observed, nodes in short.items():
        asked = f"tier {wanted.minimum_tier} or above, by hardware evidence"
        findings.below_policy("policy.tier", ", ".join(nodes), observed, asked)


def _is_software(held: Credential) -> bool:
    return held.attestation is Attestation.SOFTWARE


def _nodes_at_work(case: Case) -> set[NodeId]:
    worked = {item.predicate.node for item in case.contributions.values()}
    return worked | {item.predicate.node for item in case.answers.values()}


def _check_audits(wanted: Requirements, stated: Receipt, findings: Findings) -> None:
    figures = stated.soundness
    if figures.audit_ppm < wanted.min_audit_ppm:
        findings.below_policy(
            "policy.audit",
            "audits",
            f"{percent(figures.audit_ppm)} of units",
            f"at least {percent(wanted.min_audit_ppm)}",
        )
    escape = soundness.escape_of_share(figures, wanted.cheating_share_ppm)
    if Decimal(escape) > Decimal(wanted.max_escape):
        share = percent(wanted.cheating_share_ppm)
        observed = f"{escape} when {share} of {figures.units} units is cheated ({figures.audited} recomputed)"
        if figures.accomplice_ppm is not None:
            other = soundness.escape_of_share(figures, wanted.cheating_share_ppm, figures.accomplice_ppm)
            observed += f", {other} with one accomplice among {figures.operators} operators"
        findings.below_policy("policy.escape", "escape probability", observed, f"at most {wanted.max_escape}")


def _check_word(wanted: Requirements, case: Case, stated: Receipt, findings: Findings) -> None:
    """Compare the word of a receipt with the floor; under rules 2, whose `verified` says less, the one it bears."""
    floor = wanted.min_assurance or LeastWord.NONE
    figures, word = stated.soundness, Verdict(stated.verdict)
    unasked = wanted.allow_unverified and word is Verdict.UNVERIFIED
    if floor is LeastWord.NONE or unasked or word == Verdict.REFUTED:
        return
    checked = figures.audited if figures.checked is None else figures.checked
    if not case.edition.says_assurance and word is Verdict.VERIFIED:
        word = assurance.reached(
            figures.audit_ppm,
            figures.required_ppm,
            figures.detection_ppm,
            units=figures.units,
            checked=checked,
            unheard=0,
        )
    if assurance.falls_short(Assurance(floor), word, is_full=checked == figures.units):
        observed = f"{word}: {checked} of {figures.units} units checked"
        findings.below_policy("policy.assurance", "receipt", observed, f"at least {floor}")


def percent(ppm: int) -> str:
    """Spell parts per million for people."""
    return f"{Decimal(ppm) / 10_000:f} %"


def _check_ranges(read: Requirements) -> None:
    if read.version not in (WITHOUT_WORD, VERSION):
        raise SpecError("policy version is not known", why=str(read.version), hint=f"version = {VERSION}")
    if (read.min_assurance is None) != (read.version == WITHOUT_WORD):
        raise SpecError(
            "min_assurance belongs to version 2, and must be there", why=f"version {read.version}", hint=EXPLAINED
        )
    if not (0 <= read.min_audit_ppm <= PPM and 0 < read.cheating_share_ppm <= PPM and read.independent_witnesses >= 0):
        figures = f"{read.min_audit_ppm}, {read.cheating_share_ppm}, {read.independent_witnesses}"
        raise SpecError("policy value out of range", why=f"audit, share, witnesses: {figures}", hint=EXPLAINED)
    try:
        escape = Decimal(read.max_escape)
    except InvalidOperation as err:
        raise SpecError("max_escape is not a decimal string", why=f"{read.max_escape!r:.60}") from err
    if not (escape.is_finite() and 0 <= escape <= 1):
        raise SpecError("max_escape is out of range", why=f"{read.max_escape!r:.60}", hint='"0" to "1"')
