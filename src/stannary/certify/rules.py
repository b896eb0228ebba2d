"""Rules an evidence verifier applies: pinned roots, floors, and what is refused.

`Rules()` is what is true of evidence without any policy: every signature, chain and binding must
hold, debug guests are refused, no floor is set. A policy (`policy.py`) narrows it; nothing widens it
but an explicit test root.

Roots are pinned by the SHA-256 of their SubjectPublicKeyInfo; the certificates themselves travel
with the evidence. TPM vendors' roots are for the policy to name: there is no list of them that one
party could vouch for, and a test root must never slip in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from stannary.certify.pki.certificates import Anchors

if TYPE_CHECKING:
    from stannary.certify.withdrawals import Withdrawal


class Generation(StrEnum):
    """EPYC generations with different report layouts."""

    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"


AMD_ROOTS: dict[str, Generation] = {
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": Generation.MILAN,
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": Generation.GENOA,
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": Generation.TURIN,
}
INTEL_ROOT = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
NVIDIA_DEVICE_ROOT = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
NVIDIA_RIM_ROOT = "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"
AWS_NITRO_ROOT = "f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225"
GOOGLE_VTPM_ROOT = "56a613f57126a385dd6949294e93b0b566f96ab0573be0c2368e6f5ca779831f"


@dataclass(frozen=True, slots=True)
class Roots:
    """Anchors of every vendor; tests and air-gapped sites replace single members."""

    amd: Anchors = field(default=Anchors(key_pins=frozenset(AMD_ROOTS)))
    intel: Anchors = field(default=Anchors(key_pins=frozenset({INTEL_ROOT})))
    nvidia_device: Anchors = field(default=Anchors(key_pins=frozenset({NVIDIA_DEVICE_ROOT})))
    nvidia_rim: Anchors = field(default=Anchors(key_pins=frozenset({NVIDIA_RIM_ROOT})))
    nitro: Anchors = field(default=Anchors(key_pins=frozenset({AWS_NITRO_ROOT})))
    tpm: Anchors = field(default=Anchors())
    tpm_ak: Anchors = field(default=Anchors(key_pins=frozenset({GOOGLE_VTPM_ROOT})))  # who certifies quoting keys
    tpm_test: Anchors = field(default=Anchors())  # software TPMs: identity in tests, never hardware


@dataclass(frozen=True, slots=True)
class SnpTcb:
    """Security version numbers of SNP firmware parts; `fmc` exists from Turin on."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    def covers(self, floor: SnpTcb) -> bool:
        """Whether every part is at or above the floor."""
        return all(getattr(self, name) >= getattr(floor, name) for name in SnpTcb.__slots__)

    def __str__(self) -> str:
        return f"bl {self.bootloader} tee {self.tee} snp {self.snp} ucode {self.microcode} fmc {self.fmc}"


@dataclass(frozen=True, slots=True)
class GoldenBoot:
    """A reference boot: registers that must be equal, and the digests of the events behind them."""

    name: str
    pcrs: dict[int, bytes]
    events: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def differing(self, pcrs: dict[int, bytes]) -> list[int]:
        """Return the registers that differ or are not given."""
        return [index for index, value in sorted(self.pcrs.items()) if pcrs.get(index) != value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a verifier requires beyond signatures and bindings."""

    roots: Roots = field(default_factory=Roots)
    snp_floors: dict[Generation, SnpTcb] = field(default_factory=dict)
    snp_require_alias_check: bool = False
    snp_max_vmpl: int = 1  # a paravisor may own VMPL 0; policies for confidential work say 0
    tdx_statuses: frozenset[str] = frozenset()  # empty: any status the platform still has is reported
    min_tcb_evaluation: int = 0
    require_revocation: bool = False  # CRLs, where the vendor issues them
    denied: frozenset[str] = frozenset()  # generations, hardware identities, FMSPCs
    golden_boots: tuple[GoldenBoot, ...] = ()
    measurements: frozenset[str] = frozenset()  # launch digests, MRTD, PCR0 of Nitro; empty: any
    withdrawals: tuple[Withdrawal, ...] = ()  # what believed revocation notices say
