"""in-toto Statements v1: the frame around every predicate we sign (docs/receipt.md R2.5).

A statement names its subjects by digest and carries one predicate of a known type. The bytes that
are signed are the canonical JSON of the statement; they are parsed again from those very bytes at
verification (dsse rule 1).

`predicateType` is `urn:stannary:<kind>:v1`, and each kind has exactly one predicate class in
`predicates.py`. A statement of an unknown type, or with a member we do not know, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError
from stannary.formats import canonical, dsse, record
from stannary.formats.digest import PREFIX, Digest, parse
from stannary.formats.lean import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    from stannary.formats.canonical import Json

STATEMENT_V1 = "https://in-toto.io/Statement/v1"

P = TypeVar("P", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Subject:
    """A thing the statement is about: a name and the SHA-256 of its bytes."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Statement(Generic[P]):
    """Subjects and one predicate."""

    kind: str
    subjects: tuple[Subject, ...]
    predicate: P

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical.encode(
            {
                "_type": STATEMENT_V1,
                "subject": [
                    {"name": item.name, "digest": {"sha256": item.digest[len(PREFIX) :]}} for item in self.subjects
                ],
                "predicateType": predicate_type(self.kind),
                "predicate": record.to_json(self.predicate),
            }
        )


def predicate_type(kind: str) -> str:
    """Return the type URI of a predicate kind."""
    return f"urn:stannary:{kind}:v1"


def sign(
    kind: str, predicate: DataclassInstance, subjects: tuple[Subject, ...], key: Ed25519PrivateKey
) -> dsse.Envelope:
    """Sign a statement with one key."""
    return dsse.sign(Statement(kind, subjects, predicate).to_bytes(), key)


def _kind_of(members: dict[str, Json]) -> str:
    kind = members.get("predicateType")
    prefix, suffix = "urn:stannary:", ":v1"
    if not isinstance(kind, str) or not (kind.startswith(prefix) and kind.endswith(suffix)):
        raise FormatError("not a stannary statement", why=f"predicateType {kind!r:.80}")
    return kind[len(prefix) : -len(suffix)]


def read(payload: bytes, kind: str, cls: type[P]) -> Statement[P]:
    """Read the statement of `kind` from the bytes that were signed.

    Raises:
        FormatError: not canonical, another kind, unknown or missing members.
    """
    return _read(payload, canonical.decode_object(payload), kind, cls)


def read_any(payload: bytes, kinds: Mapping[str, type[P]]) -> Statement[P]:
    """Read a statement whose kind may be any of `kinds`, parsing the bytes once.

    Raises:
        FormatError: as `read`, and for a kind not listed.
    """
    members = canonical.decode_object(payload)
    kind = _kind_of(members)
    if kind not in kinds:
        raise FormatError("a statement of this kind has no place here", why=f"{kind!r:.80}")
    return _read(payload, members, kind, kinds[kind])


def _read(payload: bytes, members: dict[str, Json], kind: str, cls: type[P]) -> Statement[P]:
    if set(members) != {"_type", "subject", "predicateType", "predicate"}:
        raise FormatError("statement has missing or unknown members", why=", ".join(sorted(members))[:200])
    if members["_type"] != STATEMENT_V1:
        raise FormatError("not an in-toto Statement v1", why=f"{members['_type']!r:.80}")
    if members["predicateType"] != predicate_type(kind):
        raise FormatError("another kind of statement", why=f"{members['predicateType']!r:.80}, expected {kind}")
    if not canonical.is_canonical(members, payload):
        raise FormatError("statement is not canonical JSON")
    subjects = members["subject"]
    if not isinstance(subjects, list):
        raise FormatError("statement subject is not a list")
    predicate = record.from_json(cls, members["predicate"], what=kind)
    return Statement(kind, tuple(_read_subject(item) for item in subjects), predicate)


def open_envelope(envelope: dsse.Envelope, kind: str, cls: type[P], public_key: bytes) -> Statement[P]:
    """Verify the signature by `public_key`, then read the statement."""
    return read(dsse.verify(envelope, public_key), kind, cls)


def _read_subject(value: Json) -> Subject:
    if not isinstance(value, dict) or set(value) != {"name", "digest"}:
        raise FormatError("statement subject has missing or unknown members")
    name, hashes = value["name"], value["digest"]
    if not isinstance(name, str) or not isinstance(hashes, dict) or set(hashes) != {"sha256"}:
        raise FormatError("statement subject is not a name with a sha256 digest")
    return Subject(name, parse(f"{PREFIX}{hashes['sha256']}"))
