"""What the certify commands read and write: evidence, statements, times and the key that signs.

Rule: an error of these commands has its three lines. A file that does not read is named beside the reason, with
the command that makes such a file; what nobody gave a next step for points at the command's help (`advised`).
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stannary import files
from stannary.errors import FormatError, NotFound, StannaryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stannary.cli.output import Output
    from stannary.formats import dsse


T = TypeVar("T")
MAKE_EVIDENCE = "collect it again: stannary node check --challenge c.json -o evidence.json"
MAKE_CHALLENGE = "make a new one: stannary certify challenge -o c.json"
MAKE_ROOT = "give a certificate in DER or PEM, as the maker of the TPM publishes it"


def advised(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give every error of a command a reason and a next step; stands directly above the function."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> int | None:
        try:
            return function(*arguments, **options)
        except StannaryError as err:
            err.why = err.why or "what was given is not what it is called"
            err.hint = err.hint or f"{click.get_current_context().command_path} --help"
            raise

    return call


def moment(text: str | None) -> datetime:
    """Read --now; without it the clock's time."""
    from stannary.certify.moments import parse_moment

    try:
        return datetime.now(UTC) if text is None else parse_moment(text)
    except FormatError as err:
        raise UsageError(err.what, why=err.why, hint="write it in UTC: 2026-11-22T00:00:00Z") from err


def read_as(path: Path, parse: Callable[[bytes], T], hint: str) -> T:
    """Read and parse a file; what does not parse says which file, why, and how such a file is made."""
    try:
        return parse(read(path))
    except FormatError as err:
        why = f"{path}: {err.why}" if err.why else f"{path} is not what it is called"
        raise type(err)(err.what, why=why, hint=err.hint or hint) from err


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
