"""What the certify commands read and write: evidence, statements, times and the key that signs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stannary import files
from stannary.errors import FormatError, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stannary.cli.output import Output
    from stannary.formats import dsse


def moment(text: str | None) -> datetime:
    """Read --now; without it the clock's time."""
    from stannary.certify.moments import parse_moment

    return datetime.now(UTC) if text is None else parse_moment(text)


def read(path: Path) -> bytes:
    """Read a file of evidence or a statement, one byte over the limit at most."""
    from stannary.certify.evidence.verifier import MAX_EVIDENCE_BYTES

    try:
        with path.open("rb") as stream:
            return stream.read(MAX_EVIDENCE_BYTES + 1)
    except OSError as err:
        raise NotFound("file cannot be read", why=f"{path}: {err.strerror}", hint="check the path") from err


def envelopes(paths: tuple[Path, ...]) -> tuple[dsse.Envelope, ...]:
    """Read signed statements."""
    from stannary.formats import dsse

    found = []
    for path in paths:
        try:
            found.append(dsse.from_bytes(read(path)))
        except FormatError as err:
            raise FormatError(
                "not a signed statement", why=f"{path}: {err}", hint="give the file that its signer wrote, unchanged"
            ) from err
    return tuple(found)


def signing_key(place: Path | None) -> Ed25519PrivateKey:
    """Read the key that signs, made at first use."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    place = place or files.data_dir() / "certify" / "key"
    if not place.exists():
        files.create_secret(place, Ed25519PrivateKey.generate().private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(files.read_secret(place))


def print_signed(out: Output, place: Path, key: Ed25519PrivateKey, member: str) -> None:
    """Say where a statement is, and by which member a policy believes its key."""
    public = key.public_key().public_bytes_raw().hex()
    out.result({"file": str(place), "public_key": public}, f"{place}\npolicies believe it by {member}: {public}")
