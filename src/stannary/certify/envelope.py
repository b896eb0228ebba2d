"""The evidence a node sends: an EAT claims set with one submodule a layer.

The envelope itself is not signed: only what a submodule signs or binds decides. It carries the
challenge's id for the verifier's convenience; the nonce that counts is the verifier's own.

Submodules are named `cpu` (a composite brings its vTPM along), `tpm`, `gpu/<ueid>` and
`nvswitch/<ueid>`; `host` holds hints, which can only lower a tier, and `bench` the transcript of the
power test.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stannary.certify.anchor import KEY_HASH_BYTES, NONCE_BYTES
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.intel_collateral import read_intel_collateral
from stannary.certify.evidence.verifier import MAX_EVIDENCE_BYTES
from stannary.certify.octets import unhex
from stannary.certify.pki import certificates, revocation
from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, digest, dsse

if TYPE_CHECKING:
    from stannary.formats.canonical import Json
    from stannary.formats.digest import Digest

PROFILE = "tag:stannary,2026:node#1"
MAX_SUBMODULES = 64
_NAME = re.compile(r"cpu|tpm|(gpu|nvswitch)/[0-9a-f]{1,64}")
_MEMBERS = frozenset({"eat_profile", "eat_nonce", "challenge", "binding", "submods", "host", "bench", "collected_at"})
_PART_MEMBERS = frozenset({"kind", "evidence", "certificates", "crls", "ocsp", "rims", "intel", "log"})


@dataclass(frozen=True, slots=True)
class Part:
    """One submodule: evidence bytes of a kind, and the collateral carried with it."""

    kind: str
    evidence: bytes
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()
    intel: bytes = b""
    log: bytes = b""  # CCEL data area of a TD; a TPM's log is inside its evidence

    def collateral(self) -> Collateral:
        """Parse what is carried."""
        return Collateral(
            certificates=tuple(item for data in self.certificates for item in certificates.load_bundle(data)),
            crls=tuple(revocation.parse_crl(item) for item in self.crls),
            ocsp=tuple(revocation.parse_ocsp(item) for item in self.ocsp),
            intel=read_intel_collateral(self.intel) if self.intel else None,
            rims=self.rims,
        )

    def to_json(self) -> dict[str, Json]:
        """Return the part as JSON members, empty ones left out."""
        members: dict[str, Json] = {"kind": self.kind, "evidence": dsse.encode_base64(self.evidence)}
        for name in ("certificates", "crls", "ocsp", "rims"):
            listed = getattr(self, name)
            if listed:
                members[name] = [dsse.encode_base64(item) for item in listed]
        for name in ("intel", "log"):
            if getattr(self, name):
                members[name] = dsse.encode_base64(getattr(self, name))
        return members


@dataclass(frozen=True, slots=True)
class Evidence:
    """A node's whole answer to one challenge."""

    challenge: str
    nonce: bytes  # as the node says; never used to judge
    key_hash: bytes
    parts: dict[str, Part]
    host: dict[str, Json] = field(default_factory=dict)
    bench: dict[str, Json] = field(default_factory=dict)
    collected_at: str = ""

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        return canonical.encode(
            {
                "eat_profile": PROFILE,
                "eat_nonce": base64.urlsafe_b64encode(self.nonce).rstrip(b"=").decode("ascii"),
                "challenge": self.challenge,
                "binding": {"kind": "raw", "value": self.key_hash.hex()},
                "submods": {name: part.to_json() for name, part in self.parts.items()},
                "host": self.host,
                "bench": self.bench,
                "collected_at": self.collected_at,
            }
        )

    def digest(self) -> Digest:
        """Return the digest of the canonical form."""
        return digest.digest(self.to_bytes())


def parse(data: bytes) -> Evidence:
    """Read an envelope strictly: unknown members are refused, so that nothing rides along unread."""
    members = canonical.decode_object(data, max_bytes=MAX_EVIDENCE_BYTES)
    if members.get("eat_profile") != PROFILE:
        raise FormatError("not stannary node evidence", why=f"eat_profile {members.get('eat_profile')!r:.60}")
    if set(members) != _MEMBERS:
        raise FormatError("evidence has missing or unknown members", why=", ".join(sorted(set(members) ^ _MEMBERS)))
    binding = _object(members["binding"], "binding")
    if set(binding) != {"kind", "value"} or binding["kind"] != "raw":
        raise FormatError("evidence binds a key of an unknown kind")
    key_hash = unhex(binding["value"], "key hash")
    nonce = _base64url(members["eat_nonce"])
    if len(key_hash) != KEY_HASH_BYTES or len(nonce) != NONCE_BYTES:
        raise FormatError("evidence binding has another length", why=f"{len(key_hash)} and {len(nonce)} bytes")
    submods = _object(members["submods"], "submods")
    if len(submods) > MAX_SUBMODULES:
        raise LimitExceeded("too many submodules", why=f"{len(submods)}, limit {MAX_SUBMODULES}")
    challenge, collected_at = members["challenge"], members["collected_at"]
    if not isinstance(challenge, str) or not isinstance(collected_at, str):
        raise FormatError("evidence names its challenge or time by something else than text")
    return Evidence(
        challenge=challenge,
        nonce=nonce,
        key_hash=key_hash,
        parts={name: _part(name, item) for name, item in submods.items()},
        host=_object(members["host"], "host"),
        bench=_object(members["bench"], "bench"),
        collected_at=collected_at,
    )


def _part(name: str, value: Json) -> Part:
    if _NAME.fullmatch(name) is None:
        raise FormatError("submodule name is not known", why=f"{name!r:.60}")
    members = _object(value, name)
    unknown = set(members) - _PART_MEMBERS
    kind = members.get("kind")
    if unknown or not isinstance(kind, str) or "evidence" not in members:
        raise FormatError(f"submodule {name} has missing or unknown members", why=", ".join(sorted(unknown)))
    return Part(
        kind=kind,
        evidence=dsse.decode_base64(members["evidence"], f"{name} evidence"),
        certificates=_octets(members, "certificates"),
        crls=_octets(members, "crls"),
        ocsp=_octets(members, "ocsp"),
        rims=_octets(members, "rims"),
        intel=dsse.decode_base64(members["intel"], f"{name} collateral") if "intel" in members else b"",
        log=dsse.decode_base64(members["log"], f"{name} event log") if "log" in members else b"",
    )


def _octets(members: dict[str, Json], name: str) -> tuple[bytes, ...]:
    listed = members.get(name, [])
    if not isinstance(listed, list) or len(listed) > certificates.MAX_CERTIFICATES:
        raise FormatError(f"{name} is not a list, or too long")
    return tuple(dsse.decode_base64(item, name) for item in listed)


def _object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object")
    return value


def _base64url(value: Json) -> bytes:
    if not isinstance(value, str) or not value.isascii() or len(value) > 100:
        raise FormatError("eat_nonce is not base64url")
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError as err:
        raise FormatError("eat_nonce is not base64url", why=str(err)) from err
