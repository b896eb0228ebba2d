"""Policies: typed TOML, frozen, named by the hash of what they say.

Rules: unknown members are refused (a misspelt floor must not become no floor); every default fails
closed; the id is `ni:///sha-384;<base64url>` over the canonical JSON of the whole policy (RFC 6920), so
two spellings of one policy have one id and a result names exactly what it was judged by.

Built in: `local` (test roots of your own machine), `standard`, `confidential`, `enterprise`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import Generation, GoldenBoot, Roots, Rules, SnpTcb
from stannary.errors import FormatError, NotFound, SpecError
from stannary.formats import canonical, record
from stannary.formats.canonical import Json
from stannary.formats.predicates import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stannary.certify.withdrawals import Withdrawal

MAX_POLICY_BYTES = 256 * 1024
_KEY = re.compile(r"[0-9a-fA-F]{64}")
_COPY = "start from a built-in one: stannary policy explain standard names its members"
BUILT_IN = ("local", "standard", "confidential", "enterprise")


@dataclass(frozen=True, slots=True)
class Floor:
    """Lowest SNP firmware levels of one generation."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """AMD SEV-SNP."""

    generations: tuple[str, ...]
    alias_check: bool
    max_vmpl: int
    milan: Floor | None = None
    genoa: Floor | None = None
    turin: Floor | None = None


@dataclass(frozen=True, slots=True)
class TdxPolicy:
    """Intel TDX and SGX."""

    statuses: tuple[str, ...]
    min_tcb_evaluation: int


@dataclass(frozen=True, slots=True)
class TpmPolicy:
    """TPM roots by key pin (SHA-256 of the SubjectPublicKeyInfo, hex)."""

    roots: tuple[str, ...]
    test_roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """NVIDIA devices."""

    required: bool


@dataclass(frozen=True, slots=True)
class VouchPolicy:
    """Who may vouch for a place: Ed25519 keys by inspector name, hex."""

    inspectors: dict[str, Json]
    minimum: int
    max_age_days: int


@dataclass(frozen=True, slots=True)
class GradePolicy:
    """Measured power: whether the test must be there, and the lowest int8 GOP/s accepted."""

    required: bool
    min_int8_gops: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything a verifier requires."""

    name: str
    version: int
    minimum_tier: str
    required: tuple[str, ...]  # submodules that must be there
    require_revocation: bool
    measurements: tuple[str, ...]
    reference_keys: tuple[str, ...]  # Ed25519 keys whose signed reference boots count, hex
    revocation_keys: dict[str, Json]  # watchers whose revocation notices count: Ed25519 keys by name, hex
    packaged_revocations: bool  # whether the notice of this release counts
    designated: tuple[str, ...]  # hardware identities named by the data owner (T4)
    denied: tuple[str, ...]
    snp: SnpPolicy
    tdx: TdxPolicy
    tpm: TpmPolicy
    gpu: GpuPolicy
    vouch: VouchPolicy
    grade: GradePolicy

    @property
    def id(self) -> str:
        """The policy's name by content (RFC 6920)."""
        value = hashlib.sha384(canonical.encode(record.to_json(self))).digest()
        return "ni:///sha-384;" + base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")

    @property
    def tier(self) -> Tier:
        """The lowest tier it accepts."""
        return Tier[self.minimum_tier]

    def rules(
        self,
        golden: Iterable[GoldenBoot] = (),
        extra_denied: Iterable[str] = (),
        withdrawals: Iterable[Withdrawal] = (),
    ) -> Rules:
        """Return the rules for evidence verifiers."""
        floors = {
            Generation(name): SnpTcb(**record.to_json(floor))  # type: ignore[arg-type]  # a Floor holds integers only
            for name in Generation
            if (floor := getattr(self.snp, name.value)) is not None
        }
        refused = [item.value for item in Generation if item.value not in self.snp.generations]
        pins = Anchors(key_pins=frozenset(self.tpm.roots))
        tests = Anchors(key_pins=frozenset(self.tpm.test_roots))
        return Rules(
            roots=Roots(tpm=pins, tpm_test=tests),
            snp_floors=floors,
            snp_require_alias_check=self.snp.alias_check,
            snp_max_vmpl=self.snp.max_vmpl,
            tdx_statuses=frozenset(self.tdx.statuses),
            min_tcb_evaluation=self.tdx.min_tcb_evaluation,
            require_revocation=self.require_revocation,
            denied=frozenset({*self.denied, *refused, *extra_denied}),
            golden_boots=tuple(golden),
            measurements=frozenset(self.measurements),
            withdrawals=tuple(withdrawals),
        )


def parse(text: bytes) -> Policy:
    """Read a policy from TOML."""
    if len(text) > MAX_POLICY_BYTES:
        raise SpecError("policy too large", why=f"{len(text):,} bytes, limit {MAX_POLICY_BYTES:,}", hint=_COPY)
    try:
        members = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise SpecError("policy is not TOML", why=str(err)[:200], hint=_COPY) from err
    try:
        policy = record.from_json(Policy, cast("Json", members), what="policy")
    except FormatError as err:
        raise SpecError(
            err.what,
            why=err.why,
            hint="every member is required; copy one of src/stannary/certify/policies/*.toml and change it",
        ) from err
    _check(policy)
    return policy


def load(name: str, folder: Path | None = None) -> Policy:
    """Load a built-in policy by name, or a file."""
    from pathlib import Path

    if name in BUILT_IN:
        return built_in(name)
    path = Path(name) if folder is None else folder / name
    try:
        return parse(path.read_bytes())
    except OSError as err:
        raise NotFound(
            "no such policy", why=f"{name}: {err.strerror}", hint=f"use one of {', '.join(BUILT_IN)} or a TOML file"
        ) from err


def built_in(name: str) -> Policy:
    """Return one of the four policies of the release."""
    from importlib import resources

    return parse(resources.files("stannary.certify").joinpath(f"policies/{name}.toml").read_bytes())


def _check(policy: Policy) -> None:
    if policy.minimum_tier not in Tier.__members__:
        raise SpecError(
            "policy names an unknown tier",
            why=f"minimum_tier = {policy.minimum_tier!r:.20}",
            hint="write T0, T1, T2, T3 or T4",
        )
    if policy.version != 1:
        raise SpecError("policy version is not known", why=f"version = {policy.version}", hint="write version = 1")
    unknown = set(policy.snp.generations) - {item.value for item in Generation}
    if unknown:
        raise SpecError(
            "policy names an unknown generation",
            why=", ".join(sorted(unknown))[:80],
            hint=f"use {', '.join(Generation)}",
        )
    named = {**policy.revocation_keys, **policy.vouch.inspectors, **dict.fromkeys(policy.reference_keys, "")}
    for name, key in named.items():
        value = key or name
        if not isinstance(value, str) or _KEY.fullmatch(value) is None:
            raise SpecError(
                "policy names a key that is none",
                why=f"{name[:60]}: {value!r:.80}",
                hint="write an Ed25519 public key in 64 hex digits, as the signing command prints it",
            )
    if policy.vouch.minimum < 1 or policy.vouch.max_age_days < 1 or not 0 <= policy.snp.max_vmpl <= 3:
        raise SpecError(
            "policy value out of range",
            why="vouch.minimum, vouch.max_age_days or snp.max_vmpl",
            hint="at least 1 inspector and 1 day, VMPL 0 to 3",
        )


def explain(policy: Policy) -> list[tuple[str, str]]:
    """Return a policy as (what, requirement) rows in words."""
    alias = "; alias check required" if policy.snp.alias_check else ""
    vouch = policy.vouch
    measured = f"{len(policy.measurements)} accepted" if policy.measurements else "none given: caps at T1"
    rows = [
        ("policy", f"{policy.name}  {policy.id}"),
        ("tier", f"at least {policy.minimum_tier}"),
        ("evidence", ", ".join(policy.required) or "whatever the machine has"),
        ("revocation", "vendor lists must be carried" if policy.require_revocation else "checked where carried"),
        (
            "revocation notices",
            f"of {', '.join(policy.revocation_keys) or 'no watcher'}"
            + ("; the packaged list" if policy.packaged_revocations else "; not the packaged list"),
        ),
        ("snp", f"{', '.join(policy.snp.generations) or 'none'}; VMPL <= {policy.snp.max_vmpl}{alias}"),
        ("tdx", ", ".join(policy.tdx.statuses) or "any status that is not Revoked"),
        ("tpm roots", f"{len(policy.tpm.roots)} hardware, {len(policy.tpm.test_roots)} test"),
        ("gpu", "required" if policy.gpu.required else "where claimed"),
        ("launch measurements", measured),
        ("vouchers", f"{vouch.minimum} of {len(vouch.inspectors)} inspectors within {vouch.max_age_days} days for T3"),
        ("denied", ", ".join(policy.denied) or "nothing"),
        (
            "power test",
            f"{'required' if policy.grade.required else 'where sent'}, >= {policy.grade.min_int8_gops} GOP/s",
        ),
    ]
    for name in Generation:
        floor = getattr(policy.snp, name.value)
        if floor is not None:
            rows.append((f"snp floor {name.value}", str(SnpTcb(**record.to_json(floor)))))  # type: ignore[arg-type]  # integers only
    return rows
