"""Appraisals on disk: raw evidence kept for a later break, challenges spent once.

    DIR/index.jsonl            one line an appraisal: time, tier, policy, facts to search
    DIR/evidence/<2>/<64>      raw evidence, and the collateral fetched for it, each named by its SHA-256
    DIR/spent/<id>             one empty file a challenge that was answered

The index holds facts, not verdicts: a new denial is matched against them in seconds, and the raw
evidence beside it can be appraised again in full.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary import files
from stannary.certify.collateral import items as collateral_items
from stannary.errors import EnvironmentProblem, FormatError, NotFound
from stannary.formats import canonical, digest, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stannary.certify.appraise import Context, Result
    from stannary.certify.challenge import Challenge
    from stannary.certify.collateral.items import Item
    from stannary.certify.envelope import Evidence

MAX_LINE_BYTES = 64 * 1024
INDEX = "index.jsonl"


@dataclass(frozen=True, slots=True)
class Indexed:
    """One appraisal as the index keeps it."""

    evidence: str  # digest
    challenge: str
    appraised_at: str
    policy: str
    tier: str
    accepted: bool
    node_key: str
    facts: tuple[str, ...]  # generation, hardware identities, FMSPC, driver and VBIOS versions, measurements
    collateral: str | None = None  # digest of what was fetched for it


class Folder:
    """A folder of appraisals."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def spend(self, challenge: str) -> bool:
        """Mark a challenge as answered; return whether it was already."""
        place = files.make_private_dir(self._path / "spent") / challenge
        try:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        except FileExistsError:
            return True
        except OSError as err:
            raise EnvironmentProblem(
                "cannot mark the challenge as answered", why=str(err), hint="free disk space, or set STANNARY_DATA_DIR"
            ) from err
        return False

    def keep(self, evidence: Evidence, challenge: Challenge, result: Result, context: Context, at: str) -> Indexed:
        """Store raw evidence, the collateral it was judged with, and one index line."""
        data = evidence.to_bytes()
        items = collateral_items.to_bytes(context.items.values()) if context.items else b""
        entry = Indexed(
            evidence=self._store(data),
            challenge=challenge.to_bytes().decode("ascii"),
            appraised_at=at,
            policy=context.policy.id,
            tier=result.decision.tier.name,
            accepted=result.accepted,
            node_key=evidence.key_hash.hex(),
            facts=facts(result),
            collateral=self._store(items) if items else None,
        )
        line = canonical.encode(record.to_json(entry)) + b"\n"
        with (self._path / INDEX).open("ab") as stream:  # one write: lines of two verifiers do not mix
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        return entry

    def entries(self) -> Iterator[Indexed]:
        """Read the index; a line that does not parse is an error, not a skip."""
        try:
            with (self._path / INDEX).open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    yield _entry(line, number)
        except FileNotFoundError as err:
            raise NotFound(
                "no appraisals in this folder", why=f"{self._path / INDEX}", hint="certify appraise --keep DIR"
            ) from err

    def evidence(self, entry: Indexed) -> bytes:
        """Read the raw evidence of an entry and check that it is that."""
        return self._load(entry.evidence)

    def items(self, entry: Indexed) -> dict[tuple[str, str], Item]:
        """Read the collateral that was fetched for an entry."""
        return {} if entry.collateral is None else collateral_items.parse(self._load(entry.collateral))

    def _store(self, data: bytes) -> digest.Digest:
        name = digest.digest(data)
        files.replace(self._place(name), data)
        return name

    def _load(self, name: str) -> bytes:
        try:
            data = self._place(name).read_bytes()
        except OSError as err:
            raise NotFound(
                "stored evidence is missing",
                why=f"{name}: {err.strerror}",
                hint="bring the folder's evidence/ back from where it was copied; the index names what is missing",
            ) from err
        if digest.digest(data) != name:
            raise FormatError(
                "stored evidence was changed", why=name, hint="bring this file back from a copy: its name is its digest"
            )
        return data

    def _place(self, name: str) -> Path:
        value = digest.raw(digest.parse(name)).hex()
        return self._path / "evidence" / value[:2] / value


def facts(result: Result) -> tuple[str, ...]:
    """Return what a later break may be matched against."""
    found = set(result.identities)
    for appraisal in result.parts.values():
        claims = {**appraisal.claims, **_inner(appraisal.claims.get("snp")), **_inner(appraisal.claims.get("tdx"))}
        for name in ("generation", "fmspc", "driver", "vbios", "measurement", "mrtd"):
            value = claims.get(name)
            if isinstance(value, str) and value:
                found.add(value if name == "generation" else f"{name}:{value}")
    return tuple(sorted(found))


def _inner(value: canonical.Json) -> dict[str, canonical.Json]:
    return value if isinstance(value, dict) else {}


def _entry(line: bytes, number: int) -> Indexed:
    if len(line) > MAX_LINE_BYTES:
        raise FormatError("index line too long", why=f"{INDEX} line {number}", hint="bring the index back from a copy")
    try:
        return record.from_json(Indexed, canonical.decode_object(line))
    except FormatError as err:
        raise FormatError(
            "index line does not parse",
            why=f"{INDEX} line {number}: {err}",
            hint="bring the index back from a copy; it is written by `certify appraise --keep` only",
        ) from err
